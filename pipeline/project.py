"""A project, loaded: the spec, the lock that answers it, the sources, and the recipe that they make.

This is where `rvp build` begins. Everything that is read is read once, and lies in the store afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pipeline.git import describe_folder, tracks
from pipeline.lock import (
    LOCK_NAME,
    LocalFileChanged,
    Lock,
    LockStale,
    check_lock,
    parse_lock,
    read_lock_bytes,
)
from pipeline.recipe import Recipe, RecipeFile
from pipeline.recorded_source import load_recorded
from pipeline.source_proof import SourceProof
from pipeline.sources import LoadedSource, load_source, load_tree
from pipeline.spec import Spec, parse_spec, read_spec_bytes
from pipeline.store import FolderStore, Store
from provenance.digest import chunks_of
from provenance.errors import SpecError, UsageError
from provenance.events import Observer

SPEC_NAME: Final = "rvp.toml"


class NoCommitTime(SpecError):
    """`source_date_epoch = "commit"`, and there is no commit to take the time from.

    Cure: commit the sources, or write the Unix seconds of the release into the spec.
    """

    code = "RVP-1330"


class WorkingFolderCommitted(SpecError):
    """The repository has a `.rvp` in it: results of steps that nobody here has seen run would be believed.

    Cure: `git rm -r --cached .rvp`, ignore it, and remove the folder; or build in a clone without it.
    """

    code = "RVP-1332"


class FetchNotAllowed(UsageError):
    """A stranger's recipe has `[fetch]` commands whose output is not here, and they were not allowed to run.

    They run in a container without a network of its own, and reach hosts through rvp's proxy.
    Cure: look at them (`rvp show BUNDLE`), then allow them: `rvp rebuild --fetch`.
    """

    code = "RVP-1331"


class LoadedProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project whose inputs are in the store.

    Attributes:
        folder: where the spec lies.
        spec: checked.
        lock: read, and current.
        sources: by name.
        recipe: what the bundle will have; its `source_date_epoch` is resolved.
    """

    folder: Path
    spec: Spec
    lock: Lock
    sources: dict[str, LoadedSource]
    recipe: Recipe


def load_project(
    folder: Path, *, store: FolderStore, observer: Observer, cache: Path | None = None
) -> LoadedProject:
    """Load the project in a folder.

    Nothing is fetched here: what a fetch gave and the store lacks is brought by `rvp lock`.

    Raises:
        SpecError: the spec or the lock is wrong, stale or missing; a source is not what is pinned.
        EnvironmentFailure: a source cannot be fetched.
    """
    if tracks(folder, ".rvp"):
        raise WorkingFolderCommitted(
            "git tracks files in .rvp, which holds what builds gave", place=str(folder / ".rvp")
        )
    spec_path, lock_path = folder / SPEC_NAME, folder / LOCK_NAME
    spec_bytes = read_spec_bytes(spec_path)
    spec = parse_spec(spec_bytes, name=str(spec_path))
    lock_bytes = read_lock_bytes(lock_path)
    lock = parse_lock(lock_bytes, name=str(lock_path))
    check_lock(spec, lock, folder)
    sources = {
        name: load_source(
            name,
            source,
            folder=folder,
            store=store,
            locked=lock.source.get(name),
            observer=observer,
            cache=cache,
        )
        for name, source in sorted(spec.source.items())
    }
    _check_fetches(spec, lock, folder, sources)
    recipe = Recipe(
        spec_bytes=spec_bytes,
        lock_bytes=lock_bytes,
        source_date_epoch=resolve_epoch(spec, sources, folder),
        repository=spec.project.repository or _origin(folder),
        files=tuple(_pinned(folder, path, digest, store) for path, digest in sorted(lock.files.items())),
        sources=tuple(source.for_recipe() for source in sources.values()),
    )
    return LoadedProject(folder=folder, spec=spec, lock=lock, sources=sources, recipe=recipe)


