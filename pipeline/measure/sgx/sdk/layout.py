"""From an SDK-style enclave file to the pages that its loader adds: segments, then the layout table.

What the loader does, in order: ECREATE; the record's patches over the file's image; the loadable segments,
page by page, all measured; those of a module that was appended to the file; the layout table (heap, stacks,
TCS, SSA, thread data, guards). Relocations are not applied before measuring.

Every count of the file is bounded by the enclave's size before anything is hashed; pages are made when they
are asked for, so that an enclave of many threads takes no more memory than one of few.

Source: Intel SGX SDK, `loader.cpp`; facts proved against its signing tool.
"""

from __future__ import annotations

import functools
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import msgspec

from pipeline.measure.sgx.elf import PF_W, PT_TLS, Elf, Segment
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    Bytes,
    EnclaveImage,
    Pages,
)
from pipeline.measure.sgx.hashing import HEADER, MEASURED_PAGE
from pipeline.measure.sgx.sdk.metadata import (
    GROUP_BIT,
    AppendedModule,
    BadSgxMetadata,
    LayoutEntry,
    Record,
)
from pipeline.measure.sgx.segment_pages import ZERO_PAGE, PatchedFile, round_up, secinfo, segment_pages

EADD, EEXTEND = 1, 2  # attributes of a layout entry
_MAX_RUNS: Final = 1 << 18
_MAX_STREAM: Final = 64 << 30  # hash input; a real 28 GiB enclave has 0.5 GiB of it
_TCS_TEMPLATE: Final = 72
_TCS_OSSA, _TCS_OFSBASE, _TCS_OGSBASE = 16, 48, 56
DT_RELA, DT_RELASZ, DT_PLTRELSZ, DT_TEXTREL, DT_JMPREL = 7, 8, 2, 22, 23
_RELA: Final = 24
_WORD: Final = 8
_ODD: Final = "1.3"  # the version whose loaders add a page after some segments
# ids of SDK 2.0 and later; 11 to 18 are the dynamic threads' twins of 1 to 8
_NAMES: Final = {
    1: "heap",
    2: "heap, initial",
    3: "heap, growing",
    4: "TCS",
    5: "thread data",
    6: "SSA",
    7: "stack, growing",
    8: "stack",
    20: "reserved memory",
    21: "reserved memory, initial",
    22: "reserved memory, growing",
    23: "user region",
}
_OLD_NAMES: Final = {1: "heap", 2: "TCS", 3: "thread data", 4: "SSA", 5: "stack"}
_TWINS: Final = 10
_FLAGS: Final = frozenset({SECINFO_TCS, *range(SECINFO_REG, SECINFO_REG + 8)})
_OLD_TCS: Final = 2


def enclave_image(elf: Elf, record: Record) -> EnclaveImage:
    """Lay out the enclave that a record describes.

    Raises:
        BadSgxMetadata: RVP-5002. BadElf: RVP-5001, for a module that is none.
    """
    shift, size = 0, record.enclave_size
    if record.elrange:
        image, start, size = record.elrange
        shift = image - start
    parts = _SdkPages(elf, record, shift)
    _check_bounds(parts, size, elf.name)
    return EnclaveImage(size_bytes=size, ssa_frame_size=record.ssa_frame_size, parts=parts)


def appended_elves(elf: Elf, record: Record) -> tuple[Elf, ...]:
    """Read the modules that were appended to an enclave's file.

    Raises:
        BadElf: RVP-5001; its offsets are the module's own.
    """
    return tuple(
        Elf(
            elf.bytes_at(module.file_offset, module.size, "the appended module"),
            name=f"{elf.name}, module at file offset {module.file_offset:#x}",
        )
        for module in record.modules
    )


class _SdkPages:
    """The pages of a record in the loader's order, to be iterated any number of times."""

    def __init__(self, elf: Elf, record: Record, shift: int) -> None:
        self._elf = elf
        self._record = record
        self._shift = shift
        self._file = PatchedFile(elf.data, ((patch.file_offset, patch.content) for patch in record.patches))
        self._modules = tuple(zip(record.modules, appended_elves(elf, record), strict=True))
        self._textrel = _relocated_pages(elf)

    def __iter__(self) -> Iterator[Pages]:
        return self._moved() if self._shift else self._in_place()

    def _in_place(self) -> Iterator[Pages]:
        yield from _segments(self._elf, self._file, self._record, self._textrel)
        for module, elf in self._modules:
            yield from _module_pages(module, elf, self._file)
        yield from _layout(self._elf, self._record)

    def _moved(self) -> Iterator[Pages]:
        for run in self._in_place():
            yield Pages(
                address=run.address + self._shift,
                count=run.count,
                flags=run.flags,
                content=run.content,
                label=run.label,
            )


