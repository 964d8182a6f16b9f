"""From an SDK-style enclave file to the pages that its loader adds: segments, then the layout table.

What the loader does, in order: ECREATE; the record's patches over the file's image; the loadable segments,
page by page, all measured; the layout table (heap, stacks, TCS, SSA, thread data, guards). Relocations are
not applied before measuring.

Every count of the file is bounded by the enclave's size before anything is hashed.

Source: Intel SGX SDK, `loader.cpp`; facts proved against its signing tool.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from pipeline.measure.sgx.elf import Elf, Segment
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_TCS,
    SECINFO_W,
    Bytes,
    EnclaveImage,
    Pages,
)
from pipeline.measure.sgx.hashing import HEADER, MEASURED_PAGE
from pipeline.measure.sgx.sdk_metadata import GROUP_BIT, BadSgxMetadata, LayoutEntry, Record
from pipeline.measure.sgx.segment_pages import ZERO_PAGE, PatchedFile, round_up, secinfo, segment_pages

EADD, EEXTEND = 1, 2  # attributes of a layout entry
_MAX_RUNS: Final = 1 << 18
_MAX_STREAM: Final = 64 << 30  # hash input; a real 28 GiB enclave has 0.5 GiB of it
_TCS_TEMPLATE: Final = 72
_TCS_OSSA, _TCS_OFSBASE, _TCS_OGSBASE = 16, 48, 56
DT_RELA, DT_RELASZ, DT_PLTRELSZ, DT_TEXTREL, DT_JMPREL = 7, 8, 2, 22, 23
_RELA: Final = 24
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


def enclave_image(elf: Elf, record: Record) -> EnclaveImage:
    """Lay out the enclave that a record describes.

    Raises:
        BadSgxMetadata: RVP-5002. BadElf: RVP-5001, for a patch outside the file.
    """
    shift, size = 0, record.enclave_size
    if record.elrange:
        image, start, size = record.elrange
        shift = image - start
    for patch in record.patches:
        elf.bytes_at(patch.file_offset, len(patch.content), "a patch")
    file = PatchedFile(elf.data, ((patch.file_offset, patch.content) for patch in record.patches))
    pages = [*_segments(elf, file, record), *_layout(elf, record)]
    moved = [_moved(run, shift) for run in pages] if shift else pages
    _check_bounds(moved, size, elf.name)
    return EnclaveImage(size_bytes=size, ssa_frame_size=record.ssa_frame_size, parts=tuple(moved))


def _moved(run: Pages, shift: int) -> Pages:
    return Pages(
        address=run.address + shift, count=run.count, flags=run.flags, content=run.content, label=run.label
    )


def _check_bounds(runs: list[Pages], size: int, name: str) -> None:
    stream = 0
    end = -1
    for run in sorted(runs, key=lambda one: one.address):
        if run.address % PAGE:
            raise BadSgxMetadata(f"{run.label} begins at {run.address:#x}, inside a page", place=name)
        if run.address < end:
            raise BadSgxMetadata(
                f"{run.label} at {run.address:#x} overlaps what ends at {end:#x}", place=name
            )
        end = run.address + run.count * PAGE
        if end > size:
            raise BadSgxMetadata(
                f"{run.label} ends at {end:#x}, beyond the enclave's size {size:#x}", place=name
            )
        stream += run.count * (MEASURED_PAGE if run.is_measured else HEADER)
    if stream > _MAX_STREAM:
        raise BadSgxMetadata(
            f"the enclave has {stream:#x} bytes to hash, {_MAX_STREAM:#x} allowed", place=name
        )


def _segments(elf: Elf, file: PatchedFile, record: Record) -> Iterator[Pages]:
    textrel = _relocated_pages(elf)
    last: Segment | None = None
    for segment in elf.loads:
        if segment.address + segment.memory_size > 1 << 52:
            raise BadSgxMetadata(f"a segment at {segment.address:#x}", place=elf.name)
        if (record.major, record.minor) == (1, 3) and last is not None:
            yield from _odd_page(last, segment.address & -PAGE)
        for run in segment_pages(elf, segment, file):
            yield from _writable(run, textrel)
        if last is None or segment.address > last.address:
            last = segment
    if (record.major, record.minor) == (1, 3) and last is not None:
        yield from _odd_page(last, None)


def _odd_page(last: Segment, limit: int | None) -> Iterator[Pages]:
    """Loaders of metadata 1.3 rounded a segment's size before they added its address."""
    end = round_up(last.address + last.memory_size)
    if end < round_up(round_up(last.memory_size) + last.address) and (limit is None or end < limit):
        yield Pages(
            address=end, count=1, flags=secinfo(last), content=ZERO_PAGE, label="page after a segment"
        )


