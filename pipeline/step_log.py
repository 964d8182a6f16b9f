"""The log of a step: written to a file while it runs, told line by line, its last lines kept."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Final

from provenance.events import Observer, StepOutput

LAST_LINES: Final = 20
_LONGEST_LINE_BYTES: Final = 8192


class StepLog:
    """Receives what a step prints, as it comes.

    Attributes:
        path: the log on disk, byte for byte.
        size_bytes: how much came.
    """

    def __init__(self, path: Path, *, node: str, run: int, observer: Observer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size_bytes = 0
        self._file = path.open("wb")
        self._node, self._run, self._observer = node, run, observer
        self._last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.size_bytes += len(data)
        self._file.write(data)
        self._file.flush()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._rest) > _LONGEST_LINE_BYTES:
            self._tell(self._rest)
            self._rest = b""

    def close(self) -> None:
        """End the log; calling it again does nothing."""
        if self._rest:
            self._tell(self._rest)
            self._rest = b""
        self._file.close()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that the step printed."""
        return tuple(self._last)

    def _tell(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace")
        self._last.append(text)
        self._observer(StepOutput(step=self._node, run=self._run, line=text))
