"""One hermetic container: what a step gets, and what leaves it.

A step gets no network, no capability, no new privilege, a user that is not root, bounded processes, memory,
disk and time, read-only inputs, and an environment that rvp decides (variation.py). Its declared
outputs leave as a stream (outputs.py); its log is written while it runs.

Everything that a container costs beyond `docker run` is two requests: the archive that lays {out}, {work}
and the user table, and the archive of the outputs.

Example:
    engine = connect()
    result = run_step(engine, run, store, ignore, scratch=Path(".rvp/scratch"))
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.client_identity import is_alive, is_own, own_labels
from pipeline.engine import Engine, EngineRefused
from pipeline.inputs import (
    archive_of,
    checkout,
    reversed_copy,
    small_file,
    unmount_orphans,
    why_no_file_order,
)
from pipeline.outputs import check_outputs, collect_outputs
from pipeline.rootfs import facts_of, load_rootfs
from pipeline.spec import PLACEHOLDER
from pipeline.step_log import StepLog
from pipeline.step_run import NotExercised, Rootfs, SandboxLimits, StepInput, StepResult, StepRun
from pipeline.store import FolderStore
from pipeline.variation import TOOLS, Environment, Surroundings, environment_for
from provenance.digest import chunks_of
from provenance.errors import StepFailure
from provenance.events import Observer

__all__ = [
    "NotExercised",
    "Rootfs",
    "SandboxLimits",
    "StepFailed",
    "StepInput",
    "StepResult",
    "StepRun",
    "debug_shell",
    "load_rootfs",
    "reap",
    "run_step",
]

ExtraMount = tuple[str, str, bool]  # path on this machine, path in the container, read-only

_MIB: Final = 1 << 20
_INTERACTIVE: Final = '"$@"; echo "the step ended with status $?; exit leaves its sandbox"; exec sh -i'
_FIRST_LOOK_S: Final = 0.5
_LONGEST_LOOK_S: Final = 5.0
_COMMAND_ABSENT: Final = ("executable file not found", "no such file or directory", "permission denied")
_FORK_FAILED: Final = ("resource temporarily unavailable", "cannot fork", "can't fork", "fork failed")


class StepFailed(StepFailure):
    """The command of a step ended with a status other than 0.

    Cure: its last lines say why; the full log has everything. `rvp build --debug-shell` opens a shell in its
    sandbox.

    Attributes:
        last_lines: what it printed last.
        log: path of the full log.
        exit_status: of the command.
    """

    code = "RVP-3001"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        place: str = "",
        last_lines: tuple[str, ...] = (),
        log: str = "",
        exit_status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, place=place)
        self.last_lines = last_lines
        self.log = log
        self.exit_status = exit_status


class StepTimedOut(StepFailed):
    """A step ran longer than its time limit and was killed.

    Cure: raise `limits.time` of the step, or find out what it waits for.
    """

    code = "RVP-3002"


class StepOutOfMemory(StepFailed):
    """A step needed more memory than its limit.

    Cure: raise `limits.memory` of the step, or have it run fewer jobs at once.
    """

    code = "RVP-3003"


class StepDiskLimit(StepFailed):
    """A step wrote more than its disk limit.

    Cure: raise `limits.disk` of the step.
    """

    code = "RVP-3004"


class StepProcessLimit(StepFailed):
    """A step failed after it could not make another process.

    Cure: raise `limits.pids` of the step, or find out what forks.
    """

    code = "RVP-3005"


class StepLogLimit(StepFailed):
    """A step printed more than a log may hold.

    Cure: have the command print less.
    """

    code = "RVP-3006"


class CommandAbsent(StepFailed):
    """The command of a step is not in its base, or cannot be executed.

    Cure: add the package that has it to the base, or correct `run`.
    """

    code = "RVP-3007"


def run_step(
    engine: Engine,
    run: StepRun,
    store: FolderStore,
    observer: Observer,
    *,
    scratch: Path,
    log_file: Path | None = None,
    extra_mounts: tuple[ExtraMount, ...] = (),
    extra_environment: Mapping[str, str] | None = None,
) -> StepResult:
    """Run a step once in a container of its own.

    Args:
        engine: where.
        run: what.
        store: has the inputs, receives the outputs and the log.
        observer: is told each line of output.
        scratch: a folder for checkouts; kept between runs, safe to share, safe to delete.
        log_file: where to write the log; default: in `scratch`.
        extra_mounts: of this machine, for fetch steps; needs a local engine.
        extra_environment: of fetch steps; never part of a step's key.

    Raises:
        StepFailed: RVP-3001, and its kinds: RVP-3002 time, RVP-3003 memory, RVP-3004 disk,
            RVP-3005 processes, RVP-3006 log, RVP-3007 no such command.
        OutputMissing and its kin: RVP-3010 to RVP-3013.
        EngineGone: RVP-2003. EngineRefused: RVP-2004. Interrupted: RVP-1002 after `engine.stop_own()`.
    """
    check_outputs(run.node, run.outputs)
    engine.check_not_stopping()
    scratch = scratch.resolve()
    log = StepLog(
        log_file or scratch / "logs" / f"{run.node}-{run.run}.log",
        node=run.node,
        run=run.run,
        observer=observer,
    )
    extra = dict(extra_environment or {})
    with (
        contextlib.closing(log),
        _prepared(engine, run, store, scratch, extra_mounts, extra) as (container, environment),
    ):
        with engine.speaking(f"run {run.node}"):
            duration_s = _Watched(engine, run, container, log).work()
        outputs = collect_outputs(
            engine,
            container,
            f"{environment.build_root}/out",
            run.outputs,
            store,
            node=run.node,
            limit_bytes=run.limits.output_bytes,
        )
    with log.path.open("rb") as stream:
        log_digest, _ = store.put(chunks_of(stream))
    return StepResult(
        outputs=outputs,
        log=log_digest,
        duration_s=duration_s,
        exercised=environment.exercised,
        not_exercised=environment.not_exercised,
    )


def debug_shell(engine: Engine, run: StepRun, store: FolderStore, *, scratch: Path | None = None) -> int:
    """Run a step again with this terminal, then leave a shell open in its sandbox.

    The sandbox has the same rules, limits and inputs; its time limit is lifted. Nothing leaves it.

    Returns:
        The exit status of the shell.

    Raises:
        CommandAbsent: RVP-3007 when the base has no shell. EngineGone: RVP-2003. EngineRefused: RVP-2004.
    """
    from pipeline.terminal_attachment import attach_terminal

    place = (scratch or store.folder / "scratch").resolve()
    with _prepared(engine, run, store, place, (), {}, interactive=True) as (container, _):
        return attach_terminal(engine, container)


@contextlib.contextmanager
def _prepared(
    engine: Engine,
    run: StepRun,
    store: FolderStore,
    scratch: Path,
    extra_mounts: tuple[ExtraMount, ...],
    extra: dict[str, str],
    *,
    interactive: bool = False,
) -> Iterator[tuple[str, Environment]]:
    """Lend a container that is ready to start; it is removed afterwards, whatever happened."""
    reference = load_rootfs(engine, run.rootfs, store)
    facts = facts_of(engine, run.rootfs, reference, store)
    mounted = engine.is_local and os.geteuid() == 0
    size_bytes = sum(one.tree.size_bytes for one in run.inputs)
    around = Surroundings(
        cpus=engine.usable_cpus,
        no_file_order=why_no_file_order(is_mounted=mounted, size_bytes=size_bytes),
    )
    environment = environment_for(run, facts, around)
    with contextlib.ExitStack() as stack:
        mounts = list(extra_mounts)
        if mounted:
            mounts += stack.enter_context(_input_mounts(run, environment, store, scratch))
        cpuset = stack.enter_context(engine.cpuset(environment.cpus))
        config = _config(engine, run, environment, reference, cpuset, mounts, extra, scratch)
        if interactive:
            if not facts.shell:
                raise CommandAbsent(f"the base of {run.node} has no shell", hint="add one to the base")
            config |= {"Tty": True, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
            config["Entrypoint"] = [facts.shell, "-c", _INTERACTIVE, "sh", *config["Entrypoint"]]
        archive = archive_of(run, facts, environment, store, with_inputs=not mounted)
        with engine.speaking(f"prepare {run.node}"):
            container = engine.api.create_container_from_config(config)["Id"]
            engine.containers.add(container)
            stack.callback(engine.remove, container)
            engine.api.put_archive(container, "/", archive)
        yield container, environment


@contextlib.contextmanager
def _input_mounts(
    run: StepRun, environment: Environment, store: FolderStore, scratch: Path
) -> Iterator[list[ExtraMount]]:
    with contextlib.ExitStack() as stack:
        mounts: list[ExtraMount] = []
        for one in run.inputs:
            folder = checkout(one.tree, store, scratch, epoch=run.epoch)
            if environment.reversed_order:
                folder = stack.enter_context(reversed_copy(folder, scratch, epoch=run.epoch))
            mounts.append((str(folder), f"{environment.build_root}/{one.name}", True))
        if environment.tools:
            folder = checkout(run.rootfs.variation_tools, store, scratch, epoch=run.epoch)
            mounts.append((str(folder), TOOLS, True))
        yield mounts


def fill(text: str, run: StepRun, build_root: str) -> str:
    """Replace the placeholders of a step in a text; other braces, and the shell's ${out}, stay."""
    known = {"out", "work", *(one.name for one in run.inputs)}
    return PLACEHOLDER.sub(lambda found: f"{build_root}/{found[1]}" if found[1] in known else found[0], text)