def _writable(run: Pages, textrel: frozenset[int]) -> Iterator[Pages]:
    """Split a run where relocations make a read-only page writable."""
    first = run.address // PAGE
    marked = sorted(page for page in textrel if first <= page < first + run.count) if textrel else []
    if run.flags & SECINFO_W or not marked:
        yield run
        return
    at = first
    for page in [*marked, first + run.count]:
        for start, stop, extra in ((at, page, 0), (page, page + 1, SECINFO_W)):
            if start < min(stop, first + run.count):
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


def _relocated_pages(elf: Elf) -> frozenset[int]:
    dynamic = elf.dynamic
    if DT_TEXTREL not in dynamic:
        return frozenset()
    pages: set[int] = set()
    for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        length = dynamic.get(size, 0) // _RELA * _RELA
        if table in dynamic and length:
            at = elf.file_offset(dynamic[table], length)
            entries = elf.bytes_at(at, length, "a relocation table")
            for offset, info, _ in struct.iter_unpack("<QQq", entries):
                if info & 0xFFFFFFFF:
                    pages.add(offset // PAGE)
                    if offset % PAGE > PAGE - 8:
                        pages.add(offset // PAGE + 1)
    return frozenset(pages)


def _layout(elf: Elf, record: Record) -> Iterator[Pages]:
    runs = 0
    threads = 0
    for index, entry in enumerate(record.layout):
        if entry.repeat is None:
            threads += entry.flags == SECINFO_TCS
            yield from _entry_pages(entry, 0, _label(record, entry, threads), elf.name)
            continue
        count, times, step = entry.repeat
        runs += count * times
        if runs > _MAX_RUNS:
            raise BadSgxMetadata(f"the layout repeats {count} entries {times} times", place=elf.name)
        if step > record.enclave_size and times:
            raise BadSgxMetadata(f"the layout repeats entries in steps of {step:#x}", place=elf.name)
        for turn in range(1, times + 1):
            for again in record.layout[index - count : index]:
                if again.repeat is None:
                    threads += again.flags == SECINFO_TCS
                    yield from _entry_pages(again, step * turn, _label(record, again, threads), elf.name)


def _label(record: Record, entry: LayoutEntry, threads: int) -> str:
    if (record.major, record.minor) == (1, 3):
        name = _OLD_NAMES.get(entry.ident, "pages")
    else:
        name = _NAMES.get(entry.ident) or _NAMES.get(entry.ident - _TWINS, "pages")
    before = {"TCS", "SSA", "thread data"}
    if name in before:
        return f"{name} {max(threads - 1, 0)}"
    return f"{name} {threads}" if name.startswith("stack") else name


def _entry_pages(entry: LayoutEntry, offset: int, label: str, name: str) -> Iterator[Pages]:
    if not entry.attributes & EADD or not entry.page_count or entry.ident & GROUP_BIT:
        return
    if entry.content is None and entry.flags == 0:
        return  # a guard, or the switched-off part of a heap
    address = entry.address + offset
    content: Bytes = b""
    if entry.content is not None:
        if entry.flags == SECINFO_TCS:
            content = tcs_page(entry.content, address, name)
        else:
            if len(entry.content) > entry.page_count * PAGE:
                raise BadSgxMetadata(f"{label} has more content than its pages hold", place=name)
            content = entry.content.ljust(PAGE, b"\0")
            whole = -(-len(content) // PAGE)
            content = content.ljust(whole * PAGE, b"\0")
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


def tcs_page(template: bytes, address: int, name: str = "") -> bytes:
    """Write a TCS page: the template's offsets are relative to the TCS itself."""
    if len(template) < _TCS_TEMPLATE or len(template) > PAGE:
        raise BadSgxMetadata(f"a TCS template of {len(template)} bytes", place=name)
    page = bytearray(template.ljust(PAGE, b"\0"))
    for field in (_TCS_OSSA, _TCS_OFSBASE, _TCS_OGSBASE):
        value = struct.unpack_from("<Q", page, field)[0] + address
        struct.pack_into("<Q", page, field, value & 0xFFFFFFFFFFFFFFFF)
    return bytes(page)
