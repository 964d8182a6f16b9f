"""Run the graph: a bounded pool, in graph order, all rebuild runs together; what has a record does not run.

A *task* is one node in one run. Run 1 is the first build; runs 2, 3, … build again, each on its own outputs.
Steps run in the executor, under the run's variations. Packs and measures are made by rvp itself; they know no
variations, so a rebuild makes them again only when what goes in differs.

Invariants:
    - What a task gave is recorded under its key before anything uses it: whatever kills this process,
      the same command goes on from there.
    - The first record of a key stays. Two builds over one store agree; the later one says when it saw
      another result.
"""

from __future__ import annotations

import concurrent.futures
import heapq
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.executors import Executor
from pipeline.graph import LEAVES, Leaves, Link, Node, in_order, key_of, key_parts, sandbox_limits
from pipeline.history import add_history
from pipeline.outcome import PARTS, RECORD, Outcome, Record, recorded
from pipeline.sandbox import Rootfs, StepInput, StepRun
from pipeline.spec import Step
from pipeline.store import Store, environment_failure
from pipeline.tree import Tree
from provenance.canonical import canonical_json
from provenance.errors import RvpError, SpecError, StepFailure
from provenance.events import Note, Observer, StepFinished, StepPlanned, StepStarted, ignore

if TYPE_CHECKING:
    from pipeline.graph import Graph

Task = tuple[str, int]
# Makes what a pack or a measure gives: the node, what its links take, the leaves, the store.
Maker = Callable[[Node, Mapping[str, "Tree | Rootfs"], Leaves, Store, Observer], Tree]


class InputMissing(SpecError):
    """A node takes a file that the other node does not have.

    Cure: correct the path after the colon, or add it to the step's `outputs`.
    """

    code = "RVP-2204"


class SeveralFailed(StepFailure):
    """Several steps failed under --keep-going; the message names them.

    Cure: each has its own log; the first one in graph order is the one to look at first.
    """

    code = "RVP-2205"


class LeafMissing(SpecError):
    """Something that the lock pins could not be brought: a base, a source or a file.

    Cure: run `rvp lock`.
    """

    code = "RVP-2206"


def run_graph(
    graph: Graph,
    leaves: Leaves,
    *,
    store: Store,
    executor: Executor,
    folder: Path,
    make: Maker,
    observer: Observer = ignore,
    times: int = 1,
    vary: tuple[str, ...] = (),
    keep_going: bool = False,
    again: bool = False,
) -> dict[Task, Outcome]:
    """Run every task that has no record.

    Args:
        graph: what to build.
        leaves: what the lock pins, resolved.
        store: content and records.
        executor: where steps run.
        folder: `.rvp`: logs and history go there.
        make: makes packs and measures.
        observer: hears the progress, from several threads.
        times: how many runs in total.
        vary: variations of the runs after the first.
        keep_going: after a failure, go on with what does not need it.
        again: run steps although they have records.

    Returns:
        The outcome of each task.

    Raises:
        StepFailure: of the step that failed; RVP-2205 when several did.
        LeafMissing: RVP-2206. InputMissing: RVP-2204.
    """
    scheduler = _Scheduler(graph, leaves, store, executor, folder, make, observer, times, vary, again=again)
    try:
        scheduler.run(keep_going=keep_going)
    finally:
        add_history(folder, scheduler.keys)
    return scheduler.outcomes


