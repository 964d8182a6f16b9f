"""The sources of a stranger's recipe: what it says of them is checked before it is repeated.

A rebuilder signs where the source is from. So the tree of a commit is read from the commit, and the commit
must be its tag, or on its branch; or git objects that a maintainer signed show the same (`source_proof`).
A place that nobody looked at is not repeated.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.git import GitFailed, read_commit, run_git
from pipeline.git_fetch import fetch_revision, is_on_ref
from pipeline.lock import LockedSource
from pipeline.recipe import RecipeSource
from pipeline.source_proof import SourceProof
from pipeline.sources import LoadedSource, SourceChanged, SourceMissing, chooser, load_source, load_tree
from pipeline.spec import Source
from pipeline.store import Store
from pipeline.tree import Tree
from provenance.errors import EnvironmentFailure
from provenance.events import Note, Observer


class RepositoryNeeded(EnvironmentFailure):
    """A bundle alone does not prove a source, and the repository that would is out of reach.

    Cure: name a mirror or a clone with `rvp rebuild --source`; or ask for a bundle that has what is missing.
    """

    code = "RVP-1334"


def load_recorded(
    recorded: RecipeSource,
    source: Source,
    *,
    store: Store,
    locked: LockedSource | None,
    observer: Observer,
    cache: Path,
    must_prove: bool = False,
    proof: SourceProof | None = None,
    spec_bytes: bytes | None = None,
) -> LoadedSource:
    """Load a source of a recipe on another machine, from where the recipe says that it was found.

    The tree of a commit is read from that commit, also when it came with the recipe: who made the recipe
    could name one commit and add the files of another. Where the repository cannot be reached, the source is
    loaded without its place, so that nothing is stated of it that was not seen.

    Args:
        recorded: what the recipe says of it.
        source: what the recipe's spec says of it.
        store: receives the content, and is asked first.
        locked: what the recipe's lock pins.
        observer: hears of downloads.
        cache: folder for clones.
        must_prove: fail where the commit cannot be fetched.
        proof: what signed git objects show of it; where they prove it, nothing is fetched.
        spec_bytes: the spec that must stand in the commit, where it names the folder of the source.

    Raises:
        SourceMissing: RVP-1326: nobody else can fetch it. SourceChanged: RVP-1328.
        RepositoryNeeded: RVP-1334. And as `load_source`.
    """
    tree = load_tree(recorded.tree, store)
    if proof is not None and not proof.unproven:
        pass  # git objects that a maintainer signed lead to this tree
    elif recorded.claims_commit:
        try:
            tree = _tree_of_commit(recorded, source, store, cache, spec_bytes)
        except EnvironmentFailure as error:
            if proof is not None:
                raise RepositoryNeeded(
                    f'the bundle alone does not prove the source "{recorded.name}": {proof.unproven}\n'
                    f"and its repository cannot be reached: {error.message}",
                    hint="name a mirror or a clone: --source REPO",
                    place=recorded.repository,
                ) from error
            if must_prove or tree is None:
                raise
            told = f'the source "{recorded.name}" is stated without its place: {error}'
            observer(Note(level="warning", text=told))
            recorded = recorded.without_place()
    elif recorded.kind == "path":
        recorded = recorded if recorded.dirty else recorded.without_place()
    elif tree is None:
        tree = load_source(
            recorded.name, source, folder=cache, store=store, locked=locked, observer=observer, cache=cache
        ).tree
    if tree is None:
        raise SourceMissing(
            f'the source "{recorded.name}" is in no repository that the recipe names',
            hint="ask for a bundle that was published with --with-inputs",
        )
    if tree.digest.hex() != recorded.tree:
        raise SourceChanged(
            f'the source "{recorded.name}" is not the one of the recipe\n'
            f"  expected {recorded.tree}\n  got      {tree.digest.hex()}",
            place=recorded.repository,
        )
    return LoadedSource(
        name=recorded.name,
        kind=recorded.kind,
        tree=tree,
        repository=recorded.repository,
        ref=recorded.ref,
        commit=recorded.commit,
        folder=recorded.folder,
        dirty=recorded.dirty,
        locked=locked,
    )


def _tree_of_commit(
    recorded: RecipeSource, source: Source, store: Store, cache: Path, spec_bytes: bytes | None
) -> Tree:
    address, ref, commit = recorded.repository, recorded.ref, recorded.commit
    repository, revision = fetch_revision(address, ref or commit, cache, commit=commit)
    if ref and not is_on_ref(repository, address, ref, commit):
        raise SourceChanged(f"the commit {commit} is not the one of {ref}, nor before it", place=address)
    if spec_bytes is not None and recorded.kind == "path":
        _check_spec(recorded, source, repository, spec_bytes)
    prefix = f"{recorded.folder}/" if recorded.folder else ""
    tree = read_commit(repository, revision.tree, store, prefix=prefix, chosen=chooser(source))
    store.put([tree.to_json()])
    return tree


def _check_spec(recorded: RecipeSource, source: Source, repository: Path, spec_bytes: bytes) -> None:
    """Who makes a recipe may not choose among the folders of a commit: the spec there names the one."""
    place = recorded.place_of_spec(source)
    if place is not None:
        name = f"{place}/rvp.toml" if place else "rvp.toml"
        try:
            committed = run_git(["cat-file", "blob", f"{recorded.commit}:{name}"], folder=repository)
        except GitFailed:
            committed = None
        if committed == spec_bytes:
            return
    raise SourceChanged(
        f'the folder "{recorded.folder}" is not the one that the spec of the commit {recorded.commit} names',
        hint="do not build it; ask the publisher",
        place=recorded.repository,
    )
