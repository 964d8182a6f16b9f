"""Resolving by apt itself, in a private root that shares nothing with the machine's.

apt sees exactly the signed indexes that rvp has checked, from a folder, with an empty dpkg status and no
configuration of the machine: so its answer depends on the indexes and the wanted packages alone (and on
apt's version; the resolver of `resolve.py` gives the same answer without it).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from pipeline.debian.release import Release
from provenance.errors import EnvironmentFailure, SpecError

_INSTALL: Final = re.compile(r"Inst (?P<name>[^\s:]+)\S* \((?P<version>\S+) .*\[(?P<architecture>\w+)\]\)")
_CONFIG: Final = """\
Dir "{root}";
Dir::State::status "{root}/status";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "0";
APT::Install-Suggests "0";
APT::Sandbox::User "";
APT::Get::Assume-Yes "1";
APT::Solver "internal";
APT::Cmd::Disable-Script-Warning "1";
Acquire::Languages "none";
Acquire::Check-Valid-Until "0";
Acquire::Check-Date "0";
Acquire::AllowInsecureRepositories "1";
Debug::NoLocking "1";
"""


class AptFailed(EnvironmentFailure):
    """apt could not read the indexes in its private root.

    Cure: run again with RVP_DEBIAN_APT=0 and RVP_DEBIAN_MIRROR set, which resolves without apt.
    """

    code = "RVP-1420"


class NotResolvable(SpecError):
    """The wanted packages cannot be installed together from exactly these suites.

    Cure: correct the names; add the suite or the component that has them.
    """

    code = "RVP-1421"


class SuiteFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The checked files of one suite.

    Attributes:
        archive: its name in the spec; empty for Debian itself.
        suite: as the spec writes it.
        release: whose signature was checked.
        components: which are used.
        indexes: path in the Release to the bytes as fetched.
    """

    archive: str
    suite: str
    release: Release
    components: tuple[str, ...]
    indexes: dict[str, bytes]


def resolve_with_apt(
    suites: Sequence[SuiteFiles], wanted: Sequence[str], *, architecture: str
) -> tuple[tuple[str, str, str], ...]:
    """Ask apt what it would install on an empty system.

    Args:
        suites: what it may choose from.
        wanted: names, essential packages included.
        architecture: Debian's name of it.

    Returns:
        Name, version and architecture of each package, sorted.

    Raises:
        AptFailed: RVP-1420. NotResolvable: RVP-1421.
    """
    with tempfile.TemporaryDirectory(prefix="rvp-apt-") as folder:
        root = Path(folder)
        _lay_out(root, suites, architecture)
        environment = {"APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C", "PATH": os.environ["PATH"]}
        updated = _apt(["update", "-qq"], environment)
        if updated.returncode != 0:
            raise AptFailed(f"apt could not read the indexes: {_last_line(updated.stderr)}")
        simulated = _apt(["install", "-s", "-qq", *wanted], environment)
        if simulated.returncode != 0:
            raise NotResolvable(
                f"apt finds no way to install {' '.join(wanted)}:\n{_complaint(simulated)}",
                hint="correct the names, or add the suite or component that has them",
            )
        found = [match.groups() for match in map(_INSTALL.match, simulated.stdout.splitlines()) if match]
    return tuple(sorted({(name, version, arch) for name, version, arch in found}))


def _lay_out(root: Path, suites: Sequence[SuiteFiles], architecture: str) -> None:
    for path in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (root / path).mkdir(parents=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(_CONFIG.format(root=root, architecture=architecture))
    lines = []
    for number, suite in enumerate(suites):
        archive = root / "archive" / str(number)
        flat = suite.suite.endswith("/")
        folder = archive / suite.suite if flat else archive / "dists" / suite.suite
        folder.mkdir(parents=True)
        (folder / "Release").write_bytes(suite.release.text)
        for path, data in suite.indexes.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        components = "" if flat else " ".join(suite.components)
        lines.append(f"deb [trusted=yes by-hash=no] file:{archive} {suite.suite} {components}\n")
    (root / "etc/apt/sources.list").write_text("".join(lines))


def _apt(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *arguments], capture_output=True, text=True, check=False, env=environment
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if "unmet dependencies" in line), 0)
    return "\n".join(lines[start:][:20])
