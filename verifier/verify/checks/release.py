"""Who releases the values, and until when: release, sequence, validity, freshness.

A check is a pure function of the case; docs/reference/verify.md has the table.
"""

from __future__ import annotations

from provenance.claims import Check
from provenance.policy import duration_s
from provenance.predicates.shapes import format_moment
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say


def release(case: Case) -> Check:
    """Enough release signers released exactly these values."""
    if case.trust is None or not case.agreed:
        return not_reached("release")
    wanted = case.trust.policy.release
    if wanted is None:
        return say(
            "release",
            "skipped",
            "the policy names no release signers",
            hint="[release] signed_by: without it nobody vouches for sequence and validity",
        )
    product_name = case.trust.policy.product
    expected = (
        f"{wanted.threshold} of {len(wanted.signed_by)} signers release core {case.agreed[0].core_digest}"
    )
    found = case.release
    if found is None or found.product != product_name.name:
        signers = {
            one.key.fingerprint
            for one in case.said.releases
            if one.predicate.core_digest.sha256 == case.agreed[0].core_digest
        }
        return say(
            "release",
            "failed",
            f"{len(signers)} signed a release of it"
            if found is None
            else f'it is a release of "{found.product}"',
            expected=expected,
            source="policy [release]",
            hint="rvp release by the missing signers, then publish again",
        )
    return say("release", "passed", f"{found.series} {found.sequence} ({found.version})", expected=expected)


def sequence(case: Case) -> Check:
    """The release is of the expected series and not older than the policy accepts."""
    if case.trust is None or case.release is None:
        return not_reached("sequence", "no release")
    wanted = case.trust.policy.product
    got = f"{case.release.series} {case.release.sequence}"
    expected = f"{wanted.series or 'any series'} {wanted.minimum_release or 0} or later"
    good = wanted.series in {"", case.release.series} and case.release.sequence >= (
        wanted.minimum_release or 0
    )
    return say(
        "sequence",
        "passed" if good else "failed",
        got,
        expected=expected,
        source="policy [product] series, minimum_release",
        hint="" if good else "use the newest release",
    )


def validity(case: Case) -> Check:
    """The release is valid at the time that was asked about."""
    if case.trust is None or case.release is None:
        return not_reached("validity", "no release")
    span = case.release.validity
    good = span.not_before_s <= case.at <= span.not_after_s
    return say(
        "validity",
        "passed" if good else "failed",
        format_moment(case.at),
        expected=f"{span.not_before} to {span.not_after}",
        source="the release statement",
        hint="" if good else "use the newest release; check the clock or --at",
    )


def freshness(case: Case) -> Check:
    """A minimum release, or a signed moment not older than max_age, proves that this is not an old state."""
    if case.trust is None or not case.agreed:
        return not_reached("freshness")
    wanted = case.trust.policy.product
    limit_s = duration_s(wanted.max_age) if wanted.max_age else None
    if case.release is None:
        return say(
            "freshness",
            "skipped",
            "nothing in the bundle has a trusted sequence or time",
            source="policy [product] minimum_release, max_age",
            hint="[release] in the policy and a signed release in the bundle",
        )
    age_s = case.at - case.release.validity.not_before_s
    if limit_s is not None and age_s > limit_s:
        return say(
            "freshness",
            "failed",
            f"released {case.release.validity.not_before}, {age_s // 86400} days earlier",
            expected=f"not older than {wanted.max_age}",
            source="policy [product] max_age",
            hint="use a newer release, or have this one signed again",
        )
    if limit_s is None and wanted.minimum_release is None:
        return say(
            "freshness",
            "skipped",
            "the policy has neither minimum_release nor max_age: an old release cannot be told",
            source="policy [product] minimum_release, max_age",
            hint=f"minimum_release = {case.release.sequence}",
        )
    proofs = [f"release {case.release.sequence}"] if wanted.minimum_release is not None else []
    proofs += [f"released {case.release.validity.not_before}"] if limit_s is not None else []
    return say("freshness", "passed", ", ".join(proofs))
