"""What lies at an address of an enclave: section, symbol and offset, from the ELF files mapped into it.

Tables are read once, into sorted arrays; a look-up is a binary search. Symbols come from `.symtab`, else
from `.dynsym`; of several at one address one that has a size and is global is named. Everything in the tables
may be hostile: what is out of bounds is left out, a label is never a reason to fail.

Units: addresses are offsets from the enclave's base.

Example:
    >>> Place(section=".text", offset=0x10, symbol="main", symbol_offset=4).words()
    'main + 0x4 in .text'
    >>> Place(section=".data", offset=0x10).words()
    '.data + 0x10'
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.measure.sgx.elf import SHT_DYNSYM, SHT_NOBITS, SHT_SYMTAB, Elf
from provenance.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.measure.sgx.enclave import MappedElf

_SHF_ALLOC, _SHF_TLS = 2, 0x400
_NAMED_KINDS: Final = (0, 1, 2, 10)  # STT_NOTYPE, OBJECT, FUNC, GNU_IFUNC
_SYMBOL_BYTES: Final = 24
_MAX_SYMBOLS: Final = 1 << 22
_MAX_NAME: Final = 256
_NAMED_SECTIONS: Final = 4
_NAMED_SYMBOLS: Final = 8
_NAME_LETTERS: Final = 80
_TOP: Final = 1 << 63


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an address lies; empty names when nothing is known.

    Attributes:
        section: of the ELF file.
        offset: from the section's start.
        symbol: the function or object that covers the address.
        symbol_offset: from the symbol's start.
        symbol_size: in bytes; 0 when the table does not say.
    """

    section: str = ""
    offset: int = 0
    symbol: str = ""
    symbol_offset: int = 0
    symbol_size: int = 0

    def words(self) -> str:
        """Say it in words; empty when nothing is known."""
        if self.symbol:
            inside = f" in {self.section}" if self.section else ""
            return f"{self.symbol} + {self.symbol_offset:#x}{inside}"
        return f"{self.section} + {self.offset:#x}" if self.section else ""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A section or a symbol in the enclave's address range."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.start + self.size


class Symbols:
    """The symbols of one ELF file, sorted by address, one for each address."""

    def __init__(self, elf: Elf) -> None:
        self.values, self._sizes, self._names, self._strings = _read_symbols(elf)

    def __len__(self) -> int:
        return len(self.values)

    def span(self, index: int) -> Span:
        """Return one symbol; its address is virtual."""
        at = int(self._names[index])
        raw = bytes(self._strings[at : at + _MAX_NAME]).partition(b"\0")[0]
        return Span(
            name=raw.decode("utf-8", "replace"), start=int(self.values[index]), size=int(self._sizes[index])
        )

    def before(self, address: int) -> int:
        """Return the index of the last symbol that begins at or before a virtual address; -1: none."""
        return int(self.values.searchsorted(address, side="right")) - 1

    def at(self, address: int) -> Span | None:
        """Find the symbol that covers a virtual address; one without a size covers all up to the next."""
        index = self.before(address)
        if index < 0:
            return None
        found = self.span(index)
        return found if address < found.end or not found.size else None


def _read_symbols(
    elf: Elf,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], memoryview]:
    import numpy as np

    entry = np.dtype(
        [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("at", "<u2"), ("value", "<u8"), ("size", "<u8")]
    )
    none = np.zeros(0, np.int64)
    for kind in (SHT_SYMTAB, SHT_DYNSYM):
        for section in elf.sections:
            count = section.size // _SYMBOL_BYTES
            if section.kind != kind or section.link >= len(elf.sections) or not 0 < count <= _MAX_SYMBOLS:
                continue
            names = elf.sections[section.link]
            try:
                strings = elf.bytes_at(names.offset, names.size, "a string table")
                raw = elf.bytes_at(section.offset, count * _SYMBOL_BYTES, "a symbol table")
            except UsageError:
                continue
            table = np.frombuffer(raw, entry)
            kept = np.isin(table["info"] & 15, _NAMED_KINDS) & (table["at"] != 0) & (table["at"] < 0xFF00)
            kept &= (table["name"] > 0) & (table["name"] < len(strings))
            kept &= (table["value"] < _TOP) & (table["size"] < _TOP)
            table = table[kept]
            # the last of those that share an address wins: one with a size, then global, then larger
            order = np.lexsort((table["size"], table["info"] >> 4, table["size"] > 0, table["value"]))
            table = table[order]
            last = np.ones(len(table), bool)
            last[:-1] = table["value"][1:] != table["value"][:-1]
            table = table[last]
            if len(table):
                return (
                    table["value"].astype(np.int64),
                    table["size"].astype(np.int64),
                    table["name"].astype(np.int64),
                    strings,
                )
    return none, none, none, memoryview(b"")


