"""The local executor: a bounded number of containers on one Docker engine.

The engine is looked for when the first step runs: a build that has records for everything needs none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.sandbox import StepResult, StepRun
from pipeline.store import FolderStore, Store
from provenance.errors import StepFailure
from provenance.events import Observer

if TYPE_CHECKING:
    from pipeline.engine import Engine


class LocalExecutor:
    """Runs each step in a container of its own.

    Attributes:
        failed: the first step that failed, for a shell in its sandbox.
    """

    def __init__(self, connect: Callable[[], Engine], *, scratch: Path, slots: int | None = None) -> None:
        self._connect = connect
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self.scratch = scratch
        self.slots = slots or max(1, len(os.sched_getaffinity(0)))
        self.failed: StepRun | None = None

    @property
    def engine(self) -> Engine:
        """The engine, found once."""
        with self._lock:
            if self._engine is None:
                from pipeline.sandbox import reap

                self._engine = self._connect()
                reap(self._engine)
            return self._engine

    def execute(self, run: StepRun, store: Store, observer: Observer, *, log_file: Path) -> StepResult:
        """Run one step to its end."""
        from pipeline.sandbox import run_step

        if not isinstance(store, FolderStore):
            raise TypeError("steps run over a store in a folder")
        try:
            return run_step(self.engine, run, store, observer, scratch=self.scratch, log_file=log_file)
        except StepFailure:
            self.failed = self.failed or run
            raise

    def cancel(self) -> None:
        """Remove the containers of this process; the calls that wait for them raise."""
        if self._engine is not None:
            self._engine.stop_own()
