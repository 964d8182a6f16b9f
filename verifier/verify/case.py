"""The case before the checks: everything a check may look at, gathered once.

Which core counts is decided here. Only cores of the expected product and source are counted, when there is
one; else all are, so that the verdict can say what was agreed on instead.
"""

from __future__ import annotations

import msgspec

from provenance.bundle import Bundle
from provenance.canonical import canonical_json
from provenance.policy import TrustPolicy
from provenance.predicates.core import Core
from provenance.predicates.release import Release
from provenance.quorum import Tally, Vote, count
from verifier.verify.result import Artifact
from verifier.verify.source import check_ref, check_repository, git_objects_of
from verifier.verify.statements import Said, Values, hear


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict is about.

    Attributes:
        bundle: None when it could not be read.
        unreadable: why not.
        trust: None without a policy.
        artifacts: files that the user asks about.
        at: the time to verify as of, Unix seconds.
        said: the verified statements.
        tally: the votes, counted.
        agreed: the values of the operators that agree, empty when n was not reached.
        looked_at: the core that source and product are checked on: the agreed one, else the most said one.
        release: the released predicate with the highest sequence that enough signers signed.
        objects: git objects among the inputs.
    """

    bundle: Bundle | None
    unreadable: str = ""
    trust: TrustPolicy | None
    artifacts: tuple[Artifact, ...]
    at: int
    said: Said = Said()
    tally: Tally = Tally(n=1, groups=(), equivocating=())
    agreed: tuple[Values, ...] = ()
    looked_at: Core | None = None
    release: Release | None = None
    objects: dict[str, bytes] = {}

    @property
    def cores(self) -> dict[bytes, Core]:
        """What the operators said, by its canonical form."""
        return {one.core: one.predicate.core for one in self.said.values}

    @property
    def core(self) -> Core | None:
        """The agreed core."""
        return self.agreed[0].predicate.core if self.agreed else None


def open_case(
    bundle: Bundle | None,
    trust: TrustPolicy | None,
    artifacts: tuple[Artifact, ...],
    at: int,
    *,
    unreadable: str = "",
) -> Case:
    """Verify the statements, count the votes, find the release."""
    if bundle is None or trust is None:
        return Case(bundle=bundle, unreadable=unreadable, trust=trust, artifacts=artifacts, at=at)
    said = hear(bundle, trust)
    cores = {one.core: one.predicate.core for one in said.values}
    expected = {core for core, parsed in cores.items() if _is_expected(parsed, trust)}
    counted = expected or set(cores)
    tally = count(
        (
            Vote(
                operator=one.operator,
                key=one.key.fingerprint,
                recipe=_recipe(one.predicate.core),
                core=one.core,
            )
            for one in said.values
        ),
        n=trust.policy.quorum.n,
    )
    tally = msgspec.structs.replace(
        tally, groups=tuple(group for group in tally.groups if group.core in counted)
    )
    agreed = tuple(one for one in said.values if one.core == tally.agreed)
    looked_at = tally.groups[0].core if tally.groups else next(iter(sorted(counted)), None)
    return Case(
        bundle=bundle,
        trust=trust,
        artifacts=artifacts,
        at=at,
        said=said,
        tally=tally,
        agreed=agreed,
        looked_at=cores[looked_at] if looked_at is not None else None,
        release=_release(said, trust, agreed),
        objects=git_objects_of(bundle),
    )


def _is_expected(core: Core, trust: TrustPolicy) -> bool:
    policy = trust.policy
    if policy.quorum.level == "measured" and not core.sources and not core.recipe_digest:
        return core.product == policy.product.name
    return (
        core.product == policy.product.name
        and check_repository(policy.source, core.sources).status == "passed"
        and check_ref(policy.source, core.sources).status == "passed"
    )


def _recipe(core: Core) -> str:
    return core.recipe_digest.sha256 if core.recipe_digest else f"measured:{core.product}"


def _release(said: Said, trust: TrustPolicy, agreed: tuple[Values, ...]) -> Release | None:
    """Find the release of the agreed core that enough distinct signers signed, the newest of them."""
    if trust.policy.release is None or not agreed:
        return None
    signers: dict[bytes, set[bytes]] = {}
    found: dict[bytes, Release] = {}
    for one in said.releases:
        if not one.releases(agreed[0].predicate.core, agreed[0].core_digest):
            continue
        form = canonical_json(one.predicate)
        found[form] = one.predicate
        signers.setdefault(form, set()).add(one.key.fingerprint)
    enough = [found[form] for form, keys in signers.items() if len(keys) >= trust.policy.release.threshold]
    wanted = trust.policy.product.series
    of_series = [one for one in enough if wanted in {"", one.series}]
    return max(of_series or enough, key=lambda one: (one.sequence, canonical_json(one)), default=None)
