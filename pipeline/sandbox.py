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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.client_identity import is_alive, is_own, own_labels
from pipeline.engine import Engine, EngineRefused, TooFewProcessors
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
from pipeline.step_failure import CommandAbsent
from pipeline.step_log import StepLog
from pipeline.step_run import NotExercised, Rootfs, SandboxLimits, StepInput, StepResult, StepRun
from pipeline.step_watch import WatchedStep
from pipeline.store import FolderStore
from pipeline.variation import TOOLS, Environment, Surroundings, environment_for
from provenance.digest import chunks_of
from provenance.events import Observer

__all__ = [
    "NotExercised",
    "Rootfs",
    "SandboxLimits",
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
            duration_s = WatchedStep(engine, run, container, log).work()
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
    if run.limits.cpus > engine.usable_cpus:
        raise TooFewProcessors(
            f"{run.node} fixes {run.limits.cpus} processors, the engine has {engine.usable_cpus}",
            hint="lower `limits.cpus` of the step, or build on a larger machine",
            place=engine.url,
        )
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
