"""Who owns a container: the labels that name a client process, and whether that process still lives.

A process is named by machine, boot, pid namespace, pid and start time, so that a pid that was used again, or
the pid of another machine, is never taken for it. What cannot be decided counts as alive.

Example:
    >>> is_alive(own_labels())
    True
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Final

PID: Final = "rvp.pid"
START_TIME: Final = "rvp.pid-start-time"
BOOT: Final = "rvp.boot-id"
NAMESPACE: Final = "rvp.pid-namespace"
MACHINE: Final = "rvp.machine"
NODE: Final = "rvp.node"


def own_labels(node: str = "") -> dict[str, str]:
    """Name this process, and the node that it runs."""
    labels = {PID: str(os.getpid()), START_TIME: start_time(os.getpid()), **_surroundings()}
    return {**labels, NODE: node} if node else labels


def is_own(labels: dict[str, str]) -> bool:
    """Tell whether labels name this very process."""
    return all(labels.get(name) == value for name, value in own_labels().items())


def is_alive(labels: dict[str, str]) -> bool:
    """Tell whether the process that labels name still lives, or may live."""
    here = _surroundings()
    if not labels.get(PID, "").isdigit() or labels.get(MACHINE) != here[MACHINE] or not here[MACHINE]:
        return True
    if labels.get(BOOT) != here[BOOT]:
        return False
    if labels.get(NAMESPACE) != here[NAMESPACE]:
        return True
    return start_time(int(labels[PID])) == labels.get(START_TIME)


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty when there is no such process.

    Source: proc(5), /proc/PID/stat, field 22; field 2 may hold spaces and parentheses.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = fields.rpartition(")")[2].split()
    return "" if state in {"Z", "X"} else rest[18]


@functools.cache
def _surroundings() -> dict[str, str]:
    boot = _read("/proc/sys/kernel/random/boot_id")
    machine = _read("/etc/machine-id") or boot
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return {
        BOOT: boot,
        NAMESPACE: namespace,
        MACHINE: hashlib.sha256(b"rvp\0" + machine.encode()).hexdigest()[:16] if machine else "",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
