"""What the clients in a fetch need of this machine: proxy, certificates, package indexes and their tokens.

All of it is passed in read-only and nowhere else: it is no part of the fetch's key, of the lock, or of the
output. pip's and npm's configuration files are merged into one file each; settings that name paths of this
machine are left out, but for pip's local folders of packages, which are mounted where they are.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from pipeline.fetch.bridge import FOLDER, PORT

_PROXY: Final = f"http://127.0.0.1:{PORT}"
_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
)
# Settings of pip that hold places of packages; the values may be folders of this machine.
_PIP_PLACES: Final = ("find-links", "index-url", "extra-index-url")
_PIP_LEFT_OUT: Final = frozenset(
    {
        "cert",
        "client-cert",
        "cache-dir",
        "log",
        "proxy",
        "target",
        "prefix",
        "root",
        "src",
        "user",
        "config-file",
    }
)
_NPM_LEFT_OUT: Final = frozenset(
    {"cafile", "ca", "cache", "prefix", "nodedir", "tmp", "proxy", "https-proxy", "http-proxy", "noproxy"}
    | {"userconfig", "globalconfig", "init-module", "logs-dir", "shell", "script-shell"}
)
_NPM_FILES: Final = ("/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc")
_PIP_FILES: Final = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")

# What makes the clients' output depend on nothing but what they fetched.
_QUIET: Final = {
    "PIP_COMPILE": "0",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PYTHONDONTWRITEBYTECODE": "1",
    "npm_config_cache": "/tmp/npm-cache",  # noqa: S108  in the container, thrown away
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
    "npm_config_logs_max": "0",
}


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into a fetch's container.

    Attributes:
        environment: variables.
        files: name in the mounted folder to content.
        folders: folders of this machine to mount read-only at the same path.
    """

    environment: dict[str, str]
    files: dict[str, bytes]
    folders: tuple[str, ...] = ()


def client_settings(environment: Mapping[str, str], home: Path) -> ClientSettings:
    """Collect the settings of this machine.

    Args:
        environment: of this process.
        home: whose configuration files to read.
    """
    files: dict[str, bytes] = {}
    variables = {
        **_QUIET,
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY),
        "no_proxy": "",
        "NO_PROXY": "",
    }
    if certificates := _certificates(environment):
        files["ca.pem"] = certificates
        variables |= dict.fromkeys(_CERTIFICATE_VARIABLES, f"{FOLDER}/ca.pem")
    pip_file, places = _pip(environment, home)
    if pip_file:
        files["pip.conf"] = pip_file.encode()
        variables["PIP_CONFIG_FILE"] = f"{FOLDER}/pip.conf"
    for name, value in environment.items():
        key = name.lower().removeprefix("pip_").replace("_", "-")
        if name.startswith("PIP_") and key not in _PIP_LEFT_OUT and name not in variables:
            variables[name] = value
            places += value.split() if key in _PIP_PLACES else []
        elif name.lower().startswith("npm_config_") and _npm_key(name) not in _NPM_LEFT_OUT:
            variables[name.lower()] = value
    if npm_file := "".join(f"{line}\n" for line in _npm(environment, home)):
        files["npmrc"] = npm_file.encode()
        variables["npm_config_userconfig"] = f"{FOLDER}/npmrc"
    folders = sorted({folder for place in places if (folder := _local_folder(place))})
    return ClientSettings(environment=variables, files=files, folders=tuple(folders))


def _certificates(environment: Mapping[str, str]) -> bytes:
    named = [environment.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    for place in (*named, *_CERTIFICATES):
        if place and Path(place).is_file():
            return Path(place).read_bytes()
    return b""


def _pip(environment: Mapping[str, str], home: Path) -> tuple[str, list[str]]:
    """Merge pip's configuration files in the order in which pip reads them."""
    merged = configparser.RawConfigParser()
    user = [home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    own = environment.get("PIP_CONFIG_FILE", "")
    for path in (*map(Path, _PIP_FILES), *user, *([Path(own)] if own and own != os.devnull else [])):
        try:
            merged.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
    lines: list[str] = []
    places: list[str] = []
    for section in merged.sections():
        lines.append(f"[{section}]")
        for key, value in merged.items(section):
            name = key.replace("_", "-")
            if name in _PIP_LEFT_OUT:
                continue
            words = value.split()
            places += words if name in _PIP_PLACES else []
            lines.append(f"{key} =" if len(words) > 1 else f"{key} = {value}")
            lines += [f"    {word}" for word in words] if len(words) > 1 else []
    return ("\n".join(lines) + "\n" if places or len(lines) > len(merged.sections()) else ""), places


def _npm(environment: Mapping[str, str], home: Path) -> Iterator[str]:
    named = [environment.get("NPM_CONFIG_GLOBALCONFIG", ""), environment.get("NPM_CONFIG_USERCONFIG", "")]
    for place in (*_NPM_FILES, *filter(None, named), str(home / ".npmrc")):
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for line in text.splitlines():
            key = line.partition("=")[0].strip().removesuffix("[]")
            if key and not key.startswith(("#", ";")) and key.lower() not in _NPM_LEFT_OUT:
                yield line.strip()


def _npm_key(variable: str) -> str:
    return variable.lower().removeprefix("npm_config_").replace("_", "-")


def _local_folder(place: str) -> str:
    """Return the folder that a place of packages names on this machine; empty for one on the network.

    An index in `…/simple` has its files beside it (PEP 503 leaves the place open): the folder above is meant.
    """
    parts = urlsplit(place)
    if parts.scheme not in {"", "file"}:
        return ""
    path = Path(unquote(parts.path))
    path = path.parent if path.name == "simple" else path
    return str(path) if path.is_absolute() and path.is_dir() and len(path.parts) > 2 else ""
