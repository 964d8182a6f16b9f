"""Progress: live on a terminal, append-only lines elsewhere, NDJSON for programs, nothing when asked.

Every form is an observer of the same events; events come from several threads.

    with progress("auto", quiet=False) as observer:
        build(..., observer=observer)
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import msgspec

from provenance.events import (
    Event,
    Note,
    Observer,
    Phase,
    RebuildCompared,
    StepFinished,
    StepOutput,
    StepPlanned,
    StepStarted,
    Transfer,
    ignore,
)

MODES: Final = ("auto", "live", "plain", "json", "none")
_LIVE_ROWS: Final = 12
_REFRESH_PER_SECOND: Final = 8


def choose(mode: str, *, quiet: bool, stream: IO[str]) -> str:
    """Choose the form for `auto`: live on a terminal outside CI, plain lines elsewhere, none with --quiet."""
    if mode != "auto":
        return mode
    if quiet:
        return "none"
    dumb = os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return "live" if stream.isatty() and not dumb else "plain"


@contextlib.contextmanager
def progress(
    mode: str, *, quiet: bool = False, verbose: bool = False, stream: IO[str] | None = None
) -> Iterator[Observer]:
    """Give an observer that shows the progress while the context is open.

    Args:
        mode: one of `MODES`.
        quiet: `auto` shows nothing.
        verbose: also cached steps and what steps print.
        stream: where to; default: stderr.
    """
    stream = stream or sys.stderr
    match choose(mode, quiet=quiet, stream=stream):
        case "live":
            with _live(stream) as observer:
                yield observer
        case "plain":
            plain = _Plain(stream, verbose=verbose)
            try:
                yield plain
            finally:
                plain.close()
        case "json":
            yield _json(stream)
        case _:
            yield ignore


def clean(line: str) -> str:
    r"""Make a line that a step printed harmless: control characters become spaces or vanish.

    Example:
        >>> clean("a\x1b[31mb\tc\r")
        'a[31mb c'
    """
    return "".join(
        character if character.isprintable() else (" " if character == "\t" else "") for character in line
    )


def _json(stream: IO[str]) -> Observer:
    lock = threading.Lock()

    def observe(event: Event) -> None:
        line = msgspec.json.encode(event).decode("utf-8")
        with lock:
            stream.write(f"{line}\n")
            stream.flush()

    return observe


class _Plain:
    """One line for each thing that happened; nothing is ever written over."""

    def __init__(self, stream: IO[str], *, verbose: bool) -> None:
        self.stream, self.verbose = stream, verbose
        self.lock = threading.Lock()
        self.cached = 0

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line:
            with self.lock:
                self.stream.write(f"{line}\n")
                self.stream.flush()

    def _line(self, event: Event) -> str:
        match event:
            case StepStarted():
                return f"{event.step}{_run(event)}: started"
            case StepFinished(status="cached") if not self.verbose:
                self.cached += 1
                return ""
            case StepFinished(status="cached"):
                return f"{event.step}{_run(event)}: cached"
            case StepFinished():
                log = f", log: {event.log}" if event.log and event.status == "failed" else ""
                return f"{event.step}{_run(event)}: {event.status} after {event.duration_s:.1f} s{log}"
            case StepOutput() if self.verbose:
                return f"{event.step} {event.run} | {clean(event.line)}"
            case RebuildCompared(verdict="diverged"):
                return f"{event.step}: diverged"
            case Phase(done=False):
                return f"{clean(event.what)}: started"
            case Note():
                return f"{event.level}: {clean(event.text)}" if event.level != "info" else clean(event.text)
            case _:
                return ""

    def close(self) -> None:
        if self.cached:
            self.stream.write(f"{self.cached} cached\n")
            self.stream.flush()


def _run(event: StepStarted | StepFinished) -> str:
    return f" (run {event.run} of {event.runs})" if event.runs > 1 else ""


@contextlib.contextmanager
def _live(stream: IO[str]) -> Iterator[Observer]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False)
    board = _Board(console.print)
    live = Live(
        board,
        console=console,
        refresh_per_second=_REFRESH_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        yield board.observe


class _Board:
    """What the terminal shows now: a row for each running step, and a count of all."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell = tell
        self.lock = threading.Lock()
        self.planned = self.finished = self.cached = 0
        self.running: dict[tuple[str, int], tuple[float, int, str]] = {}
        self.phases: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        with self.lock:
            told = self._take(event)
        if told:  # outside the lock: the console has one of its own, and draws us while it holds it
            from rich.text import Text

            self.tell(Text(told[0], style=told[1]))

    def _take(self, event: Event) -> tuple[str, str] | None:
        match event:
            case StepPlanned():
                self.planned += 1
            case StepStarted():
                self.running[event.step, event.run] = (time.monotonic(), event.runs, "")
            case StepOutput():
                begun = self.running.get((event.step, event.run))
                if begun:
                    self.running[event.step, event.run] = (begun[0], begun[1], clean(event.line))
            case StepFinished():
                self.finished += 1
                self.cached += event.status == "cached"
                self.running.pop((event.step, event.run), None)
                if event.status != "cached":
                    failed = event.status == "failed"
                    line = f"{'✗' if failed else '✓'} {event.step}{_run(event)} {event.status}"
                    return f"{line}, {event.duration_s:.1f} s", "red" if failed else ""
            case RebuildCompared(verdict="diverged"):
                return f"✗ {event.step} diverged", "red"
            case Phase():
                if event.done:
                    self.phases.pop(event.what, None)
                else:
                    self.phases[event.what] = ""
            case Transfer():
                total = f" of {event.total_bytes >> 10} KiB" if event.total_bytes else ""
                self.phases[event.what] = f"{event.done_bytes >> 10} KiB{total}"
                if event.total_bytes is not None and event.done_bytes >= event.total_bytes:
                    self.phases.pop(event.what, None)
            case Note():
                return clean(event.text), "yellow" if event.level == "warning" else ""
            case _:
                pass
        return None

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        with self.lock:
            now = time.monotonic()
            for what, state in list(self.phases.items())[:_LIVE_ROWS]:
                table.add_row(Text(f"· {clean(what)}"), Text(""), Text(state))
            for (step, run), (begun, runs, line) in list(self.running.items())[:_LIVE_ROWS]:
                which = f" (run {run} of {runs})" if runs > 1 else ""
                table.add_row(Text(f"▸ {step}{which}"), Text(f"{now - begun:.0f} s"), Text(line))
            if self.planned:
                counts = f"{self.finished} of {self.planned}, {self.cached} cached"
                table.add_row(Text(f"  {counts}"), Text(""), Text(""))
        return table
