"""An ELF file as Open Enclave's loader keeps it in memory: segments, patches over them, relocations, TLS.

The loader writes into the image before it measures it (properties, addresses that the enclave asks for by
exported symbols), also where the file has no bytes. Relocations are not applied: their table is measured
beside the image, with what would need symbols resolved in it.

Every size and address of the file is bounded before it is used.

Units: addresses are relative to the image; sizes in bytes.
Source: Open Enclave, `loadelf.c` and `elf.c`.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from pipeline.measure.sgx.elf import PT_TLS, SHT_DYNSYM, SHT_NOBITS, Elf, Section
from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_REG, Pages
from pipeline.measure.sgx.open_enclave.properties import SECTION, BadOpenEnclave, Generation
from pipeline.measure.sgx.segment_pages import PatchedFile, round_up, secinfo, segment_pages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_IMAGE: Final = 1 << 36
_MAX_TLS: Final = 1 << 24
_MAX_SYMBOLS: Final = 1 << 18
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
R_64, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE, R_TPOFF64 = 1, 6, 7, 8, 18
_KNOWN_RELOCATIONS: Final = (R_64, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE, R_TPOFF64)
_ET_DYN: Final = 3
# the ELF header's e_shoff, e_shnum and e_shstrndx
_SECTION_FIELDS: Final = ((40, 8), (60, 2), (62, 2))


class DynamicSymbol(msgspec.Struct, frozen=True):
    """A symbol of `.dynsym`."""

    name_at: int
    info: int
    section: int
    value: int
    size: int

    @property
    def is_defined(self) -> bool:
        """Tell whether this file defines it."""
        return self.section != 0

    @property
    def is_weak(self) -> bool:
        """Tell whether it may stay unresolved."""
        return self.info >> 4 == 2


class LoadedImage:
    """One ELF file in the loader's memory; its base in the enclave is known when its neighbours are."""

    def __init__(self, elf: Elf) -> None:
        """Check what the loader checks.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        self.elf = elf
        self.base = 0
        self._written: dict[int, bytearray] = {}  # page address: its content
        loads = sorted(elf.loads, key=lambda one: one.address)
        if not loads or loads[0].address != 0:
            self.bad("p_vaddr: the lowest segment must lie at address 0", elf.phoff)
        if struct.unpack_from("<H", elf.data, 16)[0] != _ET_DYN:
            self.bad("e_type: neither position-independent nor a shared object", 16)
        for before, after in itertools.pairwise(loads):
            if before.address + before.memory_size > after.address & -PAGE:
                self.bad(f"p_vaddr: segments overlap at {after.address:#x}", elf.phoff)
        for one in loads:
            if one.address + one.memory_size > _MAX_IMAGE:
                self.bad(f"p_memsz: a segment ends at {one.address + one.memory_size:#x}", elf.phoff)
            if secinfo(one) == SECINFO_REG:
                self.bad(f"p_flags: the segment at {one.address:#x} has no permissions", elf.phoff)
        self.segments = tuple(loads)
        self.size = round_up(max(one.address + one.memory_size for one in loads))

    def bad(self, message: str, offset: int) -> NoReturn:
        """Refuse the file, with the offset of the field in it.

        Raises:
            BadOpenEnclave: RVP-5030, always.
        """
        raise BadOpenEnclave(message, place=f"{self.elf.name}: byte {offset:#x}")

    def section(self, name: str) -> Section | None:
        """Find a section, also one without bits; of several, the last."""
        return next((one for one in reversed(self.elf.sections) if one.name == name), None)

    @property
    def info_section(self) -> Section:
        """`.oeinfo`.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        found = self.section(SECTION)
        if found is None or found.kind == SHT_NOBITS:
            raise BadOpenEnclave(f"no section {SECTION}", place=self.elf.name)
        if found.address + found.size > self.size or not found.offset:
            self.bad(f"sh_addr: {SECTION} at {found.address:#x} lies outside the image", found.offset)
        return found

    def info_bytes(self, most: int) -> bytes:
        """Read `.oeinfo`, up to so many bytes: signers know it by its place in the file, loaders in memory.

        Raises:
            BadOpenEnclave: RVP-5030, also when the two differ.
        """
        found = self.info_section
        size = min(found.size, most)
        content = bytes(self.elf.bytes_at(found.offset, size, found.name))
        if content != self.read(found.address, size):
            self.bad(
                f"sh_offset: {SECTION} is not what the segments have at {found.address:#x}", found.offset
            )
        return content

    # memory

    def read(self, address: int, size: int) -> bytes:
        """Read the image's memory: the file's bytes, zeros elsewhere, and what was written."""
        found = bytearray()
        while len(found) < size:
            page = (address + len(found)) & -PAGE
            at = address + len(found) - page
            found += self._page(page)[at : at + size - len(found)]
        return bytes(found)

    def write(self, address: int, content: bytes, what: str) -> None:
        """Write into the image's memory.

        Raises:
            BadOpenEnclave: RVP-5030, when it is not inside the image.
        """
        if address + len(content) > self.size:
            raise BadOpenEnclave(f"{what} at {address:#x} lies outside the image", place=self.elf.name)
        done = 0
        while done < len(content):
            page = (address + done) & -PAGE
            if page not in self._written:
                self._written[page] = bytearray(self._page(page))
            at = address + done - page
            count = min(PAGE - at, len(content) - done)
            self._written[page][at : at + count] = content[done : done + count]
            done += count

    def _page(self, page: int) -> bytes | bytearray:
        if page in self._written:
            return self._written[page]
        content = bytearray(PAGE)
        for one in self.segments:
            start, end = max(one.address, page), min(one.address + one.file_size, page + PAGE)
            if start < end:
                offset = one.offset + start - one.address
                content[start - page : end - page] = self.elf.data[offset : offset + end - start]
        return content

    def clear_section_table(self) -> None:
        """Forget where the section headers are, in the first segment that begins with an ELF header."""
        for one in self.segments:
            if self.read(one.address, 4) == b"\x7fELF" and one.memory_size >= 64:
                for offset, size in _SECTION_FIELDS:
                    self.write(one.address + offset, bytes(size), "the ELF header")
                return

    def set_symbol(self, name: str, value: int, *, exported: bool = True) -> bool:
        """Write a number where a symbol points to, if there is the symbol."""
        found = self.value_of(name, exported=exported)
        if found is not None:
            self.write(found, struct.pack("<Q", value), f"the symbol {name}")
        return found is not None

    def value_of(self, name: str, *, exported: bool = True) -> int | None:
        """Find the address of a symbol: exported ones, or (as early loaders did) those of `.symtab`."""
        if exported:
            symbol = self.symbols.get(name)
            return None if symbol is None else symbol.value
        found = self.elf.symbol(name)
        return None if found is None else found.value

    def pages(self) -> Iterator[Pages]:
        """Give the pages of the segments, in the order of their addresses, where they lie in the enclave."""
        file = PatchedFile(self.elf.data)
        for segment in self.segments:
            for run in segment_pages(self.elf, segment, file):
                yield from self._overlaid(run)

    def _overlaid(self, run: Pages) -> Iterator[Pages]:
        end = run.address + run.count * PAGE
        touched = sorted(page for page in self._written if run.address <= page < end)
        at = run.address
        for page in [*touched, end]:
            if at < page:
                content = run.content
                if not run.is_filled:
                    content = content[at - run.address : page - run.address]
                yield self._placed(run, at, (page - at) // PAGE, content)
            if page < end:
                yield self._placed(run, page, 1, bytes(self._written[page]))
            at = page + PAGE

    def _placed(self, run: Pages, address: int, count: int, content: bytes | memoryview) -> Pages:
        return Pages(
            address=self.base + address, count=count, flags=run.flags, content=content, label=run.label
        )

    # thread-local storage

    def tls_sizes(self, generation: Generation) -> tuple[tuple[int, int, int], tuple[int, int]]:
        """Give address, size and alignment of `.tdata`; size and alignment of `.tbss`.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        data, bss = self.section(".tdata"), self.section(".tbss")
        address, size, align = (data.address, data.size, data.align) if data else (0, 0, 1)
        header = next((one for one in reversed(self.elf.segments) if one.kind == PT_TLS), None)
        if header is not None:
            if data is not None and address != header.address:
                self.bad(f"sh_addr: .tdata at {address:#x}, PT_TLS at {header.address:#x}", data.offset)
            if header.file_size != size:
                self.bad(f"p_filesz: PT_TLS has {header.file_size:#x} bytes, .tdata {size:#x}", header.offset)
            if generation.tls_align_from_header and address == header.address:
                align = header.align
        zeros = (bss.size, bss.align) if bss else (0, 1)
        for name, length, alignment in ((".tdata", size, align), (".tbss", *zeros)):
            if length and not (0 < alignment <= _MAX_TLS and length <= _MAX_TLS):
                self.bad(
                    f"sh_size, sh_addralign: {name} has {length:#x} bytes aligned to {alignment:#x}",
                    self.elf.shoff,
                )
        return (address, size, align), zeros

    def tls_bytes(self, generation: Generation) -> int:
        """Give the size of a thread's local storage.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        (_, size, align), (zeros, zeros_align) = self.tls_sizes(generation)
        return _multiple(size, align) + _multiple(zeros, zeros_align)

    # symbols and relocations

    @functools.cached_property
    def _symbol_table(self) -> tuple[tuple[DynamicSymbol, ...], memoryview]:
        table = next((one for one in self.elf.sections if one.name == ".dynsym"), None)
        if table is None or table.kind != SHT_DYNSYM:
            return (), memoryview(b"")
        strings = next((one for one in self.elf.sections if one.name == ".dynstr"), None)
        if strings is None or table.size // _SYMBOL.size > _MAX_SYMBOLS:
            self.bad(f"sh_size: .dynsym has {table.size:#x} bytes, or no .dynstr", table.offset)
        raw = self.elf.bytes_at(table.offset, table.size // _SYMBOL.size * _SYMBOL.size, ".dynsym")
        names = self.elf.bytes_at(strings.offset, strings.size, ".dynstr")
        rows = _SYMBOL.iter_unpack(raw)
        return tuple(
            DynamicSymbol(at, info, index, value, size) for at, info, _, index, value, size in rows
        ), names

    @functools.cached_property
    def symbols(self) -> dict[str, DynamicSymbol]:
        """The symbols of `.dynsym` by name; of a name that stands twice, the first."""
        found: dict[str, DynamicSymbol] = {}
        for symbol in self._symbol_table[0][1:]:
            if symbol.name_at:
                found.setdefault(self._name(symbol), symbol)
        return found

    def _name(self, symbol: DynamicSymbol) -> str:
        names = self._symbol_table[1]
        raw = bytes(names[symbol.name_at : symbol.name_at + 4096])
        return raw.partition(b"\0")[0].decode("latin-1")

    def symbol_at(self, index: int) -> tuple[str, DynamicSymbol]:
        """Give a symbol that a relocation names.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        table = self._symbol_table[0]
        if index >= len(table):
            self.bad(f"r_info: symbol {index} of {len(table)}", self.elf.shoff)
        return self._name(table[index]), table[index]

    def relocations(self, generation: Generation) -> npt.NDArray[np.int64]:
        """Give the relocation table: rows of offset, info and addend, thread-local ones resolved.

        Raises:
            BadOpenEnclave: RVP-5030.
        """
        import numpy as np

        names = (".rela.dyn", ".rela.plt") if generation.joins_plt else (".rela.dyn",)
        found = [next((one for one in self.elf.sections if one.name == name), None) for name in names]
        if found[0] is None or not found[0].size:
            return np.zeros((0, 3), np.int64)
        raw = b""
        for one in found:
            if one is None:
                continue
            if one.kind == SHT_NOBITS or one.size % _RELA.size:
                self.bad(f"sh_size: {one.name} has {one.size:#x} bytes, not a table", one.offset)
            raw += bytes(self.elf.bytes_at(one.offset, one.size, one.name))
        table = np.frombuffer(raw, "<i8").reshape(-1, 3).copy()
        kinds = table[:, 1] & 0xFFFFFFFF
        unknown = ~np.isin(kinds, _KNOWN_RELOCATIONS)
        if unknown.any():
            self.bad(f"r_info: relocations of type {int(kinds[unknown][0])}", found[0].offset)
        for row in np.flatnonzero(kinds == R_TPOFF64):
            value = self.symbol_at(int(table[row, 1]) >> 32 & 0xFFFFFFFF)[1].value
            table[row, 2] = np.uint64(value).astype(np.int64)
        return table


def _multiple(size: int, unit: int) -> int:
    return -(-size // unit) * unit if size else 0
