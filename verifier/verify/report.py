"""A verdict in words, in SARIF 2.1.0, in JUnit's XML. Pure functions; no times, no paths of the machine."""

from __future__ import annotations

from html import escape
from pathlib import PurePath
from typing import Any, Final

from provenance.claims import Check
from provenance.plain_text import one_line, plain
from verifier.verify.checks import CHECKS
from verifier.verify.result import FurtherView, PolicyView, Verdict

_GLYPHS: Final = {"passed": "✓", "failed": "✗", "skipped": "-", "warning": "!"}
_WIDTH: Final = max(len(rule.id) for rule in CHECKS)
_INDENT: Final = 13 + _WIDTH
_SHORT: Final = 12  # hex digits of a fingerprint in the header; --format json has all of them


def as_text(verdict: Verdict, bundle: str, policy: str) -> str:
    """Write a verdict for people: the policy first, then each check, then what was not checked."""
    lines = [
        f"bundle   {plain(bundle)}  sha256:{verdict.bundle}"
        if verdict.bundle
        else f"bundle   {plain(bundle)}"
    ]
    lines += _policy_lines(verdict.policy, policy)
    lines += [f"as of    {verdict.at}", ""]
    for check in verdict.checks:
        lines += _check_lines(check)
    if verdict.agreed:
        word = "values  " if verdict.verdict == "passed" else "not accepted:"
        lines += ["", f"{word} core {verdict.agreed.core}, agreed by {', '.join(verdict.agreed.operators)}"]
        for one in verdict.agreed.sets:
            lines += [
                f"  {plain(one.id)}: {name} {plain(constraint.words())}"
                for name, constraint in one.claims.items()
            ]
    in_table = {f"{check.id}: {check.got}" for check in verdict.checks}
    beside = [text for text in verdict.not_checked if text not in in_table]
    if beside:
        lines += ["", "not checked:"]
        lines += [f"  {one_line(text)}" for text in beside]
    first = next((check for check in verdict.checks if check.status == "failed"), None)
    lines.append("")
    if first:
        if first.hint:
            lines.append(f"hint: {plain(first.hint)}")
        lines.append(f"more: rvp explain {first.code}")
        lines.append(f"FAILED  {first.id} ({first.code})  exit {verdict.exit_code}")
    elif verdict.verdict == "inconclusive":
        lines.append(f"INCONCLUSIVE  {_why_inconclusive(verdict)}  exit {verdict.exit_code}")
    else:
        lines.append("PASSED")
    return "\n".join(lines)


def _why_inconclusive(verdict: Verdict) -> str:
    mandatory = {rule.id for rule in CHECKS if rule.mandatory}
    missing = [check.id for check in verdict.checks if check.status == "skipped" and check.id in mandatory]
    return f"not checked: {', '.join(missing)}" if missing else "nothing was checked"


def _policy_lines(view: PolicyView | None, path: str) -> list[str]:
    if view is None:
        return ["policy   none: the strict default, which trusts nobody"]
    fresh = [f"release {view.minimum_release} or later"] if view.minimum_release is not None else []
    fresh += [f"not older than {view.max_age}"] if view.max_age else []
    minority = "  (MINORITY QUORUM)" if view.minority_quorum else ""
    names = ", ".join(_with_key(name, view.operator_keys.get(name, "")) for name in view.operators)
    signed = ", ".join(_with_key(PurePath(name).name, key) for name, key in view.release_keys.items())
    release = (
        f"{view.release_threshold} of {view.release_signers} signers ({signed})"
        if view.release_signers
        else "not asked for"
    )
    return [
        f"policy   {plain(path)}  sha256:{view.sha256}",
        f"         product    {view.product}, series {view.series or 'any'}, {', '.join(fresh) or 'any age'}",
        f"         source     {_source_words(view)}",
        *(f"         and        {_source_words(one)}" for one in view.also),
        f"         quorum     {view.n} of {len(view.operators)} ({names}), {view.level}{minority}",
        f"         release    {release}",
    ]


def _source_words(view: PolicyView | FurtherView) -> str:
    signers = f"signed by one of {view.source_signers}" if view.source_signers else "unsigned"
    return f"{view.repository} {', '.join(view.refs) or 'any ref'}, {signers}"


def _with_key(name: str, fingerprint: str) -> str:
    """Write a name with the beginning of its key's fingerprint: enough to compare by eye."""
    return f"{name} {fingerprint[:_SHORT] or 'keyless'}"


def _check_lines(check: Check) -> list[str]:
    head = f"{_GLYPHS[check.status]} {check.status:<8} {check.id:<{_WIDTH}}"
    if check.status in {"failed", "warning"} and check.expected:
        return [f"{head}  expected  {_block(check.expected)}", f"{'':{_INDENT}}     got  {_block(check.got)}"]
    return [f"{head}  {_block(check.got, indent=_INDENT)}"]


def _block(text: str, *, indent: int = _INDENT + 10) -> str:
    return plain(text).replace("\n", "\n" + " " * indent)


def as_sarif(verdict: Verdict, policy: str) -> dict[str, Any]:
    """Write a verdict as SARIF 2.1.0: a rule for each check, a result for each that failed or warned."""
    rules = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.meaning},
            "help": {"text": f"rvp explain {rule.failure.code}"},
        }
        for rule in CHECKS
    ]
    results = []
    for check in verdict.checks:
        if check.status not in {"failed", "warning"}:
            continue
        text = f"{check.id}: expected {check.expected or 'otherwise'}, got {check.got}"
        result: dict[str, Any] = {
            "ruleId": check.id,
            "level": "error" if check.status == "failed" else "warning",
            "message": {"text": plain(text)},
            "partialFingerprints": {"check/v1": check.id},
        }
        if policy:
            result["locations"] = [
                {"physicalLocation": {"artifactLocation": {"uri": policy}, "region": {"startLine": 1}}}
            ]
        results.append(result)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "rvp", "version": verdict.tool.version, "rules": rules}},
                "results": results,
                "properties": {"verdict": verdict.verdict, "exitCode": verdict.exit_code},
            }
        ],
    }


def as_junit(verdict: Verdict) -> str:
    """Write a verdict as JUnit XML: a case for each check; a mandatory one that did not run is an error."""
    mandatory = {rule.id for rule in CHECKS if rule.mandatory}
    cases, failures, errors, skipped = [], 0, 0, 0
    for check in verdict.checks:
        inner = ""
        detail = escape(plain(f"expected {check.expected}\n     got {check.got}\n{check.hint}"))
        if check.status == "failed":
            failures += 1
            message = _quoted(plain(check.got))
            inner = f"<failure message={message} type={_quoted(check.code)}>{detail}</failure>"
        elif check.status == "skipped" and check.id in mandatory:
            errors += 1
            inner = f'<error message={_quoted(plain(check.got))} type="inconclusive"/>'
        elif check.status == "skipped":
            skipped += 1
            inner = f"<skipped message={_quoted(plain(check.got))}/>"
        cases.append(f'  <testcase classname="rvp.verify" name={_quoted(check.id)}>{inner}</testcase>')
    counts = f'tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    head = f'<testsuite name="rvp verify" {counts}>'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>"])


def _quoted(text: str) -> str:
    return f'"{escape(text)}"'
