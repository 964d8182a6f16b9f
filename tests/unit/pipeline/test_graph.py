"""The graph and its keys."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from pipeline.graph import (
    Leaves,
    UnknownStep,
    build_graph,
    in_order,
    key_of,
    key_parts,
    select,
)
from pipeline.sandbox import Rootfs
from pipeline.spec import Fetch, Limits, Pack, Step
from pipeline.tree import Tree, TreeEntry
from tests.fakes.specs import copy_step, make_spec

LEAVES = Leaves(rootfs={"base.t": Rootfs(digest=b"r" * 32)}, trees={"source.app": Tree()}, epoch=1)
INPUTS = {"base.t": b"r" * 32, "source.app": b"s" * 32}


def node_of(step: Step):
    return build_graph(make_spec(step)).nodes[f"step.{step.id}"]["node"]


def key(step: Step, *, inputs=INPUTS, leaves=LEAVES, vary=(), run=1) -> bytes:
    return key_of(key_parts(node_of(step), inputs, leaves=leaves, vary=vary, run=run))


STEP = copy_step("one", "source.app")


@pytest.mark.parametrize(
    "change",
    [
        {"run": ("true",)},
        {"environment": {"A": "1"}},
        {"outputs": ("one", "more")},
        {"limits": Limits(cpus=2)},
        {"limits": Limits(memory="1GiB")},
        {"limits": Limits(pids=7)},
    ],
)
def test_everything_that_a_command_can_see_changes_the_key(change):
    assert key(msgspec.structs.replace(STEP, **change)) != key(STEP)


@pytest.mark.parametrize(
    "change", [{"limits": Limits(time="2h")}, {"limits": Limits(output="1GiB")}, {"fixed": ("time",)}]
)
def test_what_can_only_make_it_fail_does_not_change_the_key(change):
    assert key(msgspec.structs.replace(STEP, **change)) == key(STEP)


def test_inputs_base_epoch_and_run_change_the_key():
    keys = {
        key(STEP),
        key(STEP, inputs={**INPUTS, "source.app": b"x" * 32}),
        key(STEP, inputs={**INPUTS, "base.t": b"x" * 32}),
        key(STEP, leaves=msgspec.structs.replace(LEAVES, epoch=2)),
        key(STEP, run=2, vary=("time",)),
        key(STEP, run=3, vary=("time",)),
        key(STEP, run=2, vary=("umask",)),
        key(STEP, run=2, vary=()),
    }
    assert len(keys) == 8


def test_variations_change_no_key_of_the_first_build():
    assert key(STEP, run=1, vary=("time",)) == key(STEP, run=1)


def test_the_version_tools_of_a_base_count_only_where_they_are_used():
    tools = Tree((TreeEntry(path="libfaketime.so.1", kind="file", sha256="11" * 32, size_bytes=1),))
    other = Leaves(rootfs={"base.t": Rootfs(digest=b"r" * 32, variation_tools=tools)}, epoch=1)
    assert key(STEP, leaves=other) == key(STEP)
    assert key(STEP, leaves=other, run=2) != key(STEP, run=2)


def test_a_pack_of_a_rebuild_has_the_key_of_the_first_build():
    spec = make_spec(STEP, pack=(Pack(id="p", kind="oci", output="i.tar", files={"/one": "step.one:one"}),))
    node = build_graph(spec).nodes["pack.p"]["node"]
    inputs = {"step.one:one": b"o" * 32}
    assert key_parts(node, inputs, leaves=LEAVES, run=2, vary=("time",)) == key_parts(
        node, inputs, leaves=LEAVES
    )


def test_a_fetch_comes_after_what_it_needs():
    fetches = {
        "more": Fetch(base="t", run=("x",), needs=("fetch.deps",)),
        "deps": Fetch(base="t", run=("x",)),
    }
    spec = msgspec.structs.replace(make_spec(STEP), fetch=fetches)
    graph = build_graph(spec)
    assert list(graph.pred["fetch.more"]) == ["base.t", "fetch.deps"]
    names = [node.name for node in in_order(graph)]
    assert names.index("fetch.deps") < names.index("fetch.more")
    assert "fetch.deps" in select(graph, ["fetch.more"])


def test_the_order_is_that_of_the_spec_where_needs_allow():
    spec = make_spec(copy_step("b", "step.a"), copy_step("a"), copy_step("c"))
    assert [node.name for node in in_order(build_graph(spec))] == [
        "base.t",
        "source.app",
        "step.a",
        "step.b",
        "step.c",
    ]


def test_a_selection_has_what_it_needs_in_graph_order_and_no_more():
    spec = make_spec(copy_step("a", "source.app"), copy_step("b", "step.a"), copy_step("c"))
    assert list(select(build_graph(spec), ["b"])) == ["base.t", "source.app", "step.a", "step.b"]
    assert list(select(build_graph(spec), ["step.a"])) == ["base.t", "source.app", "step.a"]


def test_a_step_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(UnknownStep) as caught:
        select(build_graph(make_spec(copy_step("enclave"))), ["enclav"])
    assert caught.value.hint == 'did you mean "enclave"?'


def test_a_file_beside_the_spec_is_a_node():
    pack = Pack(id="p", kind="sgx", output="e.so", image="step.one:one", config="enclave.toml")
    graph = build_graph(make_spec(STEP, pack=(pack,)))
    assert graph.nodes["file.enclave.toml"]["node"].kind == "file"
    assert graph.has_edge("file.enclave.toml", "pack.p")


def test_a_wide_graph_is_built_in_linear_time(tmp_path: Path):
    steps = [copy_step("s0")] + [copy_step(f"s{n}", f"step.s{n // 2}") for n in range(1, 2000)]
    started = time.monotonic()
    assert len(in_order(build_graph(make_spec(*steps)))) == 2002
    assert time.monotonic() - started < 5
