"""The scheduler: order, cache, failures, interruption."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.graph import Leaves, build_graph
from pipeline.rebuild import at_fault, compare_runs, total_verdict
from pipeline.run import InputMissing, LeafMissing, SeveralFailed, run_graph
from pipeline.sandbox import Rootfs
from pipeline.spec import Measure
from pipeline.store import FolderStore
from pipeline.tree import Tree, make_tree, read_file_entry
from provenance.errors import StepFailure
from provenance.events import StepFinished
from tests.fakes.executor import ProcessExecutor
from tests.fakes.specs import copy_step, make_leaves, make_spec


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.leaves = make_leaves(self.store, folder / "src")
        self.made: list[tuple[str, str]] = []

    def build(self, spec, executor=None, **more):
        self.graph = build_graph(spec)
        self.executor = executor or ProcessExecutor()
        self.events = []
        return run_graph(
            self.graph,
            self.leaves,
            store=self.store,
            executor=self.executor,
            folder=self.folder / ".rvp",
            make=self.make,
            observer=self.events.append,
            times=spec.rebuild.times,
            vary=spec.rebuild.vary,
            **more,
        )

    def make(self, node, taken, leaves: Leaves, store, observer) -> Tree:
        self.made.append((node.name, ",".join(sorted(value.digest.hex()[:8] for value in taken.values()))))
        path = self.folder / "made"
        path.write_text(repr(sorted((text, value.digest) for text, value in taken.items())))
        return make_tree([read_file_entry(path, "made", store)])

    def content(self, outcome, path: str) -> str:
        entry = outcome.outputs.find(path)
        with self.store.get(bytes.fromhex(entry.sha256)) as stream:
            return stream.read().decode()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


TWO = (copy_step("one", "source.app"), copy_step("two", "step.one"))


def test_each_rebuild_chain_feeds_its_own_outputs_on(bench: Bench):
    spec = make_spec(copy_step("one", script="echo run$RVP_RUN > {out}/one"), copy_step("two", "step.one"))
    outcomes = bench.build(spec)
    assert bench.content(outcomes["step.two", 1], "two") == "run\n"
    assert bench.content(outcomes["step.two", 2], "two") == "run2\n"


def test_a_second_build_runs_nothing_and_gives_the_same(bench: Bench):
    first = bench.build(make_spec(*TWO))
    second = bench.build(make_spec(*TWO))
    assert bench.executor.ran == []
    assert {outcome.status for outcome in second.values()} == {"cached"}
    assert {task: outcome.outputs for task, outcome in first.items()} == {
        task: outcome.outputs for task, outcome in second.items()
    }


def test_again_runs_everything_although_there_are_records(bench: Bench):
    bench.build(make_spec(*TWO))
    bench.build(make_spec(*TWO), again=True)
    assert len(bench.executor.ran) == 4


def test_a_step_whose_inputs_come_out_the_same_does_not_run_again(bench: Bench):
    bench.build(make_spec(copy_step("one", "source.app", script="echo same > {out}/one"), TWO[1]))
    bench.build(make_spec(copy_step("one", "source.app", script="echo sam'e' > {out}/one"), TWO[1]))
    assert {name for name, _ in bench.executor.ran} == {"step.one"}


def test_an_object_that_somebody_removed_is_made_again(bench: Bench):
    spec = make_spec(TWO[0], copy_step("two", "step.one", script="echo two > {out}/two"))
    first = bench.build(spec)
    entry = first["step.two", 1].outputs.find("two")
    bench.store.path_of(bytes.fromhex(entry.sha256)).unlink()
    outcomes = bench.build(spec)
    assert bench.content(outcomes["step.two", 1], "two") == "two\n"


def test_the_first_step_that_differs_with_agreeing_inputs_is_at_fault_and_the_next_is_not(bench: Bench):
    spec = make_spec(
        copy_step("clean", "source.app"),
        copy_step("clock", "source.app", script="date +%N$RVP_RUN > {out}/clock"),
        copy_step("after", "step.clock"),
    )
    outcomes = bench.build(spec)
    assert [found.node for found in at_fault(bench.graph, outcomes, 2)] == ["step.clock"]
    nodes = {node.node: node for node in compare_runs(bench.graph, outcomes, 2)}
    assert nodes["step.clean"].verdict == "reproduced"
    assert (nodes["step.after"].verdict, nodes["step.after"].inputs_agree) == ("diverged", False)
    assert nodes["step.clock"].differing == ("clock",)
    assert total_verdict(tuple(nodes.values()), 2) == "diverged"


def test_one_run_is_not_rebuilt_and_never_reproduced(bench: Bench):
    outcomes = bench.build(make_spec(*TWO, times=1))
    nodes = compare_runs(bench.graph, outcomes, 1)
    assert {node.verdict for node in nodes} == {"not rebuilt"}
    assert total_verdict(nodes, 1) == "not rebuilt"


def test_a_fixed_variation_is_stated_as_not_exercised(bench: Bench):
    spec = make_spec(copy_step("one", "source.app", fixed=("time",)), vary=("time", "umask"))
    outcome = bench.build(spec)["step.one", 2]
    assert outcome.exercised == ("umask",)
    assert [entry.variation for entry in outcome.not_exercised] == ["time"]


def test_a_measure_is_made_once_when_its_inputs_agree_and_twice_when_they_differ(bench: Bench):
    measures = (
        Measure(id="same", tee="sgx", image="step.one:one"),
        Measure(id="other", tee="sgx", image="step.two:two"),
    )
    spec = make_spec(
        copy_step("one", "source.app"),
        copy_step("two", script="echo $RVP_RUN > {out}/two"),
        measure=measures,
    )
    bench.build(spec)
    assert sorted(name for name, _ in bench.made) == ["measure.other", "measure.other", "measure.same"]


def test_the_pool_is_bounded_and_all_runs_share_it(bench: Bench):
    steps = [copy_step(f"s{number}", script=f"sleep 0.1; echo x > {{out}}/s{number}") for number in range(4)]
    bench.build(make_spec(*steps), ProcessExecutor(slots=3))
    assert bench.executor.most == 3


def test_a_failure_stops_the_build_and_keeps_what_was_finished(bench: Bench):
    bad = copy_step("bad", "step.one", script="exit 3")
    with pytest.raises(StepFailure):
        bench.build(make_spec(TWO[0], bad, copy_step("after", "step.bad"), times=1))
    bench.build(make_spec(*TWO, times=1))
    assert bench.executor.ran == [("step.two", 1)]


def test_keep_going_runs_what_does_not_need_the_failed_step(bench: Bench):
    spec = make_spec(
        copy_step("bad", script="exit 3"),
        copy_step("after", "step.bad"),
        copy_step("worse", script="exit 4"),
        *TWO,
        times=1,
    )
    with pytest.raises(SeveralFailed, match="2 steps failed") as caught:
        bench.build(spec, keep_going=True)
    assert ("step.two", 1) in bench.executor.ran
    assert ("step.after", 1) not in bench.executor.ran
    assert "step.worse" in caught.value.message
    statuses = {event.step: event.status for event in bench.events if isinstance(event, StepFinished)}
    assert statuses["step.bad"] == "failed"


def test_a_path_that_the_other_step_does_not_have_is_told(bench: Bench):
    measure = Measure(id="m", tee="sgx", image="step.one:nothing.so")
    with pytest.raises(InputMissing, match=r'has no "nothing\.so"'):
        bench.build(make_spec(TWO[0], measure=(measure,)))


def test_a_leaf_that_is_not_there_is_told_before_anything_runs(bench: Bench):
    bench.leaves = Leaves(rootfs={"base.t": Rootfs(digest=b"x" * 32)}, epoch=0)
    with pytest.raises(LeafMissing, match=r"source\.app"):
        bench.build(make_spec(*TWO))
    assert bench.executor.ran == []


def test_an_interruption_ends_the_running_steps_and_the_same_build_goes_on(bench: Bench):
    slow = copy_step("slow", "step.one", script="sleep 60")
    spec = make_spec(TWO[0], slow, times=1)
    executor = ProcessExecutor()

    def interrupt() -> None:
        while ("step.slow", 1) not in executor.ran:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bench.build(spec, executor)
    thread.join()
    assert executor.cancelled
    assert time.monotonic() - started < 30
    bench.build(make_spec(*TWO, times=1))
    assert bench.executor.ran == [("step.two", 1)]


def test_another_result_under_the_same_key_is_noticed_and_the_first_one_stays(bench: Bench):
    spec = make_spec(copy_step("one", script="date +%N > {out}/one"), times=1)
    first = bench.build(spec)["step.one", 1]
    again = bench.build(spec, again=True)["step.one", 1]
    assert again.outputs != first.outputs
    assert any("diverges by itself" in getattr(event, "text", "") for event in bench.events)
    assert bench.build(spec)["step.one", 1].outputs == first.outputs


def test_logs_lie_on_disk_for_each_run(bench: Bench):
    bench.build(make_spec(copy_step("one", script="echo hello; touch {out}/one")))
    logs = bench.folder / ".rvp" / "logs"
    assert (logs / "step.one.run1.log").read_text() == (logs / "step.one.run2.log").read_text() == "hello\n"


def test_five_hundred_cached_steps_are_looked_up_within_a_second(bench: Bench):
    steps = [copy_step("s0", "source.app")] + [copy_step(f"s{n}", f"step.s{n - 1}") for n in range(1, 500)]

    class Quick(ProcessExecutor):
        def execute(self, run, store, observer, *, log_file):
            digest, size = store.put([run.node.encode()])
            from pipeline.sandbox import StepResult
            from pipeline.tree import TreeEntry

            entry = TreeEntry(path=run.outputs[0], kind="file", sha256=digest.hex(), size_bytes=size)
            return StepResult(outputs=make_tree([entry]), log=digest, duration_s=0)

    bench.build(make_spec(*steps), Quick())
    started = time.monotonic()
    outcomes = bench.build(make_spec(*steps), Quick())
    assert {outcome.status for outcome in outcomes.values()} == {"cached"}
    assert time.monotonic() - started < 3  # the figure itself is the benchmark's business
