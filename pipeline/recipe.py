"""The recipe: everything that a stranger needs to build the same again.

Spec and lock byte for byte, the files beside the spec that the lock pins, and each source by the digest of
its tree. Where a source was found (repository, ref, commit) is recorded beside and is not part of the
digest: the same tree from another place is the same recipe.

A recipe is a folder:

    recipe.json    the core, canonical JSON; its SHA-256 is the recipe's digest
    origin.json    where each source was found, canonical JSON
    rvp.toml       the spec
    rvp.lock       the lock
    files/         the pinned files, at their paths
    sources/NAME/  optional: the source trees themselves
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.git import COMMIT, without_credentials
from pipeline.lock import LIMIT_BYTES as LOCK_LIMIT_BYTES
from pipeline.lock import Lock, LockedSource, parse_lock
from pipeline.spec import Source, Spec, parse_spec
from pipeline.spec_references import local_files
from pipeline.store import Store
from pipeline.tree import Tree, TreeEntry, make_tree, read_folder, write_folder
from provenance import strict
from provenance.canonical import canonical_json
from provenance.digest import chunks_of, sha256
from provenance.errors import SignatureFailure

CORE_NAME: Final = "recipe.json"
ORIGIN_NAME: Final = "origin.json"


class RecipeDamaged(SignatureFailure):
    """A recipe's parts are not the ones that its core names: a file, the spec, the lock or a source differs.

    Cure: get the bundle again from where it was published.
    """

    code = "RVP-1310"


class RecipeSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One source of a recipe.

    Attributes:
        name: as in the spec.
        kind: how the spec gets it.
        tree: the digest of its tree, hex.
        repository: where it was found; empty for a folder outside any repository.
        ref: the branch or tag that was checked out, in full; empty when none was.
        commit: the commit's object id.
        folder: the folder inside the repository; empty for its root.
        dirty: the folder had changes that are not in the commit: it builds, it cannot be released.
    """

    name: str
    kind: Literal["path", "git", "url", "debian-source"]
    tree: str
    repository: str = ""
    ref: str = ""
    commit: str = ""
    folder: str = ""
    dirty: bool = False

    @property
    def fetchable(self) -> bool:
        """Others can get it: a revision in a repository, a URL, a Debian source package."""
        return not self.dirty and (self.kind != "path" or bool(self.repository and self.commit))

    @property
    def claims_commit(self) -> bool:
        """Its content is said to be that of a commit."""
        return not self.dirty and bool(self.repository and self.commit)

    def without_place(self) -> RecipeSource:
        """The same content, of which nobody says where it was found."""
        return msgspec.structs.replace(self, repository="", ref="", commit="", folder="", dirty=False)

    def place_of_spec(self, source: Source) -> str | None:
        """Tell where in the repository the spec lies that names this folder as its `path`; None: nowhere."""
        path = [part for part in (source.path or "").split("/") if part not in {"", "."}]
        way = self.folder.split("/") if self.folder else []
        cut = len(way) - len(path)
        return "/".join(way[:cut]) if way[max(cut, 0) :] == path else None

    def differs_from(self, source: Source, locked: LockedSource | None) -> str:
        """Name what it says otherwise than the spec and the lock; empty when they agree."""
        ways = {
            "path": source.path,
            "git": source.git,
            "url": source.url,
            "debian-source": source.debian_source,
        }
        kind = next(kind for kind, said in ways.items() if said is not None)
        if self.kind != kind:
            return "kind"
        if self.commit and not COMMIT.fullmatch(self.commit):
            return "commit"
        if kind == "path":
            return ""
        address = source.git or source.url
        if self.repository != (without_credentials(address) if address else ""):
            return "repository"
        said = (locked.commit, locked.ref, locked.tree) if locked else ("", "", "")
        mine = (self.commit, self.ref, self.tree)
        return next(
            (
                name
                for name, left, right in zip(("commit", "ref", "tree"), said, mine, strict=True)
                if left != right
            ),
            "",
        )


class RecipeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pinned file beside the spec: path, SHA-256 (hex), size in bytes."""

    path: str
    sha256: str
    size: int


class RecipeCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the recipe's digest covers: all digests in hex."""

    schema: Literal["rvp/recipe/v1"] = "rvp/recipe/v1"
    project: str
    version: str
    source_date_epoch: int
    spec: str
    lock: str
    files: dict[str, str]
    sources: dict[str, str]


