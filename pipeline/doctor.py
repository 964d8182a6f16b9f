"""What this machine needs for a build, looked at one by one: each finding with its fix.

Nothing here fails: what is missing is a finding. It runs on the base installation.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from provenance.errors import RvpError

_GIB: Final = 1 << 30
_LEAST_SPACE: Final = 2 * _GIB
_GOOD_SPACE: Final = 10 * _GIB
_LEAST_MEMORY: Final = 2 * _GIB
_OLDEST_PYTHON: Final = (3, 11)
_KEYRINGS: Final = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
_CLOCK_FILES: Final = ("/var/lib/apt/lists", "/var/lib/dpkg/status", "/etc", "/var/log")

# package: what it is for
_PACKAGES: Final = {"docker": "steps", "networkx": "the graph", "numpy": "measurements", "rich": "progress"}
# tool: (what it is for, the Debian package that has it)
_TOOLS: Final = {
    "git": ("git sources", "git"),
    "apt-get": ("bases of Debian packages, resolved by apt", "apt"),
    "dpkg-deb": ("the private engine", "dpkg"),
    "ssh-keygen": ("signatures of revisions", "openssh-client"),
    "diffoscope": ("a deeper look into outputs that differ", "diffoscope-minimal"),
}

Status = Literal["passed", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        id: of the check.
        status: passed; warning when something works less well; failed when a build cannot work.
        found: what is there.
        fix: what to do; empty when nothing is to be done.
    """

    id: str
    status: Status
    found: str
    fix: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All findings."""

    schema: str = "rvp/doctor/v1"
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Tell whether a build can work."""
        return all(finding.status != "failed" for finding in self.findings)


def diagnose(store: Path, *, now: float) -> Diagnosis:
    """Look at everything.

    Args:
        store: where the store lies, or would.
        now: the clock, Unix seconds.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _engine,
        lambda: _space("space-store", store),
        lambda: _clock(now),
        _tools,
        _keyring,
        _cgroups,
    )
    return Diagnosis(findings=tuple(finding for check in checks for finding in check()))


def _python() -> Iterator[Finding]:
    version = sys.version_info[:3]
    good = version >= _OLDEST_PYTHON
    yield Finding(
        id="python",
        status="passed" if good else "failed",
        found=".".join(map(str, version)),
        fix="" if good else "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    for name, use in _PACKAGES.items():
        try:
            found = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                id=f"package-{name}",
                status="failed",
                found=f"{name} is not installed ({use})",
                fix="pip install 'reference-value-pipeline[pipeline]'",
            )
        else:
            yield Finding(id=f"package-{name}", status="passed", found=found)


def _engine() -> Iterator[Finding]:
    try:
        from pipeline.engine import connect

        engine = connect()
    except RvpError as error:
        yield Finding(id="engine", status="failed", found=str(error), fix=error.hint)
        return
    driver = str(engine.info.get("Driver") or "unknown")
    slow = driver == "vfs"
    yield Finding(
        id="engine",
        status="warning" if slow else "passed",
        found=f"{engine.version} at {engine.url}, storage driver {driver}",
        fix="put its data folder on ext4 or xfs: vfs copies the base for every step" if slow else "",
    )
    mounted = engine.is_local and os.geteuid() == 0
    place = "local" if engine.is_local else "remote"
    yield Finding(
        id="engine-place",
        status="passed" if mounted else "warning",
        found=f"{place}, inputs are {'mounted' if mounted else 'sent'}",
        fix="" if mounted else "steps work; file-order is only varied by root with a local engine",
    )
    enough = engine.cpus > 1 and engine.memory_bytes >= _LEAST_MEMORY
    yield Finding(
        id="engine-resources",
        status="passed" if enough else "warning",
        found=f"{engine.cpus} processors, {engine.memory_bytes / _GIB:.1f} GiB of memory",
        fix="" if enough else "2 processors and 2 GiB: with fewer, cpus is not varied and steps may not fit",
    )
    yield _engine_limits(engine.info)
    if engine.is_local:
        yield from _space("space-engine", Path(str(engine.info.get("DockerRootDir") or "/")))


def _engine_limits(info: dict[str, object]) -> Finding:
    words = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "pids", "CPUSet": "cpuset"}
    missing = [word for name, word in words.items() if not info.get(name)]
    status: Status = "failed" if set(missing) - {"swap"} else "warning" if missing else "passed"
    return Finding(
        id="engine-limits",
        status=status,
        found=f"cannot limit {', '.join(missing)}"
        if missing
        else "memory, swap, pids, cpuset can be limited",
        fix="start the kernel with cgroup_enable=memory swapaccount=1" if missing else "",
    )


def _space(name: str, place: Path) -> Iterator[Finding]:
    there = place.absolute()
    try:
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding(id=name, status="warning", found=f"{there}: {error.strerror}")
        return
    status: Status = "failed" if free < _LEAST_SPACE else "warning" if free < _GOOD_SPACE else "passed"
    yield Finding(
        id=name,
        status=status,
        found=f"{free / _GIB:.1f} GiB free at {place}",
        fix="" if status == "passed" else "free space, or put it elsewhere (--store, RVP_STORE, --data-root)",
    )


def _clock(now: float) -> Iterator[Finding]:
    """Compare the clock with the newest dates on the machine: a clock behind them is wrong."""
    newest = 0.0
    for name in _CLOCK_FILES:
        try:
            newest = max(newest, Path(name).stat().st_mtime)
        except OSError:
            continue
    behind_s = newest - now
    good = behind_s < 60
    yield Finding(
        id="clock",
        status="passed" if good else "failed",
        found="not behind the newest file" if good else f"{behind_s:.0f} s behind the newest file",
        fix="" if good else "set the clock (timedatectl set-ntp true): signatures and collateral have dates",
    )


def _tools() -> Iterator[Finding]:
    for name, (use, package) in _TOOLS.items():
        path = shutil.which(name)
        if path is None:
            yield Finding(
                id=f"tool-{name}",
                status="warning",
                found=f"not there; for {use}",
                fix=f"apt-get install {package}",
            )
        else:
            yield Finding(id=f"tool-{name}", status="passed", found=_version(path) or path)


def _version(path: str) -> str:
    if path.endswith("ssh-keygen"):  # it has no option for that
        return ""
    try:
        done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()


def _keyring() -> Iterator[Finding]:
    found = next((path for path in _KEYRINGS if Path(path).exists()), None)
    yield Finding(
        id="keyring",
        status="passed" if found else "warning",
        found=found or "the Debian archive keyring is not there; for bases of Debian packages",
        fix="" if found else "apt-get install debian-archive-keyring, or name a `keyring` in the spec",
    )


def _cgroups() -> Iterator[Finding]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        yield Finding(id="cgroups", status="passed", found="version 2")
    elif (root / "memory").is_dir() and (root / "pids").is_dir():
        yield Finding(id="cgroups", status="passed", found="version 1")
    else:
        yield Finding(
            id="cgroups",
            status="warning",
            found=f"no controllers below {root}; an engine on this machine could not start",
            fix="mount them: apt-get install cgroupfs-mount && cgroupfs-mount",
        )