def _config(
    engine: Engine,
    run: StepRun,
    environment: Environment,
    reference: str,
    cpuset: str,
    mounts: list[ExtraMount],
    extra: dict[str, str],
    scratch: Path,
) -> dict[str, Any]:
    root = environment.build_root
    own = {name: fill(value, run, root) for name, value in run.environment.items()}
    variables = {**environment.variables, **own, **extra}
    inherited = [n for n in engine.image_environment.get(run.rootfs.digest, ()) if n not in variables]
    limits = run.limits
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": limits.pids,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "CpusetCpus": cpuset,
        "ShmSize": 64 * _MIB,
        "Ulimits": [
            {"Name": "fsize", "Soft": limits.disk_bytes, "Hard": limits.disk_bytes},
            {"Name": "nofile", "Soft": 4096, "Hard": 4096},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "none"},
        "IpcMode": "private",
        **_names(engine, environment, mounts, scratch),
    }
    if engine.api_version >= (1, 41):
        host["CgroupnsMode"] = "private"
    return {
        "Image": reference,
        "Hostname": environment.hostname,
        "User": f"{environment.user_id}:{environment.user_id}",
        "Env": [f"{name}={variables[name]}" for name in sorted(variables)] + inherited,
        "Entrypoint": [*environment.wrapper, *(fill(word, run, root) for word in run.argv)],
        "WorkingDir": f"{root}/work",
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": own_labels(run.node),
        "HostConfig": host,
    }


