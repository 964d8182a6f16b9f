"""Make a lock: resolve what is new or stale, keep the rest.

What is kept is kept byte for byte: a lock that was current stays as it is. `compare_locks` tells the person
who commits it what changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from pipeline.base import LockedBase, build_rootfs, lock_base
from pipeline.fetch.fetching import Fetched, fetch_key, load_fetch, lock_fetch, run_fetch, stale_fetches
from pipeline.lock import Lock, LockedFetch, LockedSource, hash_local_files, spec_parts, stale_parts
from pipeline.sandbox import StepInput
from pipeline.sources import LoadedSource, load_source
from pipeline.spec import Spec
from pipeline.spec_references import dependencies
from pipeline.store import FolderStore
from pipeline.tree import Tree
from provenance.errors import UsageError
from provenance.events import Observer, Phase

if TYPE_CHECKING:
    from pipeline.engine import Engine

EVERYTHING = "*"


class UnknownUpgrade(UsageError):
    """`--upgrade` names a part that the lock does not have.

    Cure: name base.NAME, source.NAME or fetch.NAME (NAME alone where it is unambiguous), or nothing for all.
    """

    code = "RVP-1207"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two locks.

    Attributes:
        part: `base.toolchain`, or a file's path.
        name: of the package, or empty for the part itself.
        before, after: version or digest; empty when it was not there.
    """

    part: str
    kind: Literal["added", "removed", "changed"]
    name: str = ""
    before: str = ""
    after: str = ""


def stale(spec: Spec, lock: Lock, folder: Path, *, store: FolderStore, observer: Observer) -> dict[str, str]:
    """Tell everything that a lock does not answer: part to reason. Loads the sources that fetches need.

    Raises:
        SpecError, EnvironmentFailure: a source that a fetch needs cannot be loaded.
    """
    found = stale_parts(spec, lock, folder)
    needed = {need for fetch in spec.fetch.values() for need in fetch.needs if need.startswith("source.")}
    trees: dict[str, str] = {}
    for node in sorted(needed - set(found)):
        name = node.partition(".")[2]
        if name in lock.source:
            trees[node] = lock.source[name].tree
        else:
            loaded = load_source(
                name, spec.source[name], folder=folder, store=store, locked=None, observer=observer
            )
            trees[node] = loaded.tree.digest.hex()
    return {**stale_fetches(spec, lock, trees), **found}


def resolve_lock(
    spec: Spec,
    folder: Path,
    *,
    store: FolderStore,
    previous: Lock | None,
    observer: Observer,
    engine: Callable[[], Engine],
    upgrade: Collection[str] = (),
    now: int | None = None,
    scratch: Path | None = None,
) -> Lock:
    """Make the lock of a spec.

    Args:
        spec: checked.
        folder: where it lies.
        store: receives everything that is fetched.
        previous: the lock that there is; its current parts are kept.
        observer: hears of the progress.
        engine: connects to an engine; called only when a fetch has to run.
        upgrade: parts to resolve again although they are current; `*` for all.
        now: the time to judge a Release's validity at, Unix seconds.
        scratch: folder for checkouts; default `.rvp/scratch`.

    Raises:
        UnknownUpgrade: RVP-1207. LocalFileMissing: RVP-1205. And what bases, sources and fetches raise.
    """
    return _Resolver(
        spec,
        folder,
        store,
        previous or Lock(),
        observer,
        engine,
        chosen_parts(spec, upgrade),
        now,
        scratch or folder / ".rvp" / "scratch",
    ).resolve()


def bring_fetches(
    spec: Spec,
    lock: Lock,
    folder: Path,
    trees: Mapping[str, Tree],
    *,
    store: FolderStore,
    observer: Observer,
    engine: Callable[[], Engine],
    scratch: Path,
) -> None:
    """See that the store has what every fetch gave: fetch again what it lacks, and compare with the lock.

    Args:
        spec: the spec.
        lock: answers it.
        folder: the spec's folder.
        trees: source node to its tree.
        store: receives the trees.
        observer: hears of the progress.
        engine: connects to an engine; called only when a fetch has to run.
        scratch: folder for checkouts.

    Raises:
        FetchChanged: RVP-1502: it gives another tree now. And what bases and fetches raise.
    """
    resolver = _Resolver(spec, folder, store, lock, observer, engine, frozenset(), None, scratch)
    resolver.trees.update(trees)
    for node in _in_order(spec):
        if node.startswith("fetch."):
            resolver.bring(node, lock.base, lock.fetch)


