"""Likely causes, told from the two values alone.

The method: put one word in place of everything that looks like a time (a path, a build id …) on both sides;
when the two sides are then equal, that is the cause. Nothing is said when nothing fits: a guess that is wrong
costs more than none.

Example:
    >>> causes_of_texts("built Nov 23 2026 05:19:22", "built Nov 24 2026 01:00:00")
    (<Cause.TIMESTAMP: 'timestamp'>,)
    >>> causes_of_texts("one", "two")
    ()
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.difference.model import Cause

_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY: Final = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,?"
_ZONE: Final = r"(?:\s*(?:UTC|GMT|Z\b|[A-Z]{3,4}\b|[+-]\d{2}:?\d{2}))?"
_CLOCK: Final = r"\d{1,2}:\d{2}:\d{2}(?:[.,]\d+)?(?:\s?[AP]M)?"
_DATE: Final = (
    r"(?:(?<!\d)(?:19|20)\d{2}[-/.]?(?:0[1-9]|1[0-2])[-/.]?[0-3]\d(?!\d)"
    rf"|{_MONTH}\s+\d{{1,2}}(?:,?\s+\d{{4}})?"
    rf"|\d{{1,2}}[ -]{_MONTH}[ -]\d{{2,4}})"
)

# In this order: an identifier has digits that would pass for a date, a path has everything.
_PATTERNS: Final[tuple[tuple[Cause, re.Pattern[str]], ...]] = (
    (Cause.RANDOM, re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")),
    (
        Cause.TIMESTAMP,
        re.compile(
            r"(?<![\w.])1[0-9]{9}(?:[0-9]{3}){0,3}(?:\.\d+)?(?![\w.])"
            rf"|(?:{_DAY}\s+)?{_DATE}(?:[T ,]+{_CLOCK}{_ZONE})?(?:\s+\d{{4}}\b)?|{_CLOCK}{_ZONE}"
        ),
    ),
    (Cause.TEMPORARY_NAME, re.compile(r"/(?:tmp|var/tmp)/[\w.+-]+|\b(?:tmp|cc)[A-Za-z0-9_]{6,8}\b")),
    (Cause.BUILD_PATH, re.compile(r"(?:/[\w.@+~-]+){1,64}/?")),
    (Cause.KERNEL_RELEASE, re.compile(r"(?<![\w.])[2-9]\.\d{1,3}\.\d{1,3}[-+][\w.+~-]+")),
    (Cause.LINE_ENDINGS, re.compile(r"\r")),
)

_ATTRIBUTES: Final = {
    "mtime": Cause.TIMESTAMP,
    "date": Cause.TIMESTAMP,
    "uid": Cause.OWNER,
    "gid": Cause.OWNER,
    "owner": Cause.OWNER,
    "group": Cause.OWNER,
    "mode": Cause.MODE,
    "compression": Cause.COMPRESSION,
    "level": Cause.COMPRESSION,
    "inode": Cause.INODE,
    "device": Cause.INODE,
    "tool": Cause.TOOL,
}
_LONGEST: Final = 1 << 16


def cause_of_attribute(name: str) -> tuple[Cause, ...]:
    """Return the cause that an attribute of an archive member names by itself."""
    return (_ATTRIBUTES[name],) if name in _ATTRIBUTES else ()


def causes_of_texts(left: str, right: str) -> tuple[Cause, ...]:
    """Return the causes that explain a whole difference of two texts, or none."""
    if left == right or len(left) > _LONGEST or len(right) > _LONGEST:
        return ()
    found: set[Cause] = set()
    for cause, pattern in _PATTERNS:
        one, other = pattern.findall(left), pattern.findall(right)
        if one == other:
            continue
        blank = "" if cause is Cause.LINE_ENDINGS else f"\0{cause.name}\0"
        found.add(cause)
        left, right = pattern.sub(blank, left), pattern.sub(blank, right)
        if left == right:
            return tuple(cause for cause in Cause if cause in found)
    return ()


def causes_of_lines(left: Sequence[str], right: Sequence[str]) -> tuple[Cause, ...]:
    """Return the causes that explain two runs of lines: another order, or what each line shows."""
    if left != right and sorted(left) == sorted(right):
        return (Cause.FILE_ORDER,)
    if len(left) != len(right) or not left:
        return ()
    found: set[Cause] = set()
    for one, other in zip(left, right, strict=True):
        if one != other:
            causes = causes_of_texts(one, other)
            if not causes:
                return ()
            found.update(causes)
    return tuple(cause for cause in Cause if cause in found)
