"""Text: a unified diff with the sides' labels, bounded, and the cause when every changed line has one."""

from __future__ import annotations

import difflib

from pipeline.difference.causes import causes_of_lines
from pipeline.difference.content import Content, first_difference
from pipeline.difference.look import Broken, Found, Look, text_of

_CONTEXT = 2
_LINE = 400


def detect(head: bytes, path: str) -> bool:
    """Tell text: UTF-8 without NUL in the first bytes."""
    del path
    if not head or b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) > 3 and error.reason == "unexpected end of data"
    return True


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two texts by lines.

    Raises:
        Broken: the text is none after all.
    """
    limit = look.limits.text_bytes
    if max(left.size, right.size) > limit:
        return _compare_large(left, right, look)
    try:
        ones, others = (_lines(side.read(0, side.size).decode("utf-8")) for side in (left, right))
    except UnicodeDecodeError as error:
        raise Broken("not UTF-8 throughout, and compared as bytes") from error
    del path
    start, one, other = _middle(ones, others)
    comments: list[str] = []
    causes = causes_of_lines(one, other)
    if max(len(one), len(other)) > look.limits.text_lines:
        comments.append(
            f"lines {start + 1} on differ: {len(one)} and {len(other)} lines; the diff shows the beginning"
        )
        one, other = one[: look.limits.diff_lines // 2], other[: look.limits.diff_lines // 2]
    before = ones[max(0, start - _CONTEXT) : start]
    after = ones[start + len(one) : start + len(one) + _CONTEXT]
    matcher = difflib.unified_diff(
        [*before, *one, *after],
        [*before, *other, *after],
        look.labels[0],
        look.labels[1],
        n=_CONTEXT,
        lineterm="",
    )
    shown: list[str] = []
    for number, line in enumerate(matcher):
        if number >= look.limits.diff_lines:
            comments.append(f"the diff is longer than {look.limits.diff_lines} lines")
            break
        shown.append(_header(line, start - len(before)) if line.startswith("@@") else _shorten(line))
    return Found(
        where=f"line {start + 1}",
        text="\n".join(shown),
        causes=causes,
        comments=tuple(comments),
        left=_shorten(one[0]) if one else "(no line)",
        right=_shorten(other[0]) if other else "(no line)",
    )


def _compare_large(left: Content, right: Content, look: Look) -> Found:
    """Name the first line that differs, without holding the text."""
    first = first_difference(left, right, tick=look.tick)
    if first is None:
        return Found()
    line = 1 + sum(chunk.count(b"\n") for chunk in left.part(0, first).chunks())
    before = left.read(max(0, first - _LINE), min(first, _LINE))
    start = first - len(before) + before.rfind(b"\n") + 1
    texts = [text_of(side.read(start, 2 * _LINE).split(b"\n", 1)[0]) for side in (left, right)]
    return Found(
        where=f"line {line}",
        offset=first,
        left=_shorten(texts[0]),
        right=_shorten(texts[1]),
        causes=causes_of_lines(texts[:1], texts[1:]),
        comments=(
            f"the text is larger than {look.limits.text_bytes} bytes: the first line that differs is shown",
        ),
    )


def _lines(text: str) -> list[str]:
    """Split at line feeds only; a last line without one is marked as the diff tools do."""
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += " (no newline at the end)"
    else:
        lines.pop()
    return lines


def _middle(ones: list[str], others: list[str]) -> tuple[int, list[str], list[str]]:
    """Take off equal lines at both ends; return how many stood before, and the two middles."""
    shortest = min(len(ones), len(others))
    start = next((index for index in range(shortest) if ones[index] != others[index]), shortest)
    end = next(
        (index for index in range(shortest - start) if ones[-1 - index] != others[-1 - index]),
        shortest - start,
    )
    return start, ones[start : len(ones) - end], others[start : len(others) - end]


def _header(line: str, shift: int) -> str:
    """Move the line numbers of a hunk by what was cut off before it."""
    parts = line.split(" ")
    for index in (1, 2):
        number, comma, count = parts[index][1:].partition(",")
        parts[index] = f"{parts[index][0]}{int(number) + shift}{comma}{count}"
    return " ".join(parts)


def _shorten(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[:_LINE]}… ({len(line)} characters)"