def _check_bounds(parts: Iterable[Pages], size: int, name: str) -> None:
    stream = 0
    taken: list[tuple[int, int, str]] = []
    for run in parts:
        if run.address % PAGE:
            raise BadSgxMetadata(
                f"{_table(run.label)}: {run.label} begins at {run.address:#x}, inside a page", place=name
            )
        end = run.address + run.count * PAGE
        if end > size:
            raise BadSgxMetadata(
                f"{_table(run.label)}: {run.label} ends at {end:#x}, beyond the enclave's size {size:#x}",
                place=name,
            )
        stream += run.count * (MEASURED_PAGE if run.is_measured else HEADER)
        if stream > _MAX_STREAM:
            raise BadSgxMetadata(
                f"{_table(run.label)}: the enclave has more than {_MAX_STREAM:#x} bytes to hash, {run.label} "
                "among them",
                place=name,
            )
        taken.append((run.address, end, run.label))
    taken.sort()
    for (_, end, before), (start, _, label) in pairwise(taken):
        if start < end:
            raise BadSgxMetadata(
                f"{_table(label)}: {label} at {start:#x} overlaps {before}, which ends at {end:#x}",
                place=name,
            )


def _table(label: str) -> str:
    """Name the table of the file that says where a run lies."""
    return "program headers" if "segment" in label else "layout table"


def _segments(elf: Elf, file: PatchedFile, record: Record, textrel: tuple[int, ...]) -> Iterator[Pages]:
    last: Segment | None = None
    for segment in elf.loads:
        if record.version == _ODD and last is not None:
            yield from _odd_page(last, segment.address & -PAGE)
        if segment.memory_size:  # an empty one takes no page, wherever it begins
            for run in segment_pages(elf, segment, file):
                yield from _writable(run, textrel)
        if last is None or segment.address > last.address:
            last = segment
    if record.version == _ODD and last is not None:
        yield from _odd_page(last, None)


def _odd_page(last: Segment, limit: int | None) -> Iterator[Pages]:
    """Loaders of metadata 1.3 rounded a segment's size before they added its address."""
    end = round_up(last.address + last.memory_size)
    if end < round_up(round_up(last.memory_size) + last.address) and (limit is None or end < limit):
        yield Pages(
            address=end, count=1, flags=secinfo(last), content=ZERO_PAGE, label="page after a segment"
        )


def _module_pages(module: AppendedModule, elf: Elf, file: PatchedFile) -> Iterator[Pages]:
    """Give the pages of an appended module.

    Its loader would add a thread-local segment a second time, over the segment that holds it.
    """
    for segment in elf.segments:
        if segment.kind == PT_TLS:
            raise BadSgxMetadata(
                "program headers: the module has thread-local storage, which its loader cannot lay out",
                place=elf.name,
            )
    for segment in elf.loads:
        if not segment.memory_size:
            continue
        for run in segment_pages(elf, segment, file, base=module.address, within=module.file_offset):
            yield msgspec.structs.replace(run, label=f"module {run.label}")


def _writable(run: Pages, textrel: tuple[int, ...]) -> Iterator[Pages]:
    """Split a run where relocations make a read-only page writable."""
    first = run.address // PAGE
    last = first + run.count
    marked = textrel[bisect_left(textrel, first) : bisect_left(textrel, last)]
    if run.flags & SECINFO_W or not marked:
        yield run
        return
    at = first
    for page in [*marked, last]:
        for start, stop, extra in ((at, page, 0), (page, page + 1, SECINFO_W)):
            if start < min(stop, last):
                content = run.content
                if not run.is_filled:
                    content = content[(start - first) * PAGE : (stop - first) * PAGE]
                yield Pages(
                    address=start * PAGE,
                    count=stop - start,
                    flags=run.flags | extra,
                    content=content,
                    label=run.label,
                )
        at = page + 1


