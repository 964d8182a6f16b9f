"""Bytes that no format knows: the first differing offset, a hex window, counts of bytes and ranges."""

from __future__ import annotations

import re
from typing import Final

from pipeline.difference.content import CHUNK_BYTES, Content, first_difference, window
from pipeline.difference.look import Found, Look

_RANGE: Final = re.compile(rb"[^\0]+")
_SHOWN_RANGES: Final = 8


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare byte by byte.

    Cost: one pass over both sides, constant memory.
    """
    del path
    first = first_difference(left, right, tick=look.tick)
    if first is None:
        return Found()
    shared = min(left.size, right.size)
    comments: list[str] = []
    if left.size != right.size:
        comments.append(f"sizes: {left.size} and {right.size} bytes")
    if first < shared:
        comments.append(_count(left, right, first, shared, look))
    else:
        shorter = look.labels[0] if left.size < right.size else look.labels[1]
        comments.append(f"equal up to the end of {shorter}")
    return Found(
        where=f"offset {first:#x}",
        offset=first,
        left=window(left, first),
        right=window(right, first),
        comments=tuple(comments),
    )


def _count(left: Content, right: Content, first: int, shared: int, look: Look) -> str:
    """Count differing bytes and ranges in what both sides have."""
    differing = ranges = 0
    shown: list[list[int]] = []
    last_end = -1
    offset = first
    while offset < shared and not look.is_late():
        size = min(CHUNK_BYTES, shared - offset)
        one, other = left.read(offset, size), right.read(offset, size)
        size = min(len(one), len(other))
        if not size:
            break
        if one != other:
            xor = int.from_bytes(one[:size], "little") ^ int.from_bytes(other[:size], "little")
            mask = xor.to_bytes(size, "little")
            differing += size - mask.count(0)
            for match in _RANGE.finditer(mask):
                start, end = offset + match.start(), offset + match.end()
                if start == last_end:
                    if ranges <= _SHOWN_RANGES:
                        shown[-1][1] = end
                else:
                    ranges += 1
                    if ranges <= _SHOWN_RANGES:
                        shown.append([start, end])
                last_end = end
        offset += size
    listed = ", ".join(
        f"{start:#x}-{end - 1:#x}" if end - start > 1 else f"{start:#x}" for start, end in shown
    )
    more = ", …" if ranges > len(shown) else ""
    until = "" if offset >= shared else f" (counted up to {offset:#x}, then the time was over)"
    return (
        f"{differing} bytes differ in {ranges} {'range' if ranges == 1 else 'ranges'}: {listed}{more}{until}"
    )
