"""A build from beginning to end: run the graph, compare the runs, lay out the result.

The result lies in `.rvp/build` (`build_result.py`); a new one takes the place of the old one only when it is
whole. A build that diverged has one too, with `difference.txt` and `difference.json`; it is never signed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.build_result import RESULT_NAME, Artifact, BuildResult, MeasurementResult, NodeResult
from pipeline.executors import Executor
from pipeline.graph import Leaves, in_order
from pipeline.outcome import Outcome
from pipeline.products import TAKEN, make_product, read_measurements
from pipeline.rebuild import Diverged, NodeComparison, at_fault, compare_runs, total_verdict
from pipeline.recipe import Recipe
from pipeline.recipe import write as write_recipe
from pipeline.run import Maker, Task, log_path, run_graph
from pipeline.spec import Measure, Spec
from pipeline.store import FolderStore, environment_failure
from pipeline.tree import Tree, TreeEntry
from provenance.claims import Tool
from provenance.digest import chunks_of, hash_stream
from provenance.events import Observer, RebuildCompared, ignore
from provenance.version import version

if TYPE_CHECKING:
    from pipeline.graph import Graph

BUILD_NAME: Final = "build"
DIFFERENCE_NAME: Final = "difference"
_SHA384: Final = "sha384"


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A build that ran to its end.

    Attributes:
        result: what is in `result.json`.
        folder: where it lies.
        faults: the nodes at fault, in graph order; empty when all was reproduced.
        difference: the look inside the first fault's files, as text.
    """

    result: BuildResult
    folder: Path
    faults: tuple[NodeComparison, ...] = ()
    difference: str = ""

    def raise_divergence(self) -> None:
        """Raise when a step diverged.

        Raises:
            Diverged: RVP-4001.
        """
        if not self.faults:
            return
        first = self.faults[0]
        others = [fault.node for fault in self.faults[1:]]
        files = "\n".join(f"  {path}" for path in first.differing[:20])
        more = f"\n  … {len(first.differing) - 20} more" if len(first.differing) > 20 else ""
        also = f"\nalso at fault: {', '.join(others)}" if others else ""
        raise Diverged(
            f"{first.node} gave other outputs in run {first.other.run} than in run {first.first.run}, "
            f"from the same inputs\n{files}{more}{also}",
            hint=f"{self.folder / (DIFFERENCE_NAME + '.txt')} says where they differ",
        )


def build(
    spec: Spec,
    graph: Graph,
    leaves: Leaves,
    *,
    store: FolderStore,
    executor: Executor,
    folder: Path,
    recipe: Recipe | None = None,
    complete: bool = True,
    make: Maker = make_product,
    observer: Observer = ignore,
    times: int | None = None,
    vary: tuple[str, ...] | None = None,
    keep_going: bool = False,
    again: bool = False,
) -> Build:
    """Run, compare, and lay out the result.

    Args:
        spec: what was asked for.
        graph: of the spec, or a part of it.
        leaves: what the lock pins, resolved; all of them.
        store: content and records.
        executor: where steps run.
        folder: `.rvp`.
        recipe: the recipe, laid out beside the result; None for a build that nobody will sign.
        complete: whether the graph is the whole one.
        make: makes packs and measures.
        observer: hears the progress.
        times: runs in total; default: what the spec says.
        vary: variations of the runs after the first; default: what the spec says.
        keep_going: after a failure, go on with what does not need it.
        again: run steps although they have records.

    Raises:
        StepFailure: a step failed. DiskFull: RVP-2103. A divergence is not raised: see `Build.faults`.

    Cost: memory does not grow with the size of artifacts; each is copied once.
    """
    times = spec.rebuild.times if times is None else times
    vary = spec.rebuild.vary if vary is None else vary
    outcomes = run_graph(
        graph,
        leaves,
        store=store,
        executor=executor,
        folder=folder,
        make=make,
        observer=observer,
        times=times,
        vary=vary,
        keep_going=keep_going,
        again=again,
    )
    nodes = compare_runs(graph, outcomes, times)
    if times > 1:
        for node in nodes:
            observer(RebuildCompared(step=node.node, verdict=node.verdict))
    faults = at_fault(graph, outcomes, times)
    try:
        with _new_result(folder) as place:
            artifacts = _lay_out_artifacts(graph, leaves, outcomes, store, place)
            measurements = _lay_out_measurements(graph, outcomes, store, place)
            _lay_out_logs(outcomes, store, place)
            if recipe and complete:
                write_recipe(recipe, place / "recipe", store)
            result = BuildResult(
                tool=Tool(name="rvp", version=version()),
                project=spec.project.name,
                version=spec.project.version,
                recipe=recipe.digest.hex() if recipe and complete else "",
                epoch=leaves.epoch,
                times=times,
                vary=vary if times > 1 else (),
                verdict=total_verdict(nodes, times),
                complete=complete,
                nodes=nodes,
                measurements=measurements,
                artifacts=artifacts,
            )
            text = _lay_out_difference(faults, nodes, store, place)
            document = json.dumps(msgspec.to_builtins(result), indent=2, ensure_ascii=False)
            (place / RESULT_NAME).write_text(f"{document}\n", encoding="utf-8")
    except OSError as error:
        raise environment_failure(error, str(folder / BUILD_NAME)) from error
    return Build(result=result, folder=folder / BUILD_NAME, faults=faults, difference=text)


