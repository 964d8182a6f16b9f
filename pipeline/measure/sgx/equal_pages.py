"""Runs of pages in one form: pages that follow each other and are equal are one filled run.

The same enclave gives the same runs, whichever file format it came from: an SGXS stream has 64 zero pages
where an ELF file has a number.

Example:
    >>> whole = Pages(address=0, count=3, flags=0x203, content=bytes(PAGE * 3))
    >>> [(run.count, run.is_filled) for run in equal_runs([whole])]
    [(3, True)]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pipeline.measure.sgx.enclave_image import PAGE, Bytes, Pages, Part


def is_plain(part: Part) -> bool:
    """Tell whether a run has content of its own for each page."""
    return isinstance(part, Pages) and part.is_measured and (part.count == 1 or not part.is_filled)


def equal_runs(parts: Iterable[Part]) -> Iterator[Part]:
    """Give the parts so that pages that follow each other and are equal are one filled run.

    What is the same enclave gives the same runs, whichever file format it came from.
    """
    held: Part | None = None
    for part in parts:
        for piece in _split(part) if isinstance(part, Pages) else (part,):
            if held is not None and (both := _joined(held, piece)) is not None:
                held = both
                continue
            if held is not None:
                yield held
            held = piece
    if held is not None:
        yield held


def _joined(one: Part, other: Part) -> Part | None:
    if (
        not isinstance(one, Pages)
        or not isinstance(other, Pages)
        or other.address != one.address + one.count * PAGE
        or (one.flags, one.label, one.is_measured) != (other.flags, other.label, other.is_measured)
        or (one.is_measured and not (one.is_filled and other.is_filled and one.content == other.content))
    ):
        return None
    return Pages(
        address=one.address,
        count=one.count + other.count,
        flags=one.flags,
        content=one.content,
        label=one.label,
    )


def _split(part: Pages) -> Iterator[Pages]:
    """Cut a run of plain content where pages are equal; its last page stands alone."""
    if not is_plain(part) or part.count == 1:
        yield part
        return
    cuts = {0, part.count - 1, part.count}
    for first, last in _equal_pages(part.content, part.count):
        cuts |= {first, last}
    edges = sorted(cuts)
    for first, last in itertools.pairwise(edges):
        content = part.content[first * PAGE : last * PAGE]
        if last - first > 1 and content[:PAGE] == content[PAGE : 2 * PAGE]:
            content = content[:PAGE]
        yield piece_of(part, part.address + first * PAGE, last - first, content)


def _equal_pages(content: Bytes, count: int) -> Iterator[tuple[int, int]]:
    """Find runs of two or more equal pages; a first word that differs rules most pairs out."""
    import numpy as np

    words = np.frombuffer(content, "<u8").reshape(count, PAGE // 8)
    alike = np.flatnonzero((words[1:, 0] == words[:-1, 0]) & (words[1:, -1] == words[:-1, -1]))
    first = last = -1
    for index in alike.tolist():
        if not np.array_equal(words[index], words[index + 1]):
            continue
        if index != last:
            if first >= 0:
                yield first, last + 1
            first = index
        last = index + 1
    if first >= 0:
        yield first, last + 1


def piece_of(part: Pages, address: int, count: int, content: Bytes) -> Pages:
    """Cut a piece out of a run."""
    return Pages(address=address, count=count, flags=part.flags, content=content, label=part.label)
