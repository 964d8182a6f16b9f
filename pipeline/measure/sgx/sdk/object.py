"""What the signing tool of Intel's SDK needs to know of the shared object that the linker wrote.

Names are looked up in `.dynsym` alone, as that tool does, so that stripping changes nothing.

Units: addresses are virtual, that is offsets in the enclave; sizes are bytes.
Source: Intel SGX SDK, `elfparser.cpp`.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.measure.sgx.elf import PT_DYNAMIC, PT_TLS, SHT_DYNSYM, Elf, Segment
from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.sdk.layout import DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_TEXTREL
from pipeline.measure.sgx.sdk.metadata import metadata_block
from pipeline.measure.sgx.segment_pages import round_up
from provenance.claims import Check
from provenance.errors import UsageError

_ET_DYN: Final = 3
_DT_SYMTAB: Final = 6
_DT_REL: Final = 17
_SYM: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_STB_WEAK: Final = 2
_MAX_SYMBOLS: Final = 1 << 20
# R_X86_64_NONE, 64, GLOB_DAT, JUMP_SLOT, RELATIVE, DTPMOD64, DTPOFF64, TPOFF64
_RELOCATIONS: Final = {0, 1, 6, 7, 8, 16, 17, 18}
_NAMES: Final = {b"enclave_entry", b"g_global_data"}


class NotAnSdkEnclave(UsageError):
    """A file is not an unsigned enclave of Intel's SDK, or one that its signing tool would refuse.

    Cure: the message says what is wrong. It is the file that the linker wrote, before `sgx_sign`; its section
    headers and `.dynsym` must still be there.
    """

    code = "RVP-5027"


class SdkObject(msgspec.Struct, frozen=True, kw_only=True):
    """An unsigned enclave.

    Attributes:
        elf: the file.
        entry: address of `enclave_entry`.
        global_data_at: file offset of `g_global_data`.
        global_data_bytes: size of that symbol.
        version: the first eight bytes of it: the SDK's version, for releases that store it.
        end: the first page after the last segment.
        is_odd: whether SDK 1.8 and before began a page later: they rounded a segment's size, then added
            its address.
        tls_bytes: thread-local storage, aligned; None without any.
        block: file offset and size of the room for metadata; what stands there is not looked at.
    """

    elf: Elf
    entry: int
    global_data_at: int
    global_data_bytes: int
    version: int
    end: int
    is_odd: bool
    tls_bytes: int | None
    block: tuple[int, int]

    @property
    def tls_pages(self) -> int:
        """Pages of thread-local storage in front of a thread's data page."""
        return (self.tls_bytes or 0) + PAGE - 1 >> 12

    def checks(self) -> tuple[Check, ...]:
        """Warn of what the signing tool signs only when it is told to."""
        found = []
        if DT_TEXTREL in self.elf.dynamic:
            found.append(
                Check(
                    id="text-relocations",
                    status="warning",
                    expected="no relocations in code",
                    got="the loader writes into code pages",
                    hint="sgx_sign wants -ignore-rel-error for this enclave; link it with -z text",
                )
            )
        if self.elf.section(".init") is not None:
            found.append(
                Check(
                    id="init-section",
                    status="warning",
                    expected="no section .init",
                    got="a section .init, which nothing in an enclave runs",
                    hint="sgx_sign wants -ignore-init-sec-error for this enclave",
                )
            )
        return tuple(found)


def read_object(elf: Elf) -> SdkObject:
    """Read an unsigned enclave, and check what the signing tool checks.

    Raises:
        NotAnSdkEnclave: RVP-5027. BadElf: RVP-5001. BadSgxMetadata: RVP-5002.
    """

    def need(fulfilled: bool, message: str) -> None:  # noqa: FBT001  the condition itself
        if not fulfilled:
            raise NotAnSdkEnclave(message, place=elf.name)

    (kind,) = struct.unpack_from("<H", elf.data, 16)
    need(kind == _ET_DYN, f"an ELF file of type {kind}, expected a shared object")
    need(bool(elf.loads), "the file has no loadable segments")
    need(any(one.kind == PT_DYNAMIC for one in elf.segments), "the file has no dynamic section")
    need(all(one.name != ".ctors" for one in elf.sections), "there is a section .ctors, which nothing runs")
    _check_segments(elf)
    _check_relocations(elf)
    symbols = _symbols(elf)
    need("g_global_data" in symbols, "the file exports no symbol g_global_data")
    address, size = symbols["g_global_data"]
    entry = symbols.get("enclave_entry", (elf.entry, 0))[0]
    need(entry != 0, "the file has no entry point")
    at = elf.file_offset(address, 8)
    block = metadata_block(elf)
    if block is None:
        raise NotAnSdkEnclave("the file has no section .note.sgxmeta", place=elf.name)
    last = max(elf.loads, key=lambda one: one.address)  # of equal ones the first
    need(last.address > 0, "all segments lie at address 0")
    end = round_up(last.address + last.memory_size)
    return SdkObject(
        elf=elf,
        entry=entry,
        global_data_at=at,
        global_data_bytes=size,
        version=struct.unpack_from("<Q", elf.data, at)[0],
        end=end,
        is_odd=end < round_up(last.address + round_up(last.memory_size)),
        tls_bytes=_tls_bytes(elf),
        block=block,
    )


