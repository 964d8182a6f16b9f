"""Where the files of an archive come from; what they are is never the mirror's word.

The places to try, in order: what `--mirror` or RVP_DEBIAN_MIRROR says, then what apt on this machine is
configured with (its proxies and transports included). An offline folder of .deb files is looked at first.
No place is written into a lock: every file is checked against its SHA-256 and size while it streams.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from provenance.digest import CHUNK_BYTES
from provenance.errors import EnvironmentFailure, SignatureFailure, SpecError

TIMEOUT_S: Final = 60.0
ATTEMPTS: Final = 3
CONNECTIONS: Final = 4
if TYPE_CHECKING:
    import urllib3

_APT_HELPER: Final = "/usr/lib/apt/apt-helper"
_APT_FORMAT: Final = "$(RELEASE)\t$(CODENAME)\t$(SUITE)\t$(ORIGIN)\t$(REPO_URI)"


class NoMirror(EnvironmentFailure):
    """Nothing says where the archive's files can be fetched.

    rvp knows no mirror of its own: it asks apt's configuration, or is told.
    Cure: on a Debian machine configure apt for the suite; elsewhere set RVP_DEBIAN_MIRROR to the address of a
    mirror (for a vendor's archive `NAME=ADDRESS`), or RVP_DEBIAN_FOLDER to a folder of .deb files.
    """

    code = "RVP-1410"


class FileGone(SpecError):
    """No mirror has a file that the lock or the signed index names: a newer version has replaced it.

    Cure: use a snapshot mirror of the archive (RVP_DEBIAN_MIRROR), a folder that has the .deb files
    (RVP_DEBIAN_FOLDER), a bundle with its inputs (`rvp publish --with-inputs`), or take the newer
    versions with `rvp lock --upgrade`.
    """

    code = "RVP-1411"


class WrongBytes(SignatureFailure):
    """A file from a mirror is not the one that the signed index or the lock names.

    Cure: try again with another mirror; an archive that is being updated, or a proxy, can cause it.
    """

    code = "RVP-1412"


class MirrorFailed(EnvironmentFailure):
    """A mirror did not answer, or broke off.

    Cure: check the network and the proxy settings, then run the command again; what was fetched is kept.
    """

    code = "RVP-1413"


class Mirrors(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine knows about places.

    Attributes:
        addresses: archive name to address; the empty name is Debian itself.
        folders: folders with .deb files, looked at first.
        apt: whether apt's configuration may be asked.
    """

    addresses: dict[str, str] = {}
    folders: tuple[Path, ...] = ()
    apt: bool = True


def mirrors_from(environment: Mapping[str, str], *, options: tuple[str, ...] = ()) -> Mirrors:
    """Read the settings: RVP_DEBIAN_MIRROR and RVP_DEBIAN_FOLDER, and `--mirror` options over them.

    RVP_DEBIAN_APT=0 leaves apt and its configuration alone.

    Example:
        >>> mirrors_from({"RVP_DEBIAN_MIRROR": "file:///m vendor=file:///v"}).addresses
        {'': 'file:///m', 'vendor': 'file:///v'}
    """
    addresses: dict[str, str] = {}
    for word in (*environment.get("RVP_DEBIAN_MIRROR", "").split(), *options):
        name, equals, address = word.partition("=")
        named = bool(equals) and "/" not in name and ":" not in name
        addresses[name if named else ""] = address if named else word
    folders = tuple(Path(part) for part in environment.get("RVP_DEBIAN_FOLDER", "").split(os.pathsep) if part)
    return Mirrors(addresses=addresses, folders=folders, apt=environment.get("RVP_DEBIAN_APT") != "0")


def has_apt() -> bool:
    """Tell whether apt is on this machine."""
    return shutil.which("apt-get") is not None and shutil.which("apt-config") is not None


def places_of(archive: str, suite: str, *, origin: str, mirrors: Mirrors) -> tuple[str, ...]:
    """Find the addresses to try for a suite of an archive, best first.

    Raises:
        NoMirror: RVP-1410.
    """
    if archive in mirrors.addresses:
        return (mirrors.addresses[archive].rstrip("/"),)
    found: list[str] = []
    if mirrors.apt and has_apt():
        rows = _apt_targets()
        exact = [row for row in rows if suite in row[:3]]
        same = [row for row in rows if origin and row[3] == origin and not row[0].endswith("-security")]
        for row in (*exact, *(same if not suite.endswith("-security") else ())):
            if origin and row[3] and row[3] != origin:
                continue
            if row[4] not in found:
                found.append(row[4])
    if not found:
        what = f'the archive "{archive}"' if archive else "Debian"
        name = f"{archive}=" if archive else ""
        raise NoMirror(
            f'nothing says where to fetch the suite "{suite}" of {what}',
            hint=f"add the suite to apt's sources, or set RVP_DEBIAN_MIRROR={name}ADDRESS",
        )
    return tuple(found)


def _apt_targets() -> list[tuple[str, ...]]:
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", _APT_FORMAT, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    rows = {tuple(line.split("\t")) for line in done.stdout.splitlines()}
    return sorted((*row[:4], row[4].rstrip("/")) for row in rows if len(row) == 5)


def fetch_file(
    places: tuple[str, ...],
    path: str,
    *,
    sha256: bytes | None,
    size_bytes: int,
    mirrors: Mirrors,
) -> Iterator[bytes]:
    """Stream a file from the first place that has it; its end comes only if the digest is right.

    Args:
        places: addresses of the archive's root.
        path: below the root.
        sha256: what it must be; None for a file that is checked by its signature.
        size_bytes: what it must be; the upper limit when `sha256` is None.
        mirrors: offline folders and whether apt may help.

    Raises:
        FileGone: RVP-1411. WrongBytes: RVP-1412. MirrorFailed: RVP-1413.
    """
    name = path.rpartition("/")[2]
    for folder in mirrors.folders:
        for choice in (folder / name, folder / urllib.parse.unquote(name), folder / name.replace(":", "%3a")):
            if choice.is_file():
                yield from _checked(_read(choice), path, sha256, size_bytes)
                return
    problem: MirrorFailed | None = None
    for place in places:
        for attempt in range(ATTEMPTS):
            try:
                with tempfile.TemporaryFile() as spool:
                    for chunk in _checked(_open(f"{place}/{path}"), path, sha256, size_bytes):
                        spool.write(chunk)
                    spool.seek(0)
                    while chunk := spool.read(CHUNK_BYTES):
                        yield chunk
            except FileNotFoundError:
                break
            except WrongBytes:
                if attempt == ATTEMPTS - 1:
                    raise
            except (OSError, MirrorFailed) as error:
                problem = MirrorFailed(
                    f"{place} did not give {path}: {error}", hint="check the network and the proxy settings"
                )
            else:
                return
    if problem is not None:
        raise problem
    raise FileGone(
        f"no mirror has {path} any more",
        hint="use a snapshot mirror (RVP_DEBIAN_MIRROR), a folder with the .deb files (RVP_DEBIAN_FOLDER), "
        "a bundle with its inputs, or `rvp lock --upgrade`",
    )


def _checked(chunks: Iterator[bytes], path: str, sha256: bytes | None, size_bytes: int) -> Iterator[bytes]:
    hashing, seen = hashlib.sha256(), 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size_bytes:
            raise WrongBytes(f"{path} has more than {size_bytes} bytes")
        hashing.update(chunk)
        yield chunk
    if sha256 is not None and (seen != size_bytes or hashing.digest() != sha256):
        raise WrongBytes(
            f"{path}: expected {size_bytes} bytes with sha256 {sha256.hex()}, "
            f"got {seen} bytes with {hashing.hexdigest()}",
            hint="try again, or with another mirror",
        )


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _open(address: str) -> Iterator[bytes]:
    """Stream an address; FileNotFoundError when the place does not have it."""
    scheme = urllib.parse.urlsplit(address).scheme
    if scheme in {"file", "copy"}:
        yield from _read(Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)))
    elif scheme in {"http", "https"}:
        yield from _http(address, scheme)
    else:
        yield from _apt_helper(address)


