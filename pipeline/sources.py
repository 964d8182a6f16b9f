"""Sources: what is built from, as a tree of path, type, executable bit and content.

Four ways: a folder beside the spec, a git revision, a URL, a Debian source package. The lock pins all but
the folder, which is versioned with the spec.

A folder inside a git repository that has no changes is read from the commit itself, not from the disk, so
line-end settings, filters and the umask of a checkout change nothing. One that has changes is read from the
disk (tracked files, and those that are neither tracked nor ignored) and is *dirty*: it builds, it cannot be
released. A folder in no repository is read whole, and no commit is recorded for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from pipeline.download import download
from pipeline.git import describe_folder, listed_files, read_commit, without_credentials
from pipeline.git_fetch import fetch_revision
from pipeline.lock import LockedFile, LockedSource
from pipeline.recipe import RecipeSource
from pipeline.spec import Source, inside
from pipeline.store import Store
from pipeline.tree import BadEntry, Tree, TreeEntry, make_tree, read_file_entry
from pipeline.unpack import unpack
from provenance.digest import sha256
from provenance.errors import SpecError
from provenance.events import Observer

_NEVER: Final = frozenset({".git", ".rvp"})
Kind = Literal["path", "git", "url", "debian-source"]


class SourceMissing(SpecError):
    """A source's folder is not there, is empty, or nothing of it is chosen by include and exclude.

    Cure: correct `path`, `include` or `exclude`.
    """

    code = "RVP-1326"


class SourceChanged(SpecError):
    """A source is not the one that the lock or the recipe pins.

    Cure: find out why; `rvp lock --upgrade NAME` pins what is there now.
    """

    code = "RVP-1328"


class LoadedSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose content is in the store.

    Attributes:
        name: as in the spec.
        kind: how it was got.
        tree: what it holds.
        repository: where it was found, without credentials; empty for a folder in no repository.
        ref: tag or branch, in full.
        commit: object id of the commit.
        folder: the folder inside the repository.
        dirty: it has changes that are in no commit.
        commit_time: Unix seconds; None without a commit.
        locked: what the lock pins of it; None for a folder.
    """

    name: str
    kind: Kind
    tree: Tree
    repository: str = ""
    ref: str = ""
    commit: str = ""
    folder: str = ""
    dirty: bool = False
    commit_time: int | None = None
    locked: LockedSource | None = None

    def for_recipe(self) -> RecipeSource:
        """Return what the recipe records of it."""
        return RecipeSource(
            name=self.name,
            kind=self.kind,
            tree=self.tree.digest.hex(),
            repository=self.repository,
            ref=self.ref,
            commit=self.commit,
            folder=self.folder,
            dirty=self.dirty,
        )


def load_source(
    name: str,
    source: Source,
    *,
    folder: Path,
    store: Store,
    locked: LockedSource | None,
    observer: Observer,
    cache: Path | None = None,
) -> LoadedSource:
    """Load a source into the store.

    Args:
        name: its name in the spec.
        source: what the spec says.
        folder: the spec's folder.
        store: receives the content, and is asked first: what the lock pins and the store has, is not fetched.
        locked: what the lock pins; None to find out (in `rvp lock`), and for a folder.
        observer: hears of downloads.
        cache: folder for clones; default `.rvp/cache/git` in the spec's folder.

    Raises:
        SourceMissing: RVP-1326. SourceChanged: RVP-1328. GitFailed, RevisionMissing, DownloadFailed,
        WrongDigest, BadArchive, BadPath, BadEntry: see their rooms.
    """
    cache = cache or folder / ".rvp" / "cache" / "git"
    if source.path is not None:
        return _load_folder(name, source, folder, store)
    kept = _kept(locked, store)
    if source.git is not None and source.rev is not None:
        loaded = _load_git(name, source, store, locked, kept, cache)
    elif source.url is not None:
        loaded = _load_url(name, source, store, locked, kept, observer)
    else:
        loaded = _load_debian(name, source, folder, store, locked, kept, observer)
    if locked is not None and loaded.tree.digest.hex() != locked.tree:
        raise SourceChanged(
            f'the source "{name}" is not the one that the lock pins\n'
            f"  expected {locked.tree}\n  got      {loaded.tree.digest.hex()}",
            hint=f"`rvp lock --upgrade {name}` pins what is there now",
        )
    store.put([loaded.tree.to_json()])  # addressed by the tree's digest: the next load finds it
    return loaded


def load_tree(digest: str, store: Store) -> Tree | None:
    """Find a tree in the store by its digest, with all of its content; None when something is missing."""
    if not store.has(bytes.fromhex(digest)):
        return None
    with store.get(bytes.fromhex(digest)) as stream:
        tree = msgspec.json.decode(stream.read(), type=Tree)
    files = {entry.sha256 for entry in tree.entries if entry.kind == "file"}
    return tree if all(store.has(bytes.fromhex(file)) for file in files) else None


def _kept(locked: LockedSource | None, store: Store) -> Tree | None:
    return load_tree(locked.tree, store) if locked is not None else None


