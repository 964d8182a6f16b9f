"""What a file is said to be that is none of the known formats, or another than the one asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.measure import UnknownFormat, detect
from pipeline.measure.file_kind import look, seen
from tests.fakes.enclave_elf import enclave_elf

ELF64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)

KINDS = {
    "empty": (b"", "empty"),
    "32-bit": (ELF64.replace(b"ELF\x02", b"ELF\x01"), "32-bit"),
    "aarch64": (ELF64.replace(b"\x3e\x00", b"\xb7\x00"), "another processor"),
    "library": (ELF64, ".note.sgxmeta"),
    "kernel": (bytes(0x202) + b"HdrS" + bytes(64), "Linux kernel"),
    "gzip": (b"\x1f\x8b\x08\x00", "compressed (gzip)"),
    "xml": (b"<EnclaveConfiguration></EnclaveConfiguration>", "configuration of an enclave (XML"),
    "toml": (b'# mine\nschema = "rvp/enclave/v1"\n', "enclave.toml"),
    "conf": (b"Debug=1\nNumHeapPages=1024\n", ".conf of Open Enclave"),
    "key": (b"-----BEGIN PRIVATE KEY-----\n", "private key"),
    "certificate": (b"-----BEGIN CERTIFICATE-----\n", "public key or a certificate"),
    "document": (b'{"schema": "rvp/measurements/v1"}', "document that rvp wrote"),
    "text": (b"hello\n", "a text file"),
    "binary": (b"\x00\x01\x02", "3 bytes beginning 000102"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_nothing_measures_is_named_by_its_kind(kind: str, tmp_path: Path) -> None:
    data, words = KINDS[kind]
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UnknownFormat) as caught:
        detect(tmp_path / "file")
    assert words in caught.value.message
    assert caught.value.hint


def test_a_folder_is_named_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="oci-layout"):
        detect(tmp_path)


def test_what_is_to_be_signed_and_what_was_cut_are_told_from_a_sigstruct() -> None:
    start = bytes.fromhex("06000000e100000000000100").ljust(256, b"\0")
    assert "to be signed" in seen(start, 256).what
    assert seen(start, 1808).what == "a SIGSTRUCT"
    assert "but 1000 bytes" in seen(start, 1000).what


def test_an_enclave_given_as_an_image_is_named_by_its_format(tmp_path: Path) -> None:
    (tmp_path / "enclave.so").write_bytes(enclave_elf())
    with pytest.raises(UnknownFormat) as caught:
        detect(tmp_path / "enclave.so", tee="oci")
    assert "SDK layout" in caught.value.message
    assert caught.value.hint == f"rvp measure {tmp_path / 'enclave.so'}"
    assert "ELF" in look(tmp_path / "enclave.so").what
