"""An explanation as text: the answer first, then what differs, then why.

Example:
    >>> one = Side(name="a.so", kind="file", value="00", what="SGXS")
    >>> print(render_text(Explained(tee="sgx", register="mrenclave", equal=True, left=one, right=one)))
    equal: mrenclave 00
      left   a.so  SGXS
      right  a.so  SGXS
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.explain.model import Explained, FirstDivergence, Region, Row, Side
from provenance.plain_text import one_line

_KINDS = {
    "parameter": "the enclaves are created differently",
    "address": "another page comes here",
    "flags": "the page has other permissions",
    "measured": "the page is measured on one side only",
    "content": "the content differs",
    "missing": "the left enclave has no more pages",
    "extra": "the right enclave has no more pages",
}
_PAGE_DIGITS = 0xFFF


def render_text(said: Explained) -> str:
    """Write an explanation as text."""
    return "\n".join(_lines(said))


def _lines(said: Explained) -> Iterator[str]:
    if said.equal:
        yield f"equal: {said.register} {said.left.value}"
    else:
        yield f"different: {said.register}"
        yield f"  left   {said.left.value}"
        yield f"  right  {said.right.value}"
        yield ""
    yield from _sides(said.left, said.right)
    if said.parameters:
        yield from ("", "parameters that differ")
        width = max(len(one.name) for one in said.parameters)
        for one in said.parameters:
            yield one_line(f"  {one.name:<{width}}  {one.left or '-'}  →  {one.right or '-'}")
    if said.first is not None:
        yield from ("", *_first(said.first))
    if said.regions:
        yield from ("", "all that differs", *_regions(said.regions))
    if said.causes:
        yield from ("", "likely cause" if len(said.causes) == 1 else "likely causes, the most telling first")
        for cause in said.causes:
            yield one_line(f"  {cause.id}: {cause.words}")
            yield from (one_line(f"      {line}") for line in cause.evidence)
            if cause.remedy:
                yield one_line(f"      remedy: {cause.remedy}")
    elif said.first is not None:
        yield from ("", "likely cause: no rule fits")
    yield from _hypotheses(said)
    if said.notes:
        yield ""
        yield from (one_line(f"note: {note}") for note in said.notes)


def _sides(left: Side, right: Side) -> Iterator[str]:
    width = max(len(left.name), len(right.name))
    for name, side in (("left", left), ("right", right)):
        yield one_line(f"  {name:<5}  {side.name:<{width}}  {side.what}".rstrip())


def _first(first: FirstDivergence) -> Iterator[str]:
    number = f"page {first.number}: " if first.number else ""
    among = "" if first.exact or first.pages == 1 else f" (in one of {first.pages} pages)"
    yield f"first divergence: {number}{_KINDS[first.kind]}{among}"
    if first.kind != "parameter":
        offset = f", byte {first.offset:#x} of the page" if first.offset >= 0 else ""
        yield f"  at     {first.address:#x}{offset}"
    if first.place:
        yield one_line(f"  in     {first.place}")
    if first.place_right:
        yield one_line(f"  right  {first.place_right}")
    if not first.rows:
        yield one_line(f"  left   {first.left}")
        yield one_line(f"  right  {first.right}")
        return
    for row in first.rows:
        yield ""
        yield from _row(row)


def _row(row: Row) -> Iterator[str]:
    """Write both sides' bytes under each other, with marks under those that differ."""
    for name, text in (("left", row.left), ("right", row.right)):
        data = bytes.fromhex(text)
        shown = "".join(chr(one) if 0x20 <= one < 0x7F else "." for one in data)
        yield f"  {name:<5}  {row.address:#010x}  {data.hex(' '):<47}  {shown}"
    marks = "".join("^^ " if index in row.differs else "   " for index in range(16))
    yield f"{'':21}{marks}".rstrip()


def _regions(regions: tuple[Region, ...]) -> Iterator[str]:
    width = max(len(one.name) for one in regions)
    for one in regions:
        said = []
        about = "" if one.exact else "up to "
        if one.content:
            said.append(f"{about}{_count(one.content)} with other content")
        if one.flags:
            said.append(f"{_count(one.flags)} with other flags")
        if one.left != one.right:
            said.append(f"{_count(one.left)} left, {_count(one.right)} right")
        else:
            said.append(f"of {one.left}" if said else _count(one.left))
        if one.moved_bytes:
            said.append(f"moved by {one.moved_bytes:+#x} bytes")
        yield one_line(f"  {one.address:#012x}  {one.name:<{width}}  {', '.join(said)}")


def _count(pages: int) -> str:
    return f"{pages} page" if pages == 1 else f"{pages} pages"


def _hypotheses(said: Explained) -> Iterator[str]:
    if not said.tried:
        return
    yield ""
    for one in said.hypotheses:
        yield one_line(f"hypothesis: with {one.change}, the {one.changed} side has the other value")
        yield "  A hypothesis, not a pass: one change gives the value; of the other side nothing was seen."
    if not said.hypotheses:
        yield "no hypothesis: none of the single changes that were tried gives the other value"
    yield "tried, one change at a time"
    width = max(len(one.kind) for one in said.tried)
    for kind in said.tried:
        of = "" if kind.tried == kind.declared else f" of {kind.declared}"
        yield f"  {kind.kind:<{width}}  {kind.tried}{of}"