def _check_segments(elf: Elf) -> None:
    spans: list[tuple[int, int]] = []
    for one in elf.segments:
        if one.kind == PT_TLS and not one.flags & 7:
            raise NotAnSdkEnclave("the thread-local storage has no permissions", place=elf.name)
    for one in elf.loads:
        if one.align % PAGE or one.align & (one.align - 1):
            raise NotAnSdkEnclave(f"a segment is aligned to {one.align:#x}", place=elf.name)
        if not one.flags & 7:
            raise NotAnSdkEnclave(f"the segment at {one.address:#x} has no permissions", place=elf.name)
        align = max(one.align, 1)
        start, end = one.address, (one.address + one.memory_size + align - 1) & -align
        if end > 1 << 44:
            raise NotAnSdkEnclave(f"a segment ends at {end:#x}", place=elf.name)
        if any(start < other_end and other < end for other, other_end in spans):
            raise NotAnSdkEnclave(f"the segment at {start:#x} overlaps another", place=elf.name)
        spans.append((start, end))


def _check_relocations(elf: Elf) -> None:
    dynamic = elf.dynamic
    if dynamic.get(_DT_REL):
        raise NotAnSdkEnclave("the file has relocations without addends", place=elf.name)
    for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        length = dynamic.get(size, 0) // _RELA.size * _RELA.size
        if not length:
            continue
        at = elf.file_offset(dynamic.get(table, 0), length)
        for _, info, _ in _RELA.iter_unpack(elf.bytes_at(at, length, "a relocation table")):
            if info & 0xFFFFFFFF not in _RELOCATIONS:
                raise NotAnSdkEnclave(
                    f"relocation type {info & 0xFFFFFFFF} is not one that an enclave may have", place=elf.name
                )


def _symbols(elf: Elf) -> dict[str, tuple[int, int]]:
    """Find the two symbols that matter, and refuse a file that needs what it does not have."""
    address = elf.dynamic.get(_DT_SYMTAB)
    table = next((one for one in elf.sections if one.address == address and one.kind == SHT_DYNSYM), None)
    if table is None or table.link >= len(elf.sections):
        raise NotAnSdkEnclave("the file has no .dynsym", place=elf.name)
    if table.size // _SYM.size > _MAX_SYMBOLS:
        raise NotAnSdkEnclave(f"more than {_MAX_SYMBOLS} symbols", place=elf.name)
    strings = elf.sections[table.link]
    names = bytes(elf.bytes_at(strings.offset, strings.size, "a string table"))
    found: dict[str, tuple[int, int]] = {}
    content = elf.bytes_at(table.offset, table.size // _SYM.size * _SYM.size, "a symbol table")
    for at, info, _, index, value, size in list(_SYM.iter_unpack(content))[1:]:
        if not at:
            continue
        end = names.find(b"\0", at)
        name = names[at : end if end >= 0 else at]
        if not index and info >> 4 != _STB_WEAK:
            raise NotAnSdkEnclave(
                f"the symbol {name[:80].decode('latin-1')} is undefined",
                place=elf.name,
                hint="link the enclave with all of its libraries (-Wl,--no-undefined)",
            )
        if name in _NAMES:
            found[name.decode()] = (value, size)
    return found


def _tls_bytes(elf: Elf) -> int | None:
    found: Segment | None = None
    for one in elf.segments:
        found = one if one.kind == PT_TLS else found
    if found is None:
        return None
    if found.align > 1:
        if found.align & (found.align - 1):
            raise NotAnSdkEnclave(f"thread-local storage aligned to {found.align:#x}", place=elf.name)
        return (found.memory_size + found.align - 1) & -found.align
    return found.memory_size
