"""`rvp measure sgx IMAGE!/PATH`: what a user types, what is printed, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rvp import cli
from tests.fakes.build_folder import sgxs_enclave
from tests.fakes.images import file, layer, write_image
from verifier.cli.terminal import run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    members = [file("opt/enclave.sgxs", sgxs_enclave()), file("app", b"an application")]
    return write_image(tmp_path / "image.tar", layer(*members))


def test_the_warning_is_printed_with_what_is_not_bound(
    image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["measure", "sgx", f"{image}!/opt/enclave.sgxs"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "image.tar!/opt/enclave.sgxs" in text
    assert "! warning binds-application" in text
    assert "the rest of the image (1 files, 14 bytes) is bound by the image digest, not by MRENCLAVE" in text
    assert "image.tar container image" in text


def test_one_document_has_the_enclave_and_the_image(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["measure", "sgx", str(image), "--format", "json"]) == 0
    enclave, oci = json.loads(capfd.readouterr().out)["measurements"]
    assert enclave["inside"]["manifest"] == oci["claims"]["manifest"]
    assert enclave["inside"]["image"] == oci["subject"]
    assert "inside" not in oci
    warned = [one["id"] for one in enclave["checks"] if one["status"] == "warning"]
    assert warned == ["binds-application"]


def test_no_enclave_and_no_such_file_end_with_2(
    tmp_path: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = write_image(tmp_path / "empty.tar", layer(file("app", b"x")))
    assert run(cli, ["measure", "sgx", str(empty)]) == 2
    assert "looked for" in capfd.readouterr().err
    assert run(cli, ["measure", "sgx", f"{image}!/opt/other"]) == 2
    assert run(cli, ["measure", "oci", f"{image}!/opt/enclave.sgxs"]) == 2


def test_a_damaged_layer_ends_with_12(image: Path) -> None:
    image.write_bytes(image.read_bytes().replace(b"an application", b"an Application"))
    assert run(cli, ["measure", "sgx", str(image)]) == 12
