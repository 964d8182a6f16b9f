"""The table of kernel hashes: how a kernel that the host loads is tied to the launch digest.

    GUID, u16 length (168), then for command line, initrd, kernel: GUID, u16 length (50), SHA-256

QEMU writes it into a page that the firmware reserved; the firmware refuses a kernel with another hash.

Units: numbers are little-endian, GUIDs as in firmware.
Source: QEMU, target/i386/sev.c, build_kernel_loader_hashes; edk2, OvmfPkg/AmdSev/BlobVerifierLibSevHashes.
Cost: one SHA-256 over kernel and initrd.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.ovmf import PAGE, guid_bytes
from provenance.digest import sha256_file
from provenance.errors import UsageError
from provenance.strict import NotReadable

_TABLE: Final = "9438d606-4f22-4cc9-b479-a793d411fd21"
_CMDLINE: Final = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
_INITRD: Final = "44baf731-3a2f-4bd7-9af1-41e29169781d"
_KERNEL: Final = "4de79437-abd2-427f-b835-d5b172d2045b"
_LENGTH: Final = 168
PADDED_LENGTH: Final = 176  # to the next multiple of 16, as encrypting needs it
MAX_CMDLINE: Final = 1 << 16


class BadCommandLine(UsageError):
    """A kernel command line cannot be measured: it has a NUL character in it, or is longer than 64 KiB.

    Cure: give the text as the VMM gets it (QEMU's `-append`), without the NUL that ends it.
    """

    code = "RVP-5307"


class KernelHashes(msgspec.Struct, frozen=True, kw_only=True):
    """SHA-256 of each: of the kernel's file as it is, of the initrd (of nothing without one)."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    def table(self) -> bytes:
        """Write the table with its padding."""
        entries = ((_CMDLINE, self.cmdline), (_INITRD, self.initrd), (_KERNEL, self.kernel))
        body = b"".join(
            guid_bytes(guid) + struct.pack("<H", 18 + len(digest)) + digest for guid, digest in entries
        )
        table = guid_bytes(_TABLE) + struct.pack("<H", _LENGTH) + body
        return table + bytes(PADDED_LENGTH - len(table))

    def page(self, gpa: int) -> bytes:
        """Write the page that has the table at this address; the rest is zero."""
        start = gpa % PAGE
        table = self.table()
        return bytes(start) + table + bytes(PAGE - start - len(table))


def hash_kernel(kernel: Path, initrd: Path | None, cmdline: str | None) -> KernelHashes:
    """Hash what the host loads beside the firmware.

    Args:
        kernel: the file as it is; QEMU hashes it before it changes the header.
        initrd: hashed as nothing when there is none.
        cmdline: hashed with a NUL at its end, also when it is empty.

    Raises:
        NotReadable: RVP-1010. BadCommandLine: RVP-5307.
    """
    try:
        text = (cmdline or "").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadCommandLine(f"the command line is no text: {error.reason}") from error
    if b"\0" in text or len(text) > MAX_CMDLINE:
        raise BadCommandLine(
            f"the command line has {len(text)} bytes, {text.count(0)} of them NUL", hint="give it without NUL"
        )
    return KernelHashes(
        kernel=_hash_file(kernel),
        initrd=_hash_file(initrd) if initrd else hashlib.sha256().digest(),
        cmdline=hashlib.sha256(text + b"\0").digest(),
    )


def _hash_file(path: Path) -> bytes:
    try:
        return sha256_file(path)
    except OSError as error:
        raise NotReadable(f"cannot read the file: {error.strerror}", place=str(path)) from error
