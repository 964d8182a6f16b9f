"""Reproduced or diverged: compare the runs of every node, and find the one that is at fault.

A node is *reproduced* when all runs gave the same tree of outputs. It is *at fault* when its outputs differ
although its inputs agree; one whose inputs differ already only passes a difference on.

Example:
    >>> verdict_of([b"a", b"a"]), verdict_of([b"a", b"b"]), verdict_of([b"a"])
    ('reproduced', 'diverged', 'not rebuilt')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pipeline.build_result import NodeResult, RunResult, Verdict
from pipeline.graph import LEAVES, in_order
from pipeline.outcome import Outcome
from pipeline.run import Task
from pipeline.tree import Tree
from provenance.errors import Divergence

if TYPE_CHECKING:
    from pipeline.graph import Graph


class Diverged(Divergence):
    """Two runs of one recipe gave different outputs.

    The step that the message names had the same inputs in both runs and gave different files. The steps
    after it may differ only because of it. `difference.txt` beside the result says where the files differ.
    Cure: make the step independent of what was varied (clock, paths, order …); a variation that it cannot
    bear can be listed in its `fixed`, and is then stated as not exercised.
    """

    code = "RVP-4001"


class NodeComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A node at fault: the first run and the run that differs from it."""

    node: str
    first: Outcome
    other: Outcome

    @property
    def differing(self) -> tuple[str, ...]:
        """The paths that differ."""
        return differing_paths(self.first.outputs, self.other.outputs)


def verdict_of(outputs: Sequence[bytes]) -> Verdict:
    """Judge the digests of all runs."""
    if len(outputs) < 2:
        return "not rebuilt"
    return "reproduced" if len(set(outputs)) == 1 else "diverged"


def differing_paths(first: Tree, other: Tree) -> tuple[str, ...]:
    """Return the paths whose entries differ between two trees, sorted."""
    left = {entry.path: entry for entry in first.entries}
    right = {entry.path: entry for entry in other.entries}
    return tuple(sorted(path for path in left.keys() | right.keys() if left.get(path) != right.get(path)))


def compare_runs(graph: Graph, outcomes: Mapping[Task, Outcome], times: int) -> tuple[NodeResult, ...]:
    """Compare all runs of every node, in graph order."""
    results: list[NodeResult] = []
    for node in in_order(graph):
        if node.kind in LEAVES:
            continue
        runs = [outcomes[node.name, run] for run in range(1, times + 1)]
        differing: set[str] = set()
        for other in runs[1:]:
            if other.outputs.digest != runs[0].outputs.digest:
                differing.update(differing_paths(runs[0].outputs, other.outputs))
        results.append(
            NodeResult(
                node=node.name,
                verdict=verdict_of([outcome.outputs.digest for outcome in runs]),
                inputs_agree=all(outcome.inputs == runs[0].inputs for outcome in runs),
                differing=tuple(sorted(differing)),
                runs=tuple(_run_result(outcome) for outcome in runs),
            )
        )
    return tuple(results)


def _run_result(outcome: Outcome) -> RunResult:
    return RunResult(
        run=outcome.run,
        status=outcome.status,
        key=outcome.key.hex(),
        inputs={text: digest.hex() for text, digest in outcome.inputs.items()},
        outputs=outcome.outputs.digest.hex(),
        log_sha256=outcome.log.hex(),
        duration_s=round(outcome.duration_s, 3),
        exercised=outcome.exercised,
        not_exercised=outcome.not_exercised,
    )


def total_verdict(nodes: Sequence[NodeResult], times: int) -> Verdict:
    """Judge the whole build."""
    if times < 2 or not nodes:
        return "not rebuilt"
    return "diverged" if any(node.verdict == "diverged" for node in nodes) else "reproduced"


def at_fault(graph: Graph, outcomes: Mapping[Task, Outcome], times: int) -> tuple[NodeComparison, ...]:
    """Find the nodes whose outputs differ between two runs that had the same inputs, in graph order.

    Runs are compared in pairs: where three runs have two different inputs, those that agree still tell.
    """
    found: list[NodeComparison] = []
    for node in in_order(graph):
        if node.kind in LEAVES:
            continue
        seen: dict[tuple[tuple[str, bytes], ...], Outcome] = {}
        for run in range(1, times + 1):
            outcome = outcomes[node.name, run]
            first = seen.setdefault(tuple(sorted(outcome.inputs.items())), outcome)
            if first.outputs.digest != outcome.outputs.digest:
                found.append(NodeComparison(node=node.name, first=first, other=outcome))
                break
    return tuple(found)
