"""The summary of a build and its verdict, for the surfaces of continuous integration.

`markdown` is a step summary (at most 200 KiB: one of the hosts drops what is larger than 1 MiB), `outputs`
the lines that a job hands on, `dotenv` the same for hosts that read variables, `junit` a case for each check.
All are pure functions of the documents: no clock, no host; equal documents give equal bytes.

Example:
    >>> outputs((Build(project="a", verdict="reproduced"),)).splitlines()[0]
    'verdict=reproduced'
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.sax.saxutils import quoteattr

import msgspec

from pipeline.difference.model import Report as DifferenceReport
from pipeline.difference.render import headline, render_text
from pipeline.report.documents import (
    Build,
    Check,
    Divergence,
    Document,
    Measurements,
    Unreadable,
    Values,
    Verification,
)
from pipeline.report.markdown import Page, code, escape, shorten

LIMIT_BYTES: Final = 200 << 10
_GLYPHS: Final = {
    "passed": "✅",
    "reproduced": "✅",
    "failed": "❌",
    "diverged": "❌",
    "inconclusive": "❔",
    "not rebuilt": "❔",
    "skipped": "⏭️",
    "warning": "⚠️",
}
_HEX_SHOWN: Final = re.compile(r"[0-9a-f]{32,}\Z")
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VALUES_BYTES: Final = 500 << 10


def markdown(documents: Sequence[Document], *, limit_bytes: int = LIMIT_BYTES) -> str:
    """Write the step summary.

    Args:
        documents: in the order in which they are shown.
        limit_bytes: of the page; what does not fit is counted in its last line.
    """
    page = Page(limit_bytes)
    for document in documents:
        match document:
            case Build():
                _build(page, document)
            case Measurements():
                page.add("### Values", "")
                _values(page, [("", value) for value in document.measurements])
            case Verification():
                _verification(page, document)
            case DifferenceReport():
                _differences(page, document)
            case Divergence():
                for fault in document.faults:
                    page.add(f"### {code(fault.node)} gives other files from equal inputs", "")
                    _differences(page, fault.report)
            case Unreadable():
                page.add(f"### ❔ {escape(document.name)}", "", f"{escape(shorten(document.reason))}", "")
    return page.text()


def verdict_of(documents: Sequence[Document]) -> str:
    """Return the verdict of the last document that has one; "inconclusive" when none has."""
    verdicts = [document.verdict for document in documents if isinstance(document, (Build, Verification))]
    unread = any(isinstance(document, Unreadable) for document in documents)
    if not verdicts or (unread and verdicts[-1] in {"passed", "reproduced"}):
        return "inconclusive"
    return verdicts[-1] if verdicts[-1] in _GLYPHS else "inconclusive"


def values_json(documents: Sequence[Document]) -> str:
    """Write all values as one line of JSON."""
    values = [{"measure": node, **msgspec.to_builtins(value)} for node, value in _all_values(documents)]
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True, sort_keys=True)


def outputs(documents: Sequence[Document], *, bundle_path: str = "") -> str:
    """Write `name=value` lines, one line a value: verdict, values-json, bundle-path.

    Values larger than 500 KiB are left out: hosts bound what a job hands on.
    """
    values = values_json(documents)
    lines = [
        f"verdict={verdict_of(documents).replace(' ', '-')}",
        f"values-json={values if len(values) <= _VALUES_BYTES else '[]'}",
    ]
    if bundle_path:
        lines.append(f"bundle-path={_one_line(bundle_path)}")
    return "\n".join(lines) + "\n"


def dotenv(documents: Sequence[Document], *, bundle_path: str = "") -> str:
    """Write variables: RVP_VERDICT, RVP_EXIT_CODE, RVP_BUNDLE_PATH."""
    lines = [f"RVP_VERDICT={verdict_of(documents).replace(' ', '-')}"]
    codes = [document.exit_code for document in documents if isinstance(document, Verification)]
    if codes and codes[-1] is not None:
        lines.append(f"RVP_EXIT_CODE={codes[-1]}")
    if bundle_path:
        lines.append(f"RVP_BUNDLE_PATH={_one_line(bundle_path)}")
    return "\n".join(lines) + "\n"


def junit(documents: Sequence[Document]) -> str:
    """Write a JUnit report: a case for each node of a build and for each check of a verdict."""
    suites: list[str] = []
    for document in documents:
        match document:
            case Build():
                cases = [_node_case(node.node, node.verdict, node.differing) for node in document.nodes]
                suites.append(_suite(f"build of {document.project}", cases))
            case Verification():
                suites.append(_suite(document.schema, [_check_case(check) for check in document.checks]))
            case Unreadable():
                suites.append(_suite(document.name, [_case(document.name, "error", document.reason)]))
            case _:
                pass
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", *suites, "</testsuites>", ""])


def _build(page: Page, build: Build) -> None:
    title = " ".join(part for part in (build.project, build.version) if part)
    page.add(f"## {_status(build.verdict)} {escape(title)}", "")
    runs = f"{build.times} {'run' if build.times == 1 else 'runs'}"
    page.add(f"{runs}, recipe {code(build.recipe) or 'of a part of the graph'}", "")
    _values(page, [(node.node, value) for node in build.measurements for value in node.measurements])
    diverged = [node for node in build.nodes if node.verdict == "diverged"]
    if diverged:
        page.add("#### Diverged")
        page.table(
            ("step", "inputs", "files that differ"),
            (
                (
                    code(node.node),
                    "agree" if node.inputs_agree else "differ",
                    ", ".join(code(path) for path in node.differing[:20])
                    + (f" and {len(node.differing) - 20} more" if len(node.differing) > 20 else ""),
                )
                for node in diverged
            ),
        )
    page.add(f"#### Steps ({len(build.nodes)})")
    page.table(
        ("step", "verdict", "exercised", "not exercised"),
        (
            (
                code(node.node),
                _status(node.verdict),
                escape(", ".join(sorted({name for run in node.runs for name in run.exercised}))),
                escape(
                    ", ".join(
                        sorted({one.get("variation", "") for run in node.runs for one in run.not_exercised})
                    )
                ),
            )
            for node in build.nodes
        ),
    )
    if build.artifacts:
        page.add("#### Artifacts")
        page.table(
            ("name", "bytes", "sha256"),
            (
                (code(artifact.name), str(artifact.size_bytes), code(artifact.digest.get("sha256", "")))
                for artifact in build.artifacts
            ),
        )


def _values(page: Page, values: Sequence[tuple[str, Values]]) -> None:
    page.table(
        ("TEE", "of", "variant", "claim", "value"),
        (
            (
                escape(value.tee),
                code(value.subject.name or node),
                escape(", ".join(f"{name} {value.variant[name]}" for name in sorted(value.variant))),
                code(claim),
                code(_written(shown)),
            )
            for node, value in values
            for claim, shown in value.claims.items()
        ),
    )
    unpredicted = [
        f"{value.tee} {one.get('register', '')}: {one.get('event', '')} ({one.get('reason', '')})"
        for _, value in values
        for one in value.unpredicted
    ]
    if unpredicted:
        page.add("Not known at build time:", "")
        for line in unpredicted:
            page.add(f"- {escape(shorten(line))}")
        page.add("")


def _verification(page: Page, verification: Verification) -> None:
    what = "Appraisal" if "appraisal" in verification.schema else "Verification"
    page.add(f"## {_status(verification.verdict)}: {what.lower()}", "")
    if verification.at != "":
        page.add(f"As of {escape(str(verification.at))}.", "")
    if not verification.checks:
        page.add("No check ran.", "")
    page.table(
        ("check", "result", "expected", "got", "what to do"),
        (
            (
                code(check.id),
                _status(check.status),
                code(check.expected),
                code(check.got),
                escape(shorten(" ".join(part for part in (check.code, check.hint) if part))),
            )
            for check in verification.checks
        ),
    )
    if verification.not_checked:
        page.add("Not checked:", "")
        for line in verification.not_checked:
            page.add(f"- {escape(shorten(line))}")
        page.add("")


def _differences(page: Page, report: DifferenceReport) -> None:
    page.add(f"### Differences ({len(report.differences)})", "")
    for difference in report.differences[:10]:
        page.add(f"- {escape(shorten(headline(difference)))}")
    if len(report.differences) > 10:
        page.add(f"- and {len(report.differences) - 10} more")
    if report.differences:
        page.fold("where they differ", render_text(report.differences, labels=report.labels))


def _status(word: str) -> str:
    return f"{_GLYPHS.get(word, '❔')} {escape(shorten(word, 40))}"


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _all_values(documents: Sequence[Document]) -> list[tuple[str, Values]]:
    found: list[tuple[str, Values]] = []
    for document in documents:
        if isinstance(document, Build):
            found += [(node.node, value) for node in document.measurements for value in node.measurements]
        elif isinstance(document, Measurements):
            found += [("", value) for value in document.measurements]
    return found


def _one_line(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _suite(name: str, cases: Sequence[str]) -> str:
    failures = sum("<failure" in case for case in cases)
    errors = sum("<error" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    head = (
        f"<testsuite name={_attribute(name)} tests={_attribute(str(len(cases)))} "
        f'failures="{failures}" errors="{errors}" skipped="{skipped}">'
    )
    return "\n".join([head, *cases, "</testsuite>"])


def _node_case(name: str, verdict: str, differing: Sequence[str]) -> str:
    outcome = {"reproduced": "", "diverged": "failure"}.get(verdict, "skipped")
    return _case(name, outcome, f"{verdict}: {', '.join(differing[:20])}" if differing else verdict)


def _check_case(check: Check) -> str:
    outcome = {"passed": "", "warning": "", "failed": "failure", "skipped": "skipped"}.get(
        check.status, "error"
    )
    parts = (check.code, f"expected {check.expected}", f"got {check.got}", check.hint)
    return _case(check.id, outcome, "; ".join(part for part in parts if part))


def _case(name: str, outcome: str, message: str) -> str:
    inside = f"<{outcome} message={_attribute(shorten(message, 1000))}/>" if outcome else ""
    return f'<testcase classname="rvp" name={_attribute(name)}>{inside}</testcase>'


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


FORMATS: Final[dict[str, Callable[[Sequence[Document], str], str]]] = {
    "markdown": lambda documents, _: markdown(documents),
    "outputs": lambda documents, bundle_path: outputs(documents, bundle_path=bundle_path),
    "dotenv": lambda documents, bundle_path: dotenv(documents, bundle_path=bundle_path),
    "junit": lambda documents, _: junit(documents),
}
