"""What can be seen when two enclaves are laid over each other: pages, strings, symbols, parameters.

The rules of `causes` judge it. Everything is bounded: of very many pages that differ, the first are
looked into and all are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.explain.model import Parameter, Region
from pipeline.explain.sgx.side import (
    EnclaveSide,
    is_tcs,
    key_of,
    parameters,
    shown,
    stem_of,
)
from pipeline.explain.walk import Change, Split, all_changes, first_split
from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_X
from pipeline.measure.sgx.labels import Span

_MAX_PAGES: Final = 512
_MAX_STRING_BYTES: Final = 8 << 20
_MAX_SYMBOLS: Final = 200_000
_STRING: Final = re.compile(rb"[\x20-\x7e\t]{6,}")
_NO_STRINGS: Final = (".note", ".hash", ".gnu.hash", ".dynsym", ".rel", ".gnu.version", ".eh_frame", ".got")
_DIFFERENT: Final = re.compile(rb"[^\0]+")


class PageDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A page whose content differs, with both contents.

    Attributes:
        address: on the left side.
        moved_bytes: right address minus left address.
        section: of the first byte that differs; empty where there is none.
        symbol: the same.
        is_code: whether the page is executable.
        is_tcs: whether it is a TCS.
        label: of its run.
    """

    address: int
    moved_bytes: int
    left: bytes
    right: bytes
    section: str = ""
    symbol: str = ""
    is_code: bool = False
    is_tcs: bool = False
    label: str = ""

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches of bytes that differ: start and end in the page."""
        xor = int.from_bytes(self.left, "little") ^ int.from_bytes(self.right, "little")
        mask = xor.to_bytes(len(self.left), "little")
        return tuple((one.start(), one.end()) for one in _DIFFERENT.finditer(mask))


class SymbolMoves(msgspec.Struct, frozen=True, kw_only=True):
    """Symbols of both sides by name, in the order of the left side's addresses.

    Attributes:
        resized: name, left and right: of another size.
        moved: name and by how many bytes: of the same size at another address.
        gone, new: names on one side only.
        reordered: names whose order differs.
    """

    resized: tuple[tuple[Span, Span], ...] = ()
    moved: tuple[tuple[Span, int], ...] = ()
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        split: the first divergence in the order of measuring.
        values: parameters of both sides, by name.
        changed: names of the parameters that differ.
        regions: what differs, by what it belongs to.
        pages: the first pages whose content differs, when both contents are known.
        content_pages: how many pages there are whose content differs.
        flag_changes: stretches with other flags or measured on one side only.
        common_move: the segments of the right side lie this much further; 0: not so.
        strings: gone and new in readable data.
        symbols: what moved.
    """

    left: EnclaveSide
    right: EnclaveSide
    split: Split | None
    values: tuple[dict[str, str | int], dict[str, str | int]]
    changed: tuple[str, ...]
    regions: tuple[Region, ...]
    pages: tuple[PageDiff, ...] = ()
    content_pages: int = 0
    flag_changes: tuple[Change, ...] = ()
    common_move: int = 0
    strings: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    symbols: SymbolMoves = SymbolMoves()

    def parameters(self) -> tuple[Parameter, ...]:
        """Write the parameters that differ."""
        return tuple(
            Parameter(
                name=name,
                left=shown(name, self.values[0].get(name)),
                right=shown(name, self.values[1].get(name)),
            )
            for name in self.changed
        )

    def number(self, name: str) -> tuple[int, int] | None:
        """Return a numeric parameter that differs."""
        one, other = self.values[0].get(name), self.values[1].get(name)
        if name in self.changed and isinstance(one, int) and isinstance(other, int):
            return one, other
        return None


