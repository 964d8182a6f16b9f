"""The metadata that Intel's SDK puts into `.note.sgxmeta` of an enclave: records, patches, layout.

The note's block holds one or more records, each for another generation of loaders; all of them describe the
same enclave and must give the same MRENCLAVE.

Units: offsets inside a record are relative to its start; patches write to file offsets.
Source: Intel SGX SDK, `metadata.h` and `arch.h`; facts proved against its signing tool.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE
from provenance.errors import UsageError

NOTE_SECTION: Final = ".note.sgxmeta"
NOTE_NAME: Final = b"sgx_metadata\0"
NOTE_HEADER: Final = 12 + len(NOTE_NAME)  # the description is not aligned
MAGIC: Final = 0x86A80294635D0E4C
HEADER: Final = struct.Struct("<QQIIIIIIQ16s")  # 64 bytes, then SIGSTRUCT, then the directories
SIGSTRUCT_AT: Final = 64
DIRECTORIES_AT: Final = SIGSTRUCT_AT + SIGSTRUCT_SIZE  # 0x750
DIRECTORY: Final = struct.Struct("<II")
PATCH: Final = struct.Struct("<QII16x")
ENTRY: Final = struct.Struct("<HHIQIIQ")
ELRANGE: Final = struct.Struct("<QQQ")
EXTENSION: Final = struct.Struct("<HHI8s")
IPP_FIPS: Final = 0x1001
GROUP_BIT: Final = 0x1000  # in the id of a layout entry: it repeats the entries before it
_MAX_RECORDS: Final = 8
_MAX_PATCHES: Final = 4096
_MAX_ENTRIES: Final = 4096


class BadSgxMetadata(UsageError):
    """The SGX metadata of an enclave file is missing, malformed, or asks for what cannot be.

    Cure: check that the file is complete. An enclave that was never laid out is packed with
    `rvp sgx pack` first (or signed with its SDK's tool).
    """

    code = "RVP-5002"


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the record that are written over the file before it is measured."""

    file_offset: int
    content: bytes


class LayoutEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A run of pages after the segments; `group` entries repeat those before them.

    Attributes:
        ident: what it is; numbers differ between SDK generations.
        attributes: 1 EADD, 2 EEXTEND, 4 EREMOVE, 8 POST_ADD, …
        page_count: pages.
        address: offset from the enclave's base.
        content: what the page holds, when the record has it.
        fill: the 32-bit word that fills the pages otherwise.
        flags: SECINFO.FLAGS.
        repeat: of a group: entry count, load times, step in bytes.
    """

    ident: int
    attributes: int = 0
    page_count: int = 0
    address: int = 0
    content: bytes | None = None
    fill: int = 0
    flags: int = 0
    repeat: tuple[int, int, int] | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One metadata record.

    Attributes:
        major: 1, 2, 3, or 11, 12, 13 for enclaves with a range of their own.
        minor: of the version.
        size_bytes: of the whole record.
        elrange: image address, start, size; only with a major above 10.
    """

    major: int
    minor: int
    size_bytes: int
    ssa_frame_size: int
    desired_misc_select: int
    enclave_size: int
    attributes: bytes
    sigstruct: bytes
    patches: tuple[Patch, ...]
    layout: tuple[LayoutEntry, ...]
    elrange: tuple[int, int, int] | None = None

    @property
    def version(self) -> str:
        """The version as people write it."""
        return f"{self.major}.{self.minor}"


def metadata_block(elf: Elf) -> tuple[int, int] | None:
    """Find the metadata block of an enclave.

    Returns:
        File offset and size, or None when the file has no such note.

    Raises:
        BadSgxMetadata: RVP-5002, for a note of another name or size.
    """
    section = elf.section(NOTE_SECTION)
    if section is None:
        return None
    if section.size < NOTE_HEADER:
        raise BadSgxMetadata(f"the note has {section.size} bytes", place=elf.name)
    name_size, size, kind = struct.unpack_from("<III", elf.data, section.offset)
    name = bytes(elf.data[section.offset + 12 : section.offset + NOTE_HEADER])
    if name_size != len(NOTE_NAME) or name != NOTE_NAME or kind != 1:
        raise BadSgxMetadata(f"the note is {name!r} of type {kind}, expected sgx_metadata", place=elf.name)
    if NOTE_HEADER + size > section.size:
        raise BadSgxMetadata(
            f"the note says {size:#x} bytes, its section has {section.size:#x}", place=elf.name
        )
    return section.offset + NOTE_HEADER, size


def read_metadata(elf: Elf) -> tuple[Record, ...]:
    """Read all metadata records of an enclave, newest generation first as they stand.

    Raises:
        BadSgxMetadata: RVP-5002.
    """
    block = metadata_block(elf)
    if block is None:
        raise BadSgxMetadata(f"the file has no section {NOTE_SECTION}", place=elf.name)
    offset, size = block
    records: list[Record] = []
    at = 0
    while at + DIRECTORIES_AT + 2 * DIRECTORY.size <= size:
        data = elf.bytes_at(offset + at, size - at, "the metadata")
        magic, _, record_size = struct.unpack_from("<QQI", data)
        if magic != MAGIC or record_size == 0:
            break
        if len(records) == _MAX_RECORDS:
            raise BadSgxMetadata(f"more than {_MAX_RECORDS} metadata records", place=elf.name)
        if not DIRECTORIES_AT + 2 * DIRECTORY.size <= record_size <= size - at:
            raise BadSgxMetadata(
                f"metadata record {len(records)} says {record_size:#x} bytes, {size - at:#x} are left",
                place=elf.name,
            )
        records.append(_read_record(data[:record_size], elf.name))
        at += record_size
    if not records:
        raise BadSgxMetadata(
            "the enclave has not been laid out: its metadata is empty",
            place=elf.name,
            hint="lay it out with `rvp sgx pack`, or sign it with its SDK's tool",
        )
    return tuple(records)


def _read_record(data: memoryview, name: str) -> Record:
    _, version, size, _, ssa, _, misc, _, enclave_size, attributes = HEADER.unpack_from(data)
    major, minor = version >> 32, version & 0xFFFFFFFF
    if major not in {1, 2, 3, 11, 12, 13}:
        raise BadSgxMetadata(f"metadata version {major}.{minor} is not known", place=name)
    _check_size(enclave_size, "the enclave's size", name)
    if not 1 <= ssa <= 0xFFFF:
        raise BadSgxMetadata(f"an SSA frame of {ssa} pages", place=name)
    if has_four_directories(major, minor):
        _check_extensions(data, name)
    elrange = None
    if major > 10:
        at, length = _directory(data, 2)
        elrange = ELRANGE.unpack(_bounded(data, at, ELRANGE.size, "the range entry", name))
        image, start, range_size = elrange
        _check_size(range_size, "the enclave range's size", name)
        if length < ELRANGE.size or not start <= image < start + range_size or (image - start) % 4096:
            raise BadSgxMetadata(f"an image at {image:#x} in a range from {start:#x}", place=name)
    return Record(
        major=major,
        minor=minor,
        size_bytes=size,
        ssa_frame_size=ssa,
        desired_misc_select=misc,
        enclave_size=enclave_size,
        attributes=attributes,
        sigstruct=bytes(data[SIGSTRUCT_AT:DIRECTORIES_AT]),
        patches=_read_patches(data, name),
        layout=_read_layout(data, name),
        elrange=elrange,
    )


def has_four_directories(major: int, minor: int) -> bool:
    """Tell whether a record has directories for the range and for extensions (SDK 2.24 and later)."""
    return (major % 10 == 3 and minor >= 2) or (major % 10 == 1 and minor >= 5)


def _check_extensions(data: memoryview, name: str) -> None:
    """Let pass what adds no pages (the integrity data of the IPP FIPS module), refuse what does."""
    at, size = _directory(data, 3)
    for ident, _, _, _ in EXTENSION.iter_unpack(
        _bounded(data, at, size // EXTENSION.size * EXTENSION.size, "the extension table", name)
    ):
        if ident != IPP_FIPS:
            raise BadSgxMetadata(
                f"the enclave has an extension of kind {ident:#x} (an appended module), "
                "which this version cannot measure",
                place=name,
            )


def _check_size(size: int, what: str, name: str) -> None:
    if size < 8192 or size & (size - 1) or size > 1 << 52:
        raise BadSgxMetadata(f"{what} is {size:#x}, expected a power of two", place=name)


def _directory(data: memoryview, index: int) -> tuple[int, int]:
    at = DIRECTORIES_AT + index * DIRECTORY.size
    if at + DIRECTORY.size > len(data):
        return 0, 0
    offset, size = DIRECTORY.unpack_from(data, at)
    return offset, size


def _bounded(data: memoryview, at: int, size: int, what: str, name: str) -> memoryview:
    if at + size > len(data):
        raise BadSgxMetadata(
            f"{what} is at {at:#x} with {size:#x} bytes, the record has {len(data):#x}", place=name
        )
    return data[at : at + size]


def _read_patches(data: memoryview, name: str) -> tuple[Patch, ...]:
    at, size = _directory(data, 0)
    if size % PATCH.size or size // PATCH.size > _MAX_PATCHES:
        raise BadSgxMetadata(f"a patch table of {size:#x} bytes", place=name)
    table = _bounded(data, at, size, "the patch table", name)
    return tuple(
        Patch(file_offset=target, content=bytes(_bounded(data, source, length, "a patch", name)))
        for target, source, length in PATCH.iter_unpack(table)
    )


def _read_layout(data: memoryview, name: str) -> tuple[LayoutEntry, ...]:
    at, size = _directory(data, 1)
    if size % ENTRY.size or size // ENTRY.size > _MAX_ENTRIES:
        raise BadSgxMetadata(f"a layout table of {size:#x} bytes", place=name)
    found: list[LayoutEntry] = []
    for entry in ENTRY.iter_unpack(_bounded(data, at, size, "the layout table", name)):
        ident, attributes, page_count, address, content_size, content_offset, flags = entry
        if ident & GROUP_BIT:  # {id, entry count, load times, step}
            if not 0 < attributes <= len(found):
                raise BadSgxMetadata(
                    f"layout entry {len(found)} repeats {attributes} entries, {len(found)} stand before it",
                    place=name,
                )
            found.append(LayoutEntry(ident=ident, repeat=(attributes, page_count, address)))
            continue
        content = None
        if content_offset:
            content = bytes(_bounded(data, content_offset, content_size, "a page's content", name))
        found.append(
            LayoutEntry(
                ident=ident,
                attributes=attributes,
                page_count=page_count,
                address=address,
                content=content,
                fill=0 if content_offset else content_size,
                flags=flags,
            )
        )
    return tuple(found)
