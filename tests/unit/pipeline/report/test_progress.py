"""Progress in its forms."""

from __future__ import annotations

import io
import json
import threading

import pytest

from pipeline.report.progress import choose, progress
from provenance.events import Note, RebuildCompared, StepFinished, StepOutput, StepPlanned, StepStarted

EVENTS = (
    StepPlanned(step="step.a", run=1, runs=2),
    StepStarted(step="step.a", run=1, runs=2),
    StepOutput(step="step.a", run=1, line="hello\x1b[31m"),
    StepFinished(step="step.a", run=1, runs=2, status="ran", duration_s=1.25),
    StepFinished(step="step.b", run=1, runs=2, status="cached", duration_s=0),
    StepFinished(step="step.c", run=1, runs=1, status="failed", duration_s=2, log="/logs/c.log"),
    RebuildCompared(step="step.a", verdict="diverged"),
    Note(text="take care", level="warning"),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(mode: str, stream: io.StringIO | None = None, **more) -> str:
    stream = stream or io.StringIO()
    with progress(mode, stream=stream, **more) as observer:
        for event in EVENTS:
            observer(event)
    return stream.getvalue()


def test_plain_lines_are_only_appended_and_cached_ones_are_counted():
    assert shown("plain").splitlines() == [
        "step.a (run 1 of 2): started",
        "step.a (run 1 of 2): ran after 1.2 s",
        "step.c: failed after 2.0 s, log: /logs/c.log",
        "step.a: diverged",
        "warning: take care",
        "1 cached",
    ]


def test_verbose_shows_what_steps_print_without_control_characters():
    assert "step.a 1 | hello[31m" in shown("plain", verbose=True).splitlines()


def test_json_is_one_event_a_line():
    events = [json.loads(line) for line in shown("json").splitlines()]
    assert [event["event"] for event in events] == [type(event).__name__ for event in EVENTS]


def test_none_is_silent():
    assert shown("none") == ""


def test_live_redraws_and_keeps_what_happened():
    text = shown("live", Terminal())
    assert "step.a (run 1 of 2) ran, 1.2 s" in text
    assert "step.c failed" in text


def test_live_takes_events_from_many_threads():
    stream = Terminal()
    with progress("live", stream=stream) as observer:

        def work(number: int) -> None:
            for run in range(20):
                observer(StepStarted(step=f"step.{number}", run=run, runs=20))
                observer(StepOutput(step=f"step.{number}", run=run, line="x"))
                observer(StepFinished(step=f"step.{number}", run=run, runs=20, status="ran", duration_s=0))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("stream", "quiet", "ci", "form"),
    [
        (Terminal(), False, "", "live"),
        (Terminal(), False, "true", "plain"),
        (io.StringIO(), False, "", "plain"),
        (Terminal(), True, "", "none"),
    ],
)
def test_auto_is_live_on_a_terminal_plain_elsewhere_and_none_when_quiet(monkeypatch, stream, quiet, ci, form):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TERM", "xterm")
    assert choose("auto", quiet=quiet, stream=stream) == form
