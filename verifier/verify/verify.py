"""`verify`: bundle, policy, artifacts and a time in, a verdict out. No file, no clock, no network.

- Every check runs, in the order of the table; one that has nothing to look at is skipped and says why.
- Failed: a check failed. The exit code is that of the first one.
- Inconclusive: none failed, but a mandatory check was skipped.
- Passed: every mandatory check ran, and none failed. A warning does not change a verdict.
"""

from __future__ import annotations

import msgspec

from provenance.bundle import Bundle
from provenance.claims import Check, Tool
from provenance.policy import TrustPolicy
from provenance.predicates.shapes import format_moment
from provenance.version import version
from verifier.verify.case import Case, open_case
from verifier.verify.checks import CHECKS, Rule
from verifier.verify.checks.logs import count
from verifier.verify.result import (
    INCONCLUSIVE_EXIT,
    Agreed,
    Artifact,
    FurtherView,
    OperatorView,
    Outcome,
    PolicyView,
    Verdict,
)


def verify(
    bundle: Bundle | None,
    trust: TrustPolicy | None,
    artifacts: tuple[Artifact, ...] = (),
    *,
    at: int,
    unreadable: str = "",
) -> Verdict:
    """Judge a bundle.

    Args:
        bundle: None when it could not be read.
        trust: the policy with its keys; None without one, and then nothing passes.
        artifacts: files that the user asks about.
        at: the time to verify as of, Unix seconds.
        unreadable: why the bundle could not be read.

    Returns:
        The verdict, with every check.
    """
    case = open_case(bundle, trust, artifacts, at, unreadable=unreadable)
    checks = tuple(_run(rule, case) for rule in CHECKS)
    verdict, exit_code = conclude(checks)
    return Verdict(
        tool=Tool(name="rvp", version=version()),
        verdict=verdict,
        exit_code=exit_code,
        at=format_moment(at),
        bundle=bundle.digest.hex() if bundle else "",
        policy=view_policy(trust) if trust else None,
        checks=checks,
        not_checked=tuple(_not_checked(case, checks)),
        operators=_operators(case),
        agreed=_agreed(case),
    )


def conclude(checks: tuple[Check, ...]) -> tuple[Outcome, int]:
    """Conclude from checks: the verdict and the exit code. No check at all is inconclusive."""
    rules = {rule.id: rule for rule in CHECKS}
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        return "failed", rules[failed[0].id].failure.exit_code
    ran = {check.id for check in checks if check.status in {"passed", "warning"}}
    if not checks or any(rule.mandatory and rule.id not in ran for rule in CHECKS):
        return "inconclusive", INCONCLUSIVE_EXIT
    return "passed", 0


def _run(rule: Rule, case: Case) -> Check:
    check = rule.run(case)
    return msgspec.structs.replace(check, code=rule.failure.code) if check.status == "failed" else check


def view_policy(trust: TrustPolicy) -> PolicyView:
    """Show a policy."""
    policy = trust.policy
    return PolicyView(
        sha256=trust.digest.hex(),
        product=policy.product.name,
        series=policy.product.series,
        repository=policy.source.repository,
        refs=policy.source.refs,
        source_signers=len(trust.source_signers),
        also=tuple(
            FurtherView(repository=rule.repository, refs=rule.refs, source_signers=len(signers))
            for rule, signers in trust.source_rules[1:]
        ),
        operators=tuple(operator.name for operator in policy.operator),
        operator_keys={name: key.fingerprint.hex() for name, key in trust.operator_keys.items()},
        n=policy.quorum.n,
        minority_quorum=policy.quorum.minority_quorum,
        level=policy.quorum.level,
        release_signers=len(policy.release.signed_by) if policy.release else 0,
        release_keys={
            name: key.fingerprint.hex()
            for name, key in zip(
                policy.release.signed_by if policy.release else (), trust.release_keys, strict=False
            )
        },
        release_threshold=policy.release.threshold if policy.release else 0,
        minimum_release=policy.product.minimum_release,
        max_age=policy.product.max_age,
    )


def _operators(case: Case) -> tuple[OperatorView, ...]:
    if case.trust is None:
        return ()
    views = []
    for operator in case.trust.policy.operator:
        said = [one for one in case.said.values if one.operator == operator.name]
        key = case.trust.operator_keys.get(operator.name)
        views.append(
            OperatorView(
                name=operator.name,
                key=key.fingerprint.hex() if key else "",
                cores=tuple(sorted({one.core_digest for one in said})),
                builder=", ".join(sorted({one.predicate.builder.id for one in said})),
                level=", ".join(sorted({one.predicate.level for one in said})),
            )
        )
    return tuple(views)


def _agreed(case: Case) -> Agreed | None:
    if case.core is None:
        return None
    core, release = case.core, case.release
    return Agreed(
        core=case.agreed[0].core_digest,
        product=core.product,
        recipe=core.recipe_digest.sha256 if core.recipe_digest else "",
        operators=tuple(sorted({one.operator for one in case.agreed})),
        sources=core.sources,
        sets=core.sets,
        series=release.series if release else "",
        sequence=release.sequence if release else None,
        version=release.version if release else "",
        not_before=release.validity.not_before if release else "",
        not_after=release.validity.not_after if release else "",
    )


def _not_checked(case: Case, checks: tuple[Check, ...]) -> list[str]:
    told = [f"{check.id}: {check.got}" for check in checks if check.status == "skipped"]
    if case.bundle is None or case.trust is None:
        return told
    policy = case.trust.policy
    if policy.root is not None:
        told.append("root: the state of a repository is not read from a bundle")
    if policy.evidence:
        told.append("evidence: evidence is not judged here; [evidence] was not applied")
    if case.bundle.logs:
        were = "was" if len(case.bundle.logs) == 1 else "were"
        told.append(
            f"folding: {count(len(case.bundle.logs), 'measurement log')} {were} not folded over the artifacts"
        )
    if case.bundle.others:
        told.append(f"{count(len(case.bundle.others), 'artifact')} of unknown types in the bundle")
    told += [f"predicate of unknown type {kind}" for kind in case.said.unknown]
    if case.said.keyless:
        told.append(
            f"keyless: {count(case.said.keyless, 'statement')} signed with a certificate: not verified"
        )
    told.append("independence: whether the operators are independent of each other, nobody can see from here")
    return told