def load_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    store: FolderStore,
    observer: Observer,
    cache: Path,
    must_prove: bool = False,
    may_fetch: bool = False,
    proofs: tuple[SourceProof, ...] = (),
    spec_committed: bool = False,
) -> LoadedProject:
    """Load the project of a recipe that was read: its sources from where the recipe found them.

    Args:
        recipe: as `recipe.read` gave it, its pinned files in the store.
        folder: a folder without a project, which receives the spec, the lock and the pinned files.
        store: receives the sources, and is asked first.
        observer: hears of downloads.
        cache: folder for clones.
        must_prove: fail where a source's commit cannot be fetched from its repository.
        may_fetch: let the recipe's `[fetch]` commands reach the network.
        proofs: what signed git objects show of the sources.
        spec_committed: the spec must stand in the commit, beside the folders that it names.

    Raises:
        FetchNotAllowed: RVP-1331. SourceMissing: RVP-1326. SourceChanged: RVP-1328. And as `load_project`.
    """
    spec, lock = recipe.spec, recipe.lock
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_NAME).write_bytes(recipe.spec_bytes)
    (folder / LOCK_NAME).write_bytes(recipe.lock_bytes)
    for file in recipe.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.get(bytes.fromhex(file.sha256)) as content, target.open("xb") as out:
            for chunk in chunks_of(content):
                out.write(chunk)
    check_lock(spec, lock, folder)
    shown = {proof.source: proof for proof in proofs}
    sources = {
        recorded.name: load_recorded(
            recorded,
            spec.source[recorded.name],
            store=store,
            locked=lock.source.get(recorded.name),
            observer=observer,
            cache=cache,
            must_prove=must_prove,
            proof=shown.get(recorded.name),
            spec_bytes=recipe.spec_bytes if spec_committed else None,
        )
        for recorded in recipe.sources
    }
    if not may_fetch:
        _refuse_to_fetch(spec, lock, store)
    _have_fetches(spec, lock, folder, sources, store, observer, cache / "scratch")
    kept = tuple(sources[one.name].for_recipe() for one in recipe.sources)
    recipe = msgspec.structs.replace(recipe, sources=kept)
    return LoadedProject(folder=folder, spec=spec, lock=lock, sources=sources, recipe=recipe)


def _refuse_to_fetch(spec: Spec, lock: Lock, store: Store) -> None:
    missing = [name for name, fetched in lock.fetch.items() if load_tree(fetched.tree, store) is None]
    if missing:
        asked = [", ".join(spec.fetch[name].hosts) or "any host" for name in missing]
        raise FetchNotAllowed(
            f"the recipe would reach the network: {', '.join(missing)} ({'; '.join(asked)})",
            hint="allow it with --fetch, or ask for a bundle that was published with --with-inputs",
        )


def _check_fetches(spec: Spec, lock: Lock, folder: Path, sources: dict[str, LoadedSource]) -> None:
    """Refuse a lock whose fetches were made from other inputs."""
    if not spec.fetch:
        return
    from pipeline.fetch.fetching import stale_fetches  # it brings the sandbox with it

    digests = {f"source.{name}": source.tree.digest.hex() for name, source in sources.items()}
    if found := stale_fetches(spec, lock, digests):
        told = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        raise LockStale(f"the lock is stale: {told}", hint="run `rvp lock`", place=str(folder / LOCK_NAME))


def _have_fetches(
    spec: Spec,
    lock: Lock,
    folder: Path,
    sources: dict[str, LoadedSource],
    store: FolderStore,
    observer: Observer,
    scratch: Path,
) -> None:
    """Fetch again what the store lacks; it must be what the lock pins."""
    _check_fetches(spec, lock, folder, sources)
    if not spec.fetch:
        return
    from pipeline.engine import connect
    from pipeline.resolve import bring_fetches

    bring_fetches(
        spec,
        lock,
        folder,
        {f"source.{name}": source.tree for name, source in sources.items()},
        store=store,
        observer=observer,
        engine=connect,
        scratch=scratch,
    )


def resolve_epoch(spec: Spec, sources: dict[str, LoadedSource], folder: Path) -> int:
    """Resolve `source_date_epoch`: a number, or the time of the newest commit among the sources.

    Folders beside the spec come first; a project without any takes the commit of the spec's own folder, then
    those of its git sources.

    Raises:
        NoCommitTime: RVP-1330.
    """
    if spec.project.source_date_epoch != "commit":
        return spec.project.source_date_epoch
    for kind in ("path", "git"):
        times = [
            source.commit_time for source in sources.values() if source.kind == kind and source.commit_time
        ]
        if times:
            return max(times)
        if kind == "path" and (state := describe_folder(folder)) is not None:
            return state.revision.commit_time
    raise NoCommitTime(
        'source_date_epoch is "commit", and no source lies in a git repository with a commit',
        hint="commit the sources, or write source_date_epoch = SECONDS",
        place=str(folder / SPEC_NAME),
    )


def _origin(folder: Path) -> str:
    state = describe_folder(folder)
    return state.repository if state is not None else ""


def _pinned(folder: Path, path: str, digest: str, store: Store) -> RecipeFile:
    with (folder / path).open("rb") as stream:
        found, size_bytes = store.put(chunks_of(stream))
    if found.hex() != digest:  # changed since the lock was checked, a moment ago
        raise LocalFileChanged(f'"{path}" changed while it was read', place=str(folder / path))
    return RecipeFile(path=path, sha256=digest, size=size_bytes)