class RecipeOrigin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the sources were found, and how large the pinned files are."""

    schema: Literal["rvp/recipe-origin/v1"] = "rvp/recipe-origin/v1"
    repository: str
    sources: tuple[RecipeSource, ...]
    files: tuple[RecipeFile, ...]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A recipe.

    Attributes:
        spec_bytes: `rvp.toml`, byte for byte.
        lock_bytes: `rvp.lock`, byte for byte.
        source_date_epoch: Unix seconds, resolved.
        repository: the canonical place of the source; empty when nothing names it.
        files: the pinned files beside the spec, sorted by path; their content is in the store.
        sources: sorted by name; their content is in the store.
    """

    spec_bytes: bytes
    lock_bytes: bytes
    source_date_epoch: int
    repository: str = ""
    files: tuple[RecipeFile, ...] = ()
    sources: tuple[RecipeSource, ...] = ()

    @functools.cached_property
    def spec(self) -> Spec:
        """The spec, parsed."""
        return parse_spec(self.spec_bytes)

    @functools.cached_property
    def lock(self) -> Lock:
        """The lock, parsed."""
        return parse_lock(self.lock_bytes)

    @property
    def core(self) -> RecipeCore:
        """What the digest covers."""
        return RecipeCore(
            project=self.spec.project.name,
            version=self.spec.project.version,
            source_date_epoch=self.source_date_epoch,
            spec=sha256(self.spec_bytes).hex(),
            lock=sha256(self.lock_bytes).hex(),
            files={file.path: file.sha256 for file in self.files},
            sources={source.name: source.tree for source in self.sources},
        )

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON of the core, which is the file `recipe.json`."""
        return sha256(canonical_json(self.core))

    @property
    def dirty(self) -> bool:
        """Some source had changes that are in no commit."""
        return any(source.dirty for source in self.sources)


def write(recipe: Recipe, folder: Path, store: Store, *, trees: Mapping[str, Tree] | None = None) -> None:
    """Write a recipe as a new folder; equal recipes give equal files.

    Args:
        recipe: what to write.
        folder: must not exist yet.
        store: has the content of the pinned files and of the trees.
        trees: source trees to put in, by name; the others must be fetched by whoever rebuilds.
    """
    folder.mkdir(parents=True)
    origin = RecipeOrigin(repository=recipe.repository, sources=recipe.sources, files=recipe.files)
    parts = {
        CORE_NAME: canonical_json(recipe.core),
        ORIGIN_NAME: canonical_json(origin),
        "rvp.toml": recipe.spec_bytes,
        "rvp.lock": recipe.lock_bytes,
    }
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    for file in recipe.files:
        target = folder / "files" / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.get(bytes.fromhex(file.sha256)) as content, target.open("xb") as out:
            for chunk in chunks_of(content):
                out.write(chunk)
    for name, tree in sorted((trees or {}).items()):
        write_folder(tree, store, folder / "sources" / name)


def read(folder: Path, store: Store) -> Recipe:
    """Read a recipe and check every part of it against its core.

    Args:
        folder: what `write` wrote, from a source that nobody vouches for.
        store: receives the pinned files, and the source trees that are there.

    Raises:
        RecipeDamaged: RVP-1310. SpecError: the spec or the lock inside is not valid.
        UsageError: a part is missing or malformed.
    """
    core_bytes = strict.read_file(folder / CORE_NAME)
    core = strict.read_json(core_bytes, RecipeCore, name=CORE_NAME)
    origin = strict.read_json(strict.read_file(folder / ORIGIN_NAME), RecipeOrigin, name=ORIGIN_NAME)
    recipe = Recipe(
        spec_bytes=strict.read_file(folder / "rvp.toml"),
        lock_bytes=strict.read_file(folder / "rvp.lock", limit_bytes=LOCK_LIMIT_BYTES),
        source_date_epoch=core.source_date_epoch,
        repository=origin.repository,
        files=origin.files,
        sources=origin.sources,
    )
    if canonical_json(recipe.core) != core_bytes:
        differing = [
            key for key in RecipeCore.__struct_fields__ if getattr(recipe.core, key) != getattr(core, key)
        ]
        message = f"the recipe's {', '.join(differing) or 'form'} is not what its core names"
        raise RecipeDamaged(message, place=str(folder))
    _check_parts(recipe, place=str(folder))
    for file in recipe.files:
        _keep(folder / "files" / file.path, file, store)
    for name, tree in source_trees(recipe, folder, store).items():
        if tree.digest.hex() != core.sources[name]:
            raise RecipeDamaged(f'the tree of the source "{name}" differs', place=str(folder))
    return recipe


def _check_parts(recipe: Recipe, *, place: str) -> None:
    """Refuse a recipe that carries or claims something that its spec and lock do not say.

    A file more would be laid beside the spec, where the working folder lies as well; a place that is not the
    spec's would have a rebuilder sign for a source that nobody fetched.
    """
    spec, lock = recipe.spec, recipe.lock
    files = {file.path: file.sha256 for file in recipe.files}
    if len(files) != len(recipe.files) or set(files) != set(local_files(spec)) or files != lock.files:
        raise RecipeDamaged("the recipe's files are not those of its spec and its lock", place=place)
    make_tree(TreeEntry(path=path, kind="file") for path in files)
    names = [source.name for source in recipe.sources]
    if len(set(names)) != len(names) or set(names) != set(spec.source):
        raise RecipeDamaged("the recipe's sources are not those of its spec", place=place)
    for source in recipe.sources:
        wrong = source.differs_from(spec.source[source.name], lock.source.get(source.name))
        if wrong:
            raise RecipeDamaged(
                f'the source "{source.name}" is said to have another {wrong} than spec and lock say',
                place=place,
            )


def source_trees(recipe: Recipe, folder: Path, store: Store) -> dict[str, Tree]:
    """Copy the source trees that lie in a recipe's folder into the store."""
    folders = {source.name: folder / "sources" / source.name for source in recipe.sources}
    return {name: read_folder(path, store) for name, path in folders.items() if path.is_dir()}


def _keep(path: Path, file: RecipeFile, store: Store) -> None:
    if path.is_symlink() or not path.is_file():
        raise RecipeDamaged(f'the pinned file "{file.path}" is missing', place=str(path))
    if path.stat().st_size != file.size:
        message = f'"{file.path}" has {path.stat().st_size} bytes, the recipe names {file.size}'
        raise RecipeDamaged(message, place=str(path))
    with path.open("rb") as stream:
        digest, _ = store.put(chunks_of(stream))
    if digest.hex() != file.sha256:
        message = f'"{file.path}" has the SHA-256 {digest.hex()}, the recipe names {file.sha256}'
        raise RecipeDamaged(message, place=str(path))
