"""A Docker engine of one's own, for a machine that has none: started and stopped by hand, no system service.

It has its own data folder and its own short folder below /run, no bridge, and it sets no firewall rules.
Where Docker is installed, its program is used; otherwise Debian's packages are fetched with apt, which checks
them against its signed index, and unpacked into the cache, never installed.

Units: times are seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.client_identity import start_time
from provenance.errors import EnvironmentFailure

PACKAGES: Final = ("docker.io", "containerd", "runc")
_MAX_SOCKET_PATH: Final = 107  # unix(7): sun_path has 108 bytes, one of them NUL
_NEEDED: Final = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc")
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLL_S: Final = 0.1


class EngineNeedsRoot(EnvironmentFailure):
    """A private engine can only be started and stopped by root.

    Cure: run the command as root (`sudo rvp engine start`), or have an administrator install Docker and add
    this user to its group.
    """

    code = "RVP-2020"


class EngineDownloadFailed(EnvironmentFailure):
    """Debian's engine packages could not be fetched or unpacked.

    Cure: `apt-get update`, and check that apt reaches its mirror; or install Docker.
    """

    code = "RVP-2021"


class EngineStartFailed(EnvironmentFailure):
    """The private engine did not come up.

    Cure: its log, whose path the message names, says why; `rvp doctor` checks cgroups and space.
    """

    code = "RVP-2022"


class SocketPathTooLong(EnvironmentFailure):
    """The path of a unix socket would be longer than the 107 bytes that Linux allows.

    Cure: use a shorter folder.
    """

    code = "RVP-2023"


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the private engine."""

    schema: Literal["rvp/private-engine/v1"] = "rvp/private-engine/v1"
    running: bool
    url: str
    data: str
    log: str
    pid: int = 0
    program: str = ""


class _Places:
    """Where a private engine has its things; all follow from one folder."""

    def __init__(self, folder: Path | None) -> None:
        chosen = folder or os.environ.get("RVP_ENGINE_FOLDER")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = Path(chosen).absolute() if chosen else cache / "rvp" / "engine"
        short = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        self.run = Path(f"/run/rvp-{short}")
        self.socket = self.run / "d.sock"
        self.exec_root = self.run / "exec"
        self.pid_file = self.run / "pid"
        self.data = self.folder / "data"
        self.programs = self.folder / "programs"
        self.log = self.folder / "engine.log"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


def status(folder: Path | None = None) -> EngineStatus:
    """Tell whether the private engine of a folder runs."""
    places = _Places(folder)
    pid = _pid(places)
    program = ""
    with contextlib.suppress(OSError):
        program = str(Path(f"/proc/{pid}/exe").readlink()) if pid else ""
    return EngineStatus(
        running=bool(pid) and _answers(places.socket),
        url=places.url,
        data=str(places.data),
        log=str(places.log),
        pid=pid,
        program=program,
    )


def running_url(folder: Path | None = None) -> str | None:
    """Return the address of the private engine, when it answers."""
    places = _Places(folder)
    return places.url if _answers(places.socket) else None


def start(folder: Path | None = None, *, download: bool = False, timeout_s: float = 60.0) -> EngineStatus:
    """Start the private engine, unless it runs.

    Args:
        folder: where its data, log and fetched programs are; default: RVP_ENGINE_FOLDER, or the user's cache.
        download: fetch Debian's packages even where Docker is installed.
        timeout_s: how long to wait until it answers.

    Raises:
        EngineNeedsRoot: RVP-2020. EngineDownloadFailed: RVP-2021. EngineStartFailed: RVP-2022.
        SocketPathTooLong: RVP-2023.
    """
    places = _Places(folder)
    if running_url(folder) is not None:
        return status(folder)
    _need_root("start")
    longest = places.exec_root / "containerd" / "containerd-debug.sock"
    if len(os.fsencode(longest)) > _MAX_SOCKET_PATH:
        raise SocketPathTooLong(f"{longest} has more than {_MAX_SOCKET_PATH} bytes")
    environment = _programs(places, download=download or os.environ.get("RVP_ENGINE_DOWNLOAD") == "1")
    _clean(places)
    for one in (places.run, places.exec_root, places.data):
        one.mkdir(parents=True, exist_ok=True, mode=0o711)
    command = (
        str(shutil.which("dockerd", path=environment["PATH"])),
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        f"--data-root={places.data}",
        f"--exec-root={places.exec_root}",
        f"--pidfile={places.pid_file}",
        f"--host={places.url}",
    )
    with places.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            cwd="/",
        )
    began = time.monotonic()
    while not _answers(places.socket):
        if process.poll() is not None or time.monotonic() - began > timeout_s:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise EngineStartFailed(
                f"the engine did not come up:\n{_tail(places.log)}",
                hint=f"full log: {places.log}; rvp doctor checks what it needs",
                place=str(places.folder),
            )
        time.sleep(_POLL_S)
    return status(folder)


