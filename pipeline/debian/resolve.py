"""Choosing packages from checked indexes without apt, with apt's preferences.

Of each name there is one candidate (`Universe`); what is left to decide are alternatives. They are decided
after everything that is without alternative: one that is chosen already, else the first that can be had.
resolvelib does the searching and the going back. No Recommends, no Suggests.

Source: Debian policy, chapter 7; apt's pkgDepCache::MarkInstall for the preferences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import resolvelib

from pipeline.debian.apt import NotResolvable
from pipeline.debian.indexes import Package
from pipeline.debian.relations import Group, Relation, Universe, compare, parse_relations

_MAX_ROUNDS: Final = 1 << 20
_MAX_CAUSES: Final = 10


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


def resolve(
    packages: Iterable[Package],
    wanted: Sequence[str],
    *,
    architecture: str,
    pins: Mapping[tuple[str, str], int] | None = None,
) -> tuple[Package, ...]:
    """Choose packages that satisfy each other.

    Args:
        packages: all that there are, of all suites.
        wanted: names; a name of a virtual package takes the best provider.
        architecture: Debian's name of it.
        pins: (archive, suite) to priority, where it is not the normal one.

    Returns:
        The chosen packages, sorted by name.

    Raises:
        NotResolvable: RVP-1421, with what could not be had and who needs it.
    """
    universe = Universe(packages, architecture, pins or {})
    reporter: resolvelib.BaseReporter[_Requirement, _Candidate, str | Group] = resolvelib.BaseReporter()
    resolver = resolvelib.Resolver(_Provider(universe), reporter)
    needs = [_Need(group, "the spec") for name in wanted for group in parse_relations(name)]
    try:
        state = resolver.resolve([need for one in needs for need in _simplified(one, universe)], _MAX_ROUNDS)
    except resolvelib.ResolutionImpossible as error:
        causes = [_reason(cause.requirement, universe) for cause in error.causes]
        raise NotResolvable(
            "these packages cannot be installed together:\n"
            + "\n".join(f"  {line}" for line in list(dict.fromkeys(causes))[:_MAX_CAUSES]),
            hint="correct the names, or add the suite or component that has them",
        ) from error
    except resolvelib.ResolutionError as error:
        raise NotResolvable(f"no solution was found for {' '.join(wanted)}") from error
    chosen = [one for one in state.mapping.values() if isinstance(one, Package)]
    return tuple(sorted(chosen, key=lambda one: (one.name, one.architecture)))


class _Need(msgspec.Struct, frozen=True):
    """One of these must be there."""

    group: Group
    parent: str


class _Take(msgspec.Struct, frozen=True):
    """This package must be there."""

    name: str
    relation: Relation
    parent: str


class _Refuse(msgspec.Struct, frozen=True):
    """This package must not be there."""

    name: str
    relation: Relation
    parent: str


class _Absent(msgspec.Struct, frozen=True):
    """The decision that a package is not there."""

    name: str


class _Choice(msgspec.Struct, frozen=True):
    """The decision for one of several answers to a group."""

    group: Group
    name: str
    relation: Relation
    parent: str


_Requirement = _Need | _Take | _Refuse
_Candidate = Package | _Absent | _Choice


def _simplified(need: _Need, universe: Universe) -> Iterator[_Requirement]:
    """Turn a group that has one possible answer into that answer."""
    answers = {package.name: relation for relation, package in _answers(need.group, universe)}
    if len(answers) == 1:
        name, relation = answers.popitem()
        yield _Take(name, relation, need.parent)
    else:
        yield need


def _answers(group: Group, universe: Universe) -> Iterator[tuple[Relation, Package]]:
    for relation in group:
        for package in universe.answers(relation):
            yield relation, package


class _Matches(Sequence[_Candidate]):
    """Candidates in the order that is best when they are looked at, not when they were asked for."""

    def __init__(self, matches: Callable[[], Iterator[_Candidate]]) -> None:
        self._matches = matches

    def __iter__(self) -> Iterator[_Candidate]:
        return self._matches()

    def __len__(self) -> int:
        return sum(1 for _ in self._matches())

    def __getitem__(self, index: Any) -> Any:
        return list(self._matches())[index]


class _Provider(resolvelib.AbstractProvider[_Requirement, _Candidate, str | Group]):
    """What resolvelib asks."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._chosen: Mapping[Any, Any] = {}
        self._since: dict[str, Package] = {}  # chosen after resolvelib last told what is chosen
        self._order: dict[Any, int] = {}

    def identify(self, requirement_or_candidate: _Requirement | _Candidate) -> str | Group:
        match requirement_or_candidate:
            case _Need() | _Choice():
                return requirement_or_candidate.group
            case _:
                return requirement_or_candidate.name

    def get_preference(
        self,
        identifier: str | Group,
        resolutions: Mapping[Any, Any],
        candidates: Mapping[Any, Any],
        information: Mapping[Any, Any],
        backtrack_causes: Sequence[Any],
    ) -> tuple[bool, int]:
        del candidates, information, backtrack_causes
        if resolutions is not self._chosen:
            self._chosen, self._since = resolutions, {}
        return isinstance(identifier, tuple), self._order.setdefault(identifier, len(self._order))

    def find_matches(
        self,
        identifier: str | Group,
        requirements: Mapping[Any, Iterator[_Requirement]],
        incompatibilities: Mapping[Any, Iterator[_Candidate]],
    ) -> Sequence[_Candidate]:
        wishes = list(requirements[identifier])
        banned = list(incompatibilities[identifier])

        def matches() -> Iterator[_Candidate]:
            found = self._of_name(identifier) if isinstance(identifier, str) else self._of_group(wishes[0])
            for candidate in found:
                if candidate not in banned and all(self.is_satisfied_by(one, candidate) for one in wishes):
                    yield candidate

        return _Matches(matches)

    def _of_name(self, name: str) -> Iterator[_Candidate]:
        yield _Absent(name)
        if package := self._universe.candidate(name):
            yield package

    def _of_group(self, need: _Requirement) -> Iterator[_Candidate]:
        if not isinstance(need, _Need):
            return
        choices: dict[str, _Choice] = {}
        for relation, package in _answers(need.group, self._universe):
            choices.setdefault(package.name, _Choice(need.group, package.name, relation, need.parent))
        ordered = list(choices.values())
        there = [
            one
            for one in ordered
            if one.name in self._since or isinstance(self._chosen.get(one.name), Package)
        ]
        yield from dict.fromkeys([*there, *ordered])

    def is_satisfied_by(self, requirement: _Requirement, candidate: _Candidate) -> bool:
        match requirement:
            case _Take():
                return isinstance(candidate, Package)
            case _Refuse():
                return isinstance(candidate, _Absent)
            case _:
                return isinstance(candidate, _Choice)

    def get_dependencies(self, candidate: _Candidate) -> Iterator[_Requirement]:
        match candidate:
            case _Choice():
                yield _Take(candidate.name, candidate.relation, candidate.parent)
            case Package():
                self._since[candidate.name] = candidate
                for field in (candidate.pre_depends, candidate.depends):
                    for group in parse_relations(field):
                        yield from _simplified(_Need(group, candidate.name), self._universe)
                for field in (candidate.conflicts, candidate.breaks):
                    for relation, *_ in parse_relations(field):
                        for other in self._universe.answers(relation):
                            if other.name != candidate.name:
                                yield _Refuse(other.name, relation, candidate.name)


def _reason(requirement: _Requirement, universe: Universe) -> str:
    match requirement:
        case _Take():
            return f"{requirement.parent} needs {requirement.relation}"
        case _Refuse():
            return f"{requirement.parent} cannot be there together with {requirement.relation}"
    what = " | ".join(str(one) for one in requirement.group)
    known = [universe.candidate(one.name) for one in requirement.group]
    there = ", ".join(f"{one.name} {one.version}" for one in known if one)
    return f"{requirement.parent} needs {what}, " + (
        f"and there is only {there}" if there else "which no suite has"
    )
