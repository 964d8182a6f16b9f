"""One look: its limits, its deadline, the memory that it holds, and the way further inside.

Formats are functions that take two contents and a look, and return what they found. They never recurse by
themselves: `Look.inside` does, so that depth, time and memory are bounded in one place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from pipeline.difference.content import Content
from pipeline.difference.model import DEFAULT_LABELS, DEFAULT_LIMITS, Cause, Difference, Limits


class OutOfTime(Exception):
    """The look has used up its time; `Look.inside` turns it into a comment."""


class Broken(Exception):
    """What looked like a format is not well-formed; the message says where."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a format found between two contents that differ."""

    details: tuple[Difference, ...] = ()
    comments: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    where: str = ""
    left: str = ""
    right: str = ""
    offset: int | None = None
    text: str = ""

    @property
    def says_something(self) -> bool:
        """Tell whether a place was named."""
        return bool(self.details or self.where or self.text)


class Look:
    """What a comparison carries with it on its way inside."""

    def __init__(
        self,
        compare: Callable[[str, Content, Content, Look], Difference | None],
        *,
        limits: Limits = DEFAULT_LIMITS,
        labels: tuple[str, str] = DEFAULT_LABELS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.labels = labels
        self.depth = 0
        self._compare = compare
        self._clock = clock
        self._deadline = clock() + limits.time_s
        self._memory_left = limits.memory_bytes

    def tick(self) -> None:
        """Stop the look when its time is over.

        Raises:
            OutOfTime: which only this package sees.
        """
        if self.is_late():
            raise OutOfTime

    def is_late(self) -> bool:
        """Tell whether the time is over."""
        return self._clock() > self._deadline

    def payload_bytes(self) -> int:
        """Return how many bytes one side of a payload may hold in memory now."""
        return max(0, min(self.limits.inner_bytes, self._memory_left // 2))

    @contextlib.contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Count bytes as held in memory while the block runs."""
        self._memory_left -= size_bytes
        try:
            yield
        finally:
            self._memory_left += size_bytes

    def inside(self, path: str, left: Content, right: Content) -> Difference | None:
        """Look further inside; None when the two are equal."""
        self.depth += 1
        try:
            return self._compare(path, left, right, self)
        finally:
            self.depth -= 1


def text_of(data: bytes) -> str:
    """Turn bytes from a file into text; what is not UTF-8 is written as escapes."""
    return data.decode("utf-8", "backslashreplace")
