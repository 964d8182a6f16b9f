"""Single changes of an enclave's pages: the declared set that is tried against a bare MRENCLAVE.

Each kind changes one thing and says it in words; nothing here hashes. Changes of pages alone fit formats
whose code does not know the layout, and parameters of ECREATE; formats that write the layout into the enclave
(the SDK's g_global_data) are laid out again from a changed configuration: `sgx_configurations`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from pipeline.explain.sgx.side import stem_of
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    EnclaveImage,
    Pages,
    Part,
    describe_flags,
)

MOST_THREADS: Final = 64
_MOST_GROUPS: Final = 32
_FLAGS: Final = tuple(
    SECINFO_REG | flags
    for flags in (
        SECINFO_R,
        SECINFO_R | SECINFO_W,
        SECINFO_R | SECINFO_X,
        SECINFO_R | SECINFO_W | SECINFO_X,
    )
)
_TCS_BITS: Final = ((0, 1, "debugging of the TCS (FLAGS.DBGOPTIN)"), (0, 2, "AEX-notify (TCS.FLAGS bit 1)"))
_TCS_FLAGS_AT, _TCS_ADDRESSES = 8, (16, 48, 56)
_SIZES: Final = tuple(sorted({scale << power for power in range(12, 32) for scale in (1, 3)}))


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One change: its kind, its words, and the enclave that it gives."""

    kind: str
    change: str
    make: Callable[[], EnclaveImage]


def page_variants(image: EnclaveImage) -> tuple[Iterator[Variant], ...]:
    """Give the declared changes of an enclave's pages: one iterator for each kind."""
    parts = tuple(image.parts)
    kinds = (_frames, _sizes, _added, _tcs_bits, _threads, _stacks, _flags, _measuring, _orders)
    return tuple(kind(image, parts) for kind in kinds)


def _variant(image: EnclaveImage, kind: str, change: str, parts: Iterable[Part], **frame: int) -> Variant:
    held = tuple(parts)
    return Variant(
        kind=kind,
        change=change,
        make=lambda: msgspec.structs.replace(image, parts=held, **frame),
    )


