"""This terminal and a container's: keys go in, what it prints comes out, until it ends."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from pipeline.engine import Engine

_CHUNK_BYTES: Final = 65536


def attach_terminal(engine: Engine, container: str) -> int:
    """Start a container that has a terminal and connect it with ours; return its exit status.

    The docker command does it best (it follows the size of the window); without it, the SDK's socket does.
    """
    program = shutil.which("docker")
    if program is not None and sys.stdin.isatty():
        done = subprocess.run([program, "-H", engine.url, "start", "-ai", container], check=False)
        return done.returncode
    with engine.speaking("open a shell"):
        parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        attached = engine.api.attach_socket(container, params=parameters)
        engine.api.start(container)
        with _raw_terminal():
            _copy(getattr(attached, "_sock", attached))
        attached.close()
        return int(engine.api.wait(container)["StatusCode"])


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _copy(sock: Any) -> None:
    sources: list[Any] = [sock, sys.stdin.fileno()]
    sock.settimeout(None)
    while True:
        ready, _, _ = select.select(sources, [], [])
        if sock in ready:
            data = sock.recv(_CHUNK_BYTES)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if len(sources) > 1 and sources[1] in ready:
            keys = os.read(sources[1], _CHUNK_BYTES)
            if keys:
                sock.sendall(keys)
            else:  # the end of our input is the end of the shell's
                sock.sendall(b"\x04")
                sources.pop()