class _Scheduler:
    def __init__(
        self,
        graph: Graph,
        leaves: Leaves,
        store: Store,
        executor: Executor,
        folder: Path,
        make: Maker,
        observer: Observer,
        times: int,
        vary: tuple[str, ...],
        *,
        again: bool,
    ) -> None:
        self.graph, self.leaves, self.store, self.executor = graph, leaves, store, executor
        self.logs, self.make, self.observer = folder / "logs", make, observer
        self.times, self.vary, self.again = times, vary, again
        self.nodes = in_order(graph)
        self.position = {node.name: index for index, node in enumerate(self.nodes)}
        self.outcomes: dict[Task, Outcome] = {}
        self.keys: dict[Task, bytes] = {}
        self.failures: dict[Task, RvpError] = {}

    def run(self, *, keep_going: bool) -> None:
        waiting = self._waiting()
        ready = [(run, self.position[name], name) for (name, run), count in waiting.items() if not count]
        heapq.heapify(ready)
        running: dict[concurrent.futures.Future[Outcome], Task] = {}
        pool = concurrent.futures.ThreadPoolExecutor(max(1, self.executor.slots), thread_name_prefix="step")
        try:
            while ready or running:
                while ready and len(running) < max(1, self.executor.slots):
                    run, _, name = heapq.heappop(ready)
                    started = self._start((name, run), pool)
                    if isinstance(started, Outcome):
                        self._done((name, run), started, waiting, ready)
                    else:
                        running[started] = (name, run)
                if not running:
                    break
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: running[future]):
                    task = running.pop(future)
                    try:
                        self._done(task, future.result(), waiting, ready)
                    except RvpError as error:
                        self.failures[task] = error
                        if not keep_going:
                            ready.clear()
                if self.failures and not keep_going:
                    ready.clear()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.executor.cancel()
            raise
        finally:
            pool.shutdown(wait=True)
        self._raise_failures(keep_going=keep_going)

    def _waiting(self) -> dict[Task, int]:
        waiting: dict[Task, int] = {}
        for node in self.nodes:
            if node.kind in LEAVES:
                if self.leaves.digest(node.name) is None:
                    raise LeafMissing(f"{node.name} is not there", hint="run `rvp lock`")
                continue
            needs = (self.graph.nodes[name]["node"] for name in self.graph.pred[node.name])
            count = sum(needed.kind not in LEAVES for needed in needs)
            for run in range(1, self.times + 1):
                # A pack or a measure of a rebuild that agrees has the key of run 1: it comes after it.
                waiting[node.name, run] = count + (run > 1 and node.kind != "step")
                self.observer(StepPlanned(step=node.name, run=run, runs=self.times))
        return waiting

    def _done(
        self, task: Task, outcome: Outcome, waiting: dict[Task, int], ready: list[tuple[int, int, str]]
    ) -> None:
        name, run = task
        self.outcomes[task] = outcome
        following = [(after, run) for after in self.graph.succ[name]]
        if run == 1 and self.graph.nodes[name]["node"].kind != "step":
            following += [(name, other) for other in range(2, self.times + 1)]
        for after in following:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, (after[1], self.position[after[0]], after[0]))

    def _start(
        self, task: Task, pool: concurrent.futures.ThreadPoolExecutor
    ) -> Outcome | concurrent.futures.Future[Outcome]:
        """Return the outcome of a task that has a record; start the others."""
        name, run = task
        node: Node = self.graph.nodes[name]["node"]
        taken = {link.text: self._take(node, link, run) for link in node.links}
        inputs = {text: value.digest for text, value in taken.items()}
        vary = self.vary if run > 1 else ()
        parts = key_parts(node, inputs, leaves=self.leaves, vary=vary, run=run)
        key = self.keys[task] = key_of(parts)
        fresh = self.again and (run == 1 or node.kind == "step")
        found = None if fresh else recorded(self.store, key)
        if found is not None:
            outcome = Outcome(
                node=name,
                run=run,
                status="cached",
                key=key,
                inputs=inputs,
                outputs=found[1],
                log=bytes.fromhex(found[0].log),
                duration_s=found[0].duration_s,
                exercised=found[0].exercised,
                not_exercised=found[0].not_exercised,
            )
            self.observer(StepFinished(step=name, run=run, runs=self.times, status="cached", duration_s=0.0))
            return outcome
        self.store.record(PARTS, key, canonical_json(parts))
        return pool.submit(self._execute, node, run, key, taken, inputs)

    def _take(self, node: Node, link: Link, run: int) -> Tree | Rootfs:
        if link.node in self.leaves.rootfs:
            return self.leaves.rootfs[link.node]
        tree = self.leaves.trees.get(link.node)
        if tree is None:
            tree = self.outcomes[link.node, run].outputs
        selected = tree.select(link.path)
        if link.path and not selected.entries:
            raise InputMissing(
                f'{node.name} takes "{link.text}", but {link.node} has no "{link.path}"',
                hint=f"{link.node} has: {', '.join(entry.path for entry in tree.entries[:8])}",
                place="rvp.toml",
            )
        return selected

    def _execute(
        self, node: Node, run: int, key: bytes, taken: Mapping[str, Tree | Rootfs], inputs: dict[str, bytes]
    ) -> Outcome:
        started = time.monotonic()
        self.observer(StepStarted(step=node.name, run=run, runs=self.times))
        log_file = log_path(self.logs, node.name, run) if node.kind == "step" else None
        status = "failed"
        try:
            for text, value in taken.items():
                if isinstance(value, Tree) and text.startswith(("source.", "fetch.")):
                    self.store.put([value.to_json()])  # so that a later plan can say which files changed
            if log_file:
                log_file.parent.mkdir(parents=True, exist_ok=True)
                asked = step_run(node, taken, self.leaves, vary=self.vary if run > 1 else (), run=run)
                result = self.executor.execute(asked, self.store, self.observer, log_file=log_file)
                outputs = result.outputs
                record = Record(
                    outputs=outputs.digest.hex(),
                    log=result.log.hex(),
                    duration_s=result.duration_s,
                    exercised=result.exercised,
                    not_exercised=result.not_exercised,
                )
            else:
                outputs = self.make(node, taken, self.leaves, self.store, self.observer)
                record = Record(outputs=outputs.digest.hex(), duration_s=time.monotonic() - started)
            record, outputs = self._keep(node, key, record, outputs)
            status = "ran"
        except OSError as error:
            raise environment_failure(error, node.name) from error
        finally:
            self.observer(
                StepFinished(
                    step=node.name,
                    run=run,
                    runs=self.times,
                    status=status,
                    duration_s=time.monotonic() - started,
                    log=str(log_file or ""),
                )
            )
        return Outcome(
            node=node.name,
            run=run,
            status="ran",
            key=key,
            inputs=inputs,
            outputs=outputs,
            log=bytes.fromhex(record.log),
            log_file=str(log_file or ""),
            duration_s=record.duration_s,
            exercised=record.exercised,
            not_exercised=record.not_exercised,
        )

    def _keep(self, node: Node, key: bytes, record: Record, outputs: Tree) -> tuple[Record, Tree]:
        """Record what a task gave; an earlier record of the same key wins, unless this is `again`."""
        self.store.put([outputs.to_json()])
        self.store.record(RECORD, key, msgspec.json.encode(record))
        kept = recorded(self.store, key)
        if kept is None or kept[0].outputs == record.outputs:
            return record, outputs
        self.observer(
            Note(
                level="warning",
                text=f"{node.name}: the same key gave other outputs before: it diverges by itself",
            )
        )
        return (record, outputs) if self.again else kept

    def _raise_failures(self, *, keep_going: bool) -> None:
        if not self.failures:
            return
        order = sorted(self.failures, key=lambda task: (task[1], self.position[task[0]]))
        first = self.failures[order[0]]
        if isinstance(first, StepFailure):
            again = f"run it again: rvp build {order[0][0].removeprefix('step.')} --debug-shell"
            first.hint = f"{first.hint}\n{again}".lstrip("\n")
        names = sorted({name for name, _ in order}, key=self.position.__getitem__)
        if not keep_going or len(names) == 1 or not isinstance(first, StepFailure):
            raise first
        told = "\n".join(f"{name}: {self._first_failure(name).message}" for name in names)
        raise SeveralFailed(f"{len(names)} steps failed\n{told}", hint=first.hint) from first

    def _first_failure(self, name: str) -> RvpError:
        return min((task[1], error) for task, error in self.failures.items() if task[0] == name)[1]


def log_path(logs: Path, node: str, run: int) -> Path:
    """Return where the log of a task lies."""
    return logs / f"{node}.run{run}.log"


def step_run(
    node: Node,
    taken: Mapping[str, Tree | Rootfs],
    leaves: Leaves,
    *,
    vary: tuple[str, ...] = (),
    run: int = 1,
) -> StepRun:
    """Say what the sandbox needs to know about one run of a step."""
    step = node.item
    if not isinstance(step, Step):
        raise TypeError(f"{node.name} is not a step")
    return StepRun(
        node=node.name,
        rootfs=leaves.rootfs[f"base.{step.base}"],
        argv=step.run,
        inputs=tuple(
            StepInput(name=text, tree=value) for text, value in taken.items() if isinstance(value, Tree)
        ),
        outputs=step.outputs,
        environment=dict(step.environment),
        epoch=leaves.epoch,
        limits=sandbox_limits(step.limits),
        variations=vary,
        fixed=step.fixed,
        run=run,
    )
