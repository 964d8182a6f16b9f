"""The metadata that Intel's SDK puts into `.note.sgxmeta` of an enclave: records, patches, layout.

The note's block holds one or more records, each for another generation of loaders; all of them describe the
same enclave and must give the same MRENCLAVE.

Units: offsets inside a record are relative to its start; patches write to file offsets.
Source: Intel SGX SDK, `metadata.h` (whose names the messages use) and `arch.h`; facts proved against its
signing tool.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave_image import PAGE, Bytes
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
EXTENSION: Final = struct.Struct("<IIII")  # id, size, offset, reserved
MODULE: Final = struct.Struct("<QQQQ")  # file offset, offset in the enclave, size, reserved
IPP_FIPS: Final = 0x1001  # the signature of the IPP FIPS module: adds no pages
SHARED_OBJECT: Final = 0x1002  # the OpenSSL FIPS module, appended to the file
GROUP_BIT: Final = 0x1000  # in the id of a layout entry: it repeats the entries before it
# Where the fields of the header stand, for messages
_AT: Final = {
    "version": 8,
    "size": 16,
    "ssa_frame_size": 24,
    "enclave_size": 40,
}
_MAJORS: Final = frozenset({1, 2, 3, 11, 12, 13})
_MAX_BLOCK: Final = 1 << 24  # of SDK 2.24 and later it is 0x6000
_MAX_RECORDS: Final = 8
_MAX_PATCHES: Final = 4096
_MAX_PATCHED: Final = 1 << 24
_MAX_ENTRIES: Final = 4096
_MAX_SSA_FRAME: Final = 0xFFFF
_MAX_SIZE: Final = 1 << 52
_VARIANT: Final = 10  # majors above it are their unit's digit, with a range of addresses


class BadSgxMetadata(UsageError):
    """The SGX metadata of an enclave file is missing, malformed, or asks for what cannot be.

    The message names the field in the words of the SDK's `metadata.h`, and its offset in the file.
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
    content: Bytes | None = None
    fill: int = 0
    flags: int = 0
    repeat: tuple[int, int, int] | None = None


class AppendedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A shared object that was appended to the enclave's file and is loaded after its segments.

    Attributes:
        file_offset: where it begins in the file.
        address: of its virtual address 0, from the enclave's base.
        size: in bytes of the file.
    """

    file_offset: int
    address: int
    size: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One metadata record.

    Attributes:
        major: 1, 2, 3, or 11, 12, 13 for enclaves with a range of their own.
        minor: of the version.
        size_bytes: of the whole record.
        elrange: image address, start, size; only with a major above 10.
        modules: shared objects that were appended to the file.
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
    modules: tuple[AppendedModule, ...] = ()
    tcs_policy: int = 1
    tcs_min_pool: int = 0

    @property
    def version(self) -> str:
        """The version as people write it."""
        return f"{self.major}.{self.minor}"


class _Region:
    """A part of the file that is read by fields: bounds are checked here, errors made here."""

    def __init__(self, data: memoryview, base: int, name: str) -> None:
        self.data = data
        self.base = base
        self.name = name

    def bad(self, field: str, at: int, problem: str) -> BadSgxMetadata:
        return BadSgxMetadata(f"field {field} at file offset {self.base + at:#x}: {problem}", place=self.name)

    def part(self, field: str, field_at: int, offset: int, size: int) -> memoryview:
        """Give a part; the field that says where it is goes into the message when it is not inside."""
        if offset + size > len(self.data):
            raise self.bad(
                field, field_at, f"{size:#x} bytes from {offset:#x} on, the record has {len(self.data):#x}"
            )
        return self.data[offset : offset + size]

    def directory(self, index: int) -> tuple[int, int, int]:
        """Give a directory: where it stands, offset, size; zeros when the record ends before it."""
        at = DIRECTORIES_AT + index * DIRECTORY.size
        if at + DIRECTORY.size > len(self.data):
            return at, 0, 0
        offset, size = DIRECTORY.unpack_from(self.data, at)
        return at, offset, size

    def table(self, index: int, form: struct.Struct, most: int) -> tuple[int, memoryview]:
        """Give a table of fixed rows: its offset and its bytes."""
        at, offset, size = self.directory(index)
        if size % form.size or size // form.size > most:
            raise self.bad(
                f"dirs[{index}].size",
                at + 4,
                f"{size:#x} bytes, expected rows of {form.size}, at most {most} of them",
            )
        return offset, self.part(f"dirs[{index}].offset", at, offset, size)


def metadata_block(elf: Elf) -> tuple[int, int] | None:
    """Find the metadata block of an enclave.

    Returns:
        File offset and size, or None when the file has no such note.

    Raises:
        BadSgxMetadata: RVP-5002, for a note of another name or size.
    """
    named = [one for one in elf.sections if one.name == NOTE_SECTION]
    section = elf.section(NOTE_SECTION)
    if section is None:
        return None
    if len(named) > 1:
        places = ", ".join(f"{one.offset:#x}" for one in named)
        raise BadSgxMetadata(
            f"{len(named)} sections {NOTE_SECTION}, at file offsets {places}: a loader reads the first, "
            "whatever its type",
            place=elf.name,
        )
    note = _Region(elf.data[section.offset : section.offset + section.size], section.offset, elf.name)
    if section.size < NOTE_HEADER:
        raise note.bad("note", 0, f"{section.size} bytes, its header has {NOTE_HEADER}")
    name_size, size, kind = struct.unpack_from("<III", note.data)
    name = bytes(note.data[12:NOTE_HEADER])
    if name_size != len(NOTE_NAME) or name != NOTE_NAME:
        raise note.bad("name", 12, f"{name_size} bytes, {name!r}, expected {NOTE_NAME!r}")
    if kind != 1:
        raise note.bad("type", 8, f"{kind}, expected 1")
    if NOTE_HEADER + size > section.size:
        raise note.bad("descsz", 4, f"{size:#x} bytes, the section has {section.size - NOTE_HEADER:#x}")
    if size > _MAX_BLOCK:
        raise note.bad("descsz", 4, f"{size:#x} bytes, at most {_MAX_BLOCK:#x} are read")
    return section.offset + NOTE_HEADER, size


def is_laid_out(elf: Elf) -> bool:
    """Tell whether there is something in the metadata block."""
    block = metadata_block(elf)
    return block is not None and any(elf.data[block[0] : block[0] + block[1]])


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
    least = DIRECTORIES_AT + 2 * DIRECTORY.size
    at = 0
    while at + least <= size:
        rest = _Region(elf.data[offset + at : offset + size], offset + at, elf.name)
        magic, _, record_size = struct.unpack_from("<QQI", rest.data)
        if magic != MAGIC:
            break
        if len(records) == _MAX_RECORDS:
            raise rest.bad("magic_num", 0, f"a record after {_MAX_RECORDS} others, no more are read")
        if not least <= record_size <= size - at:
            raise rest.bad(
                "size",
                _AT["size"],
                f"{record_size:#x} bytes of record {len(records)}, {size - at:#x} are left in the note",
            )
        record = _Region(rest.data[:record_size], offset + at, elf.name)
        records.append(_read_record(record, len(elf.data)))
        _check_patches(records[-1], elf, block)
        at += record_size
    _check_end(elf, offset, at, size)
    if not records:
        raise BadSgxMetadata(
            "the enclave has not been laid out: its metadata (section .note.sgxmeta) is empty",
            place=elf.name,
            hint="give --config: the configuration that it is signed with (Enclave.config.xml, enclave.toml)",
        )
    return tuple(records)


def _check_end(elf: Elf, offset: int, at: int, size: int) -> None:
    """Check that no record follows the last one: loaders look for the magic number, not for an end."""
    following = elf.data[offset + at : offset + at + 8]
    if following == MAGIC.to_bytes(8, "little"):
        rest = _Region(following, offset + at, elf.name)
        raise rest.bad("magic_num", 0, f"a record begins here, the note has {size - at:#x} more bytes")


def _check_patches(record: Record, elf: Elf, block: tuple[int, int]) -> None:
    """Refuse patches over what the loader reads after it has patched: metadata, an appended module."""
    places = [("the metadata", *block)]
    places += [("the appended module", one.file_offset, one.size) for one in record.modules]
    for index, patch in enumerate(record.patches):
        for name, start, size in places:
            if (
                patch.content
                and patch.file_offset < start + size
                and start < (patch.file_offset + len(patch.content))
            ):
                raise BadSgxMetadata(
                    f"field patch[{index}] of metadata {record.version} writes {len(patch.content):#x} bytes "
                    f"to {patch.file_offset:#x}, into {name}, which the loader reads after it",
                    place=elf.name,
                )


def read_record(data: bytes, elf: Elf, at: int) -> Record:
    """Read one metadata record as if it stood in the file at an offset.

    Raises:
        BadSgxMetadata: RVP-5002.
    """
    return _read_record(_Region(memoryview(data), at, elf.name), len(elf.data))


def _read_record(data: _Region, file_size: int) -> Record:
    found = HEADER.unpack_from(data.data)
    _, version, size, tcs_policy, ssa, _, misc, min_pool, enclave_size, attributes = found
    major, minor = version >> 32, version & 0xFFFFFFFF
    if major not in _MAJORS:
        raise data.bad("version", _AT["version"], f"{major}.{minor} is not known")
    _check_size(data, "enclave_size", _AT["enclave_size"], enclave_size)
    if not 1 <= ssa <= _MAX_SSA_FRAME:
        raise data.bad("ssa_frame_size", _AT["ssa_frame_size"], f"{ssa} pages")
    return Record(
        major=major,
        minor=minor,
        size_bytes=size,
        ssa_frame_size=ssa,
        desired_misc_select=misc,
        enclave_size=enclave_size,
        attributes=attributes,
        sigstruct=bytes(data.data[SIGSTRUCT_AT:DIRECTORIES_AT]),
        patches=_read_patches(data, file_size),
        layout=_read_layout(data),
        elrange=_read_elrange(data, enclave_size) if major > _VARIANT else None,
        modules=_read_modules(data, file_size) if has_four_directories(major, minor) else (),
        tcs_policy=tcs_policy,
        tcs_min_pool=min_pool,
    )


def has_four_directories(major: int, minor: int) -> bool:
    """Tell whether a record has directories for the range and for extensions (SDK 2.24 and later)."""
    return (major % _VARIANT == 3 and minor >= 2) or (major % _VARIANT == 1 and minor >= 5)


def _read_elrange(data: _Region, enclave_size: int) -> tuple[int, int, int]:
    """Read the range of addresses that the enclave takes, with its image somewhere in it.

    The directory stands at the same place in every generation, though before SDK 2.24 it was called data.
    """
    directory, at, size = data.directory(2)
    if size != ELRANGE.size or not at:
        raise data.bad(
            "dirs[2].size", directory + 4, f"{size:#x} bytes at {at:#x}, expected {ELRANGE.size:#x}"
        )
    image, start, length = ELRANGE.unpack(data.part("dirs[2].offset", directory, at, size))
    _check_size(data, "elrange_size", at + 16, length)
    if start % length:
        raise data.bad(
            "elrange_start_address", at + 8, f"{start:#x}, expected a multiple of its size {length:#x}"
        )
    if image % PAGE or not start <= image or image + enclave_size > start + length:
        raise data.bad(
            "enclave_image_address",
            at,
            f"{enclave_size:#x} bytes from {image:#x} on, the range has {length:#x} from {start:#x} on",
        )
    return image, start, length


def _read_modules(data: _Region, file_size: int) -> tuple[AppendedModule, ...]:
    """Read the extension table; of several modules the loader takes the first."""
    at, table = data.table(3, EXTENSION, _MAX_ENTRIES)
    found: list[AppendedModule] = []
    for index, (ident, size, offset, _) in enumerate(EXTENSION.iter_unpack(table)):
        row, field = at + index * EXTENSION.size, f"extend_table[{index}]"
        if not size or not offset or ident == IPP_FIPS:
            continue
        if ident != SHARED_OBJECT:
            raise data.bad(f"{field}.entry_id", row, f"an extension of kind {ident:#x} is not known")
        if size < MODULE.size:
            raise data.bad(f"{field}.size", row + 4, f"{size} bytes, expected {MODULE.size}")
        if found:
            continue
        start, address, length, _ = MODULE.unpack(data.part(f"{field}.offset", row + 8, offset, MODULE.size))
        if start + length > file_size:
            raise data.bad(
                "file_offset", offset, f"{length:#x} bytes from {start:#x} on, the file has {file_size:#x}"
            )
        if address % PAGE or address > _MAX_SIZE:
            raise data.bad("mem_offset", offset + 8, f"{address:#x}, expected whole pages in the enclave")
        found.append(AppendedModule(file_offset=start, address=address, size=length))
    return tuple(found)


def _check_size(data: _Region, field: str, at: int, size: int) -> None:
    if size < 2 * PAGE or size & (size - 1) or size > _MAX_SIZE:
        raise data.bad(field, at, f"{size:#x}, expected a power of two from 0x2000 on")


def _read_patches(data: _Region, file_size: int) -> tuple[Patch, ...]:
    at, table = data.table(0, PATCH, _MAX_PATCHES)
    found = []
    total = 0
    for index, (target, source, length) in enumerate(PATCH.iter_unpack(table)):
        row, field = at + index * PATCH.size, f"patch[{index}]"
        total += length
        if total > _MAX_PATCHED:
            raise data.bad(
                f"{field}.size", row + 12, f"{total:#x} bytes of patches, at most {_MAX_PATCHED:#x} are read"
            )
        if target + length > file_size:
            raise data.bad(
                f"{field}.dst", row, f"{length:#x} bytes to {target:#x} on, the file has {file_size:#x}"
            )
        content = data.part(f"{field}.src", row + 8, source, length)
        found.append(Patch(file_offset=target, content=bytes(content)))
    return tuple(found)


def _read_layout(data: _Region) -> tuple[LayoutEntry, ...]:
    at, table = data.table(1, ENTRY, _MAX_ENTRIES)
    found: list[LayoutEntry] = []
    for index, entry in enumerate(ENTRY.iter_unpack(table)):
        ident, attributes, page_count, address, content_size, content_offset, flags = entry
        row, field = at + index * ENTRY.size, f"layout[{index}]"
        if ident & GROUP_BIT:  # {id, entry count, load times, step}
            if not 0 < attributes <= index:
                raise data.bad(
                    f"{field}.entry_count", row + 2, f"{attributes} entries, {index} stand before it"
                )
            if page_count and any(one.repeat for one in found[index - attributes :]):
                raise data.bad(f"{field}.entry_count", row + 2, "the group repeats another group")
            found.append(LayoutEntry(ident=ident, repeat=(attributes, page_count, address)))
            continue
        content = None
        if content_offset:
            content = data.part(f"{field}.content_offset", row + 20, content_offset, content_size)
            if content_size > page_count * PAGE:
                raise data.bad(
                    f"{field}.content_size", row + 16, f"{content_size:#x} bytes for {page_count} pages"
                )
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
