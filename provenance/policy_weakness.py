"""What is weak in a valid policy: who could get through who should not, and the cure.

Example:
    >>> from provenance.policy import parse_policy
    >>> text = '''
    ... schema = "rvp/policy/v1"
    ... product = { name = "keyservice" }
    ... source = { repository = "https://example.org/k.git", refs = ["refs/tags/v*"] }
    ... quorum = { n = 1 }
    ... operator = [{ name = "ci", key = "ci.pub" }]
    ... '''
    >>> found = weaknesses(parse_policy(text.encode()), text)
    >>> [finding.id for finding in found if finding.severity == "error"]
    ['one-operator', 'no-freshness', 'no-release-signers']
"""

from __future__ import annotations

from typing import Literal

import msgspec

from provenance.policy import Policy, TrustPolicy, source_paths
from provenance.strict import line_in_toml


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something weak in a policy. An "error" lets somebody through who should not be."""

    id: str
    severity: Literal["error", "warning"]
    message: str
    cure: str
    line: int = 1


def weaknesses(policy: Policy, text: str, trust: TrustPolicy | None = None) -> tuple[Finding, ...]:
    """Find what is weak in a policy that is valid.

    Args:
        policy: the parsed file.
        text: the file, for the lines.
        trust: with its keys at hand, to tell one key in two roles.
    """
    found: list[Finding] = []

    def say(id_: str, severity: Literal["error", "warning"], path: str, message: str, cure: str) -> None:
        line = line_in_toml(text, path) or 1
        found.append(Finding(id=id_, severity=severity, message=message, cure=cure, line=line))

    n, m = policy.quorum.n, len(policy.operator)
    if policy.quorum.minority_quorum:
        say(
            "minority-quorum",
            "error",
            "$.quorum.minority_quorum",
            f"{n} of {m} may accept against the majority: two groups could both reach n",
            f"n = {m // 2 + 1} and no minority_quorum",
        )
    if n == 1:
        say(
            "one-operator",
            "error",
            "$.quorum.n",
            "one operator alone decides: whoever has that key, or that machine, chooses the values",
            "let a second, independent party rebuild, and ask for n = 2",
        )
    elif n == m:
        say(
            "no-spare-operator",
            "warning",
            "$.quorum.n",
            f"all of {m} operators must agree: one that is away stops every release",
            "add an operator and keep n",
        )
    product = policy.product
    if product.minimum_release is None and not product.max_age:
        say(
            "no-freshness",
            "error",
            "$.product",
            "neither minimum_release nor max_age: an old release passes for new, verdicts stay inconclusive",
            "minimum_release = the sequence of the newest release you have accepted",
        )
    elif product.minimum_release is None:
        say(
            "no-minimum-release",
            "warning",
            "$.product",
            "no minimum_release: a withdrawn release is accepted until max_age has passed",
            "minimum_release = the sequence of the newest release you have accepted",
        )
    if product.minimum_release == 0:
        say(
            "minimum-release-zero",
            "warning",
            "$.product.minimum_release",
            "minimum_release = 0 accepts every release that there ever was",
            "minimum_release = the sequence of the newest release you have accepted",
        )
    if not product.series:
        say(
            "no-series",
            "warning",
            "$.product",
            "no series: a release of any series is accepted, and sequences of two series do not compare",
            'series = "stable"',
        )
    if policy.release is None:
        say(
            "no-release-signers",
            "error",
            "$.release",
            "no [release]: nobody vouches for sequence and validity, so rollback cannot be told",
            '[release] with signed_by = ["a.pub", "b.pub"] and threshold = 2',
        )
    elif policy.release.threshold == 1:
        say(
            "one-release-signer",
            "warning",
            "$.release.threshold",
            "one stolen release key is enough to release",
            "two signers and threshold = 2",
        )
    for name, key in trust.operator_keys.items() if trust else ():
        if trust and (key in trust.release_keys or any(key in group for group in trust.require_keys)):
            say(
                "one-key-two-roles",
                "warning",
                "$.release" if key in trust.release_keys else "$.require[0]",
                f'the key of operator "{name}" also releases or reviews: whoever has it does both',
                "a key for each role",
            )
    for path, source in source_paths(policy):
        if not source.refs:
            say(
                "any-ref",
                "error",
                f"{path}.repository",
                "no refs: any branch of the repository is accepted",
                'refs = ["refs/tags/v*"]',
            )
        for index, ref in enumerate(source.refs):
            if ref in {"*", "**", "refs/*", "refs/**"} or ref.startswith(("*", "refs/*")):
                say(
                    "any-ref",
                    "error",
                    f"{path}.refs[{index}]",
                    f'"{ref}" accepts every branch and pull request',
                    'refs = ["refs/tags/v*"]',
                )
            elif ref.startswith("refs/heads/"):
                say(
                    "branch-ref",
                    "warning",
                    f"{path}.refs[{index}]",
                    f'"{ref}" is a branch: it moves',
                    'refs = ["refs/tags/v*"]',
                )
        if not source.signed_by:
            say(
                "unsigned-source",
                "warning",
                f"{path}.repository",
                "no signed_by: whoever controls the repository's host chooses the source",
                'sign tags (git tag -s with an SSH key) and name the key: signed_by = ["maintainers.pub"]',
            )
        if source.repository.startswith(("http://", "git://")):
            say(
                "plain-transport",
                "warning",
                f"{path}.repository",
                "the repository is reached without encryption",
                "https:// or ssh://",
            )
    if policy.quorum.level == "measured":
        say(
            "level-measured",
            "error",
            "$.quorum.level",
            "values of artifacts that nobody rebuilt are counted",
            'level = "reproduced"',
        )
    for tee, evidence in policy.evidence.items():
        if evidence.debug:
            say(
                "debug-allowed",
                "error",
                f"$.evidence.{tee}.debug",
                f"{tee} evidence in debug mode is accepted: its host can read the secrets",
                "debug = false",
            )
        for status in evidence.tcb_status:
            if status in {"OutOfDate", "Revoked", "OutOfDateConfigurationNeeded"}:
                say(
                    "weak-tcb",
                    "error" if status == "Revoked" else "warning",
                    f"$.evidence.{tee}.tcb_status",
                    f'{tee} platforms with TCB status "{status}" are accepted',
                    'tcb_status = ["UpToDate"]',
                )
    return tuple(found)
