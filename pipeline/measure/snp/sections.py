"""SEV metadata: what memory the firmware wants to have before it runs, and as which pages.

    "ASEV", u32 length (16 + 12 n), u32 version (1), u32 n; n times u32 GPA, u32 size, u32 type

The host adds each section to the guest in the order of the file, after the firmware itself.

Units: addresses are guest-physical, sizes bytes; numbers are little-endian.
Source: edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm; QEMU, target/i386/sev.c,
snp_populate_metadata_pages.
Cost: at most 128 sections and 64 MiB of them.
"""

from __future__ import annotations

import itertools
import struct
from enum import IntEnum
from typing import Final

import msgspec

from pipeline.measure.ovmf import PAGE, SEV_METADATA, Firmware
from provenance.errors import UsageError

SIGNATURE: Final = b"ASEV"
MAX_SECTIONS: Final = 128
MAX_TOTAL: Final = 64 << 20  # OVMF asks for 128 KiB; a page costs one hash each time

_HEADER: Final = struct.Struct("<4sIII")
_SECTION: Final = struct.Struct("<III")
_BUILDS: Final = (
    "builds that have it: edk2's OvmfPkgX64 (Debian's package ovmf: OVMF.fd, OVMF_CODE.fd and "
    "OVMF_CODE.secboot.fd of 2 MiB) and AmdSevX64; OVMF_CODE_4M.fd of Debian 12 is OvmfPkgIa32X64 and has not"
)


class NoSevMetadata(UsageError):
    """The firmware has no SEV metadata: no SEV-SNP guest can be launched with it, and there is no value.

    Only 64-bit builds of OVMF have it: OvmfPkgX64 and AmdSevX64. Debian's package `ovmf` has it in OVMF.fd,
    not in OVMF_CODE_4M.fd. Variable stores (OVMF_VARS) never have it.
    Cure: give one of those builds.
    """

    code = "RVP-5301"


class BadSevMetadata(UsageError):
    """The SEV metadata of a firmware contradict themselves, or ask for what no guest can be given.

    The message names the section, the field and its value. IntelTdxX64 builds of edk2 carry such a table:
    a size there is a negative number. Cure: measure the build that is meant for SEV (OvmfPkgX64, AmdSevX64).
    """

    code = "RVP-5302"


class SectionType(IntEnum):
    """What a section is for. Source: edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


_ONE_PAGE: Final = frozenset({SectionType.SECRETS, SectionType.CPUID, SectionType.KERNEL_HASHES})


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section."""

    type: SectionType
    gpa: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.gpa + self.size_bytes


def read_sections(firmware: Firmware, *, below: int) -> tuple[Section, ...]:
    """Read the sections of a firmware, or of an SVSM, in the order of the file.

    Args:
        firmware: with its table.
        below: where the firmware itself is mapped; no section may reach it.

    Raises:
        NoSevMetadata: RVP-5301. BadSevMetadata: RVP-5302. BadFirmware: RVP-5300.
    """
    name, data = firmware.name, firmware.data
    at = firmware.metadata_offset(SEV_METADATA)
    if at is None:
        what = "the table at its end has none" if firmware.has_table else "it has no table at its end"
        raise NoSevMetadata(f"the firmware has no SEV metadata: {what}", place=name, hint=_BUILDS)
    if at + _HEADER.size > len(data):
        raise BadSevMetadata(f"the header at {at:#x} reaches behind the end of the file", place=name)
    signature, length, version, count = _HEADER.unpack_from(data, at)
    if signature != SIGNATURE:
        raise BadSevMetadata(
            f"at {at:#x} is {signature.hex()}, expected {SIGNATURE.hex()} (ASEV)", place=name
        )
    if version != 1:
        raise BadSevMetadata(f"version at {at + 8:#x} is {version}, only 1 is known", place=name)
    if not 0 < count <= MAX_SECTIONS:
        raise BadSevMetadata(
            f"count at {at + 12:#x} is {count}, 1 to {MAX_SECTIONS} sections are possible", place=name
        )
    if length < _HEADER.size + count * _SECTION.size or at + length > len(data):
        raise BadSevMetadata(
            f"length at {at + 4:#x} is {length:#x}; {count} sections have "
            f"{_HEADER.size + count * _SECTION.size:#x} bytes, the file has {len(data) - at:#x} from there",
            place=name,
        )
    found = []
    for number in range(count):
        offset = at + _HEADER.size + number * _SECTION.size
        gpa, size, kind = _SECTION.unpack_from(data, offset)
        found.append(_checked(number, offset, gpa, size, kind, below, name))
    _check_together(found, name)
    return tuple(found)


def _checked(number: int, offset: int, gpa: int, size: int, kind: int, below: int, name: str) -> Section:
    def refuse(what: str) -> BadSevMetadata:
        return BadSevMetadata(
            f"section {number} at {offset:#x} (address {gpa:#x}, size {size:#x}, type {kind:#x}): {what}",
            place=name,
            hint="IntelTdxX64 builds have such a table; SEV-SNP needs OvmfPkgX64 or AmdSevX64",
        )

    if kind not in set(SectionType):
        raise refuse(f"the type is none of {', '.join(f'{one:#x}' for one in SectionType)}")
    if gpa % PAGE or size % PAGE:
        raise refuse("address and size must be multiples of 0x1000")
    if not size:
        raise refuse("the size is zero")
    if gpa + size > below:
        raise refuse(f"the end {gpa + size:#x} is behind {below:#x}, where the firmware begins")
    if kind in _ONE_PAGE and size != PAGE:
        raise refuse(f"the size of {SectionType(kind).name} must be 0x1000")
    return Section(type=SectionType(kind), gpa=gpa, size_bytes=size)


def _check_together(found: list[Section], name: str) -> None:
    total = sum(one.size_bytes for one in found)
    if total > MAX_TOTAL:
        raise BadSevMetadata(
            f"the sizes of all sections add up to {total:#x}, {MAX_TOTAL:#x} are allowed", place=name
        )
    in_order = sorted(found, key=lambda one: one.gpa)
    for left, right in itertools.pairwise(in_order):
        if left.end > right.gpa:
            raise BadSevMetadata(
                f"the sections at {left.gpa:#x} (size {left.size_bytes:#x}) and {right.gpa:#x} overlap",
                place=name,
                hint="a page can be given to a guest once",
            )
