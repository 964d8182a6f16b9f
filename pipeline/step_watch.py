"""A container at work: its output is taken, its limits are watched, its failure is named.

The engine watches memory and processes. Time, disk and the log are watched here: what passes its limit
ends the container, and which limit was passed decides the error.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final

from pipeline.engine import Engine
from pipeline.step_failure import (
    CommandAbsent,
    StepDiskLimit,
    StepFailed,
    StepLogLimit,
    StepOutOfMemory,
    StepProcessLimit,
    StepTimedOut,
)
from pipeline.step_log import StepLog
from pipeline.step_run import StepRun

_MIB: Final = 1 << 20
_FIRST_LOOK_S: Final = 0.5
_LONGEST_LOOK_S: Final = 5.0
_COMMAND_ABSENT: Final = ("executable file not found", "no such file or directory", "permission denied")
_FORK_FAILED: Final = ("resource temporarily unavailable", "cannot fork", "can't fork", "fork failed")


class WatchedStep:
    """One run of a container."""

    def __init__(self, engine: Engine, run: StepRun, container: str, log: StepLog) -> None:
        self._engine, self._run, self._container, self._log = engine, run, container, log
        self._wake = threading.Event()
        self._done = False
        self._stopped_for: type[StepFailed] | None = None

    def work(self) -> float:
        """Start the container, take its output until it ends; return how long it ran."""
        from docker.utils.socket import frames_iter

        api = self._engine.api
        parameters = {"stdout": 1, "stderr": 1, "stream": 1}
        attached = api.attach_socket(self._container, params=parameters)
        began = time.monotonic()
        watcher = threading.Thread(target=self._watch, args=(began,), daemon=True)
        try:
            self._start()
            watcher.start()
            for _, data in frames_iter(attached, tty=False):
                if self._stopped_for is StepLogLimit:
                    continue  # the engine cannot kill before somebody has read the rest
                self._log.write(data)
                if self._log.size_bytes > self._run.limits.log_bytes:
                    self._stopped_for = StepLogLimit
                    self._wake.set()
            status = int(api.wait(self._container, timeout=int(self._run.limits.time_s) + 120)["StatusCode"])
            duration_s = time.monotonic() - began
        finally:
            self._done = True
            self._wake.set()
            attached.close()
        self._log.close()
        self._engine.check_not_stopping()
        if status != 0 or self._stopped_for is not None:
            raise self._failure(status)
        return duration_s

    def _start(self) -> None:
        import docker.errors

        try:
            self._engine.api.start(self._container)
        except docker.errors.APIError as error:
            text = str(error.explanation or error)
            if any(sign in text.lower() for sign in _COMMAND_ABSENT) and "exec" in text:
                raise CommandAbsent(
                    f'{self._run.node}: the command "{self._run.argv[0]}" cannot be executed in its base',
                    hint="add the package that has it to the base, or correct `run`",
                    place=str(self._log.path),
                ) from error
            raise

    def _watch(self, began: float) -> None:
        """Kill the container when its time is over or its disk limit is passed."""
        limits, pause_s = self._run.limits, _FIRST_LOOK_S
        while True:
            left_s = limits.time_s - (time.monotonic() - began)
            if self._wake.wait(max(min(pause_s, left_s), 0.0)):
                if not self._done:
                    self._kill(StepLogLimit)
                return
            if time.monotonic() - began >= limits.time_s:
                self._kill(StepTimedOut)
                return
            looked = time.monotonic()
            if self._written_bytes() > limits.disk_bytes:
                self._kill(StepDiskLimit)
                return
            cost_s = time.monotonic() - looked
            pause_s = max(min(pause_s * 2, _LONGEST_LOOK_S), 10 * cost_s)

    def _written_bytes(self) -> int:
        from docker.errors import DockerException
        from requests import RequestException

        with (
            contextlib.suppress(DockerException, RequestException, OSError),
            self._engine.get(f"/containers/{self._container}/json", {"size": "1"}) as answer,
        ):
            return int(answer.json().get("SizeRw") or 0)
        return 0

    def _kill(self, why: type[StepFailed]) -> None:
        from docker.errors import DockerException
        from requests import RequestException

        self._stopped_for = why
        with contextlib.suppress(DockerException, RequestException, OSError):
            self._engine.api.kill(self._container)

    def _failure(self, status: int) -> StepFailed:
        run, limits = self._run, self._run.limits
        kind = self._stopped_for or self._guess(status)
        what = {
            CommandAbsent: f'the command "{run.argv[0]}" cannot be executed in its base',
            StepTimedOut: f"ran longer than {limits.time_s:g} s",
            StepOutOfMemory: f"needed more than {limits.memory_bytes // _MIB} MiB of memory",
            StepDiskLimit: f"wrote more than {limits.disk_bytes // _MIB} MiB",
            StepProcessLimit: f"exit status {status} after it could not make another process "
            f"(limit: {limits.pids})",
            StepLogLimit: f"printed more than {limits.log_bytes // _MIB} MiB",
        }.get(kind, f"exit status {status}")
        lines = self._log.last_lines
        return kind(
            f"{run.node}: {what}" + "".join(f"\n  | {line}" for line in lines),
            hint=f"full log: {self._log.path}",
            last_lines=lines,
            log=str(self._log.path),
            exit_status=status,
        )

    def _guess(self, status: int) -> type[StepFailed]:
        command = self._run.argv[0].rpartition("}")[2]
        last = "".join(self._log.last_lines[-1:])
        if status in {126, 127} and "exec: " in last and command in last:
            return CommandAbsent
        state = self._engine.api.inspect_container(self._container)["State"]
        if state.get("OOMKilled"):
            return StepOutOfMemory
        tail = "\n".join(self._log.last_lines).lower()
        if any(sign in tail for sign in _FORK_FAILED):
            return StepProcessLimit
        fsize_signal = 128 + 25  # SIGXFSZ
        if status == fsize_signal or "file size limit exceeded" in tail or "file too large" in tail:
            return StepDiskLimit
        return StepFailed
