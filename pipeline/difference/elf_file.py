"""ELF structure: header, segments, sections, symbols. A small bounded reader, for looking only.

Every number comes from the file; every read is clipped to the file. What does not fit together raises
`Broken`.

Source: System V ABI, chapter 4 "Object Files" and chapter 5; elf(5).
"""

from __future__ import annotations

import bisect
import struct
from typing import Final

import msgspec

from pipeline.difference.content import Content
from pipeline.difference.look import Broken, Look, text_of

SYMTAB: Final = 2
STRTAB: Final = 3
NOTE: Final = 7
NOBITS: Final = 8
DYNSYM: Final = 11
COMPRESSED: Final = 0x800
STRINGS: Final = 0x20

_NAME_BYTES: Final = 512
_TABLE_BYTES: Final = 16 << 20
_SECTION_TYPES: Final = {
    0: "null",
    1: "progbits",
    2: "symtab",
    3: "strtab",
    4: "rela",
    5: "hash",
    6: "dynamic",
    7: "note",
    8: "nobits",
    9: "rel",
    11: "dynsym",
    14: "init_array",
    15: "fini_array",
    17: "group",
}
_SEGMENT_TYPES: Final = {0: "null", 1: "load", 2: "dynamic", 3: "interp", 4: "note", 6: "phdr", 7: "tls"}


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One section header; `label` is its name, with its index when the name stands twice."""

    index: int
    name: str
    label: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    entry_size: int

    @property
    def in_file(self) -> bool:
        """Tell whether the section has bytes in the file."""
        return self.kind not in {0, NOBITS} and self.size > 0


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One program header."""

    index: int
    kind: str
    attributes: dict[str, str]
    offset: int
    size: int


