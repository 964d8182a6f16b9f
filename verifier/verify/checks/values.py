"""What the values are about, and what they leave open: artifacts, holes, further statements.

A check is a pure function of the case; docs/reference/verify.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from provenance.claims import Check
from provenance.predicates.constraint import Constraint
from provenance.predicates.core import Core
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say

# ATTRIBUTES.FLAGS.DEBUG, in our spelling of ATTRIBUTES: flags, then xfrm, each the hex of a 64-bit number.
# Source: Intel SDM volume 3D, table "Layout of ATTRIBUTES structure", bit 1.
_DEBUG: Final = 1 << (64 + 1)

# tee -> the claim that is a function of the code.
_CODE: Final = {
    "sgx": "mrenclave",
    "tdx": "mrtd",
    "snp": "measurement",
    "verity": "root_hash",
    "nitro": "pcr0",
}


def artifacts(case: Case) -> Check:
    """Every file that was given is one that the agreed statements are about."""
    if not case.artifacts:
        return say("artifacts", "skipped", "no file was given")
    if case.core is None:
        return not_reached("artifacts")
    known = {subject.digest.sha256: subject for subject in case.core.subjects}
    names = {subject.name: subject for subject in case.core.subjects}
    passed, wrong, expected = [], [], []
    for one in case.artifacts:
        subject = names.get(one.name, known.get(one.sha256))
        if subject and (subject.digest.sha256, subject.digest.sha384) == (one.sha256, one.sha384):
            passed.append(f"{one.name} is {subject.name}, sha256:{one.sha256}")
            continue
        wrong.append(f"sha256:{one.sha256}  {one.name}")
        meant = [names[one.name]] if one.name in names else list(case.core.subjects)
        expected += [f"sha256:{subject.digest.sha256}  {subject.name}" for subject in meant]
    if wrong:
        return say(
            "artifacts",
            "failed",
            "\n".join(wrong),
            expected="\n".join(dict.fromkeys(expected)),
            source="the agreed statements",
            hint="the file is not what was built from the source",
        )
    return say("artifacts", "passed", "\n".join(passed))


def unpredicted(case: Case) -> Check:
    """Only events that the policy names may be unknown at build time."""
    if case.trust is None or case.core is None:
        return not_reached("unpredicted")
    holes: list[str] = []
    allowed_all: list[str] = []
    for one in case.core.sets:
        evidence = case.trust.policy.evidence.get(one.tee)
        allowed = evidence.allow_unpredicted if evidence else ()
        allowed_all += [f"{one.tee} {event}" for event in allowed]
        holes += [
            f"{one.id}: {event.register} {event.event} ({event.reason})"
            for event in one.unpredicted
            if event.event not in allowed
        ]
    return say(
        "unpredicted",
        "failed" if holes else "passed",
        "\n".join(holes) or "nothing that is not allowed",
        expected=", ".join(dict.fromkeys(allowed_all)) or "every event is predicted",
        source="policy [evidence] allow_unpredicted",
        hint="allow the event by its name, if you can live with not knowing it" if holes else "",
    )


def slack(case: Case) -> Check:
    """The agreed values name the code, accept no debug mode, and have no minimum of 0."""
    if case.core is None:
        return not_reached("slack")
    found = list(_slack(case.core))
    return say(
        "slack",
        "warning" if found else "passed",
        "\n".join(found) or "none",
        expected="values that accept this code alone, outside debug mode",
        source="the agreed statements",
        hint="evidence of more than what was built may match: ask the operators to close it" if found else "",
    )


def _slack(core: Core) -> Iterator[str]:
    for one in core.sets:
        for claim, constraint in one.claims.items():
            if constraint.minimum == 0:
                yield f"{one.id}: {claim} is at least 0, which is any"
            if one.tee == "sgx" and claim == "attributes":
                yield from (f"{one.id}: {claim} {reason}" for reason in _debug(constraint))
    for tee, claim in _CODE.items():
        sets = [one for one in core.sets if one.tee == tee]
        bare = [one for one in sets if claim not in one.claims]
        # An enclave is one artifact; a machine is measured by layers: one of them has the code's register.
        if bare and (tee == "sgx" or len(bare) == len(sets)):
            yield from (f"{one.id}: {claim} is missing: no claim binds the code" for one in bare)


def _debug(constraint: Constraint) -> Iterator[str]:
    if constraint.mask and not int(constraint.mask.mask, 16) & _DEBUG:
        yield f"leaves DEBUG open (bit 1; the mask is {constraint.mask.mask})"
        return
    values = constraint.one_of or (constraint.mask.value if constraint.mask else constraint.exact,)
    if any(isinstance(value, str) and int(value, 16) & _DEBUG for value in values):
        yield f"accepts a debug enclave (bit 1; {constraint.words()})"


def require(case: Case) -> Check:
    """Every further statement that the policy requires is there, about every artifact."""
    if case.trust is None or case.core is None:
        return not_reached("require")
    wanted = case.trust.policy.require
    if not wanted:
        return say("require", "skipped", "the policy requires no further statement")
    needed = {subject.digest.sha256 for subject in case.core.subjects}
    missing = []
    for index, one in enumerate(wanted):
        signers = {
            found.key.fingerprint
            for found in case.said.required
            if found.index == index and needed <= found.subjects and not found.is_negative
        }
        if len(signers) < one.threshold:
            negative = sum(found.index == index and found.is_negative for found in case.said.required)
            told = f"; {negative} say that it did not pass" if negative else ""
            missing.append(f"{one.predicate_type}: {len(signers)} of {one.threshold}{told}")
    return say(
        "require",
        "failed" if missing else "passed",
        "; ".join(missing) or f"{len(wanted)} of {len(wanted)}",
        expected="; ".join(f"{one.predicate_type} by {one.threshold}" for one in wanted),
        source="policy [[require]]",
        hint="ask its signers for the statement" if missing else "",
    )
