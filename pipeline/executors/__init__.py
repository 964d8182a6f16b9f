"""Where steps run: a small interface, one file for each way."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.sandbox import StepResult, StepRun
from pipeline.store import Store
from provenance.events import Observer


class Executor(Protocol):
    """Runs steps, several at once."""

    @property
    def slots(self) -> int:
        """How many steps may run at once."""
        ...

    def execute(self, run: StepRun, store: Store, observer: Observer, *, log_file: Path) -> StepResult:
        """Run one step to its end; called from several threads."""
        ...

    def cancel(self) -> None:
        """End the steps that run now and leave nothing of them behind; `execute` then raises."""
        ...
