"""Walk two sequences of measured runs side by side: the first unit that differs, and all of them.

A run is `count` units (pages, chunks, events) at rising addresses. Its content may be known (bytes), may be
known by one digest for all of it (a log), or there may be none (added, not measured). Nothing here knows what
TEE the runs are of.

Example:
    >>> page = bytes(4096)
    >>> one = Run(op="EADD", address=0, count=2, unit=4096, flags=3, content=b"")
    >>> first_split([one], [one]) is None
    True
    >>> first_split([one], [Run(op="EADD", address=0, count=3, unit=4096, flags=3, content=b"")]).kind
    'missing'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Bytes = bytes | memoryview
Kind = Literal["address", "flags", "measured", "content", "missing", "extra"]
_BATCH_BYTES: Final = 1 << 20


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Units that are measured one after the other.

    Attributes:
        op: how; equal words mean the same way of measuring.
        address: of the first unit.
        count: how many units.
        unit: bytes of one.
        flags: the operation's parameter.
        content: None: only the digest is known; empty: nothing is measured; one unit: all are this one.
        digest: of the whole content, hex; for logs.
        label: what it is, in words.
    """

    op: str
    address: int
    count: int
    unit: int
    flags: int = 0
    content: Bytes | None = None
    digest: str = ""
    label: str = ""

    @property
    def end(self) -> int:
        """The address behind the last unit."""
        return self.address + self.count * self.unit

    @property
    def is_measured(self) -> bool:
        """Tell whether there is content in the measurement."""
        return bool(self.digest) if self.content is None else bool(self.content)

    @property
    def is_filled(self) -> bool:
        """Tell whether each unit has the same content."""
        return self.content is not None and len(self.content) == self.unit

    def content_at(self, index: int, count: int = 1) -> Bytes:
        """Return the content of some units; of a filled run, of one."""
        if not self.content:
            return b""
        if self.is_filled:
            return self.content
        return self.content[index * self.unit : (index + count) * self.unit]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Where two sequences part.

    Attributes:
        kind: what differs; missing: the left side has ended, extra: the right side has.
        number: units before it on the left side, plus one.
        left, right: the runs; None where a side has ended.
        left_index, right_index: the unit in its run.
        units: 1, or how many units are meant, of which one differs.
        unknown: units before it that could not be compared, because logs cut them differently.
    """

    kind: Kind
    number: int
    left: Run | None
    right: Run | None
    left_index: int = 0
    right_index: int = 0
    units: int = 1
    unknown: int = 0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of units that differ in one way, found by place.

    Attributes:
        kind: what differs.
        left, right: the runs; None where a side has nothing there.
        left_index, right_index: the first unit in its run.
        count: how many units.
        exact: false when only some of them differ, and one digest covers all.
    """

    kind: Kind
    left: Run | None
    right: Run | None
    left_index: int
    right_index: int
    count: int
    exact: bool = True


# ---- in the order of measuring ---------------------------------------------------------------------------


def first_split(left: Iterable[Run], right: Iterable[Run]) -> Split | None:
    """Find the first unit that is measured differently.

    Returns:
        None when nothing was found. Stretches that logs cut differently are passed over and counted; when
        nothing else is found, the first of them is returned.

    Cost: one pass; contents are compared where they lie.
    """
    number, unknown = 1, 0
    fallback: Split | None = None
    for one, i, other, j, count in _pairs(left, right):
        if one is None or other is None:
            kind: Kind = "missing" if one is None else "extra"
            return Split(
                kind=kind, number=number, left=one, right=other, left_index=i, right_index=j, unknown=unknown
            )
        found = _difference(one, i, other, j, count)
        if found is not None:
            kind, at, units = found
            split = Split(
                kind=kind,
                number=number + at,
                left=one,
                right=other,
                left_index=i + at,
                right_index=j + at,
                units=units,
                unknown=unknown,
            )
            if units >= 0:
                return split
            fallback = fallback or msgspec.structs.replace(split, units=count)
            unknown += count
        number += count
    return fallback


def _pairs(
    left: Iterable[Run], right: Iterable[Run]
) -> Iterator[tuple[Run | None, int, Run | None, int, int]]:
    """Give stretches of both sequences that have as many units; None where one has ended."""
    ones, others = iter(left), iter(right)
    one, other = next(ones, None), next(others, None)
    i = j = 0
    while one is not None or other is not None:
        if one is None or other is None:
            yield one, i, other, j, 0
            return
        count = min(one.count - i, other.count - j)
        yield one, i, other, j, count
        i, j = i + count, j + count
        if i >= one.count:
            one, i = next(ones, None), 0
        if j >= other.count:
            other, j = next(others, None), 0


def _difference(one: Run, i: int, other: Run, j: int, count: int) -> tuple[Kind, int, int] | None:
    """Return what differs, at which unit, and of how many; -1 when that cannot be known."""
    if one.address + i * one.unit != other.address + j * other.unit:
        return "address", 0, 1
    return _content_difference(one, i, other, j, count)


