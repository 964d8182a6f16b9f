"""The result of a build as text: steps by runs, then the values, then what leaves.

Example:
    >>> print(columns([("step", "run 1"), ("step.a", "ran")]))
    step    run 1
    step.a  ran
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.build_result import BuildResult, NodeResult

# Styles a text by a status word: `verifier.cli.terminal.styled`, or nothing.
Style = Callable[[str, str], str]


def _unstyled(status: str, text: str) -> str:
    del status
    return text


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Write rows under each other, two spaces between columns."""
    count = max((len(row) for row in rows), default=0)
    widths = [max(len(row[index]) for row in rows if index < len(row)) for index in range(count)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def render_build(result: BuildResult, *, style: Style = _unstyled) -> str:
    """Write a result for a person."""
    parts = [_steps(result)]
    if not_exercised := _not_exercised(result):
        parts.append("not exercised\n" + columns(not_exercised))
    if values := _values(result):
        parts.append("values\n" + columns(values))
    if result.artifacts:
        rows = [
            (f"  {artifact.name}", f"{artifact.size_bytes} bytes", f"sha256:{artifact.digest['sha256']}")
            for artifact in result.artifacts
        ]
        parts.append("artifacts\n" + columns(rows))
    parts.append(_verdict(result, style))
    return "\n\n".join(parts)


def _steps(result: BuildResult) -> str:
    rows: list[tuple[str, ...]] = [("", *(f"run {run}" for run in range(1, result.times + 1)), "verdict")]
    for node in result.nodes:
        cells = [run.status if run.status == "cached" else f"ran {run.duration_s:.1f} s" for run in node.runs]
        rows.append((node.node, *cells, _word(node)))
    return columns(rows)


def _word(node: NodeResult) -> str:
    glyph = {"reproduced": "✓", "diverged": "✗", "not rebuilt": "?"}[node.verdict]
    passed_on = " (its inputs differ)" if node.verdict == "diverged" and not node.inputs_agree else ""
    return f"{glyph} {node.verdict}{passed_on}"


def _not_exercised(result: BuildResult) -> list[tuple[str, str, str]]:
    found = {
        (f"  {node.node}", one.variation, one.reason)
        for node in result.nodes
        for run in node.runs
        for one in run.not_exercised
    }
    return sorted(found)


def _values(result: BuildResult) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for measured in result.measurements:
        for one in measured.measurements:
            variant = "".join(f", {key} {value}" for key, value in one.variant.items())
            rows.append((f"  {one.tee}", f"{one.subject.name}{variant}"))
            for name, value in one.claims.items():
                values = value if isinstance(value, tuple) else (value,)
                rows += [(f"    {'' if index else name}", str(item)) for index, item in enumerate(values)]
            rows += [
                (f"    {event.register}", f"not predicted: {event.event}: {event.reason}")
                for event in one.unpredicted
            ]
    return rows


def _verdict(result: BuildResult, style: Style) -> str:
    name = f"{result.project} {result.version}"
    match result.verdict:
        case "reproduced":
            varied = f"varied: {', '.join(result.vary)}" if result.vary else "nothing was varied"
            return f"{style('passed', '✓ reproduced')}: {name}, {result.times} runs; {varied}"
        case "diverged":
            return f"{style('failed', '✗ diverged')}: {name}"
        case _:
            return f"{style('inconclusive', '? not rebuilt')}: {name} was built once; nothing was compared"