@functools.lru_cache(maxsize=1)  # every record of a file asks for the same
def _relocated_pages(elf: Elf) -> tuple[int, ...]:
    """Find the pages that relocations make writable: with bytes of the file, in segments that are not."""
    dynamic = elf.dynamic
    if DT_TEXTREL not in dynamic:
        return ()
    end = max((segment.address + segment.memory_size for segment in elf.loads), default=0)
    spans = [
        (segment.address // PAGE, -(-(segment.address + segment.file_size) // PAGE))
        for segment in elf.loads
        if segment.file_size and not segment.flags & PF_W
    ]
    touched: set[int] = set()
    for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        length = dynamic.get(size, 0)
        if table not in dynamic or not length:
            continue
        at = _relocation_table(elf, dynamic[table], length)
        entries = elf.bytes_at(at, length, "a relocation table")
        for index, (offset, info, _) in enumerate(struct.iter_unpack("<QQq", entries)):
            if not info & 0xFFFFFFFF:
                continue
            if offset >= end:
                raise BadSgxMetadata(
                    f"field r_offset of relocation {index} at file offset {at + index * _RELA:#x}: "
                    f"{offset:#x}, the segments end at {end:#x}",
                    place=elf.name,
                )
            touched.add(offset // PAGE)
            touched.add((offset + _WORD - 1) // PAGE)
    return tuple(_inside(sorted(touched), sorted(spans)))


def _inside(pages: Iterable[int], spans: list[tuple[int, int]]) -> Iterator[int]:
    """Keep the pages that lie in one of the spans; both are sorted. Cost: one pass over each."""
    at, reached = 0, 0  # the spans before `at` begin at or before the page, and reach to there
    for page in pages:
        while at < len(spans) and spans[at][0] <= page:
            reached = max(reached, spans[at][1])
            at += 1
        if page < reached:
            yield page


def _relocation_table(elf: Elf, address: int, length: int) -> int:
    """Find a relocation table in the file; the loader takes it from the section at this address."""
    at = elf.file_offset(address, length)
    section = next((one for one in elf.sections if one.address == address), None)
    if length % _RELA or (section is not None and section.offset != at):
        where = "" if section is None else f"; its section lies at {section.offset:#x}"
        raise BadSgxMetadata(
            f"the relocation table at address {address:#x} has {length:#x} bytes "
            f"at file offset {at:#x}{where}",
            place=elf.name,
        )
    return at


def _layout(elf: Elf, record: Record) -> Iterator[Pages]:
    runs = 0
    names = _names(record)
    threads = 0
    for index, entry in enumerate(record.layout):
        if entry.repeat is None:
            threads += entry.flags == SECINFO_TCS
            yield from _entry_pages(entry, 0, _label(names, entry, threads), elf.name)
            continue
        count, times, step = entry.repeat
        runs += count * times
        if runs > _MAX_RUNS:
            raise BadSgxMetadata(
                f"layout entry {index} repeats {count} entries {times} times, more than {_MAX_RUNS} in all",
                place=elf.name,
            )
        if times and (step < PAGE or step % PAGE or step * times > record.enclave_size):
            raise BadSgxMetadata(
                f"layout entry {index} repeats entries {times} times in steps of {step:#x}, "
                f"the enclave has {record.enclave_size:#x}",
                place=elf.name,
            )
        for turn in range(1, times + 1):
            for again in record.layout[index - count : index]:
                if again.repeat is None:
                    threads += again.flags == SECINFO_TCS
                    yield from _entry_pages(again, step * turn, _label(names, again, threads), elf.name)


def _names(record: Record) -> dict[int, str]:
    """Choose the names of a record's entries: SDK 1.x numbered them otherwise, and its TCS is number 2."""
    if any(entry.flags == SECINFO_TCS and entry.ident == _OLD_TCS for entry in record.layout):
        return _OLD_NAMES
    return _NAMES


def _label(names: dict[int, str], entry: LayoutEntry, threads: int) -> str:
    name = names.get(entry.ident) or (names.get(entry.ident - _TWINS) if names is _NAMES else None) or "pages"
    before = {"TCS", "SSA", "thread data"}
    if name in before:
        return f"{name} {max(threads - 1, 0)}"
    return f"{name} {threads}" if name.startswith("stack") else name


def _entry_pages(entry: LayoutEntry, offset: int, label: str, name: str) -> Iterator[Pages]:
    if not entry.attributes & EADD or not entry.page_count or entry.ident & GROUP_BIT:
        return
    if entry.content is None and entry.flags == 0:
        return  # a guard, or the switched-off part of a heap
    if entry.flags not in _FLAGS:
        raise BadSgxMetadata(
            f"field si_flags of the layout table: {label} has SECINFO flags {entry.flags:#x}: neither a TCS "
            "(0x100) nor a page with permissions (0x200 to 0x207)",
            place=name,
        )
    address = entry.address + offset
    content: Bytes = b""
    if entry.content is not None:
        if entry.flags == SECINFO_TCS:
            content = tcs_page(entry.content, address, name)
            if not entry.attributes & EEXTEND:
                content = b""
        else:
            if len(entry.content) > entry.page_count * PAGE:
                raise BadSgxMetadata(
                    f"field page_count of the layout table: {label} has more content than its pages hold",
                    place=name,
                )
            whole = max(1, -(-len(entry.content) // PAGE))
            content = bytes(entry.content).ljust(whole * PAGE, b"\0")
            yield Pages(address=address, count=whole, flags=entry.flags, content=content, label=label)
            if whole < entry.page_count:
                yield Pages(
                    address=address + whole * PAGE,
                    count=entry.page_count - whole,
                    flags=entry.flags,
                    content=ZERO_PAGE,
                    label=label,
                )
            return
    elif entry.attributes & EEXTEND:
        content = struct.pack("<I", entry.fill) * (PAGE // 4)
    yield Pages(address=address, count=entry.page_count, flags=entry.flags, content=content, label=label)


def tcs_page(template: Bytes, address: int, name: str = "") -> bytes:
    """Write a TCS page: the template's offsets are relative to the TCS itself."""
    if len(template) < _TCS_TEMPLATE or len(template) > PAGE:
        raise BadSgxMetadata(
            f"field content_size of the layout table: a TCS template of {len(template)} bytes", place=name
        )
    page = bytearray(bytes(template).ljust(PAGE, b"\0"))
    for field in (_TCS_OSSA, _TCS_OFSBASE, _TCS_OGSBASE):
        value = struct.unpack_from("<Q", page, field)[0] + address
        struct.pack_into("<Q", page, field, value & 0xFFFFFFFFFFFFFFFF)
    return bytes(page)
