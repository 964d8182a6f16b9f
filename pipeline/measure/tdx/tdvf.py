"""TDVF metadata: which parts of a firmware file a VMM puts where before a trust domain starts.

Two forms lead to the same descriptor ("TDVF", length, version, count, then sections of 32 bytes):

    OVMF      a GUID table that ends 32 bytes before the end of the file; its entry e47a6535-… counts
              from the end of the file back to the descriptor
    td-shim   (and the first TDVF) no table; a u32 32 bytes before the end is the descriptor's offset

Units: offsets and sizes are bytes of the file, addresses are guest-physical.
Source: Intel TDX Virtual Firmware Design Guide, section 11; edk2, IntelTdxMetadata.asm of OvmfPkg;
    td-shim specification, "Shim metadata".
Cost: reads a few hundred bytes of the file.
"""

from __future__ import annotations

import itertools
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.measure.ovmf import (
    MAX_FIRMWARE,
    PAGE,
    TDX_METADATA,
    Firmware,
    guid_bytes,
    has_footer,
    read_firmware,
)
from provenance.errors import UsageError

MAX_SECTIONS: Final = 64
MAX_MEASURED: Final = 64 << 20  # bytes that MR.EXTEND covers: no firmware is larger
MAX_ADDED: Final = 4 << 30  # bytes that PAGE.ADD covers: 1 Mi pages, 128 MiB of hash input

_TABLE_END: Final = 0x20
_METADATA: Final = guid_bytes("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")
_HEADER: Final = struct.Struct("<4sIII")
_SECTION: Final = struct.Struct("<IIQQII")

MR_EXTEND: Final = 1
PAGE_AUG: Final = 2


class NoTdvfMetadata(UsageError):
    """A firmware file has no TDX metadata: no VMM can start a trust domain with it.

    Of edk2 the X64 builds have it (OvmfPkgX64, IntelTdxX64, AmdSevX64 since edk2-stable202111);
    of Debian's ovmf these are OVMF.fd and the 2 MiB pair OVMF_VARS.fd + OVMF_CODE.fd. The 4M files of Debian
    12 are built for IA32 and X64 and have none.
    Cure: take a build that has it (OVMF.fd, IntelTdx's OVMF.fd, td-shim's final.bin).
    """

    code = "RVP-5200"


class BadTdvf(UsageError):
    """The TDX metadata of a firmware file contradicts itself or the file.

    The message names the section and the field.
    Cure: check that the file is complete and is one flash image; of a split build give the varstore as well
    (`--varstore OVMF_VARS.fd`), or join them: `cat OVMF_VARS.fd OVMF_CODE.fd`.
    """

    code = "RVP-5201"


class SectionKind(IntEnum):
    """What a section is for: the field Type."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6
    TD_INFO = 7


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section: what lies in the file, and where it goes.

    Attributes:
        kind: what it is for.
        offset: of its bytes in the file.
        raw_size: how many bytes of the file; zeros follow up to `size`.
        address: guest-physical.
        size: bytes of memory.
        attributes: bit 0 MR.EXTEND (contents are measured), bit 1 PAGE.AUG (pages are not added at all).
    """

    kind: SectionKind
    offset: int
    raw_size: int
    address: int
    size: int
    attributes: int

    @property
    def is_measured(self) -> bool:
        """Whether its contents are in MRTD."""
        return bool(self.attributes & MR_EXTEND) and self.is_added

    @property
    def is_added(self) -> bool:
        """Whether its pages are added before the trust domain starts."""
        return not self.attributes & PAGE_AUG and self.kind is not SectionKind.TD_INFO

    def content(self, data: bytes | memoryview) -> memoryview:
        """Cut its bytes out of the firmware."""
        return memoryview(data)[self.offset : self.offset + self.raw_size]


