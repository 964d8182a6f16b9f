"""The plan: what would run, and why.

For every node and run the plan says `cached` (there is a record), `run` (with the parts of its key that are
new), or `depends` (something before it runs first, and what that gives decides). Nothing is run and nothing
is written.

Example:
    >>> from pathlib import Path
    >>> from pipeline.store import FolderStore
    >>> old = {"argv": ["a"], "limits": {"cpus": 1}}
    >>> list(new_parts(old, {"argv": ["b"], "limits": {"cpus": 2}}, FolderStore(Path("none"))))
    ['argv changed', 'limits changed: cpus 1 → 2']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from pipeline.graph import LEAVES, Leaves, Node, in_order, key_of, key_parts
from pipeline.history import History
from pipeline.outcome import recorded, recorded_parts
from pipeline.sandbox import Rootfs
from pipeline.spec import Step
from pipeline.store import Store
from pipeline.tree import Tree

if TYPE_CHECKING:
    from pipeline.graph import Graph

Action = Literal["cached", "run", "depends"]
_SHOWN_FILES: Final = 3


class PlannedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node in one run: what would happen, and why; the key is hex, empty when it cannot be known yet."""

    run: int
    action: Action
    reasons: tuple[str, ...] = ()
    key: str = ""


class PlannedNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node.

    Attributes:
        node: its name.
        needs: the nodes that it takes something from.
        runs: empty for what the lock pins.
        pinned: of what the lock pins: its digest, hex; empty when it was not brought yet.
    """

    node: str
    needs: tuple[str, ...] = ()
    runs: tuple[PlannedRun, ...] = ()
    pinned: str = ""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole plan, in graph order."""

    schema: Literal["rvp/plan/v1"] = "rvp/plan/v1"
    times: int
    vary: tuple[str, ...] = ()
    nodes: tuple[PlannedNode, ...]

    def count(self, action: Action) -> int:
        """Count the tasks with an action."""
        return sum(run.action == action for node in self.nodes for run in node.runs)


def make_plan(
    graph: Graph,
    leaves: Leaves,
    *,
    store: Store,
    history: History,
    times: int = 1,
    vary: tuple[str, ...] = (),
) -> Plan:
    """Look at every node without running any.

    Args:
        graph: what would be built.
        leaves: what the lock pins; a base that is absent was not unpacked yet.
        store: records.
        history: the last key of each node.
        times: how many runs in total.
        vary: variations of the runs after the first.

    Cost: one look into the store for each node and run.
    """
    known: dict[tuple[str, int], Tree] = {}
    nodes: list[PlannedNode] = []
    for node in in_order(graph):
        needs = tuple(dict.fromkeys(link.node for link in node.links))
        if node.kind in LEAVES:
            digest = leaves.digest(node.name)
            nodes.append(PlannedNode(node=node.name, needs=needs, pinned=digest.hex() if digest else ""))
            continue
        runs = tuple(
            _plan_run(node, run, leaves, store, history, vary if run > 1 else (), known)
            for run in range(1, times + 1)
        )
        nodes.append(PlannedNode(node=node.name, needs=needs, runs=runs))
    return Plan(times=times, vary=vary, nodes=tuple(nodes))


def _plan_run(
    node: Node,
    run: int,
    leaves: Leaves,
    store: Store,
    history: History,
    vary: tuple[str, ...],
    known: dict[tuple[str, int], Tree],
) -> PlannedRun:
    inputs: dict[str, bytes] = {}
    waits: list[str] = []
    for link in node.links:
        value: Tree | Rootfs | None = leaves.rootfs.get(link.node) or leaves.trees.get(link.node)
        value = value if value is not None else known.get((link.node, run))
        if value is None:
            waits.append(link.node)
            inputs[link.text] = b""
        else:
            inputs[link.text] = value.select(link.path).digest if isinstance(value, Tree) else value.digest
    parts = key_parts(node, inputs, leaves=leaves, vary=vary, run=run)
    last = history.key(node.name, run)
    if waits:
        told = (f"waits for {', '.join(dict.fromkeys(waits))}",)
        return PlannedRun(run=run, action="depends", reasons=told + _why(node, parts, last, None, store))
    key = key_of(parts)
    found = recorded(store, key)
    if found is not None:
        known[node.name, run] = found[1]
        return PlannedRun(run=run, action="cached", key=key.hex())
    return PlannedRun(run=run, action="run", key=key.hex(), reasons=_why(node, parts, last, key, store))


def _why(
    node: Node, parts: Mapping[str, Any], last: bytes | None, key: bytes | None, store: Store
) -> tuple[str, ...]:
    old = recorded_parts(store, last) if last else None
    if old is None:
        return ("never built",)
    if last == key:
        return ("it was not finished, or its outputs are no longer in the store",)
    base = f"base.{node.item.base}" if isinstance(node.item, Step) else "base"
    return tuple(new_parts(old, parts, store, base=base)) or (() if key is None else ("its key is new",))


def new_parts(
    old: Mapping[str, Any], new: Mapping[str, Any], store: Store, *, base: str = "base"
) -> Iterator[str]:
    """Say which parts of a key differ, in words; an input whose digest is empty is not known yet."""
    for part in sorted(old.keys() | new.keys()):
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        if part == "base":
            if after:
                yield f"{base} changed"
        elif part == "inputs":
            yield from _new_inputs(before or {}, after or {}, store)
        elif part == "version":
            yield "rvp defines keys in another way than before"
        elif isinstance(before, dict) and isinstance(after, dict):
            yield f"{part} changed: {', '.join(_new_keys(before, after))}"
        elif (
            isinstance(before, (int, str)) and isinstance(after, (int, str)) and len(f"{before}{after}") < 60
        ):
            yield f"{part} changed: {before} → {after}"
        else:
            yield f"{part} changed"


def _new_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        left, right = before.get(name, "none"), after.get(name, "none")
        if left != right:
            yield f"{name} {left} → {right}" if isinstance(left, (int, str)) else name


def _new_inputs(before: Mapping[str, str], after: Mapping[str, str], store: Store) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"input {name} is new"
        elif name not in after:
            yield f"input {name} is gone"
        elif after[name] and before[name] != after[name]:
            yield f"input {name} changed{_changed_files(before[name], after[name], store)}"


def _changed_files(before: str, after: str, store: Store) -> str:
    trees = [_tree(store, bytes.fromhex(digest)) for digest in (before, after)]
    if trees[0] is None or trees[1] is None:
        return ""
    from pipeline.rebuild import differing_paths

    paths = differing_paths(trees[0], trees[1])
    shown = ", ".join(paths[:_SHOWN_FILES]) + (", …" if len(paths) > _SHOWN_FILES else "")
    return f": {len(paths)} file{'s' if len(paths) != 1 else ''} ({shown})"


def _tree(store: Store, digest: bytes) -> Tree | None:
    if not store.has(digest):
        return None
    with store.get(digest) as stream:
        try:
            return msgspec.json.decode(stream.read(), type=Tree)
        except msgspec.DecodeError:
            return None
