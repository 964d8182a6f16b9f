"""The plan and its reasons."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from pipeline.drawing import draw
from pipeline.graph import Leaves, build_graph
from pipeline.history import read_history
from pipeline.plan import make_plan
from pipeline.run import run_graph
from pipeline.sandbox import Rootfs
from pipeline.spec import Limits
from pipeline.store import FolderStore
from tests.fakes.executor import ProcessExecutor
from tests.fakes.specs import copy_step, make_leaves, make_spec

ONE, TWO = copy_step("one", "source.app"), copy_step("two", "step.one")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.leaves = make_leaves(self.store, folder / "src", a="A", b="B")

    def build(self, *steps):
        spec = make_spec(*steps)
        run_graph(
            build_graph(spec),
            self.leaves,
            store=self.store,
            executor=ProcessExecutor(),
            folder=self.folder,
            make=None,
            times=2,
            vary=("time",),
        )

    def plan(self, *steps, times=2, vary=("time",)):
        return make_plan(
            build_graph(make_spec(*steps)),
            self.leaves,
            store=self.store,
            history=read_history(self.folder),
            times=times,
            vary=vary,
        )

    def reasons(self, *steps, run=1, **more) -> dict[str, tuple[str, ...]]:
        plan = self.plan(*steps, **more)
        return {
            node.node: (node.runs[run - 1].action, *node.runs[run - 1].reasons)
            for node in plan.nodes
            if node.runs
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_was_never_built_runs_and_what_needs_it_depends(bench):
    assert bench.reasons(ONE, TWO) == {
        "step.one": ("run", "never built"),
        "step.two": ("depends", "waits for step.one", "never built"),
    }


def test_what_was_built_is_cached_in_every_run(bench):
    bench.build(ONE, TWO)
    plan = bench.plan(ONE, TWO)
    assert (plan.count("cached"), plan.count("run"), plan.count("depends")) == (4, 0, 0)


def test_a_plan_runs_nothing_and_writes_nothing(bench):
    bench.build(ONE)
    before = sorted(path for path in bench.folder.rglob("*"))
    bench.plan(ONE, TWO)
    assert sorted(path for path in bench.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": ("sh", "-c", "cat {source.app}/a > {out}/one # other")}, "argv changed"),
        ({"environment": {"A": "1"}}, "environment changed: A none → 1"),
        ({"limits": Limits(cpus=2)}, "limits changed: cpus 1 → 2"),
        ({"outputs": ("one", "more")}, "outputs changed"),
    ],
)
def test_the_reason_names_the_part_that_is_new(bench, change, reason):
    bench.build(ONE, TWO)
    changed = msgspec.structs.replace(ONE, **change)
    assert bench.reasons(changed, TWO) == {
        "step.one": ("run", reason),
        "step.two": ("depends", "waits for step.one"),
    }


def test_an_input_that_changed_is_told_with_its_files(bench):
    bench.build(ONE)
    bench.leaves = make_leaves(bench.store, bench.folder / "src", a="other", c="C")
    bench.store.put([bench.leaves.trees["source.app"].to_json()])
    assert bench.reasons(ONE)["step.one"] == ("run", "input source.app changed: 2 files (a, c)")


def test_an_input_that_changed_is_told_without_its_files_where_the_store_lacks_them(bench):
    bench.build(ONE)
    bench.leaves = make_leaves(bench.store, bench.folder / "src", a="other")
    assert bench.reasons(ONE)["step.one"] == ("run", "input source.app changed")


def test_a_base_that_changed_and_an_epoch_are_named(bench):
    bench.build(ONE)
    bench.leaves = msgspec.structs.replace(
        bench.leaves, rootfs={"base.t": Rootfs(digest=b"n" * 32)}, epoch=1700000001
    )
    assert bench.reasons(ONE)["step.one"] == (
        "run",
        "base.t changed",
        "epoch changed: 1700000000 → 1700000001",
    )


def test_a_base_that_was_not_unpacked_yet_is_waited_for(bench):
    bench.leaves = Leaves(trees=bench.leaves.trees, epoch=bench.leaves.epoch)
    plan = bench.plan(ONE)
    assert plan.nodes[0].pinned == ""
    assert bench.reasons(ONE)["step.one"] == ("depends", "waits for base.t", "never built")


def test_other_variations_make_only_rebuilds_new(bench):
    bench.build(ONE)
    assert bench.reasons(ONE, vary=("umask",))["step.one"] == ("cached",)
    assert bench.reasons(ONE, vary=("umask",), run=2)["step.one"] == ("run", "variations changed")


def test_outputs_that_were_removed_are_told(bench):
    bench.build(ONE)
    for path in (bench.folder / "store" / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    reason = "it was not finished, or its outputs are no longer in the store"
    assert bench.reasons(ONE)["step.one"] == ("run", reason)


def test_five_thousand_steps_are_planned_in_seconds(bench):
    steps = [copy_step("s0", "source.app")] + [copy_step(f"s{n}", f"step.s{n // 2}") for n in range(1, 5000)]
    spec = make_spec(*steps)
    started = time.monotonic()
    plan = make_plan(
        build_graph(spec), bench.leaves, store=bench.store, history=read_history(bench.folder), times=2
    )
    assert len(plan.nodes) == 5002
    assert time.monotonic() - started < 9  # the figure itself is the benchmark's business


def test_an_svg_is_well_formed_and_the_same_each_time(bench):
    picture = draw(bench.plan(ONE, TWO), "svg")
    assert picture == draw(bench.plan(ONE, TWO), "svg")
    root = ET.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(texts) == ["base.t", "source.app", "step.one", "step.two"]


def test_boxes_of_an_svg_do_not_overlap(bench):
    steps = [ONE] + [copy_step(f"s{n}", "step.one") for n in range(5)]
    root = ET.fromstring(draw(bench.plan(*steps), "svg"))
    boxes = [
        tuple(int(rect.get(name)) for name in ("x", "y", "width", "height"))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    for index, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:index]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_text_and_dot_name_nodes_and_needs(bench):
    assert "step.two    depends  ← base.t, step.one" in draw(bench.plan(ONE, TWO), "text")
    assert '"step.one" -> "step.two";' in draw(bench.plan(ONE, TWO), "dot")