def _frames(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    for pages in (1, 2, 3, 4, 5, 6, 8):
        if pages != image.ssa_frame_size:
            change = f"SSA frame of {pages} pages instead of {image.ssa_frame_size}"
            yield _variant(image, "SSA frame (ECREATE alone)", change, parts, ssa_frame_size=pages)


def _sizes(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    for power in range(13, 41):
        size = 1 << power
        if size != image.size_bytes:
            change = f"enclave size {size:#x} instead of {image.size_bytes:#x}"
            yield _variant(image, "enclave size (ECREATE alone)", change, parts, size_bytes=size)


def _added(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    """Change how many pages are added and not measured, where what follows can stay where it is."""
    groups: dict[str, list[int]] = {}
    for index, part in enumerate(parts):
        if isinstance(part, Pages) and not part.is_measured:
            groups.setdefault(part.label.partition(",")[0] or f"{part.address:#x}", []).append(index)
    for label, indexes in itertools.islice(groups.items(), _MOST_GROUPS):
        last = parts[indexes[-1]]
        if not isinstance(last, Pages):
            continue
        start = parts[indexes[0]].address
        now = last.address + last.count * PAGE - start
        ends = [part.address for part in parts if part.address > last.address]
        room = (min(ends) if ends else image.size_bytes) - start
        for size in (0, *_SIZES):
            if size == now or size > room or not size - (last.address - start) >= 0:
                continue
            count = (size - (last.address - start)) // PAGE
            grown = () if count == 0 else (msgspec.structs.replace(last, count=count),)
            changed = (*parts[: indexes[-1]], *grown, *parts[indexes[-1] + 1 :])
            change = f"{label}: {size:#x} bytes added instead of {now:#x}"
            yield _variant(image, "heap size (pages added, not measured)", change, changed)


def _tcs(part: Part) -> bool:
    return isinstance(part, Pages) and part.flags == SECINFO_TCS and len(part.content) == PAGE


def _tcs_bits(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    for byte, bit, words in _TCS_BITS:
        changed: list[Part] = []
        for part in parts:
            if isinstance(part, Pages) and _tcs(part):
                page = bytearray(part.content)
                page[_TCS_FLAGS_AT + byte] ^= bit
                changed.append(msgspec.structs.replace(part, content=bytes(page)))
            else:
                changed.append(part)
        if any(map(_tcs, parts)):
            yield _variant(image, "TCS flags", f"{words} flipped in every TCS", changed)


def _threads(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    """Take threads away from the end, or put further ones behind, in the distance of the last two."""
    at = [index for index, part in enumerate(parts) if _tcs(part)]
    if not at:
        return
    for keep in range(1, min(len(at), MOST_THREADS)):
        kept = [part for part in parts if (number := _thread_of(part)) is None or number < keep]
        if len(kept) < len(parts):
            change = f"{keep} threads instead of {len(at)}"
            yield _variant(image, "threads (pages alone)", change, kept)
    if len(at) < 2:
        return
    period, step = at[-1] - at[-2], parts[at[-1]].address - parts[at[-2]].address
    blocks = [part for part in parts if _thread_of(part) == len(at) - 1] or list(parts[-period:])
    end = max(index for index, part in enumerate(parts) if part in blocks) + 1
    for count in range(len(at) + 1, MOST_THREADS + 1):
        more = [_moved(part, step * turn) for turn in range(1, count - len(at) + 1) for part in blocks]
        if any(part.address + _size(part) > image.size_bytes for part in more):
            return
        change = f"{count} threads instead of {len(at)}"
        yield _variant(image, "threads (pages alone)", change, (*parts[:end], *more, *parts[end:]))


def _thread_of(part: Part) -> int | None:
    stem = stem_of(part.label)
    number = part.label[len(stem) :].strip()
    return int(number) if number.isdigit() and not stem.startswith("segment") else None


def _size(part: Part) -> int:
    return part.count * PAGE if isinstance(part, Pages) else len(part.content)


def _moved(part: Part, distance: int) -> Part:
    if isinstance(part, Pages) and _tcs(part):
        page = bytearray(part.content)
        for field in _TCS_ADDRESSES:
            value = int.from_bytes(page[field : field + 8], "little") + distance
            page[field : field + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
        return msgspec.structs.replace(part, address=part.address + distance, content=bytes(page))
    return msgspec.structs.replace(part, address=part.address + distance)


def _stacks(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    """Change the lower end of every stack: what lies above it stays where it is."""
    stacks = [
        part
        for part in parts
        if isinstance(part, Pages)
        and stem_of(part.label) == "stack"
        and (part.is_filled or not part.is_measured)
    ]
    if not stacks or len({one.count for one in stacks}) != 1:
        return
    now = stacks[0].count * PAGE
    for size in _SIZES:
        lowest = min(one.address + now - size for one in stacks)
        if size == now or lowest < 0 or size > 1 << 30:
            continue
        changed = [
            msgspec.structs.replace(part, address=part.address + now - size, count=size // PAGE)
            if part in stacks and isinstance(part, Pages)
            else part
            for part in parts
        ]
        change = f"stacks of {size:#x} bytes instead of {now:#x}"
        yield _variant(image, "stack size (pages alone)", change, changed)


def _groups(parts: tuple[Part, ...]) -> dict[str, list[Pages]]:
    found: dict[str, list[Pages]] = {}
    for part in parts:
        if isinstance(part, Pages) and part.flags != SECINFO_TCS:
            name = stem_of(part.label) or f"pages at {part.address:#x}"
            found.setdefault(name, []).append(part)
    return dict(itertools.islice(found.items(), _MOST_GROUPS))


def _flags(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    for name, group in _groups(parts).items():
        members = set(map(id, group))
        for flags in _FLAGS:
            if all(one.flags == flags for one in group):
                continue
            changed = [
                msgspec.structs.replace(part, flags=flags)
                if id(part) in members and isinstance(part, Pages)
                else part
                for part in parts
            ]
            change = f"{name}: {describe_flags(flags)} instead of {describe_flags(group[0].flags)}"
            yield _variant(image, "page flags", change, changed)


def _measuring(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    for name, group in _groups(parts).items():
        if not all(one.is_filled or not one.is_measured for one in group):
            continue
        members = set(map(id, group))
        is_measured = group[0].is_measured
        changed = [
            msgspec.structs.replace(part, content=b"" if is_measured else bytes(PAGE))
            if id(part) in members and isinstance(part, Pages)
            else part
            for part in parts
        ]
        if sum(one.count for one in group) * PAGE > 1 << 30:
            continue  # to measure gigabytes of zeros is not what a tool does by mistake
        change = f"{name}: {'added, not measured' if is_measured else 'measured as zeros'}"
        yield _variant(image, "measured or not", change, changed)


def _orders(image: EnclaveImage, parts: tuple[Part, ...]) -> Iterator[Variant]:
    by_address = sorted(parts, key=lambda part: part.address)
    if by_address != list(parts):
        yield _variant(image, "page order", "pages in the order of their addresses", by_address)
    for name, group in _groups(parts).items():
        members = set(map(id, group))
        inside = [part for part in parts if id(part) in members]
        others = [part for part in parts if id(part) not in members]
        for change, changed in (
            (f"{name} first", [*inside, *others]),
            (f"{name} last", [*others, *inside]),
        ):
            if others and [id(one) for one in changed] != [id(one) for one in parts]:
                yield _variant(image, "page order", change, changed)