def _content_difference(one: Run, i: int, other: Run, j: int, count: int) -> tuple[Kind, int, int] | None:
    if one.is_measured != other.is_measured or (one.op, one.unit) != (other.op, other.unit):
        return "measured", 0, 1
    if one.flags != other.flags:
        return "flags", 0, 1
    if one.content is None or other.content is None:
        if not one.is_measured or (i == j == 0 and one.digest == other.digest):
            return None
        if i == j == 0 and one.count == other.count:
            return "content", 0, count
        return "content", 0, -1
    for at in differing_units(one, i, other, j, count):
        return "content", at, 1
    return None


def differing_units(one: Run, i: int, other: Run, j: int, count: int) -> Iterator[int]:
    """Give the units whose content differs, as offsets from the given ones; both contents are known."""
    for start, equal in _equal_units(one, i, other, j, count):
        yield from (start + (~equal).nonzero()[0]).tolist()


def _equal_units(
    one: Run, i: int, other: Run, j: int, count: int
) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Give for each batch of units whether they are equal, with the number of the first of them."""
    import numpy as np

    if not one.content or not other.content:
        return
    if one.is_filled and other.is_filled:
        if bytes(one.content_at(0)) != bytes(other.content_at(0)):
            yield 0, np.zeros(count, np.bool_)
        return
    step = max(_BATCH_BYTES // one.unit, 1)
    for start in range(0, count, step):
        size = min(step, count - start)
        a = np.frombuffer(one.content_at(i + start, size), np.uint64).reshape(-1, one.unit // 8)
        b = np.frombuffer(other.content_at(j + start, size), np.uint64).reshape(-1, one.unit // 8)
        yield start, (a == b).all(axis=1)


# ---- by place --------------------------------------------------------------------------------------------


def all_changes(left: Iterable[Run], right: Iterable[Run], *, key: Callable[[Run], str]) -> Iterator[Change]:
    """Find all units that differ; runs with the same key are laid over each other.

    Args:
        left: runs of one side.
        right: runs of the other.
        key: what a run belongs to: a segment, a stack; places count from the first run of a key. Empty:
            places are absolute addresses.
    """
    ones, others = _by_key(left, key), _by_key(right, key)
    for name in sorted({*ones, *others}, key=lambda one: min(_starts(ones, one), _starts(others, one))):
        a, b = ones.get(name, []), others.get(name, [])
        bases = (a[0].address, b[0].address) if name and a and b else (0, 0)
        yield from _laid_over(a, b, bases)


def _by_key(runs: Iterable[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    for group in found.values():
        group.sort(key=lambda one: one.address)
    return found


def _starts(groups: dict[str, list[Run]], name: str) -> int:
    return groups[name][0].address if name in groups else 1 << 64


def _laid_over(ones: list[Run], others: list[Run], bases: tuple[int, int]) -> Iterator[Change]:
    a = b = i = j = 0  # run and unit on both sides
    while a < len(ones) or b < len(others):
        one = ones[a] if a < len(ones) else None
        other = others[b] if b < len(others) else None
        x = one.address + i * one.unit - bases[0] if one else 1 << 64
        y = other.address + j * other.unit - bases[1] if other else 1 << 64
        if one and other and x == y:
            count = min(one.count - i, other.count - j)
            yield from _changes(one, i, other, j, count)
            i, j = i + count, j + count
        elif one and x < y:
            count = min(one.count - i, -(-(y - x) // one.unit))
            yield Change(kind="extra", left=one, right=None, left_index=i, right_index=0, count=count)
            i += count
        elif other:
            count = min(other.count - j, -(-(x - y) // other.unit))
            yield Change(kind="missing", left=None, right=other, left_index=0, right_index=j, count=count)
            j += count
        if one and i >= one.count:
            a, i = a + 1, 0
        if other and j >= other.count:
            b, j = b + 1, 0


def _changes(one: Run, i: int, other: Run, j: int, count: int) -> Iterator[Change]:
    found = _content_difference(one, i, other, j, count)
    if found is None:
        return
    kind, at, units = found
    if kind != "content" or units != 1 or one.content is None or other.content is None:
        exact = kind != "content" or (units == 1 and count == 1)
        yield Change(kind=kind, left=one, right=other, left_index=i, right_index=j, count=count, exact=exact)
        return
    first = last = at
    for unit in differing_units(one, i, other, j, count):
        if unit > last + 1:
            yield _content_change(one, i, other, j, first, last)
            first = unit
        last = unit
    yield _content_change(one, i, other, j, first, last)


def _content_change(one: Run, i: int, other: Run, j: int, first: int, last: int) -> Change:
    return Change(
        kind="content",
        left=one,
        right=other,
        left_index=i + first,
        right_index=j + first,
        count=last - first + 1,
    )
