"""Client settings: passed in whole enough to work, and without this machine's paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.fetch import client
from pipeline.fetch.client import client_settings


@pytest.fixture(autouse=True)
def no_files_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PIP_FILES", "_NPM_FILES", "_CERTIFICATES"):
        monkeypatch.setattr(client, name, ())


def test_pip_files_are_merged_and_paths_of_this_machine_left_out(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://token@index.invalid/simple\ncert = /etc/ca.pem\n"
    )
    own = tmp_path / "own.conf"
    own.write_text(f"[global]\nextra-index-url =\n    https://a.invalid/simple\n    file://{wheels}\n")
    settings = client_settings({"PIP_CONFIG_FILE": str(own), "PIP_TIMEOUT": "9", "PIP_CERT": "/x"}, tmp_path)
    text = settings.files["pip.conf"].decode()
    assert "index-url = https://token@index.invalid/simple" in text
    assert f"    file://{wheels}" in text
    assert "cert" not in text
    assert settings.folders == (str(wheels),)
    assert settings.environment["PIP_TIMEOUT"] == "9"
    assert settings.environment.get("PIP_CERT") != "/x"
    assert settings.environment["PIP_CONFIG_FILE"] == "/rvp-fetch/pip.conf"


def test_tokens_are_in_files_and_never_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text(
        "//registry.invalid/:_authToken=secret\ncafile=/x\nregistry=https://r.invalid/\n"
    )
    settings = client_settings({}, tmp_path)
    assert settings.files["npmrc"] == b"//registry.invalid/:_authToken=secret\nregistry=https://r.invalid/\n"
    assert "secret" not in str(settings.environment)


def test_certificates_of_this_machine_are_handed_in(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"CERTIFICATE")
    settings = client_settings({"SSL_CERT_FILE": str(tmp_path / "ca.pem")}, tmp_path)
    assert settings.files["ca.pem"] == b"CERTIFICATE"
    assert settings.environment["PIP_CERT"] == "/rvp-fetch/ca.pem"


def test_every_client_is_told_of_the_proxy(tmp_path: Path) -> None:
    environment = client_settings(
        {"http_proxy": "http://outer.invalid", "no_proxy": "*"}, tmp_path
    ).environment
    assert {environment[name] for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")} == {
        "http://127.0.0.1:3128"
    }
    assert environment["no_proxy"] == ""


@pytest.mark.parametrize("place", ["/", "/etc", "https://x.invalid/", "relative/x", "/not/there"])
def test_only_folders_of_packages_are_mounted(tmp_path: Path, place: str) -> None:
    assert client_settings({"PIP_FIND_LINKS": place}, tmp_path).folders == ()


def test_an_index_of_this_machine_is_mounted_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "index" / "simple").mkdir(parents=True)
    place = f"file://{tmp_path}/index/simple"
    assert client_settings({"PIP_INDEX_URL": place}, tmp_path).folders == (str(tmp_path / "index"),)