def stop(folder: Path | None = None, *, timeout_s: float = 30.0) -> bool:
    """Stop the private engine and unmount what it left; its data stays.

    Returns:
        Whether it had been running.

    Raises:
        EngineNeedsRoot: RVP-2020.
    """
    places = _Places(folder)
    pid = _pid(places)
    if not pid:
        if os.geteuid() == 0:
            _clean(places)
        return False
    _need_root("stop")
    _end(pid, timeout_s)
    _clean(places)
    return True


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise EngineNeedsRoot(
            f"only root can {what} a private engine",
            hint=f"sudo rvp engine {what}; or install Docker and add this user to the group docker",
        )


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(path))
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in probe.recv(64)
    except OSError:
        return False


def _pid(places: _Places) -> int:
    """Return the pid of the engine of this folder; 0 when it does not run."""
    try:
        pid = int(places.pid_file.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if f"--data-root={places.data}".encode() in command else 0


def _end(pid: int, timeout_s: float) -> None:
    if pid <= 1:  # kill(2): 0 and -1 are groups and everybody, 1 is init
        return
    began, born = time.monotonic(), start_time(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while start_time(pid) == born:
            if time.monotonic() - began > timeout_s:
                os.kill(pid, signal.SIGKILL)
                timeout_s += timeout_s
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(_POLL_S)


def _clean(places: _Places) -> None:
    """Stop what an engine that is gone left running, unmount below its folders, remove its run folder."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((places.exec_root / "containerd" / "containerd.pid").read_text(encoding="ascii"))
        if str(places.exec_root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            _end(pid, 10.0)
    for shim in _processes_of(places):
        for child in _children(shim):
            _end(child, 0.0)
        _end(shim, 5.0)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    for line in reversed(mounts):
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(places.run) or point.is_relative_to(places.data):
            subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)
    shutil.rmtree(places.run, ignore_errors=True)


def _processes_of(places: _Places) -> list[int]:
    """Find what an engine of this folder started: its command line names the folder below /run."""
    mark, found = os.fsencode(f"{places.exec_root}/"), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if not (entry / "root").samefile("/"):
                continue  # another system on this kernel (a chroot, a container), with an engine of its own
            if mark in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(child) for child in text.split()]
    return []


def _programs(places: _Places, *, download: bool) -> dict[str, str]:
    """Return the environment to run the engine with: PATH, and the libraries of fetched programs."""
    plain = {"PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}", "HOME": "/root"}
    if not download and all(shutil.which(name, path=plain["PATH"]) for name in _NEEDED):
        return plain
    root = places.programs / "root"
    if not root.is_dir():
        _fetch(places.programs, root)
    folders = [f"{root}/usr/sbin", f"{root}/usr/bin", f"{root}/sbin", f"{root}/bin"]
    libraries = sorted({str(path.parent) for path in root.rglob("*.so.*") if path.is_file()})
    return {
        "PATH": ":".join([*folders, _SYSTEM_PATH]),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "HOME": "/root",
    }


def _fetch(folder: Path, root: Path) -> None:
    """Download and unpack the packages; the folder appears whole or not at all."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise EngineDownloadFailed(
                f"{tool} is not on this machine", hint="install Docker, then run the command again"
            )
    debs, unpacked = folder / "debs", folder / "root.tmp"
    for one in (debs, unpacked):
        shutil.rmtree(one, ignore_errors=True)
        one.mkdir(parents=True)
    names = [*PACKAGES, *_libraries()]
    _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names], cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(deb), str(unpacked)], cwd=debs)
    shutil.rmtree(debs)
    unpacked.rename(root)


def _libraries() -> list[str]:
    """Name the libraries that the packages depend on, directly or through others; not the C library."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    quiet = [f"--no-{kind}" for kind in kinds]
    found = _run(["apt-cache", "depends", "--recurse", *quiet, *PACKAGES], cwd=Path("/"))
    needs: dict[str, list[str]] = {}
    package = ""
    for line in found.splitlines():
        name = line.rpartition(" ")[2]
        if not line.startswith(" "):
            package = name
        elif re.match(r"  (Pre)?Depends: lib[a-z0-9.+-]+$", line):  # "|Depends" offers an alternative
            needs.setdefault(package, []).append(name)
    reached: set[str] = set()
    ahead = list(PACKAGES)
    while ahead:
        new = set(needs.get(ahead.pop(), ())) - reached - {"libc6"}
        reached |= new
        ahead += new
    return sorted(reached)


def _run(command: list[str], *, cwd: Path) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=cwd, env=_plain_environment()
    )
    if done.returncode != 0:
        last = "\n".join(f"  | {line}" for line in done.stderr.splitlines()[-5:])
        raise EngineDownloadFailed(
            f"{' '.join(command[:2])} ended with {done.returncode}:\n{last}",
            hint="apt-get update, and check that apt reaches its mirror",
        )
    return done.stdout


def _plain_environment() -> Mapping[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return "\n".join(f"  | {line}" for line in lines)
