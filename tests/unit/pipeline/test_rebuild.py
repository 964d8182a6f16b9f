"""Who is at fault."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.graph import build_graph
from pipeline.outcome import Outcome
from pipeline.rebuild import at_fault, compare_runs, differing_paths, total_verdict
from pipeline.tree import Tree, TreeEntry
from tests.fakes.specs import copy_step, make_spec


def tree(content: str) -> Tree:
    return Tree((TreeEntry(path="f", kind="file", sha256=content * 64, size_bytes=1),))


def outcome(node: str, run: int, inputs: str, output: str) -> Outcome:
    return Outcome(
        node=node,
        run=run,
        status="ran",
        key=b"",
        inputs={"in": inputs.encode()},
        outputs=tree(output),
    )


GRAPH = build_graph(make_spec(copy_step("a", "source.app"), copy_step("b", "step.a")))


def outcomes(*rows: tuple[str, int, str, str]) -> dict:
    return {(node, run): outcome(node, run, given_, out) for node, run, given_, out in rows}


def test_a_step_that_brings_a_difference_back_to_nothing_is_reproduced():
    found = outcomes(
        ("step.a", 1, "s", "1"), ("step.a", 2, "s", "2"), ("step.b", 1, "1", "x"), ("step.b", 2, "2", "x")
    )
    nodes = {node.node: node.verdict for node in compare_runs(GRAPH, found, 2)}
    assert nodes == {"step.a": "diverged", "step.b": "reproduced"}


def test_with_three_runs_two_that_agree_in_their_inputs_still_tell():
    found = outcomes(
        ("step.a", 1, "s", "1"),
        ("step.a", 2, "s", "2"),
        ("step.a", 3, "s", "2"),
        ("step.b", 1, "1", "x"),
        ("step.b", 2, "2", "y"),
        ("step.b", 3, "2", "z"),
    )
    assert [(one.node, one.first.run, one.other.run) for one in at_fault(GRAPH, found, 3)] == [
        ("step.a", 1, 2),
        ("step.b", 2, 3),
    ]


def test_a_file_that_is_missing_differs():
    assert differing_paths(tree("1"), Tree()) == ("f",)


@given(outputs=st.lists(st.sampled_from("12"), min_size=4, max_size=4))
def test_the_build_is_reproduced_only_when_every_node_is(outputs):
    a1, a2, b1, b2 = outputs
    found = outcomes(
        ("step.a", 1, "s", a1), ("step.a", 2, "s", a2), ("step.b", 1, a1, b1), ("step.b", 2, a2, b2)
    )
    verdict = total_verdict(compare_runs(GRAPH, found, 2), 2)
    assert (verdict == "reproduced") == (a1 == a2 and b1 == b2)
    if verdict == "diverged":
        assert at_fault(GRAPH, found, 2)
