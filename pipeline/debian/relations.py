"""Relations between packages: what a field says, and which packages answer it.

Source: Debian policy, chapter 7 (relationships) and section 7.5 (virtual packages, versioned Provides).

Example:
    >>> [[str(one) for one in group] for group in parse_relations("libc6 (>= 2.36), awk | mawk:any")]
    [['libc6 (>= 2.36)'], ['awk', 'mawk:any']]
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from pipeline.debian.indexes import Package

_ONE: Final = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9+.-]*)(?::(?P<qualifier>[a-z0-9-]+))?"
    r"\s*(?:\(\s*(?P<operator><<|<=|>=|>>|=|<|>)\s*(?P<version>[^\s)]+)\s*\))?"
)
_PRIORITIES: Final = ("required", "important", "standard", "optional", "extra")
PIN_NORMAL: Final = 500  # apt_preferences(5)


class Relation(msgspec.Struct, frozen=True):
    """One alternative of one relation."""

    name: str
    qualifier: str = ""
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        qualifier = f":{self.qualifier}" if self.qualifier else ""
        return f"{self.name}{qualifier}" + (f" ({self.operator} {self.version})" if self.operator else "")

    def allows(self, version: str) -> bool:
        """Tell whether a version fits."""
        if not self.operator:
            return True
        order = compare(version, self.version)
        match self.operator:
            case "<<":
                return order < 0
            case "<=" | "<":
                return order <= 0
            case "=":
                return order == 0
            case ">=" | ">":
                return order >= 0
            case _:
                return order > 0


Group = tuple[Relation, ...]


@functools.lru_cache(maxsize=1 << 16)
def version_key(version: str) -> Any:
    """Order versions as dpkg does."""
    from debian.debian_support import NativeVersion

    return NativeVersion(version)


def compare(one: str, other: str) -> int:
    """Compare two versions: negative, zero or positive."""
    left, right = version_key(one), version_key(other)
    return int(left > right) - int(left < right)


@functools.lru_cache(maxsize=1 << 16)
def parse_relations(field: str) -> tuple[Group, ...]:
    """Parse a field: groups that all must hold, each of alternatives of which one must."""
    groups = []
    for text in field.replace("\n", " ").split(","):
        found = [_ONE.match(part) for part in text.split("|")]
        group = tuple(
            Relation(one["name"], one["qualifier"] or "", one["operator"] or "", one["version"] or "")
            for one in found
            if one
        )
        if group:
            groups.append(group)
    return tuple(groups)


class Universe:
    """The packages that can be chosen: of each name one candidate, as apt has it.

    The candidate has the highest pin of its suite, then the highest version, then the suite that comes first.
    """

    def __init__(
        self, packages: Iterable[Package], architecture: str, pins: Mapping[tuple[str, str], int]
    ) -> None:
        self._architecture = architecture
        self._candidates: dict[str, Package] = {}
        self._providers: dict[str, list[tuple[Package, str]]] = {}
        for package in packages:
            if package.architecture not in {architecture, "all"}:
                continue
            known = self._candidates.get(package.name)
            if known is None or self._better(package, known, pins):
                self._candidates[package.name] = package
        for package in self._candidates.values():
            if package.provides:
                for relation, *_ in parse_relations(package.provides):
                    self._providers.setdefault(relation.name, []).append((package, relation.version))

    @staticmethod
    def _better(one: Package, other: Package, pins: Mapping[tuple[str, str], int]) -> bool:
        first = pins.get((one.archive, one.suite), PIN_NORMAL)
        second = pins.get((other.archive, other.suite), PIN_NORMAL)
        return first > second or (first == second and compare(one.version, other.version) > 0)

    def candidate(self, name: str) -> Package | None:
        """Find the candidate of a name."""
        return self._candidates.get(name)

    def essential(self) -> list[str]:
        """Name the essential packages, sorted."""
        return sorted(name for name, package in self._candidates.items() if package.essential)

    def answers(self, relation: Relation) -> list[Package]:
        """Find the packages that satisfy a relation: the one of that name, then providers, best first."""
        if relation.qualifier not in {"", "any", self._architecture}:
            return []
        found = []
        real = self._candidates.get(relation.name)
        if real and relation.allows(real.version):
            found.append(real)
        provided = [
            package
            for package, version in self._providers.get(relation.name, ())
            if package is not real and (not relation.operator or (version and relation.allows(version)))
        ]
        return found + sorted(provided, key=_rank)


def _rank(package: Package) -> tuple[bool, int, str]:
    priority = package.priority
    place = _PRIORITIES.index(priority) if priority in _PRIORITIES else len(_PRIORITIES)
    return not package.essential, place, package.name
