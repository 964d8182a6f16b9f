"""A shell in the sandbox of a step: same root filesystem, inputs, environment, limits and user; no network.

The step's own command has not run in it. What is written there is lost when the shell ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.engine import Engine
from pipeline.inputs import archive_of
from pipeline.rootfs import facts_of, load_rootfs
from pipeline.sandbox import StepRun, _config, _input_mounts
from pipeline.store import FolderStore
from pipeline.variation import Surroundings, environment_for

_SHELL: Final = ("/bin/sh", "-i")
_END_OF_INPUT: Final = b"\x04"


def debug_shell(
    engine: Engine, run: StepRun, store: FolderStore, *, scratch: Path, stdin: int = 0, stdout: int = 1
) -> int:
    """Open a shell in a step's sandbox, and return its exit status when it ends.

    Args:
        engine: where.
        run: the step that failed; its command is replaced by a shell.
        store: has the inputs.
        scratch: a folder for checkouts.
        stdin: file descriptor to read from; a terminal is put into raw mode.
        stdout: file descriptor to write to.

    Raises:
        EngineGone: RVP-2003. EngineRefused: RVP-2004.
    """
    run = msgspec.structs.replace(run, argv=_SHELL)
    scratch = scratch.resolve()
    reference = load_rootfs(engine, run.rootfs, store)
    facts = facts_of(engine, run.rootfs, reference, store)
    mounted = engine.is_local and os.geteuid() == 0
    environment = environment_for(run, facts, Surroundings(cpus=engine.usable_cpus))
    with contextlib.ExitStack() as stack:
        mounts = stack.enter_context(_input_mounts(run, environment, store, scratch)) if mounted else []
        cpuset = stack.enter_context(engine.cpuset(environment.cpus))
        config: dict[str, Any] = _config(
            engine, run, environment, reference, cpuset, list(mounts), {}, scratch
        )
        config |= {"Tty": True, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
        archive = archive_of(run, facts, environment, store, with_inputs=not mounted)
        with engine.speaking(f"open a shell in the sandbox of {run.node}"):
            container = engine.api.create_container_from_config(config)["Id"]
            engine.containers.add(container)
            stack.callback(engine.remove, container)
            engine.api.put_archive(container, "/", archive)
            parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            attached = engine.api.attach_socket(container, params=parameters)
            stack.callback(attached.close)
            engine.api.start(container)
            with _raw(stdin):
                _pump(attached, stdin, stdout)
            return int(engine.api.wait(container)["StatusCode"])


@contextlib.contextmanager
def _raw(stdin: int) -> Iterator[None]:
    if not os.isatty(stdin):
        yield
        return
    before = termios.tcgetattr(stdin)
    try:
        tty.setraw(stdin)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _pump(attached: Any, stdin: int, stdout: int) -> None:
    """Carry bytes both ways until the shell ends."""
    connection = getattr(attached, "_sock", attached)
    sources = [connection, stdin]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if connection in ready:
            data = connection.recv(1 << 16)
            if not data:
                return
            os.write(stdout, data)
        if stdin in ready:
            typed = os.read(stdin, 1 << 12)
            if not typed:
                sources.remove(stdin)
            connection.sendall(typed or _END_OF_INPUT)