def collect(left: EnclaveSide, right: EnclaveSide) -> Evidence:
    """Lay two enclaves over each other.

    Cost: two passes over both contents; strings and symbols up to their bounds.
    """
    values = parameters(left), parameters(right)
    names = [name for name in values[0] if name in values[1]]  # a log, or another format, has fewer facts
    changed = tuple(name for name in names if values[0][name] != values[1][name])
    labelled = all(run.label for side in (left, right) for run in side.runs)
    changes = _Changes(left, right)
    for change in all_changes(left.runs, right.runs, key=key_of if labelled else lambda _: ""):
        changes.add(change)
    both = left.has_content and right.has_content
    return Evidence(
        left=left,
        right=right,
        split=first_split(left.runs, right.runs),
        values=values,
        changed=changed,
        regions=changes.regions(),
        pages=tuple(changes.pages),
        content_pages=changes.content_pages,
        flag_changes=tuple(changes.flags),
        common_move=_common_move(left, right),
        strings=_strings(left, right) if both and changes.pages else ((), ()),
        symbols=_symbols(left, right) if both and changes.pages else SymbolMoves(),
    )


class _Changes:
    """Counts changes by what they belong to, and keeps the first pages."""

    def __init__(self, left: EnclaveSide, right: EnclaveSide) -> None:
        self.left, self.right = left, right
        self.pages: list[PageDiff] = []
        self.flags: list[Change] = []
        self.content_pages = 0
        self._regions: dict[str, Region] = {}
        self._sizes = _sizes(left), _sizes(right)

    def add(self, change: Change) -> None:
        if change.kind in {"flags", "measured"}:
            self.flags.append(change)
        if change.kind == "content":
            self.content_pages += change.count
        if change.kind == "content" and change.exact and change.left and change.right:
            for unit in range(change.count):
                self._add_page(change, unit)
            return
        self._count(self._name(change), change, change.count)

    def _add_page(self, change: Change, unit: int) -> None:
        assert change.left is not None and change.right is not None  # noqa: PT018  said by the caller
        i, j = change.left_index + unit, change.right_index + unit
        one, other = bytes(change.left.content_at(i)), bytes(change.right.content_at(j))
        address = change.left.address + i * change.left.unit
        if not one or not other:
            self._count(self._name(change), change, 1)
            return
        first = _first_byte(one, other)
        place = self.left.place(address + first)
        section = (
            place.section or self.right.place(change.right.address + j * change.right.unit + first).section
        )
        if len(self.pages) < _MAX_PAGES:
            self.pages.append(
                PageDiff(
                    address=address,
                    moved_bytes=change.right.address + j * change.right.unit - address,
                    left=one,
                    right=other,
                    section=section,
                    symbol=place.symbol,
                    is_code=bool(change.left.flags & SECINFO_X),
                    is_tcs=is_tcs(change.left),
                    label=change.left.label,
                )
            )
        self._count(section or stem_of(key_of(change.left)) or "pages", change, 1)

    def _name(self, change: Change) -> str:
        run, index, side = (
            (change.left, change.left_index, self.left)
            if change.left
            else (change.right, change.right_index, self.right)
        )
        if run is None:
            return ""
        section = side.place(run.address + index * run.unit).section
        if not section and ", ." in run.label:  # a log's label
            section = run.label.partition(", ")[2].partition(":")[0]
        return section or stem_of(key_of(run)) or "pages"

    def _count(self, name: str, change: Change, count: int) -> None:
        run = change.left or change.right
        assert run is not None
        index = change.left_index if change.left else change.right_index
        moved = 0
        if change.left and change.right:
            moved = change.right.address - change.left.address
            moved += (change.right_index - change.left_index) * run.unit
        known = self._regions.get(name) or Region(
            name=name,
            left=self._sizes[0].get(name, 0),
            right=self._sizes[1].get(name, 0),
            moved_bytes=moved,
            address=run.address + index * run.unit,
        )
        content, flags = known.content, known.flags
        content += count if change.kind == "content" else 0
        flags += count if change.kind in {"flags", "measured"} else 0
        self._regions[name] = msgspec.structs.replace(
            known, content=content, flags=flags, exact=known.exact and change.exact
        )

    def regions(self) -> tuple[Region, ...]:
        """Add what only moved, and sort by address."""
        found = dict(self._regions)
        starts = _first_addresses(self.left), _first_addresses(self.right)
        for name, address in starts[0].items():
            other = starts[1].get(name)
            if other is not None and other != address and name not in found:
                found[name] = Region(
                    name=name,
                    left=self._sizes[0].get(name, 0),
                    right=self._sizes[1].get(name, 0),
                    moved_bytes=other - address,
                    address=address,
                )
        return tuple(sorted(found.values(), key=lambda one: one.address))


