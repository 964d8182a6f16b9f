"""Choosing packages from checked indexes, with apt's preferences and without apt.

Rules: from each name the newest version of the suites; of alternatives the first that a package of that
name satisfies; of providers the one with the highest priority, then the first by name; no Recommends.

Source: Debian policy, chapter 7 (relationships between packages).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.debian.apt import NotResolvable
from pipeline.debian.indexes import Package


@functools.cache
def version_key(version: str) -> Any:
    """Order versions as dpkg does."""
    from debian.debian_support import NativeVersion

    return NativeVersion(version)


def compare(one: str, other: str) -> int:
    """Compare two versions: negative, zero or positive."""
    left, right = version_key(one), version_key(other)
    return int(left > right) - int(left < right)


def newest(packages: Iterable[Package], name: str) -> Package | None:
    """Find the newest version of a package."""
    found: Package | None = None
    for package in packages:
        if package.name == name and (found is None or compare(package.version, found.version) > 0):
            found = package
    return found


def find(packages: Sequence[Package], chosen: Iterable[tuple[str, str, str]]) -> tuple[Package, ...]:
    """Find the index entries of names, versions and architectures; the first suite that has one counts.

    Raises:
        NotResolvable: RVP-1421.
    """
    known: dict[tuple[str, str, str], Package] = {}
    for package in packages:
        known.setdefault((package.name, package.version, package.architecture), package)
    result = []
    for name, version, architecture in sorted(chosen):
        entry = known.get((name, version, architecture)) or known.get((name, version, "all"))
        if entry is None:
            raise NotResolvable(f"{name} {version} [{architecture}] is in none of the suites")
        result.append(entry)
    return tuple(result)


def resolve(packages: Sequence[Package], wanted: Sequence[str], *, architecture: str) -> tuple[Package, ...]:
    """Choose packages that satisfy each other.

    Raises:
        NotResolvable: RVP-1421.
    """
    del packages, architecture
    raise NotResolvable(f"cannot resolve {' '.join(wanted)} without apt yet")
