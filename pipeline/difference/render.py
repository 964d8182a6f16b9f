"""Differences as text for a terminal or a log: causes first, sides by their labels, hostile bytes harmless.

Example:
    >>> one = Difference(path="a.txt", kind="text", where="line 1", left="x", right="y")
    >>> print(render_text((one,), labels=("published", "rebuilt")))
    a.txt: text differs at line 1
      published  x
      rebuilt    y
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pipeline.difference.model import DEFAULT_LABELS, Difference
from provenance.plain_text import one_line

_MAX_LINES: Final = 400
_MAX_LINE: Final = 500


def render_text(
    differences: Iterable[Difference],
    *,
    labels: tuple[str, str] = DEFAULT_LABELS,
    max_lines: int = _MAX_LINES,
) -> str:
    """Write differences as text.

    Args:
        differences: what was found.
        labels: what the sides are called.
        max_lines: what is longer is cut, and says so.
    """
    lines = [line for difference in differences for line in _lines(difference, labels, 0, top=True)]
    cut = len(lines) - max_lines
    if cut > 0:
        lines = [*lines[:max_lines], f"… and {cut} more lines (the JSON report has them all)"]
    return "\n".join(lines)


def headline(difference: Difference) -> str:
    """Say in one line what differs, where first, and why: for progress and annotations."""
    deepest = difference
    while deepest.details:
        deepest = deepest.details[0]
    causes = ", ".join(difference.all_causes())
    return one_line(f"{deepest.path}: {_what(deepest)}" + (f" (likely cause: {causes})" if causes else ""))


def _lines(
    difference: Difference, labels: tuple[str, str], depth: int, *, top: bool = False
) -> Iterator[str]:
    indent = "  " * depth
    yield _short(f"{indent}{one_line(difference.path)}: {one_line(_what(difference))}")
    causes = difference.all_causes() if top else difference.causes
    if causes:
        yield f"{indent}  likely cause: {', '.join(causes)}"
    if not difference.text or difference.kind != "text":
        width = max(map(len, labels))
        for label, value in zip(labels, (difference.left, difference.right), strict=True):
            if difference.left or difference.right:
                first, *rest = value.split("\n")
                yield _short(f"{indent}  {one_line(label):<{width}}  {one_line(first)}".rstrip())
                for line in rest:
                    yield _short(f"{indent}  {'':<{width}}  {one_line(line)}")
    for comment in difference.comments:
        yield _short(f"{indent}  note: {one_line(comment)}")
    for line in difference.text.split("\n") if difference.text else ():
        yield _short(f"{indent}  | {one_line(line.expandtabs())}".rstrip())
    for detail in difference.details:
        yield from _lines(detail, labels, depth + 1)


def _what(difference: Difference) -> str:
    place = difference.where
    match difference.kind:
        case "missing" | "extra":
            return f"{difference.kind} {place}".rstrip()
        case "attribute" | "value":
            return f"{place} differs"
        case "order":
            return f"{place} differs"
        case "entry" | "unknown":
            return "differs"
        case "strings" | "symbols":
            return f"{difference.kind} differ: {place}"
        case kind:
            return f"{kind} differs at {place}" if place else f"{kind} differs"


def _short(line: str) -> str:
    return line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + "…"