def _names(
    engine: Engine, environment: Environment, mounts: list[ExtraMount], scratch: Path
) -> dict[str, Any]:
    """Say what the container knows of names: three files of ours, or as much as a remote engine lets us."""
    if not engine.is_local:
        if mounts:
            raise EngineRefused("a remote engine cannot mount files of this machine", place=engine.url)
        return {"Dns": ["127.0.0.1"], "DnsSearch": ["."], "DnsOptions": []}
    hostname = environment.hostname
    files = {
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n",
        "/etc/resolv.conf": "# a step has no network\n",
        "/etc/hostname": f"{hostname}\n",
    }
    every = [*mounts, *((str(small_file(text, scratch)), path, True) for path, text in files.items())]
    return {
        "Mounts": [
            {
                "Type": "bind",
                "Source": source,
                "Target": target,
                "ReadOnly": read_only,
                "BindOptions": {"Propagation": "rprivate"},
            }
            for source, target, read_only in every
        ]
    }


class _Watched:
    """A container at work: its output taken, its limits watched."""

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


def reap(engine: Engine) -> int:
    """Remove what clients that are gone left behind: containers in the engine, mounts on this machine.

    Containers of a client that lives, here or on another machine, are never touched.

    Returns:
        How many were removed.
    """
    with engine.speaking("look for containers that were left behind"):
        found = engine.api.containers(all=True, filters={"label": "rvp.pid"})
    orphans = [one["Id"] for one in found if not is_own(one["Labels"]) and not is_alive(one["Labels"])]
    for container in orphans:
        engine.remove(container)
    return len(orphans) + (unmount_orphans() if os.geteuid() == 0 else 0)
