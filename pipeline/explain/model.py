"""What `rvp explain A B` says: one document, whatever the TEE.

Sides are `left` and `right` in the order of the command line. A hypothesis is never a pass: `equal` is true
only when both values are equal.

Example:
    >>> one = Side(name="a.so", kind="file", value="00", what="SGXS")
    >>> Explained(tee="sgx", register="mrenclave", equal=True, left=one, right=one).schema
    'rvp/measurement-explanation/v1'
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One operand.

    Attributes:
        name: as it was given.
        kind: file: pages and their content are known; log: pages and digests; digest: nothing but the value.
        value: the register, hex.
        what: the file's format or layout, in words.
    """

    name: str
    kind: Literal["file", "log", "digest"]
    value: str
    what: str = ""


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of the layout that differs, in the words of its configuration; empty: not there."""

    name: str
    left: str
    right: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Sixteen bytes of both sides at one offset in the page; hex, empty where a side has none.

    Attributes:
        address: of the left side's row.
        differs: offsets in the row of the bytes that differ.
    """

    address: int
    left: str
    right: str
    differs: tuple[int, ...]


class FirstDivergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing that is measured differently, in the order of measuring.

    Attributes:
        kind: parameter (of the whole), address, flags, measured (on one side only), content, missing (the
            left side ends here), extra (the right side ends here).
        number: of the page (SGX) or event, from 1 in the order of measuring; 0 for a parameter.
        exact: false where a log covers several pages with one digest, so that one of them is meant.
        address: where, on the left side; on the right side when the left one has ended.
        pages: how many pages or units from there are meant; 1 when exact.
        offset: of the first byte that differs in the page; -1 when content is not what differs, or not known.
        place: what it belongs to, in words.
        place_right: the same on the right side, where it differs.
        left: what the left side has: flags, address, value.
        right: what the right side has.
        rows: the bytes around, when both contents are known.
    """

    kind: Literal["parameter", "address", "flags", "measured", "content", "missing", "extra"]
    number: int
    exact: bool = True
    address: int = 0
    pages: int = 1
    offset: int = -1
    place: str = ""
    place_right: str = ""
    left: str = ""
    right: str = ""
    rows: tuple[Row, ...] = ()


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in one section, segment, stack, heap …; counts are pages.

    Attributes:
        name: what it is.
        left, right: pages on each side.
        content: pages whose content differs.
        flags: pages whose flags differ, or that are measured on one side only.
        moved_bytes: right address minus left address.
        address: on the left side; on the right when the left has none.
        exact: false when a log's digest covers several pages, so that counts are upper bounds.
    """

    name: str
    left: int
    right: int
    content: int = 0
    flags: int = 0
    moved_bytes: int = 0
    address: int = 0
    exact: bool = True


class LikelyCause(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that fits: its stable id, what it says, what it saw, and what cures it."""

    id: str
    words: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """A single change of one side that gives the other side's value. Not a pass: nothing was seen of it.

    Attributes:
        change: in words, with the values before and after.
        changed: which side was changed.
    """

    change: str
    changed: Literal["left", "right"]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of change of the declared set: how many values were tried, of how many."""

    kind: str
    tried: int
    declared: int


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """The whole explanation.

    Attributes:
        equal: both values are equal.
        parameters: of the layout, that differ.
        first: the first divergence; None when equal, or when one side is a digest.
        regions: all that differs, by what it belongs to, in the order of addresses.
        causes: likely causes, the most telling first.
        hypotheses: when one side is a digest: single changes that give it.
        tried: when one side is a digest: the declared set.
        notes: what else is to be known: what could not be compared, what MRENCLAVE does not hold.
    """

    schema: Literal["rvp/measurement-explanation/v1"] = "rvp/measurement-explanation/v1"
    tee: str
    register: str
    equal: bool
    left: Side
    right: Side
    parameters: tuple[Parameter, ...] = ()
    first: FirstDivergence | None = None
    regions: tuple[Region, ...] = ()
    causes: tuple[LikelyCause, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    tried: tuple[Tried, ...] = ()
    notes: tuple[str, ...] = ()