def _first_byte(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def _sizes(side: EnclaveSide) -> dict[str, int]:
    """Count pages by name: of sections, and of what has no section."""
    found: dict[str, int] = {}
    for run in side.runs:
        name = stem_of(key_of(run))
        found[name] = found.get(name, 0) + run.count
        if side.log is not None and ", ." in run.label:
            section = run.label.partition(", ")[2].partition(":")[0]
            found[section] = found.get(section, 0) + run.count
    for span in side.labels.sections:
        pages = (span.end - 1) // PAGE - span.start // PAGE + 1
        found[span.name] = found.get(span.name, 0) + pages
    return found


def _first_addresses(side: EnclaveSide) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in side.runs:
        if run.label:
            found.setdefault(stem_of(key_of(run)), run.address)
    return found


def _common_move(left: EnclaveSide, right: EnclaveSide) -> int:
    """Return the one distance by which the segments are moved; without labels, all runs."""
    ones, others = (
        [run.address for run in side.runs if run.label.startswith("segment") or not run.label]
        for side in (left, right)
    )
    if not ones or len(ones) != len(others):
        return 0
    moves = {other - one for one, other in zip(ones, others, strict=True)}
    return moves.pop() if len(moves) == 1 else 0


# ---- strings -----------------------------------------------------------------------------------------------


def _strings(left: EnclaveSide, right: EnclaveSide) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ones, others = list(_readable(left)), list(_readable(right))
    known, also_known = set(ones), set(others)
    return (
        tuple(dict.fromkeys(one for one in ones if one not in also_known)),
        tuple(dict.fromkeys(one for one in others if one not in known)),
    )


def _readable(side: EnclaveSide) -> Iterator[str]:
    """Give the strings of data: of sections that may have some, and of pages that have no sections."""
    left = _MAX_STRING_BYTES
    for address, size in _data_areas(side):
        if left <= 0:
            return
        data = side.read(address, min(size, left))
        left -= len(data)
        for match in _STRING.finditer(data):
            yield match[0].decode("ascii")


def _data_areas(side: EnclaveSide) -> Iterator[tuple[int, int]]:
    sections: dict[int, list[Span]] = {}
    for span in side.labels.sections:
        found = side.run_at(span.start)
        if found is not None:
            sections.setdefault(found.address, []).append(span)
    for run in side.runs:
        if not run.content or (run.is_filled and run.count > 1) or is_tcs(run):
            continue
        inside = sections.get(run.address, [])
        if not inside and not run.flags & SECINFO_X:
            yield run.address, run.count * run.unit
        for span in inside:
            is_data = span.name.startswith((".rodata", ".data"))
            if is_data or not (run.flags & SECINFO_X or span.name.startswith(_NO_STRINGS)):
                yield span.start, span.size


# ---- symbols -----------------------------------------------------------------------------------------------


def _symbols(left: EnclaveSide, right: EnclaveSide) -> SymbolMoves:
    ones, others = left.labels.symbols(limit=_MAX_SYMBOLS), right.labels.symbols(limit=_MAX_SYMBOLS)
    if not ones or not others:
        return SymbolMoves()
    first, second = {one.name: one for one in ones}, {one.name: one for one in others}
    common = [one for one in ones if one.name in second and first[one.name] is one]
    resized = [(one, second[one.name]) for one in common if one.size != second[one.name].size]
    same = [one for one in common if one.size and one.size == second[one.name].size]
    rank = {one.name: number for number, one in enumerate(others)}
    order = [rank[one.name] for one in same]
    return SymbolMoves(
        resized=tuple(resized),
        moved=tuple(
            (one, second[one.name].start - one.start) for one in same if second[one.name].start != one.start
        ),
        gone=tuple(one.name for one in ones if one.name not in second),
        new=tuple(one.name for one in others if one.name not in first),
        reordered=tuple(
            one.name for one, number, at in zip(same, order, sorted(order), strict=True) if number != at
        ),
    )