class _Mapped:
    """One ELF file of an enclave."""

    def __init__(self, elf: Elf, base: int) -> None:
        self.base = base
        self.symbols = Symbols(elf)
        self.sections = sorted(
            (
                Span(name=one.name, start=one.address + base, size=one.size)
                for one in elf.sections
                if one.flags & _SHF_ALLOC
                and one.size
                and one.address + one.size < _TOP
                and not (one.kind == SHT_NOBITS and one.flags & _SHF_TLS)
            ),
            key=lambda one: (one.start, one.size),
        )
        self.starts = [one.start for one in self.sections]

    def section_at(self, address: int) -> Span | None:
        index = bisect.bisect_right(self.starts, address) - 1
        if index >= 0 and address < self.sections[index].end:
            return self.sections[index]
        return None


class Labels:
    """Names for the addresses of one enclave."""

    def __init__(self, elves: Iterable[MappedElf], *, symbols_from: Elf | None = None) -> None:
        """Read the tables.

        Args:
            elves: the enclave's ELF files, with their bases.
            symbols_from: an unstripped companion of the first of them, to name symbols from.
        """
        self._mapped = [_Mapped(one.elf, one.base) for one in elves]
        if symbols_from is not None and self._mapped:
            self._mapped[0].symbols = Symbols(symbols_from)

    @property
    def section_starts(self) -> tuple[int, ...]:
        """Where sections begin, rising."""
        return tuple(sorted({start for one in self._mapped for start in one.starts}))

    @property
    def sections(self) -> tuple[Span, ...]:
        """All sections by their addresses."""
        return tuple(span for one in self._mapped for span in one.sections)

    def symbols(self, *, limit: int = _MAX_SYMBOLS) -> tuple[Span, ...]:
        """All symbols by their addresses."""
        found: list[Span] = []
        for one in self._mapped:
            for index in range(min(len(one.symbols), limit - len(found))):
                span = one.symbols.span(index)
                found.append(Span(name=span.name, start=span.start + one.base, size=span.size))
        return tuple(found)

    def place(self, address: int) -> Place:
        """Say where an address lies."""
        for one in self._mapped:
            section = one.section_at(address)
            if section is None:
                continue
            symbol = one.symbols.at(address - one.base)
            if symbol is None or symbol.start + one.base < section.start:
                return Place(section=section.name, offset=address - section.start)
            return Place(
                section=section.name,
                offset=address - section.start,
                symbol=symbol.name,
                symbol_offset=address - one.base - symbol.start,
                symbol_size=symbol.size,
            )
        for one in self._mapped:
            symbol = None if one.sections else one.symbols.at(address - one.base)
            if symbol is not None and symbol.size:  # a file without section headers still has .dynsym
                return Place(
                    symbol=symbol.name,
                    symbol_offset=address - one.base - symbol.start,
                    symbol_size=symbol.size,
                )
        return Place()

    def names(self, start: int, end: int) -> str:
        """Name what lies in a range: its sections, and the symbols in it when they are few.

        Example: `.text: parse, decode, verify`, or of many `.text: parse to verify (12 symbols)`.
        """
        words: list[str] = []
        for one in self._mapped:
            first = max(bisect.bisect_right(one.starts, start) - 1, 0)
            within = []
            for span in one.sections[first:]:
                if span.start >= end:
                    break
                if span.end > start:
                    within.append(span.name)
            if within:
                symbols = self._symbol_names(one, start, end)
                words.append(", ".join(_few(within)) + (f": {symbols}" if symbols else ""))
        return "; ".join(words)

    @staticmethod
    def _symbol_names(one: _Mapped, start: int, end: int) -> str:
        first, last = one.symbols.before(start - one.base), one.symbols.before(end - one.base - 1)
        if last < 0:
            return ""
        first = max(first, 0)
        span = one.symbols.span(first)
        if span.start + one.base < start and span.size and span.end + one.base <= start:
            first += 1
        count = last - first + 1
        if count <= 0:
            return ""
        if count <= _NAMED_SYMBOLS:
            return ", ".join(_short(one.symbols.span(index).name) for index in range(first, last + 1))
        ends = _short(one.symbols.span(first).name), _short(one.symbols.span(last).name)
        return f"{ends[0]} to {ends[1]} ({count} symbols)"


def _few(names: list[str]) -> list[str]:
    if len(names) <= _NAMED_SECTIONS:
        return names
    return [names[0], "…", names[-1]]


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[:_NAME_LETTERS]}…"