@contextlib.contextmanager
def _new_result(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the old result's place at the end; one build at a time."""
    target, fresh, old = (folder / f"{BUILD_NAME}{end}" for end in ("", ".new", ".old"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
        fresh.mkdir()
        try:
            yield fresh
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _lay_out_artifacts(
    graph: Graph, leaves: Leaves, outcomes: Mapping[Task, Outcome], store: FolderStore, place: Path
) -> tuple[Artifact, ...]:
    """Copy what leaves the build: what is measured, what is packed, and what no other node takes."""
    found: dict[tuple[str, str], TreeEntry] = {}
    for node in in_order(graph):
        if node.kind == "measure":
            for link in node.links:
                for entry in _taken(link.node, outcomes).select(link.path).entries:
                    path = link.path if PurePosixPath(link.path).name == entry.path else entry.path
                    found[link.node, path] = entry
            for entry in _taken(node.name, outcomes).under(TAKEN).entries:
                found[node.name, entry.path] = entry
        elif node.kind == "pack" or (node.kind == "step" and not graph.succ[node.name]):
            for entry in outcomes[node.name, 1].outputs.entries:
                found[node.name, entry.path] = entry
    del leaves
    kept = {key: entry for key, entry in found.items() if entry.kind == "file" and _leaves(key[0])}
    bases = [PurePosixPath(path).name for _, path in kept]
    artifacts: list[Artifact] = []
    for (node_name, path), entry in kept.items():
        short = PurePosixPath(path).name
        name = short if bases.count(short) == 1 else f"{node_name.partition('.')[2]}/{path}"
        target = place / "artifacts" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = _copy_out(entry, store, target)
        artifacts.append(
            Artifact(
                name=name,
                path=f"artifacts/{name}",
                node=node_name,
                size_bytes=entry.size_bytes,
                digest=digest,
            )
        )
    return tuple(sorted(artifacts, key=lambda artifact: artifact.name))


def _leaves(node: str) -> bool:
    return node.partition(".")[0] in {"step", "pack", "measure"}


def _taken(node: str, outcomes: Mapping[Task, Outcome]) -> Tree:
    outcome = outcomes.get((node, 1))
    return outcome.outputs if outcome else Tree()


def _copy_out(entry: TreeEntry, store: FolderStore, target: Path) -> dict[str, str]:
    """Copy an object out; its second digest is computed once for each store."""
    content = bytes.fromhex(entry.sha256)
    long = store.recorded(_SHA384, content)
    with store.get(content) as source:
        if long is None:
            digests, _ = hash_stream(chunks_of(source))
            long = store.record(_SHA384, content, digests.sha384)
            source.seek(0)
        with target.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    target.chmod(0o755 if entry.executable else 0o644)
    return {"sha256": entry.sha256, "sha384": long.hex()}


def _lay_out_measurements(
    graph: Graph, outcomes: Mapping[Task, Outcome], store: FolderStore, place: Path
) -> tuple[MeasurementResult, ...]:
    results: list[MeasurementResult] = []
    for node in in_order(graph):
        if not isinstance(node.item, Measure):
            continue
        tree = outcomes[node.name, 1].outputs
        logs: list[str] = []
        for entry in tree.under("logs").entries:
            path = f"measurement-logs/{node.item.id}/{entry.path}"
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            with store.get(bytes.fromhex(entry.sha256)) as source, (place / path).open("xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            logs.append(path)
        results.append(
            MeasurementResult(
                node=node.name,
                layer=node.item.layer,
                measurements=read_measurements(tree, store).measurements,
                logs=tuple(logs),
            )
        )
    return tuple(results)


def _lay_out_logs(outcomes: Mapping[Task, Outcome], store: FolderStore, place: Path) -> None:
    logs = place / "logs"
    logs.mkdir()
    for (node, run), outcome in outcomes.items():
        if outcome.log and store.has(outcome.log):
            shutil.copyfile(store.path_of(outcome.log), log_path(logs, node, run))


def _lay_out_difference(
    faults: tuple[NodeComparison, ...], nodes: tuple[NodeResult, ...], store: FolderStore, place: Path
) -> str:
    """Look inside what differs; write what was found, and what was exercised."""
    if not faults:
        return ""
    from pipeline.difference import compare_trees, render_text, to_json

    texts: list[str] = []
    documents: list[object] = []
    for fault in faults:
        labels = (f"run {fault.first.run}", f"run {fault.other.run}")
        differences = compare_trees(fault.first.outputs, fault.other.outputs, store, labels=labels)
        head = f"{fault.node}: run {fault.other.run} differs from run {fault.first.run}, from the same inputs"
        texts.append(f"{head}\n{render_text(differences, labels=labels)}\n{_conditions(fault)}")
        documents.append(
            {
                "node": fault.node,
                "report": json.loads(to_json(differences, labels=labels)),
                "differing": fault.differing,
            }
        )
    passed_on = [node.node for node in nodes if node.verdict == "diverged" and not node.inputs_agree]
    if passed_on:
        texts.append(f"differ because of their inputs: {', '.join(passed_on)}\n")
    text = "\n".join(texts)
    (place / f"{DIFFERENCE_NAME}.txt").write_text(text, encoding="utf-8")
    document = json.dumps({"schema": "rvp/divergence/v1", "faults": documents}, indent=2, ensure_ascii=False)
    (place / f"{DIFFERENCE_NAME}.json").write_text(f"{document}\n", encoding="utf-8")
    return text


def _conditions(fault: NodeComparison) -> str:
    lines = [f"varied: {', '.join(fault.other.exercised) or 'nothing'}"]
    lines += [f"not exercised: {one.variation}: {one.reason}" for one in fault.other.not_exercised]
    return "".join(f"  {line}\n" for line in lines)
