"""Gather a bundle: what was signed, the recipe, the measurement logs, and what others cannot fetch.

A recipe must be enough for a stranger. A source that others cannot fetch (a folder in no repository, files
that are in no commit) is refused, unless the inputs go into the bundle. Inputs are content-addressed: the
tree of a source is its canonical JSON, its files and the packages are themselves; whoever rebuilds puts
them all into the store (`unload_inputs`) and finds them there by their digests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pipeline.build_result import RECIPE_FOLDER, NoBuild
from pipeline.recipe import Recipe
from pipeline.recipe import read as read_recipe
from pipeline.sources import load_tree
from pipeline.store import FolderStore, Store
from provenance.bundle import Bundle, pack_folder, peek_statement, title_of
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import EnvironmentFailure, PolicyFailure, UsageError
from provenance.oci import TITLE, Blob, blob_of
from provenance.predicates.core import Source
from provenance.predicates.shapes import Sha256Digest
from provenance.predicates.type_uri import REFERENCE_VALUES, RELEASE
from provenance.sigstore_bundle import MAX_BUNDLE_BYTES, SUFFIX
from provenance.strict import read_file
from verifier.verify.source import GitFailed, read_git_objects

LOGS_FOLDER: Final = "measurement-logs"


class NotForStrangers(PolicyFailure):
    """A source of the recipe cannot be fetched by others: nobody could rebuild it.

    Cure: commit and push it, build and sign again; or publish its content: `rvp publish --with-inputs`.
    """

    code = "RVP-6521"


class NothingSigned(UsageError):
    """There are no signed statements to publish.

    Cure: run `rvp sign` first.
    """

    code = "RVP-6522"


class StatementOther(UsageError):
    """A signed statement is about another recipe or other values than those that are published with it.

    Cure: sign the last build again, and remove the statements of earlier ones.
    """

    code = "RVP-6524"


class InputMissing(EnvironmentFailure):
    """The content of a source is not in the store, so it cannot go into the bundle.

    Cure: publish where it was built, with the same store.
    """

    code = "RVP-6523"


def gather(
    build: Path,
    statements: Path,
    *,
    store: Store,
    clones: Sequence[Path] = (),
    with_inputs: bool = False,
) -> Bundle:
    """Gather what is to be published.

    Args:
        build: `.rvp/build`: the recipe and the measurement logs.
        statements: folder with `*.sigstore.json`.
        store: has the content of the sources.
        clones: folders in git repositories that have the commits: their signatures are gathered there.
        with_inputs: put sources, fetched files and packages into the bundle.

    Raises:
        NoBuild: RVP-4010. NothingSigned: RVP-6522. NotForStrangers: RVP-6521. InputMissing: RVP-6523.
        StatementOther: RVP-6524. RecipeDamaged: RVP-1310.
    """
    folder = build / RECIPE_FOLDER
    if not folder.is_dir():
        raise NoBuild("there is no recipe here", place=str(folder), hint="run `rvp build`")
    with tempfile.TemporaryDirectory(prefix="rvp-publish-") as scratch:
        recipe = read_recipe(folder, FolderStore(Path(scratch)))
    unfetchable = [source for source in recipe.sources if not source.fetchable]
    if unfetchable and not with_inputs:
        source = unfetchable[0]
        raise NotForStrangers(
            f'the source "{source.name}" '
            + ("has changes that are in no commit" if source.dirty else "is a folder in no repository"),
            place=str(folder / "origin.json"),
            hint="commit and push it and build again, or put it into the bundle: --with-inputs",
        )
    paths = sorted(statements.glob(f"*{SUFFIX}"))
    if not paths:
        raise NothingSigned(f"no *{SUFFIX} here", place=str(statements), hint="run `rvp sign` first")
    signed = {path: read_file(path, limit_bytes=MAX_BUNDLE_BYTES) for path in paths}
    for path, data in signed.items():
        _check_recipe(path, data, recipe)
    _check_releases(signed)
    return Bundle(
        statements=tuple(signed.values()),
        logs=tuple(_logs(build / LOGS_FOLDER)),
        recipe=pack_folder(folder),
        inputs=(*_git_objects(recipe, clones), *(_inputs(recipe, store) if with_inputs else ())),
    )


def unload_inputs(bundle: Bundle, store: Store) -> None:
    """Put the inputs of a bundle into a store, where whoever rebuilds finds them by their digests."""
    for blob in {blob.digest: blob for blob in bundle.inputs}.values():
        store.put(blob.chunks())


def _check_recipe(path: Path, data: bytes, recipe: Recipe) -> None:
    statement = peek_statement(data)
    if statement.get("predicateType") != REFERENCE_VALUES:
        return
    try:
        named = statement["predicate"]["core"]["recipeDigest"]["sha256"]
    except (KeyError, TypeError):
        return  # values that were measured; the verifier reads them strictly
    if named != recipe.digest.hex():
        raise StatementOther(
            f"it is about the recipe\n  {named}\nand this build is of\n  {recipe.digest.hex()}",
            place=str(path),
            hint="sign the last build again, and remove the statements of earlier ones",
        )


def _check_releases(signed: dict[Path, bytes]) -> None:
    """Refuse a release of other values than those that go into the bundle: one that an earlier build left."""
    peeked = {path: peek_statement(data) for path, data in signed.items()}
    cores = {
        sha256(canonical_json(core)).hex()
        for statement in peeked.values()
        if statement.get("predicateType") == REFERENCE_VALUES
        and isinstance(predicate := statement.get("predicate"), dict)
        and isinstance(core := predicate.get("core"), dict)
    }
    for path, statement in peeked.items():
        if not cores or statement.get("predicateType") != RELEASE:
            continue
        try:
            named = statement["predicate"]["coreDigest"]["sha256"]
        except (KeyError, TypeError):
            continue  # malformed; the verifier reads it strictly
        if named not in cores:
            raise StatementOther(
                f"it releases the core\n  {named}\nand none of the signed values has it",
                place=str(path),
                hint="remove the release of an earlier build; `rvp release` signs one of these values",
            )


def _logs(folder: Path) -> Iterator[Blob]:
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and not path.is_symlink():
            yield blob_of(read_file(path), "", title=path.relative_to(folder).as_posix())


def _git_objects(recipe: Recipe, clones: Sequence[Path]) -> Iterator[Blob]:
    for source in recipe.sources:
        if not source.commit:
            continue
        revision = Source(
            name=source.name,
            repository=source.repository,
            ref=source.ref,
            commit=source.commit,
            tree_digest=Sha256Digest(sha256=source.tree),
        )
        for clone in clones:
            try:
                objects = read_git_objects(clone, revision, folder=source.folder)
            except GitFailed:
                continue  # no clone of this source; a policy that asks for its signature will say so
            for title, data in sorted(objects.items()):
                yield blob_of(data, "", title=title)
            break


def _inputs(recipe: Recipe, store: Store) -> Iterator[Blob]:
    trees = {f"source/{source.name}": source.tree for source in recipe.sources}
    trees |= {f"fetch/{name}": locked.tree for name, locked in recipe.lock.fetch.items()}
    seen: set[str] = set()
    for name, digest in sorted(trees.items()):
        tree = load_tree(digest, store)
        if tree is None:
            raise InputMissing(f"the content of {name} (tree {digest}) is not in the store")
        yield blob_of(tree.to_json(), "", title=f"tree/{name}")
        files = [(entry.sha256, entry.size_bytes) for entry in tree.entries if entry.kind == "file"]
        yield from _stored(files, store, seen)
    packages = [
        (package.sha256, package.size)
        for base in recipe.lock.base.values()
        for package in (*base.packages, *base.tools)
    ]
    yield from _stored((one for one in packages if store.has(bytes.fromhex(one[0]))), store, seen)


def _stored(wanted: Iterable[tuple[str, int]], store: Store, seen: set[str]) -> Iterator[Blob]:
    for digest, size_bytes in wanted:
        if digest in seen:
            continue
        seen.add(digest)
        title = {TITLE: f"object/{digest}"}
        if isinstance(store, FolderStore):
            path = store.file_of(bytes.fromhex(digest))
            yield Blob(digest=bytes.fromhex(digest), size_bytes=size_bytes, annotations=title, path=path)
        else:
            with store.get(bytes.fromhex(digest)) as stream:
                yield blob_of(stream.read(), "", title=title[TITLE])


def describe(bundle: Bundle) -> dict[str, int]:
    """Count what a bundle holds."""
    return {
        "statements": len(bundle.statements),
        "logs": len(bundle.logs),
        "recipe": int(bundle.recipe is not None),
        "inputs": sum(1 for blob in bundle.inputs if not title_of(blob).startswith("git/")),
        "git_objects": sum(1 for blob in bundle.inputs if title_of(blob).startswith("git/")),
    }
