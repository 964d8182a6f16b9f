"""Progress as a stream of typed events: the library tells, an observer listens, only the command line prints.

An observer is any callable that takes one event. Events carry data, never rendered text; times are
durations in seconds, never wall-clock moments. `ignore` is the observer that listens to nothing.

Example:
    >>> seen = []
    >>> seen.append(StepStarted(step="enclave", run=1, runs=2))
    >>> seen[0].step
    'enclave'
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """The base of all events."""


class Note(Event, frozen=True, kw_only=True):
    """Something worth saying that is not progress of a step."""

    text: str
    level: str = "info"  # "info" | "warning"


class Transfer(Event, frozen=True, kw_only=True):
    """Bytes arriving or leaving: downloads, unpacking, publishing."""

    what: str
    done_bytes: int
    total_bytes: int | None = None


class Phase(Event, frozen=True, kw_only=True):
    """A stretch of work outside a step began (`done=False`) or ended (`done=True`)."""

    what: str
    done: bool = False
    duration_s: float = 0.0


class StepPlanned(Event, frozen=True, kw_only=True):
    """A node of the graph that this command will look at."""

    step: str
    run: int
    runs: int


class StepStarted(Event, frozen=True, kw_only=True):
    """A step runs now. `run` counts from 1 to `runs`."""

    step: str
    run: int
    runs: int


class StepOutput(Event, frozen=True, kw_only=True):
    """One line that a step printed."""

    step: str
    run: int
    line: str


class StepFinished(Event, frozen=True, kw_only=True):
    """A step ended. `status` is "ran", "cached" or "failed"."""

    step: str
    run: int
    runs: int
    status: str
    duration_s: float
    log: str = ""  # path of the full log on this machine


class RebuildCompared(Event, frozen=True, kw_only=True):
    """A step's outputs of all runs were compared. `verdict` is "reproduced" or "diverged"."""

    step: str
    verdict: str


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
    del event