def _http(address: str, scheme: str) -> Iterator[bytes]:
    """Stream over connections that are kept: a look-up of the host's name for each file would be slow."""
    import urllib3

    quoted = urllib.parse.quote(address, safe=":/%+~@")
    try:
        with _pool(scheme, urllib.parse.urlsplit(address).hostname or "").request(
            "GET", quoted, preload_content=False, decode_content=False
        ) as answer:
            if answer.status in {403, 404, 410}:
                raise FileNotFoundError(address)
            if answer.status != 200:
                raise MirrorFailed(f"the mirror answered {answer.status} {answer.reason}")
            yield from answer.stream(CHUNK_BYTES)
            answer.drain_conn()
    except urllib3.exceptions.HTTPError as error:
        raise MirrorFailed(str(error)) from error


_POOLS: Final[dict[tuple[str, bool], urllib3.PoolManager]] = {}
_POOLS_LOCK: Final = threading.Lock()


def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    """Find the connections of a scheme; honour the environment's proxies, and apt's over them."""
    import urllib3

    direct = bool(urllib.request.proxy_bypass(host))
    with _POOLS_LOCK:
        if (scheme, direct) not in _POOLS:
            proxy = "" if direct else _proxy(scheme)
            settings = {"maxsize": CONNECTIONS, "timeout": TIMEOUT_S, "retries": urllib3.Retry(0, redirect=5)}
            made = (
                urllib3.ProxyManager(proxy, **settings)  # type: ignore[arg-type]  # settings are of several types
                if proxy
                else urllib3.PoolManager(**settings)  # type: ignore[arg-type]
            )
            _POOLS[scheme, direct] = made
        return _POOLS[scheme, direct]


def _proxy(scheme: str) -> str:
    named = ""
    if has_apt():
        done = subprocess.run(
            ["apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy"],
            capture_output=True,
            text=True,
            check=False,
        )
        named = done.stdout.strip().removeprefix("PROXY=").strip("'")
    if named == "DIRECT":
        return ""
    return named or urllib.request.getproxies().get(scheme, "")


def _apt_helper(address: str) -> Iterator[bytes]:
    """Let apt fetch what only one of its transports can."""
    if not Path(_APT_HELPER).exists():
        scheme = urllib.parse.urlsplit(address).scheme
        raise MirrorFailed(f'only apt can fetch "{scheme}:" addresses, and apt is not installed')
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        done = subprocess.run(
            [_APT_HELPER, "-o", "APT::Sandbox::User=root", "download-file", address, str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not target.exists():
            if "404" in done.stderr:
                raise FileNotFoundError(address)
            raise MirrorFailed((done.stderr.strip().splitlines() or ["apt-helper failed"])[-1])
        yield from _read(target)
