"""A small honest executor: local processes in fresh folders instead of containers."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from pathlib import Path

from pipeline.sandbox import NotExercised, StepResult, StepRun
from pipeline.tree import make_tree, read_folder, write_folder
from provenance.errors import StepFailure


class FakeFailure(StepFailure):
    """A fake step failed."""

    code = "RVP-9905"


class ProcessExecutor:
    """Runs a step's command as a local process; a variation is seen as RVP_RUN in its environment."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.ran: list[tuple[str, int]] = []
        self.cancelled = False
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[bytes]] = set()

    def execute(self, run: StepRun, store, observer, *, log_file: Path) -> StepResult:
        with self.lock:
            self.ran.append((run.node, run.run))
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return self._execute(run, store, log_file)
        finally:
            with self.lock:
                self.running -= 1

    def _execute(self, run: StepRun, store, log_file: Path) -> StepResult:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            out = folder / "out"
            out.mkdir()
            places = {"out": str(out), "work": name}
            for number, given in enumerate(run.inputs):
                place = folder / f"in{number}"
                write_folder(given.tree, store, place)
                places[given.name] = str(place)
            argv = [self._fill(text, places) for text in run.argv]
            environment = {"PATH": "/usr/bin:/bin", **run.environment}
            if run.variations:
                environment["RVP_RUN"] = str(run.run)
            with log_file.open("wb") as log:
                process = subprocess.Popen(argv, cwd=folder, env=environment, stdout=log, stderr=log)
                with self.lock:
                    self.processes.add(process)
                code = process.wait()
                with self.lock:
                    self.processes.discard(process)
            if code:
                raise FakeFailure(f"{run.node} ended with {code}")
            tree = read_folder(out, store)
            kept = make_tree(e for e in tree.entries if any(_below(e.path, path) for path in run.outputs))
            digest, _ = store.put_file(log_file)
            fixed = [name for name in run.variations if name in run.fixed]
            return StepResult(
                outputs=kept,
                log=digest,
                duration_s=0.5,
                exercised=tuple(name for name in run.variations if name not in fixed),
                not_exercised=tuple(NotExercised(variation=name, reason="fixed") for name in fixed),
            )

    def _fill(self, text: str, places: dict[str, str]) -> str:
        for name, place in places.items():
            text = text.replace("{" + name + "}", place)
        return text

    def cancel(self) -> None:
        self.cancelled = True
        with self.lock:
            for process in self.processes:
                process.kill()


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
