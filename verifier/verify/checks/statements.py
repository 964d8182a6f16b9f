"""What was published, and by whom: the bundle, the policy, the signatures, the operators.

A check is a pure function of the case; docs/reference/verify.md has the table.
"""

from __future__ import annotations

from provenance.claims import Check
from provenance.policy import TrustPolicy
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say
from verifier.verify.checks.logs import count


def bundle(case: Case) -> Check:
    """The bundle is whole: every blob has its digest and size, nothing else is there."""
    if case.bundle is None:
        expected, got = "a whole bundle", case.unreadable
        if "\n" in got and "expected " in got:
            head, _, got = got.partition("\n")
            expected, got = head.partition("expected ")[2], got.strip().removeprefix("got ")
        return say("bundle", "failed", got, expected=expected, hint="get the bundle again from its publisher")
    return say("bundle", "passed", f"sha256:{case.bundle.digest.hex()}")


def policy(case: Case) -> Check:
    """There is a policy: nothing is trusted without one."""
    if case.trust is None:
        return say(
            "policy", "skipped", "there is no policy", hint="--policy POLICY.toml; rvp policy init writes one"
        )
    if case.trust.policy.quorum.minority_quorum:
        n, m = case.trust.policy.quorum.n, len(case.trust.policy.operator)
        return say(
            "policy",
            "warning",
            f"minority quorum: {n} of {m} operators decide, the others may all disagree",
            hint=f"n = {m // 2 + 1}",
        )
    return say("policy", "passed", f"sha256:{case.trust.digest.hex()}")


def signatures(case: Case) -> Check:
    """Every statement that claims a key of the policy is signed by it, and is well-formed."""
    if case.bundle is None or case.trust is None:
        return not_reached("signatures", "no bundle or no policy")
    said, total = case.said, len(case.bundle.statements)
    if said.forged:
        return say(
            "signatures",
            "failed",
            "\n".join(said.forged),
            expected="each statement verifies with the key that it names",
            source="policy [[operator]], [release], [[require]]",
            hint="get the bundle again; if it is as published, ask the signer",
        )
    if not total:
        return not_reached("signatures", "the bundle has no statement")
    parts = [f"{total - said.strangers - said.malformed - said.keyless} of {total} verified"]
    parts += (
        [f"{said.strangers} by keys that the policy does not name: not counted"] if said.strangers else []
    )
    if said.malformed:
        verb = "is" if said.malformed == 1 else "are"
        told = f"{count(said.malformed, 'statement')} by nobody the policy names {verb} malformed"
        parts.append(f"{told}: not counted")
    parts += [f"{said.keyless} keyless: not verified here, not counted"] if said.keyless else []
    return say("signatures", "passed", "; ".join(parts))


def operators(case: Case) -> Check:
    """An operator of the policy has signed reference values, as the builder that the policy expects."""
    if case.bundle is None or case.trust is None:
        return not_reached("operators", "no bundle or no policy")
    if not case.bundle.statements:
        return not_reached("operators", "the bundle has no statement")
    names = sorted({one.operator for one in case.said.values})
    others = "; ".join(f"another builder: {other}" for other in case.said.other_builders)
    expected = ", ".join(
        f"{one.name} ({_key_of(case.trust, one.name)})" for one in case.trust.policy.operator
    )
    if not names:
        return say(
            "operators",
            "failed",
            others or "no reference values by any of them",
            expected=expected,
            source="policy [[operator]]",
            hint="rvp show BUNDLE prints who signed, unverified",
        )
    got = ", ".join(names)
    return say(
        "operators",
        "warning" if others else "passed",
        f"{got}; {others}" if others else got,
        expected=expected,
    )


def _key_of(trust: TrustPolicy, name: str) -> str:
    key = trust.operator_keys.get(name)
    return f"key {key.fingerprint.hex()}" if key else "keyless"