def chosen_parts(spec: Spec, names: Collection[str]) -> frozenset[str]:
    """Turn the names of `--upgrade` into parts.

    Raises:
        UnknownUpgrade: RVP-1207.
    """
    parts = spec_parts(spec)
    if EVERYTHING in names:
        return frozenset(parts)
    found: set[str] = set()
    for name in names:
        fitting = [part for part in parts if name in {part, part.partition(".")[2]}]
        if len(fitting) != 1:
            message = (
                f'"{name}" could be {" or ".join(fitting)}' if fitting else f'the lock has no part "{name}"'
            )
            raise UnknownUpgrade(message, hint=f"known: {', '.join(parts)}")
        found.update(fitting)
    return frozenset(found)


class _Resolver:
    def __init__(
        self,
        spec: Spec,
        folder: Path,
        store: FolderStore,
        previous: Lock,
        observer: Observer,
        engine: Callable[[], Engine],
        upgrade: frozenset[str],
        now: int | None,
        scratch: Path,
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.store = store
        self.previous = previous
        self.observer = observer
        self.connect = functools.cache(engine)
        self.upgrade = upgrade
        self.now = now
        self.scratch = scratch
        self.parts = spec_parts(spec)
        self.trees: dict[str, Tree] = {}

    def resolve(self) -> Lock:
        files = hash_local_files(self.spec, self.folder)
        bases = {name: self.base(name) for name in sorted(self.spec.base)}
        sources = {name: self.source(name) for name in sorted(self.spec.source)}
        pinned = {name: locked for name, locked in sources.items() if locked is not None}
        fetches: dict[str, LockedFetch] = {}
        order = [node.partition(".")[2] for node in _in_order(self.spec) if node.startswith("fetch.")]
        for name in order:
            fetches[name] = self.fetch(name, bases, fetches)
        return Lock(
            parts=self.parts, files=files, base=bases, source=pinned, fetch=dict(sorted(fetches.items()))
        )

    def keeps(self, part: str) -> bool:
        return self.previous.parts.get(part) == self.parts[part] and part not in self.upgrade

    def base(self, name: str) -> LockedBase:
        before = self.previous.base.get(name)
        if before is not None and self.keeps(f"base.{name}") and self.tar_is_current(name, before):
            return before
        self.observer(Phase(what=f"resolving base.{name}"))
        return lock_base(
            name,
            self.spec.base[name],
            folder=self.folder,
            store=self.store,
            observer=self.observer,
            previous=before,
            now=self.now,
        )

    def tar_is_current(self, name: str, before: LockedBase) -> bool:
        """A tar beside the spec may have changed under the same name."""
        path = self.spec.base[name].tar
        return (
            path is None
            or self.previous.files.get(path) == hash_local_files(self.spec, self.folder)[path]
            or (not before.tar)
        )

    def source(self, name: str) -> LockedSource | None:
        source = self.spec.source[name]
        before = self.previous.source.get(name)
        if source.path is not None:
            return None
        if before is not None and self.keeps(f"source.{name}"):
            return before
        self.observer(Phase(what=f"resolving source.{name}"))
        return self.load(name, None).locked

    def load(self, name: str, locked: LockedSource | None) -> LoadedSource:
        loaded = load_source(
            name,
            self.spec.source[name],
            folder=self.folder,
            store=self.store,
            locked=locked,
            observer=self.observer,
        )
        self.trees[f"source.{name}"] = loaded.tree
        return loaded

    def fetch(
        self, name: str, bases: Mapping[str, LockedBase], fetches: Mapping[str, LockedFetch]
    ) -> LockedFetch:
        fetch = self.spec.fetch[name]
        for need in fetch.needs:
            kind, _, needed = need.partition(".")
            if need not in self.trees and kind == "source":
                self.load(needed, self.previous.source.get(needed) if self.keeps_pin(need) else None)
        inputs = {
            need: self.trees[need].digest.hex()
            if need in self.trees
            else fetches[need.partition(".")[2]].tree
            for need in fetch.needs
        }
        key = fetch_key(fetch, bases[fetch.base], inputs)
        before = self.previous.fetch.get(name)
        if before is not None and self.keeps(f"fetch.{name}") and before.key == key:
            self.bring(f"fetch.{name}", bases, {**fetches, name: before})
            return before
        self.observer(Phase(what=f"fetching fetch.{name}"))
        return lock_fetch(self.run(name, bases, fetches), key)

    def keeps_pin(self, part: str) -> bool:
        return part in self.parts and self.keeps(part)

    def bring(self, node: str, bases: Mapping[str, LockedBase], fetches: Mapping[str, LockedFetch]) -> None:
        """Have the tree of a pinned fetch, from the store or fetched again and found equal."""
        name = node.partition(".")[2]
        self.trees[node] = load_fetch(
            name,
            fetches[name],
            store=self.store,
            observer=self.observer,
            again=functools.partial(self.run, name, bases, fetches),
        )

    def run(self, name: str, bases: Mapping[str, LockedBase], fetches: Mapping[str, LockedFetch]) -> Fetched:
        fetch = self.spec.fetch[name]
        for need in fetch.needs:
            if need not in self.trees:
                self.bring(need, bases, fetches)
        rootfs = build_rootfs(
            bases[fetch.base],
            folder=self.folder,
            store=self.store,
            observer=self.observer,
            base=self.spec.base[fetch.base],
        )
        return run_fetch(
            name,
            fetch,
            engine=self.connect(),
            rootfs=rootfs,
            inputs=tuple(StepInput(name=need, tree=self.trees[need]) for need in fetch.needs),
            store=self.store,
            observer=self.observer,
            scratch=self.scratch,
        )


def _in_order(spec: Spec) -> Iterator[str]:
    """Name the nodes, each after what it needs."""
    graph = dependencies(spec)
    done: set[str] = set()

    def visit(node: str) -> Iterator[str]:
        if node not in done:
            done.add(node)
            for need in graph[node]:
                yield from visit(need)
            yield node

    for node in graph:
        yield from visit(node)


def compare_locks(before: Lock, after: Lock) -> tuple[Change, ...]:
    """Tell what changed from one lock to another, packages by name and version."""
    return tuple(_changes(before, after))


def _changes(before: Lock, after: Lock) -> Iterator[Change]:
    for name in sorted({*before.base, *after.base}):
        yield from _base_changes(f"base.{name}", before.base.get(name), after.base.get(name))
    for name in sorted({*before.source, *after.source}):
        yield from _change(f"source.{name}", _said(before.source.get(name)), _said(after.source.get(name)))
    for name in sorted({*before.fetch, *after.fetch}):
        old, new = before.fetch.get(name), after.fetch.get(name)
        yield from _change(f"fetch.{name}", old.tree if old else "", new.tree if new else "")
    for path in sorted({*before.files, *after.files}):
        yield from _change(path, before.files.get(path, ""), after.files.get(path, ""))


def _said(source: LockedSource | None) -> str:
    return "" if source is None else source.commit or source.version or source.tree


def _change(part: str, before: str, after: str, *, name: str = "") -> Iterator[Change]:
    if before != after:
        kind: Literal["added", "removed", "changed"] = "changed" if before and after else "added"
        kind = "removed" if not after else kind
        yield Change(part=part, kind=kind, name=name, before=before, after=after)


def _base_changes(part: str, before: LockedBase | None, after: LockedBase | None) -> Iterator[Change]:
    old, new = _packages(before), _packages(after)
    yield from _change(part, _pin(before), _pin(after))
    for name in sorted({*old, *new}):
        (was, digest), (now, other) = old.get(name, ("", "")), new.get(name, ("", ""))
        if was == now and digest != other:  # one version, other bytes: say so
            was, now = f"{was} sha256:{digest[:12]}", f"{now} sha256:{other[:12]}"
        yield from _change(part, was, now, name=name)
    releases = [
        {f"Release {archive.suite}": archive.release[:12] for archive in locked.archives} if locked else {}
        for locked in (before, after)
    ]
    for suite in sorted({*releases[0], *releases[1]}):
        yield from _change(part, releases[0].get(suite, ""), releases[1].get(suite, ""), name=suite)


def _packages(base: LockedBase | None) -> dict[str, tuple[str, str]]:
    if base is None:
        return {}
    return {
        package.name
        if package.architecture in {base.architecture, "all"}
        else f"{package.name}:{package.architecture}": (package.version, package.sha256)
        for package in base.packages
    }


def _pin(base: LockedBase | None) -> str:
    return "" if base is None else base.image or base.tar
