"""n of m: a pure function from verified votes to what they agree on.

    - An operator has one vote per recipe; one key under two names is one operator, two keys of one name too.
    - Votes agree when their cores are equal byte for byte.
    - Who says two different things about one recipe equivocates and is not counted for it.
    - Dissent is reported and is never a veto.
    - Two cores that both reach n are a conflict: nothing is agreed.

Example:
    >>> votes = [Vote(operator=name, key=name.encode(), recipe="r", core=b"x") for name in ("a", "b")]
    >>> count(votes, n=2).agreed
    b'x'
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one verified statement says.

    Attributes:
        operator: the name that the policy gives its signer.
        key: what proved it: the key's fingerprint, or issuer and identity.
        recipe: what was built, as a digest.
        core: the canonical bytes that must be equal; they contain the recipe.
    """

    operator: str
    key: bytes
    recipe: str
    core: bytes


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The operators that said one core, sorted by name."""

    core: bytes
    operators: tuple[str, ...]


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What the votes came to.

    Attributes:
        n: how many distinct operators had to agree.
        groups: the cores, those with most operators first.
        equivocating: operators that said two things about one recipe.
    """

    n: int
    groups: tuple[Group, ...]
    equivocating: tuple[str, ...]

    @property
    def reached(self) -> tuple[Group, ...]:
        """The groups with n operators or more."""
        return tuple(group for group in self.groups if len(group.operators) >= self.n)

    @property
    def conflict(self) -> bool:
        """Two cores reached n."""
        return len(self.reached) > 1

    @property
    def agreed(self) -> bytes | None:
        """The core that counts: the only one that reached n."""
        return self.reached[0].core if len(self.reached) == 1 else None

    @property
    def dissent(self) -> tuple[Group, ...]:
        """The groups that said something else than what was agreed."""
        return tuple(group for group in self.groups if group.core != self.agreed)


def count(votes: Iterable[Vote], *, n: int) -> Tally:
    """Count votes.

    Args:
        votes: of verified statements; their order does not matter.
        n: how many distinct operators must agree, at least 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}: nothing would have to agree")
    listed = sorted(set(votes), key=lambda vote: (vote.operator, vote.key, vote.recipe, vote.core))
    person = _persons(listed)
    said: dict[tuple[str, str], set[bytes]] = {}
    for vote in listed:
        said.setdefault((person[vote.operator], vote.recipe), set()).add(vote.core)
    groups: dict[bytes, set[str]] = {}
    equivocating = set()
    for (operator, _), cores in said.items():
        if len(cores) > 1:
            equivocating.add(operator)
            continue
        groups.setdefault(next(iter(cores)), set()).add(operator)
    return Tally(
        n=n,
        groups=tuple(
            Group(core=core, operators=tuple(sorted(operators)))
            for core, operators in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        ),
        equivocating=tuple(sorted(equivocating)),
    )


def _persons(votes: list[Vote]) -> dict[str, str]:
    """Map each name to the first name that it shares a key with, however long the chain."""
    parent = {vote.operator: vote.operator for vote in votes}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    owner: dict[bytes, str] = {}
    for vote in votes:
        first, second = sorted((root(owner.setdefault(vote.key, vote.operator)), root(vote.operator)))
        parent[second] = first
    return {name: root(name) for name in parent}
