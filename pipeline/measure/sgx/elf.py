"""A bounded reader of ELF64 little-endian files, as far as enclaves need it.

Nothing is copied: the file is a memory view (usually of a mapping), and every offset, size and
count of the file is checked against it before it is used. An error names the field and where it stands.

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
# Where the fields stand in their tables, for messages
_IN_EHDR: Final = {
    "e_ident": 0,
    "e_machine": 18,
    "e_phoff": 32,
    "e_shoff": 40,
    "e_phentsize": 54,
    "e_shentsize": 58,
    "e_shstrndx": 62,
    "e_phnum": 56,
}
_IN_PHDR: Final = {"p_offset": 8, "p_vaddr": 16, "p_filesz": 32, "p_memsz": 40}
_IN_SHDR: Final = {"sh_name": 0, "sh_type": 4, "sh_offset": 24, "sh_size": 32, "sh_link": 40}
_CLASS_32: Final = 1
_MACHINE_X86_64: Final = 62
_MAX_PHNUM: Final = 65536 // _PHDR.size  # what Linux loads
_LONGEST: Final = 256  # of a section's name, in bytes
_MAX_DYNAMIC: Final = 1 << 16
_MAX_SYMBOLS: Final = 1 << 22
_MAX_ADDRESS: Final = 1 << 52  # the largest enclave that SECS.SIZE can say


class BadElf(UsageError):
    """A file is not an ELF64 file for x86-64, or its tables point out of it.

    The message names the field, the table it is in, and its offset in the file.
    Cure: check that the file is complete and that it is the enclave, not a foreign one.
    """

    code = "RVP-5001"


class ThirtyTwoBitEnclave(BadElf):
    """A file is a 32-bit enclave (ELF32).

    Its loader and its layout are others, and no SDK supports it any more. Cure: build the enclave for
    x86-64 and measure that file; 32-bit enclaves are not measured.
    """

    code = "RVP-5020"


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
        why = (error.strerror if isinstance(error, OSError) else "") or error
        raise NotReadable(f"cannot read the file: {why}", place=str(path), hint="check the path") from error


class Elf:
    """An ELF file: header, program headers, section headers; symbols on demand."""

    def __init__(self, data: memoryview, *, name: str = "") -> None:
        """Read the tables.

        Raises:
            BadElf: RVP-5001. ThirtyTwoBitEnclave: RVP-5020.

        Cost: at most 1170 program headers and 65 535 section headers are read.
        """
        self.data = data
        self.name = name
        if bytes(data[:4]) != MAGIC:
            raise BadElf("field e_ident of the ELF header: this is not an ELF file", place=name)
        if len(data) < _EHDR.size:
            raise BadElf(f"the file ends inside the ELF header, after {len(data)} bytes", place=name)
        header = _EHDR.unpack_from(data)
        identity: bytes = header[0]
        if identity[4] == _CLASS_32:
            raise ThirtyTwoBitEnclave(
                "this is a 32-bit enclave (ELF32), only ELF64 for x86-64 can be measured",
                place=name,
                hint="build it for x86-64 (without -m32) and measure that file",
            )
        if identity[4:6] != b"\x02\x01":
            raise self._bad_header("e_ident", f"{identity.hex()}, expected ELF64, little-endian")
        if header[2] != _MACHINE_X86_64:
            raise self._bad_header("e_machine", f"{header[2]}, expected {_MACHINE_X86_64} (x86-64)")
        self.entry: int = header[4]
        self.phoff, self.phentsize, self.phnum = header[5], header[9], header[10]
        self.shoff, self.shentsize, self.shnum, self.shstrndx = header[6], header[11], header[12], header[13]
        if self.phnum and self.phentsize != _PHDR.size:
            raise self._bad_header("e_phentsize", f"{self.phentsize}, expected {_PHDR.size}")
        if self.phnum > _MAX_PHNUM:
            raise self._bad_header("e_phnum", f"{self.phnum}, at most {_MAX_PHNUM} are loaded")
        if self.shnum and self.shentsize != _SHDR.size:
            raise self._bad_header("e_shentsize", f"{self.shentsize}, expected {_SHDR.size}")
        self.segments = tuple(self._segments())
        self.sections = tuple(self._sections())

    def _bad(self, field: str, table: str, at: int, problem: str) -> BadElf:
        return BadElf(f"field {field} of {table} at file offset {at:#x}: {problem}", place=self.name)

    def _bad_header(self, field: str, problem: str) -> BadElf:
        return self._bad(field, "the ELF header", _IN_EHDR[field], problem)

    def _bad_segment(self, field: str, index: int, problem: str) -> BadElf:
        at = self.phoff + index * _PHDR.size + _IN_PHDR[field]
        return self._bad(field, f"program header {index}", at, problem)

    def _bad_section(self, field: str, index: int, problem: str) -> BadElf:
        at = self.shoff + index * _SHDR.size + _IN_SHDR[field]
        return self._bad(field, f"section {index}", at, problem)

    def _outside(self, offset: int, size: int) -> str:
        """Say why a part is not inside the file; nothing when it is."""
        if offset >= 0 and size >= 0 and offset + size <= len(self.data):
            return ""
        return f"{size:#x} bytes from {offset:#x} on, the file has {len(self.data):#x}"

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        """Return a part of the file.

        Args:
            offset: in the file.
            size: in bytes.
            what: names it in the message.

        Raises:
            BadElf: RVP-5001 when it is not inside the file.
        """
        problem = self._outside(offset, size)
        if problem:
            raise BadElf(f"{what} is not inside the file: {problem}", place=self.name)
        return self.data[offset : offset + size]

    def _segments(self) -> list[Segment]:
        problem = self._outside(self.phoff, self.phnum * _PHDR.size)
        if problem:
            raise self._bad_header("e_phoff", problem)
        table = self.data[self.phoff : self.phoff + self.phnum * _PHDR.size]
        found = []
        for index, raw in enumerate(_PHDR.iter_unpack(table)):
            kind, flags, offset, address, _, file_size, memory_size, align = raw
            segment = Segment(
                kind=kind,
                flags=flags,
                offset=offset,
                address=address,
                file_size=file_size,
                memory_size=memory_size,
                align=align,
            )
            if kind in {PT_LOAD, PT_DYNAMIC, PT_TLS}:
                problem = self._outside(offset, file_size)
                if problem:
                    raise self._bad_segment("p_offset", index, problem)
            if kind in {PT_LOAD, PT_TLS}:
                if file_size > memory_size:
                    problem = f"{file_size:#x} bytes of the file for {memory_size:#x} of memory"
                    raise self._bad_segment("p_filesz", index, problem)
                if address + memory_size > _MAX_ADDRESS:
                    problem = f"{memory_size:#x} bytes of memory from {address:#x} on"
                    field = "p_memsz" if memory_size > _MAX_ADDRESS else "p_vaddr"
                    raise self._bad_segment(field, index, problem)
            found.append(segment)
        return found

    def _sections(self) -> list[Section]:
        if not self.shnum:
            return []
        problem = self._outside(self.shoff, self.shnum * _SHDR.size)
        if problem:
            raise self._bad_header("e_shoff", problem)
        raw = list(_SHDR.iter_unpack(self.data[self.shoff : self.shoff + self.shnum * _SHDR.size]))
        if self.shstrndx >= len(raw):
            raise self._bad_header("e_shstrndx", f"{self.shstrndx}, there are {len(raw)} sections")
        names = memoryview(b"")
        found = []
        tables: dict[int, int] = {}
        if raw[self.shstrndx][1] != SHT_NOBITS:
            problem = self._outside(*raw[self.shstrndx][4:6])
            if problem:
                raise self._bad_section("sh_offset", self.shstrndx, problem)
            offset, size = raw[self.shstrndx][4:6]
            names = self.data[offset : offset + size]
        for index, (name, kind, flags, address, offset, size, link, _, align, _) in enumerate(raw):
            if names and not _ends(names, name):  # loaders read on behind the table
                problem = f"{name:#x}, the table of names has {len(names):#x} bytes and none that ends there"
                raise self._bad_section("sh_name", index, problem)
            if kind not in {0, SHT_NOBITS}:
                problem = self._outside(offset, size)
                if problem:
                    field = "sh_offset" if offset > len(self.data) else "sh_size"
                    raise self._bad_section(field, index, problem)
            if kind in {SHT_SYMTAB, SHT_DYNSYM}:
                first = tables.setdefault(kind, index)
                if first != index:
                    problem = f"a second table of symbols of type {kind}; section {first} is the first"
                    raise self._bad_section("sh_type", index, problem)
                if size // _SYM.size > _MAX_SYMBOLS:
                    problem = f"{size // _SYM.size} symbols, at most {_MAX_SYMBOLS} are read"
                    raise self._bad_section("sh_size", index, problem)
                if link >= len(raw):
                    raise self._bad_section("sh_link", index, f"{link}, there are {len(raw)} sections")
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

    @functools.cached_property
    def loads(self) -> tuple[Segment, ...]:
        """The loadable segments in the order of the program headers."""
        return tuple(segment for segment in self.segments if segment.kind == PT_LOAD)

    def section(self, name: str) -> Section | None:
        """Find a section that has bits in the file."""
        without = {0, SHT_NOBITS}
        return next((one for one in self.sections if one.name == name and one.kind not in without), None)

    def file_offset(self, address: int, size: int) -> int:
        """Translate a virtual address to a file offset.

        Raises:
            BadElf: RVP-5001 when no loadable segment has these bytes in the file.
        """
        for segment in self.loads:
            inside = address - segment.address
            if inside >= 0 and inside + size <= segment.file_size:
                return segment.offset + inside
        raise BadElf(
            f"program headers: {size:#x} bytes at address {address:#x} are in no loadable segment's part of "
            "the file",
            place=self.name,
        )

    @functools.cached_property
    def dynamic(self) -> dict[int, int]:
        """The dynamic section: tag to value; of a tag that stands twice, the last."""
        for index, segment in enumerate(self.segments):
            if segment.kind == PT_DYNAMIC:
                if segment.file_size // 16 > _MAX_DYNAMIC:
                    problem = f"{segment.file_size // 16} entries, at most {_MAX_DYNAMIC} are read"
                    raise self._bad_segment("p_filesz", index, problem)
                table = self.bytes_at(segment.offset, segment.file_size & ~15, "the dynamic section")
                found: dict[int, int] = {}
                for tag, value in struct.iter_unpack("<QQ", table):
                    if tag == 0:
                        return found
                    found[tag] = value
                # Loaders read on to DT_NULL, wherever it stands.
                problem = f"{segment.file_size:#x} bytes without a DT_NULL at the end"
                raise self._bad_segment("p_filesz", index, problem)
        return {}

    def symbol(self, name: str) -> Symbol | None:
        """Find a defined symbol, in `.dynsym` first, then in `.symtab`.

        Cost: one pass over the table.
        """
        for kind in (SHT_DYNSYM, SHT_SYMTAB):
            for index, section in enumerate(self.sections):
                if section.kind == kind:
                    found = self._find_symbol(index, section, self.sections[section.link], name)
                    if found:
                        return found
        return None

    def _find_symbol(self, index: int, section: Section, strings: Section, name: str) -> Symbol | None:
        if strings.kind in {0, SHT_NOBITS}:
            raise self._bad_section("sh_link", index, f"section {section.link} holds no names")
        names = self.data[strings.offset : strings.offset + strings.size]
        wanted = name.encode() + b"\0"
        table = self.data[section.offset : section.offset + section.size // _SYM.size * _SYM.size]
        for at, _, _, defined, value, size in _SYM.iter_unpack(table):
            if defined and names[at : at + len(wanted)] == wanted:
                return Symbol(name=name, value=value, size=size)
        return None


def _ends(table: memoryview, at: int) -> bool:
    """Tell whether a name ends inside its table, or is longer than any that is looked for."""
    return at + _LONGEST < len(table) or b"\0" in bytes(table[at : at + _LONGEST])


def _text(table: memoryview, at: int) -> str:
    raw = bytes(table[at : at + _LONGEST])
    return raw.partition(b"\0")[0].decode("latin-1")
