"""A bounded reader of ELF64 little-endian files, as far as enclaves need it.

Nothing is copied: the file is a memory view (usually of a mapping), and every offset, size and
count of the file is checked against it before it is used.

Units: offsets are file offsets, addresses are virtual; both in bytes.
Source: System V ABI, chapters 4 and 5; AMD64 supplement.
"""

from __future__ import annotations

import functools
import mmap
import struct
from pathlib import Path
from typing import Final

import msgspec

from provenance.errors import UsageError
from provenance.strict import NotReadable

MAGIC: Final = b"\x7fELF"
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_TLS: Final = 7
PF_X, PF_W, PF_R = 1, 2, 4
SHT_SYMTAB: Final = 2
SHT_NOBITS: Final = 8
SHT_DYNSYM: Final = 11
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_MAX_SYMBOLS: Final = 1 << 22


class BadElf(UsageError):
    """A file is not an ELF64 file for x86-64, or its tables point out of it.

    Cure: check that the file is complete and that it is the enclave, not a 32-bit or a foreign one.
    """

    code = "RVP-5001"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A section header; `offset` and `size` are inside the file unless the section has no bits."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    align: int = 1


class Symbol(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol: its value is a virtual address."""

    name: str
    value: int
    size: int


def map_file(path: Path) -> memoryview:
    """Map a file for reading.

    Raises:
        NotReadable: RVP-1010.

    Cost: pages are read when they are looked at.
    """
    try:
        with path.open("rb") as stream:
            if stream.seek(0, 2) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise NotReadable(f"cannot read the file: {error}", place=str(path), hint="check the path") from error


class Elf:
    """An ELF file: header, program headers, section headers; symbols on demand."""

    def __init__(self, data: memoryview, *, name: str = "") -> None:
        """Read the tables.

        Raises:
            BadElf: RVP-5001.
        """
        self.data = data
        self.name = name
        if len(data) < _EHDR.size or bytes(data[:4]) != MAGIC:
            raise self._bad("this is not an ELF file")
        header = _EHDR.unpack_from(data)
        identity: bytes = header[0]
        if identity[4:6] != b"\x02\x01" or header[2] != 62:
            raise self._bad("only ELF64 for x86-64 can be measured")
        self.entry: int = header[4]
        self.phoff, self.phentsize, self.phnum = header[5], header[9], header[10]
        self.shoff, self.shentsize, self.shnum, self.shstrndx = header[6], header[11], header[12], header[13]
        if self.phnum and self.phentsize != _PHDR.size:
            raise self._bad(f"program headers of {self.phentsize} bytes, expected {_PHDR.size}")
        if self.shnum and self.shentsize != _SHDR.size:
            raise self._bad(f"section headers of {self.shentsize} bytes, expected {_SHDR.size}")
        self.segments = tuple(self._segments())
        self.sections = tuple(self._sections())

    def _bad(self, message: str) -> BadElf:
        return BadElf(message, place=self.name)

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        """Return a part of the file.

        Raises:
            BadElf: RVP-5001 when it is not inside the file.
        """
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self._bad(
                f"{what} is at {offset:#x} with {size:#x} bytes, the file has {len(self.data):#x} bytes"
            )
        return self.data[offset : offset + size]

    def _segments(self) -> list[Segment]:
        table = self.bytes_at(self.phoff, self.phnum * _PHDR.size, "the program header table")
        found = []
        for kind, flags, offset, address, _, file_size, memory_size, align in _PHDR.iter_unpack(table):
            segment = Segment(
                kind=kind,
                flags=flags,
                offset=offset,
                address=address,
                file_size=file_size,
                memory_size=memory_size,
                align=align,
            )
            if kind == PT_LOAD:
                self.bytes_at(offset, file_size, "a loadable segment")
                if file_size > memory_size:
                    raise self._bad(f"a segment has {file_size:#x} bytes for {memory_size:#x} of memory")
            found.append(segment)
        return found

    def _sections(self) -> list[Section]:
        if not self.shnum:
            return []
        table = self.bytes_at(self.shoff, self.shnum * _SHDR.size, "the section header table")
        raw = list(_SHDR.iter_unpack(table))
        if self.shstrndx >= len(raw):
            raise self._bad(f"section {self.shstrndx} should have the names, there are {len(raw)}")
        names = self.bytes_at(raw[self.shstrndx][4], raw[self.shstrndx][5], "the table of section names")
        found = []
        for name, kind, flags, address, offset, size, link, _, align, _ in raw:
            if kind not in {0, SHT_NOBITS}:
                self.bytes_at(offset, size, "a section")
            found.append(
                Section(
                    name=_text(names, name),
                    kind=kind,
                    flags=flags,
                    address=address,
                    offset=offset,
                    size=size,
                    link=link,
                    align=align,
                )
            )
        return found

    @property
    def loads(self) -> tuple[Segment, ...]:
        """The loadable segments in the order of the program headers."""
        return tuple(segment for segment in self.segments if segment.kind == PT_LOAD)

    def section(self, name: str) -> Section | None:
        """Find a section that has bits in the file."""
        return next((one for one in self.sections if one.name == name and one.kind != SHT_NOBITS), None)

    def file_offset(self, address: int, size: int) -> int:
        """Translate a virtual address to a file offset.

        Raises:
            BadElf: RVP-5001 when no loadable segment has these bytes in the file.
        """
        for segment in self.loads:
            inside = address - segment.address
            if inside >= 0 and inside + size <= segment.file_size:
                return segment.offset + inside
        raise self._bad(f"{size:#x} bytes at address {address:#x} are in no segment of the file")

    @functools.cached_property
    def dynamic(self) -> dict[int, int]:
        """The dynamic section: tag to value; of a tag that stands twice, the last."""
        for segment in self.segments:
            if segment.kind == PT_DYNAMIC:
                table = self.bytes_at(segment.offset, segment.file_size & ~15, "the dynamic section")
                found: dict[int, int] = {}
                for tag, value in struct.iter_unpack("<QQ", table):
                    if tag == 0:
                        break
                    found[tag] = value
                return found
        return {}

    def symbol(self, name: str) -> Symbol | None:
        """Find a defined symbol, in `.dynsym` first, then in `.symtab`.

        Cost: one pass over the table.
        """
        for kind in (SHT_DYNSYM, SHT_SYMTAB):
            for section in self.sections:
                if section.kind == kind and section.link < len(self.sections):
                    strings = self.sections[section.link]
                    found = self._find_symbol(section, strings, name)
                    if found:
                        return found
        return None

    def _find_symbol(self, section: Section, strings: Section, name: str) -> Symbol | None:
        if section.size // _SYM.size > _MAX_SYMBOLS:
            raise self._bad(f"more than {_MAX_SYMBOLS} symbols")
        names = self.bytes_at(strings.offset, strings.size, "a string table")
        wanted = name.encode() + b"\0"
        table = self.bytes_at(section.offset, section.size // _SYM.size * _SYM.size, "a symbol table")
        for at, _, _, index, value, size in _SYM.iter_unpack(table):
            if index and bytes(names[at : at + len(wanted)]) == wanted:
                return Symbol(name=name, value=value, size=size)
        return None


def _text(table: memoryview, at: int) -> str:
    raw = bytes(table[at : at + 256])
    return raw.partition(b"\0")[0].decode("latin-1")
