"""Say what a file seems to be that nothing here reads, or that was given in the place of another.

Example:
    >>> seen(b"<EnclaveConfiguration/>", 23).what
    "the configuration of an enclave (XML of Intel's SDK)"
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from provenance.strict import NotReadable

_HEAD_BYTES: Final = 4096
_SIGSTRUCT_BYTES: Final = 1808
_TBS_BYTES: Final = 256
_SIGSTRUCT_START: Final = bytes.fromhex("06000000e100000000000100")
_X86_64: Final = 62
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_CONF_LINE: Final = re.compile(rb"^\s*(NumHeapPages|NumStackPages|NumTCS|ProductID)\s*=", re.MULTILINE)
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
_CONFIG_HINT: Final = "name the enclave, and this file after --config"
_ELF_HINT: Final = (
    "of Gramine, name the manifest; of another loader, write a page list (docs/reference/sgx-page-list.md)"
)


class Seen(msgspec.Struct, frozen=True):
    """What a file seems to be, and what to do with it here; no hint: nothing in particular."""

    what: str
    hint: str = ""


def look(path: Path) -> Seen:
    """Look at a file or a folder.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        if path.is_dir():
            return Seen("a folder without the file oci-layout", "name the enclave's file, or an image folder")
        with path.open("rb") as stream:
            start = stream.read(_HEAD_BYTES)
            return seen(start, stream.seek(0, 2))
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}", place=str(path), hint="check the path"
        ) from error


def seen(start: bytes, size_bytes: int) -> Seen:
    """Tell what a file seems to be from its first bytes and its size."""
    if not start:
        return Seen("an empty file", "copy or build it again")
    if start.startswith(b"\x7fELF"):
        return _elf(start)
    if start.startswith(_SIGSTRUCT_START):
        return _signed(size_bytes)
    if start[0x202:0x206] == b"HdrS":
        return Seen("a Linux kernel")
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return Seen(f"compressed ({name})", "decompress it first")
    if start.startswith(b"MZ"):
        return Seen("a file for Windows or UEFI (PE)")
    if start[:8] in {b"ECREATE\0", b"UNSIZED\0"}:
        return Seen("an SGXS stream")
    return (
        Seen(f"{size_bytes} bytes beginning {start[:8].hex()}") if _CONTROLS.search(start) else _text(start)
    )


def _elf(start: bytes) -> Seen:
    if start[4:5] == b"\x01":
        return Seen("a 32-bit ELF file", "enclaves are measured when they are for x86-64")
    if len(start) >= 20 and int.from_bytes(start[18:20], "little") != _X86_64:
        return Seen("an ELF file for another processor", "enclaves are for x86-64")
    return Seen("an ELF file", _ELF_HINT)


def _signed(size_bytes: int) -> Seen:
    if size_bytes == _TBS_BYTES:
        return Seen(
            "the 256 bytes that are to be signed, as `rvp sgx digest` writes them", "rvp sgx show FILE"
        )
    if size_bytes == _SIGSTRUCT_BYTES:
        return Seen("a SIGSTRUCT", "rvp sgx show FILE")
    return Seen(f"the beginning of a SIGSTRUCT, but {size_bytes} bytes", "a SIGSTRUCT has 1808 bytes")


def _text(start: bytes) -> Seen:
    if b"<EnclaveConfiguration" in start:
        return Seen("the configuration of an enclave (XML of Intel's SDK)", _CONFIG_HINT)
    if b'"rvp/enclave/v1"' in start:
        return Seen("the configuration of an enclave (enclave.toml)", _CONFIG_HINT)
    if _CONF_LINE.search(start):
        return Seen("the configuration of an enclave (.conf of Open Enclave)", _CONFIG_HINT)
    if b"PRIVATE KEY-----" in start:
        return Seen("a private key", "a key goes after --key")
    if b"-----BEGIN" in start:
        return Seen("a public key or a certificate", "it goes after --public-key")
    if start.lstrip().startswith((b"{", b"[")) and b'"rvp/' in start:
        return Seen("a document that rvp wrote", "rvp show FILE")
    return Seen("a text file")
