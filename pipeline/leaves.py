"""The leaves of the graph, brought: root filesystems, sources, fetched trees, files beside the spec.

`trees_of` needs no engine and no network once a project is loaded. Root filesystems are made by `with_bases`,
which may download and unpack; a plan asks only for those that are in the store.

The store is `--store`, else `RVP_STORE`, else `.rvp/store` beside the spec.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from pipeline.base import LockedBase
from pipeline.graph import Leaves
from pipeline.project import LoadedProject
from pipeline.sandbox import Rootfs
from pipeline.sources import load_tree
from pipeline.store import FolderStore, Store
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import SpecError
from provenance.events import Observer, Phase, ignore

WORKING_NAME: Final = ".rvp"
_RECORD: Final = "base-of-lock"


class FetchMissing(SpecError):
    """What a fetch gave is pinned, but its content is not on this machine.

    Cure: run `rvp lock`, which fetches it again and checks that it is the same.
    """

    code = "RVP-2208"


def store_of(folder: Path, *, named: str | None = None) -> FolderStore:
    """Open the store of a project."""
    chosen = named or os.environ.get("RVP_STORE")
    return FolderStore((Path(chosen) if chosen else folder / WORKING_NAME / "store").absolute())


def trees_of(project: LoadedProject, store: Store) -> Leaves:
    """Collect the trees of a loaded project.

    Raises:
        FetchMissing: RVP-2208.
    """
    trees: dict[str, Tree] = {f"source.{name}": source.tree for name, source in project.sources.items()}
    for name, fetched in project.lock.fetch.items():
        tree = load_tree(fetched.tree, store)
        if tree is None:
            raise FetchMissing(f"the content of fetch.{name} is not in the store", hint="run `rvp lock`")
        trees[f"fetch.{name}"] = tree
    for file in project.recipe.files:
        name = PurePosixPath(file.path).name
        entry = TreeEntry(path=name, kind="file", sha256=file.sha256, size_bytes=file.size)
        trees[f"file.{file.path}"] = make_tree([entry])
    return Leaves(trees=trees, epoch=project.recipe.source_date_epoch)


def with_bases(
    leaves: Leaves,
    project: LoadedProject,
    names: Iterable[str],
    *,
    store: FolderStore,
    observer: Observer = ignore,
) -> Leaves:
    """Make the root filesystems of some nodes (`base.toolchain`) that no earlier build made.

    Raises:
        RvpError: what making a base raises (RVP-14xx).
    """
    from pipeline.base import build_rootfs

    names = tuple(names)
    rootfs = dict(with_known_bases(leaves, project, names, store=store).rootfs)
    for node in names:
        if node in rootfs:
            continue
        observer(Phase(what=node))
        name = node.removeprefix("base.")
        locked = project.lock.base[name]
        rootfs[node] = build_rootfs(
            locked,
            folder=project.folder,
            store=store,
            observer=observer,
            base=project.spec.base[name],
        )
        keep_base(locked, rootfs[node], store)
        observer(Phase(what=node, done=True))
    return msgspec.structs.replace(leaves, rootfs=rootfs)


def with_known_bases(leaves: Leaves, project: LoadedProject, names: Iterable[str], *, store: Store) -> Leaves:
    """Add the root filesystems that an earlier build made, and make none."""
    rootfs: dict[str, Rootfs] = dict(leaves.rootfs)
    for node in names:
        known = store.recorded(_RECORD, _key(project.lock.base[node.removeprefix("base.")]))
        if known is None:
            continue
        found = msgspec.json.decode(known, type=Rootfs)
        content = [found.tar] if found.tar else []
        content += [bytes.fromhex(entry.sha256) for entry in found.variation_tools.entries if entry.sha256]
        if all(map(store.has, content)):
            rootfs[node] = found
    return msgspec.structs.replace(leaves, rootfs=rootfs)


def keep_base(locked: LockedBase, rootfs: Rootfs, store: Store) -> None:
    """Record which root filesystem a pinned base gave."""
    store.record(_RECORD, _key(locked), msgspec.json.encode(rootfs))


def _key(locked: LockedBase) -> bytes:
    return sha256(canonical_json(locked))