def chooser(source: Source) -> Callable[[str], bool]:
    """Return what tells of a path whether the source's `include` and `exclude` choose it."""
    include = tuple(inside(path) for path in source.include)
    exclude = tuple(inside(path) for path in source.exclude)

    def chosen(path: str) -> bool:
        if not _NEVER.isdisjoint(path.split("/")):
            return False
        wanted = not include or any(_below(path, top) for top in include)
        return wanted and not any(_below(path, top) for top in exclude)

    return chosen


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _load_folder(name: str, source: Source, folder: Path, store: Store) -> LoadedSource:
    place = folder / (source.path or ".")
    if not place.is_dir():
        raise SourceMissing(
            f'the folder of the source "{name}" is not there',
            place=str(place),
            hint=f"make the folder, or correct `path` of [source.{name}] in rvp.toml",
        )
    if not place.resolve().is_relative_to(folder.resolve()):
        raise SourceMissing(f'the folder of the source "{name}" leads outside by a link', place=str(place))
    chosen = chooser(source)
    state = describe_folder(place)
    if state is None:
        tree = make_tree(_on_disk(place, _all_files(place), chosen, store))
        return LoadedSource(name=name, kind="path", tree=_some(tree, name, place))
    dirty = any(chosen(path) for path in state.changed)
    if dirty:
        tree = make_tree(_on_disk(place, listed_files(place), chosen, store))
    else:
        tree = _remembered(
            store,
            (state.revision.tree, state.prefix, *source.include, "", *source.exclude),
            lambda: read_commit(place, state.revision.tree, store, prefix=state.prefix, chosen=chosen),
        )
    return LoadedSource(
        name=name,
        kind="path",
        tree=_some(tree, name, place),
        repository=state.repository,
        ref=state.revision.ref,
        commit=state.revision.commit,
        folder=state.prefix.rstrip("/"),
        dirty=dirty,
        commit_time=state.revision.commit_time,
    )


def _remembered(store: Store, key: tuple[str, ...], read: Callable[[], Tree]) -> Tree:
    """Read a commit's tree once for each store."""
    name = sha256("\0".join(key).encode())
    known = store.recorded("commit-tree", name)
    if known is not None and (tree := load_tree(known.hex(), store)) is not None:
        return tree
    tree = read()
    store.put([tree.to_json()])
    store.record("commit-tree", name, tree.digest)
    return tree


def _some(tree: Tree, name: str, place: Path | str) -> Tree:
    if not tree.entries:
        message = f'the source "{name}" holds nothing (git-ignored files do not count)'
        raise SourceMissing(message, place=str(place), hint="look at path, include and exclude")
    return tree


def _all_files(place: Path) -> Iterator[str]:
    for root, folders, files in os.walk(place):
        folders[:] = sorted(set(folders) - _NEVER)
        here = Path(root).relative_to(place)
        links = [child for child in folders if (Path(root) / child).is_symlink()]
        yield from ((here / child).as_posix() for child in sorted([*files, *links]))


def _on_disk(
    place: Path, paths: tuple[str, ...] | Iterator[str], chosen: Callable[[str], bool], store: Store
) -> Iterator[TreeEntry]:
    for path in paths:
        found = place / path
        if not chosen(path):
            continue
        if found.is_symlink():
            yield TreeEntry(path=path, kind="symlink", target=os.readlink(found))  # noqa: PTH115
        elif found.is_file():
            yield read_file_entry(found, path, store)
        elif found.exists():
            raise BadEntry(f'"{path}" is neither file, folder nor link', place=str(place))


def _load_git(
    name: str, source: Source, store: Store, locked: LockedSource | None, kept: Tree | None, cache: Path
) -> LoadedSource:
    address, rev = source.git or "", source.rev or ""
    if locked is None or kept is None:
        repository, revision = fetch_revision(address, rev, cache, commit=locked.commit if locked else "")
        kept = _some(read_commit(repository, revision.tree, store, chosen=chooser(source)), name, address)
        found = LockedSource(
            commit=revision.commit,
            ref=revision.ref,
            commit_time=revision.commit_time,
            git_tree=revision.tree,
            tree=kept.digest.hex(),
        )
        locked = locked or found
    return LoadedSource(
        name=name,
        kind="git",
        tree=kept,
        repository=without_credentials(address),
        ref=locked.ref,
        commit=locked.commit,
        commit_time=locked.commit_time,
        locked=locked,
    )


def _load_url(
    name: str,
    source: Source,
    store: Store,
    locked: LockedSource | None,
    kept: Tree | None,
    observer: Observer,
) -> LoadedSource:
    address = source.url or ""
    if locked is None or kept is None:
        file_name = unquote(urlsplit(address).path).rpartition("/")[2] or name
        expected = source.sha256 or (locked.files[0].sha256 if locked and locked.files else "")
        digest, size_bytes = download(address, store, observer, sha256=expected)
        with store.get(digest) as archive:
            kept = unpack(archive, file_name, store)
        file = LockedFile(name=file_name, sha256=digest.hex(), size=size_bytes)
        locked = locked or LockedSource(tree=kept.digest.hex(), files=(file,))
    return LoadedSource(
        name=name, kind="url", tree=kept, repository=without_credentials(address), locked=locked
    )


def _load_debian(
    name: str,
    source: Source,
    folder: Path,
    store: Store,
    locked: LockedSource | None,
    kept: Tree | None,
    observer: Observer,
) -> LoadedSource:
    from pipeline.debian.mirror import mirrors_from
    from pipeline.debian.source import SourceFile, fetch_source, pinned_source

    wanted = source.debian_source or ""
    if locked is None or kept is None:
        pinned = (
            [SourceFile(name=one.name, sha256=one.sha256, size=one.size) for one in locked.files]
            if locked
            else []
        )
        fetched = fetch_source(
            pinned_source(wanted, locked.version, source.suite, pinned) if locked else wanted,
            suite=source.suite,
            store=store,
            observer=observer,
            folder=folder,
            mirrors=mirrors_from(os.environ),
        )
        kept = fetched.tree
        locked = locked or LockedSource(
            version=fetched.package.version,
            tree=kept.digest.hex(),
            files=tuple(
                LockedFile(name=one.name, sha256=one.sha256, size=one.size) for one in fetched.package.files
            ),
        )
    return LoadedSource(name=name, kind="debian-source", tree=kept, locked=locked)