class Tdvf(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of one firmware file: its sections in the order of the file."""

    form: Literal["ovmf", "td-shim"]
    sections: tuple[Section, ...]

    def only(self, kind: SectionKind) -> Section | None:
        """Find the section of a kind that there is once, or not at all."""
        return next((one for one in self.sections if one.kind is kind), None)


def is_tdvf_file(path: Path) -> bool:
    """Tell whether a file has TDX metadata of either form; reads a few hundred bytes, and never raises."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if not PAGE <= size <= MAX_FIRMWARE:
                return False
            stream.seek(size - min(size, 1 << 16))
            tail = stream.read()
            if has_footer(tail):
                return guid_bytes(TDX_METADATA) in tail
            (at,) = struct.unpack_from("<I", tail, len(tail) - _TABLE_END)
            stream.seek(max(at - 16, 0))
            return stream.read(16) == _METADATA
    except OSError:
        return False


def read_tdvf(data: bytes | memoryview, name: str) -> Tdvf:
    """Read the metadata of a firmware file.

    Args:
        data: the whole flash image, variables first.
        name: for messages.

    Raises:
        NoTdvfMetadata: RVP-5200. BadTdvf: RVP-5201. BadFirmware: RVP-5300, of the GUID table.
    """
    firmware = read_firmware(data, name=name)
    if firmware.has_table:
        form: Literal["ovmf", "td-shim"] = "ovmf"
        at = _descriptor_of_ovmf(firmware)
    else:
        form, at = "td-shim", _descriptor_of_td_shim(data, name)
    sections = _read_sections(data, at, name)
    _check_memory(sections, name)
    if form == "ovmf":
        _check_flash(sections, len(data), name)
    return Tdvf(form=form, sections=sections)


def _descriptor_of_ovmf(firmware: Firmware) -> int:
    entry, at = firmware.entry(TDX_METADATA), firmware.metadata_offset(TDX_METADATA)
    if entry is None or at is None:
        raise NoTdvfMetadata(
            "the firmware has a GUID table without an entry for TDX metadata",
            place=firmware.name,
            hint="take an X64 build: of Debian's ovmf OVMF.fd, not a 4M file",
        )
    if not 16 <= at <= len(firmware.data) - _HEADER.size:
        raise BadTdvf(
            f"the TDX metadata are said to begin at {at:#x} of {len(firmware.data):#x}",
            place=f"{firmware.name}:{entry.offset:#x}",
        )
    return at


def _descriptor_of_td_shim(data: bytes | memoryview, name: str) -> int:
    if len(data) >= PAGE:
        (at,) = struct.unpack_from("<I", data, len(data) - _TABLE_END)
        if 16 <= at <= len(data) - _HEADER.size and bytes(data[at - 16 : at]) == _METADATA:
            return int(at)
    raise NoTdvfMetadata(
        "the file has no TDX metadata: neither OVMF's GUID table nor td-shim's offset",
        place=name,
        hint="a whole flash image is needed: OVMF.fd of an X64 build, or td-shim's final.bin",
    )


def _read_sections(data: bytes | memoryview, at: int, name: str) -> tuple[Section, ...]:
    place = f"{name}:{at:#x}"
    if bytes(data[at - 16 : at]) != _METADATA:
        raise BadTdvf("the GUID e9eaf9f3-… does not stand before the TDX metadata", place=place)
    signature, length, version, count = _HEADER.unpack_from(data, at)
    if signature != b"TDVF":
        raise BadTdvf(f'the TDX metadata begin with {signature!r}, expected "TDVF"', place=place)
    if version != 1:
        raise BadTdvf(f"the TDX metadata have version {version}, expected 1", place=place)
    if not 1 <= count <= MAX_SECTIONS:
        raise BadTdvf(f"the TDX metadata have {count} sections, expected 1 to {MAX_SECTIONS}", place=place)
    if length not in {
        size := _HEADER.size + count * _SECTION.size,
        size + 16,
    }:  # 16: the GUID counted as well
        raise BadTdvf(f"the TDX metadata have length {length}, {count} sections need {size}", place=place)
    if at + size > len(data):
        raise BadTdvf(f"the {count} sections of the TDX metadata do not fit into the file", place=place)
    return tuple(
        _read_section(data, at + _HEADER.size + number * _SECTION.size, number, name)
        for number in range(count)
    )


def _read_section(data: bytes | memoryview, at: int, number: int, name: str) -> Section:
    offset, raw_size, address, size, kind, attributes = _SECTION.unpack_from(data, at)
    place = f"{name}:{at:#x}"
    if kind not in SectionKind.__members__.values():
        raise BadTdvf(f"section {number} has type {kind}, known are 0 to 7", place=place)
    title = f"section {number} ({SectionKind(kind).name})"
    if attributes & ~(MR_EXTEND | PAGE_AUG):
        raise BadTdvf(f"{title} has attributes {attributes:#x}, known are bits 0 and 1", place=place)
    if attributes == MR_EXTEND | PAGE_AUG:
        raise BadTdvf(f"{title} is measured and not added (attributes 0x3)", place=place)
    section = Section(
        kind=SectionKind(kind),
        offset=offset,
        raw_size=raw_size,
        address=address,
        size=size,
        attributes=attributes,
    )
    if section.kind is SectionKind.TD_INFO:
        return section
    if address % PAGE or size % PAGE:
        raise BadTdvf(f"{title}: address {address:#x}, size {size:#x} are not whole pages", place=place)
    if size < raw_size:
        raise BadTdvf(f"{title}: {raw_size:#x} bytes of data for {size:#x} bytes of memory", place=place)
    if address + size > 1 << 52:
        raise BadTdvf(f"{title}: address {address:#x}, size {size:#x} leave the address space", place=place)
    if raw_size and offset + raw_size > len(data):
        raise BadTdvf(
            f"{title}: data {offset:#x}+{raw_size:#x} lie outside of the file of {len(data):#x} bytes",
            place=place,
            hint="of a split build give the variables too (--varstore), or: cat OVMF_VARS.fd OVMF_CODE.fd",
        )
    return section


def _check_memory(sections: tuple[Section, ...], name: str) -> None:
    hobs = sum(one.kind is SectionKind.TD_HOB for one in sections)
    if hobs != 1:
        raise BadTdvf(f"the TDX metadata have {hobs} sections TD_HOB, expected 1", place=name)
    placed = sorted((one for one in sections if one.size), key=lambda one: one.address)
    for one, two in itertools.pairwise(placed):
        if SectionKind.TD_INFO not in {one.kind, two.kind} and one.address + one.size > two.address:
            raise BadTdvf(
                f"sections {one.kind.name} ({one.address:#x}+{one.size:#x}) and {two.kind.name} "
                f"({two.address:#x}+{two.size:#x}) overlap",
                place=name,
            )
    for title, total, limit in (
        ("measured", sum(one.size for one in sections if one.is_measured), MAX_MEASURED),
        ("added", sum(one.size for one in sections if one.is_added), MAX_ADDED),
    ):
        if total > limit:
            raise BadTdvf(f"{total:#x} bytes of memory are {title}, {limit:#x} are allowed", place=name)


def _check_flash(sections: tuple[Section, ...], size: int, name: str) -> None:
    flash = sum(one.raw_size for one in sections if one.kind in {SectionKind.BFV, SectionKind.CFV})
    if flash != size:
        raise BadTdvf(
            f"BFV and CFV have {flash:#x} bytes, the file {size:#x}",
            place=name,
            hint="give the whole flash image, variables and code",
        )