class Symbol(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol."""

    name: str
    value: int
    size: int
    kind: int
    section: int


class ElfFile:
    """The structure of one ELF file.

    Raises:
        Broken: from the constructor and from `symbols`, when the structure does not hold together.
    """

    def __init__(self, content: Content, look: Look) -> None:
        head = content.read(0, 64)
        if len(head) < 52 or head[4] not in {1, 2} or head[5] not in {1, 2}:
            raise Broken("the ELF header is cut short or of an unknown class")
        self.content = content
        self._look = look
        self._symbols: dict[int, tuple[Symbol, ...]] = {}
        self.wide = head[4] == 2
        self._order = "<" if head[5] == 1 else ">"
        layout = struct.Struct(self._order + ("HHLQQQLHHHHHH" if self.wide else "HHLLLLLHHHHHH"))
        if len(head) < 16 + layout.size:
            raise Broken("the ELF header is cut short")
        (
            self.type,
            machine,
            _,
            entry,
            segments_at,
            self._sections_at,
            flags,
            _,
            segment_bytes,
            segment_count,
            self._section_bytes,
            section_count,
            names_index,
        ) = layout.unpack_from(head, 16)
        self.header = {
            "class": "64 bit" if self.wide else "32 bit",
            "byte order": "little" if self._order == "<" else "big",
            "system": str(head[7]),
            "type": str(self.type),
            "machine": str(machine),
            "entry": f"{entry:#x}",
            "flags": f"{flags:#x}",
        }
        self.segments = self._read_segments(segments_at, segment_bytes, segment_count)
        self.sections = self._read_sections(section_count, names_index)

    def bytes_of(self, section: Section) -> Content:
        """Return the content of a section."""
        return self.content.part(section.offset, section.size if section.in_file else 0)

    def _read_segments(self, at: int, entry_bytes: int, count: int) -> tuple[Segment, ...]:
        layout = struct.Struct(self._order + ("LLQQQQQQ" if self.wide else "LLLLLLLL"))
        segments: list[Segment] = []
        if not at:
            return ()
        for index in range(min(count, self._look.limits.members)):
            raw = self.content.read(at + index * entry_bytes, layout.size)
            if len(raw) < layout.size or entry_bytes < layout.size:
                raise Broken(f"program header {index} is not in the file")
            fields = layout.unpack(raw)
            if self.wide:
                kind, flags, offset, virtual, _, file_size, memory_size, align = fields
            else:
                kind, offset, virtual, _, file_size, memory_size, flags, align = fields
            attributes = {
                "offset": f"{offset:#x}",
                "address": f"{virtual:#x}",
                "file size": f"{file_size:#x}",
                "memory size": f"{memory_size:#x}",
                "flags": f"{flags:#x}",
                "alignment": f"{align:#x}",
            }
            name = _SEGMENT_TYPES.get(kind, f"{kind:#x}")
            segments.append(
                Segment(index=index, kind=name, attributes=attributes, offset=offset, size=file_size)
            )
        return tuple(segments)

    def _section_fields(self, index: int) -> tuple[int, ...]:
        layout = struct.Struct(self._order + ("LLQQQQLLQQ" if self.wide else "LLLLLLLLLL"))
        raw = self.content.read(self._sections_at + index * self._section_bytes, layout.size)
        if len(raw) < layout.size or self._section_bytes < layout.size:
            raise Broken(f"section header {index} is not in the file")
        return layout.unpack(raw)

    def _read_sections(self, count: int, names_index: int) -> tuple[Section, ...]:
        if not self._sections_at:
            return ()
        first = self._section_fields(0)
        count = count or first[5]
        names_index = first[6] if names_index == 0xFFFF else names_index
        if count > self._look.limits.members:
            raise Broken(f"{count} sections, {self._look.limits.members} are looked at")
        raw = [self._section_fields(index) for index in range(count)]
        table = raw[names_index] if names_index < count else None
        names = self.content.part(table[4], table[5]) if table else Content(b"")
        sections: list[Section] = []
        seen: dict[str, int] = {}
        for index, fields in enumerate(raw):
            name = text_of(names.read(fields[0], _NAME_BYTES).split(b"\0", 1)[0])
            again = seen.setdefault(name, index) != index
            sections.append(
                Section(
                    index=index,
                    name=name,
                    label=f"{name}[{index}]" if again else name,
                    kind=fields[1],
                    flags=fields[2],
                    address=fields[3],
                    offset=fields[4],
                    size=fields[5],
                    link=fields[6],
                    entry_size=fields[9],
                )
            )
        return tuple(sections)

    def symbols(self, kind: int = SYMTAB) -> tuple[Symbol, ...]:
        """Read the symbol table of a kind, once; empty when there is none."""
        if kind not in self._symbols:
            self._symbols[kind] = self._read_symbols(kind)
        return self._symbols[kind]

    def _read_symbols(self, kind: int) -> tuple[Symbol, ...]:
        table = next((section for section in self.sections if section.kind == kind), None)
        if table is None or table.link >= len(self.sections):
            return ()
        names = self.bytes_of(self.sections[table.link]).read(0, _TABLE_BYTES)
        layout = struct.Struct(self._order + ("LBBHQQ" if self.wide else "LLLBBH"))
        data = self.bytes_of(table).read(0, min(_TABLE_BYTES, self._look.limits.members * layout.size))
        symbols: list[Symbol] = []
        for fields in layout.iter_unpack(data[: len(data) // layout.size * layout.size]):
            if self.wide:
                name, info, _, section, value, size = fields
            else:
                name, value, size, info, _, section = fields
            end = names.find(b"\0", name, name + _NAME_BYTES)
            text = text_of(names[name : end if end >= 0 else name + _NAME_BYTES])
            symbols.append(Symbol(name=text, value=value, size=size, kind=info & 15, section=section))
        return tuple(symbols)

    def symbol_at(self, section: Section, offset: int) -> str:
        """Name the function or object that covers an offset of a section; empty when none does."""
        base = 0 if self.type == 1 else section.address
        inside = sorted(
            (symbol.value - base, symbol.name, symbol.size)
            for symbol in (self.symbols() or self.symbols(DYNSYM))
            if symbol.section == section.index and symbol.name and symbol.kind in {0, 1, 2}
        )
        at = bisect.bisect_right(inside, offset, key=lambda one: one[0]) - 1
        if at < 0:
            return ""
        start, name, size = inside[at]
        if size and offset >= start + size:
            return ""
        return f"{name} + {offset - start:#x}"


def section_attributes(section: Section) -> dict[str, str]:
    """Return what a section header says, by name; positions left out: they follow from what stands before."""
    return {
        "type": _SECTION_TYPES.get(section.kind, f"{section.kind:#x}"),
        "flags": f"{section.flags:#x}",
        "address": f"{section.address:#x}",
        "size": f"{section.size:#x}",
        "entry size": str(section.entry_size),
    }


def notes(data: bytes, order: str = "little") -> list[tuple[str, int, bytes]]:
    """Read the notes of a note section: owner, type, description."""
    found: list[tuple[str, int, bytes]] = []
    while len(data) >= 12:
        name_size, size, kind = (
            int.from_bytes(data[at : at + 4], "big" if order == "big" else "little") for at in (0, 4, 8)
        )
        start = 12 + (name_size + 3) // 4 * 4
        found.append((text_of(data[12 : 12 + name_size].rstrip(b"\0")), kind, data[start : start + size]))
        data = data[start + (size + 3) // 4 * 4 :]
    return found
