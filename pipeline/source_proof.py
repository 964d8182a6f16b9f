"""The proof that a source is the one that maintainers signed, from a bundle alone: no repository is reached.

The chain: a signature of a key that the policy names, over a tag; the tag names the ref and the commit; the
commit names its tree; tree objects lead to the folder where this spec and this lock stand, and on to the
folder of the source that the spec names; the tree that came with the bundle has the git id that stands there.
Each link is a digest, so that the bundle cannot say anything else.

What the chain cannot show needs the repository: a branch, a tag that nobody signed, a part of a folder
(`include`, `exclude`), a source that is not a folder beside the spec. A signature names no repository. The
committed spec stands for it: it must be of the policy's product, and of the repository if it names one.
"""

from __future__ import annotations

import msgspec

from pipeline.git_tree import tree_id
from pipeline.recipe import Recipe, RecipeSource
from pipeline.sources import chooser, load_tree
from pipeline.store import Store
from pipeline.tree import BadEntry, BadPath, Tree
from provenance.errors import PolicyFailure
from provenance.policy import TrustPolicy
from verifier.verify.source import GitObjects, object_title
from verifier.verify.ssh_signature import object_id, read_commit, read_tag, read_tree, signer_of


class SourceOther(PolicyFailure):
    """The files that came with a bundle are not those of the commit that it names.

    Cure: do not build it; ask the publisher. `rvp rebuild --source` takes the files of a clone instead.
    """

    code = "RVP-1333"


class SourceProof(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a bundle's git objects show of a source.

    Attributes:
        source: its name.
        repository: where the recipe says that it is from; no signature says so.
        ref: the tag that was signed; empty for a commit that no ref is claimed of.
        commit: that the tag names.
        signer: who signed, SHA256:…
        git_tree: the id of the tree that stands in the commit, and was computed from the files.
        unproven: why the repository is needed; empty when the source is proven.
    """

    source: str
    repository: str = ""
    ref: str = ""
    commit: str = ""
    signer: str = ""
    git_tree: str = ""
    unproven: str = ""

    @property
    def words(self) -> str:
        """One line for people."""
        if self.unproven:
            return f'source "{self.source}" is looked up in its repository: {self.unproven}'
        what = f"tag {self.ref.removeprefix('refs/tags/')} of commit" if self.ref else "commit"
        return (
            f'source "{self.source}" proven by the bundle\'s git objects: {what} {self.commit}'
            f" signed by {self.signer}, tree {self.git_tree}"
        )


class _Unproven(Exception):
    """The chain breaks here: why."""


def prove_sources(
    recipe: Recipe, trust: TrustPolicy, objects: GitObjects, store: Store
) -> tuple[SourceProof, ...]:
    """Prove those sources of a recipe that are said to be of a commit.

    Args:
        recipe: read; its place is what nobody vouches for.
        trust: the policy, with the maintainers' keys.
        objects: git objects of the bundle.
        store: has the content that came with the bundle.

    Raises:
        SourceOther: RVP-1333: the chain holds, and the files are others.
    """
    return tuple(_prove(one, recipe, trust, objects, store) for one in recipe.sources if one.claims_commit)


def _prove(
    recorded: RecipeSource, recipe: Recipe, trust: TrustPolicy, objects: GitObjects, store: Store
) -> SourceProof:
    try:
        _check_place(recorded, recipe, trust)
        signer = _signer(recorded, trust.source_signers, objects)
        commit = _Commit(recorded, objects)
        _check_spec(commit, recorded, recipe)
        named = commit.find(recorded.folder)
        tree = _tree_at_hand(recorded, recipe, store)
    except _Unproven as why:
        return SourceProof(source=recorded.name, repository=recorded.repository, unproven=str(why))
    try:
        found = tree_id(tree, store, digits=len(recorded.commit))
    except (BadEntry, BadPath) as error:
        raise SourceOther(f'the source "{recorded.name}" is no tree of a commit: {error.message}') from error
    if found != named:
        raise SourceOther(
            f'the files of the source "{recorded.name}" are not those of its commit {recorded.commit}\n'
            f"  expected git tree {named}\n       got git tree {found}",
            hint="the bundle has other files than the maintainers signed; --source takes those of a clone",
            place=recorded.folder or recorded.repository,
        )
    return SourceProof(
        source=recorded.name,
        repository=recorded.repository,
        ref=recorded.ref,
        commit=recorded.commit,
        signer=signer,
        git_tree=found,
    )


def _check_place(recorded: RecipeSource, recipe: Recipe, trust: TrustPolicy) -> None:
    """The spec stands for the repository, which no signature names."""
    policy, project = trust.policy, recipe.spec.project
    if not trust.source_signers:
        raise _Unproven("the policy names no maintainer ([source] signed_by)")
    if recorded.kind != "path" or recorded.repository != policy.source.repository:
        raise _Unproven("it is not a folder of the repository whose maintainers the policy names")
    if project.name != policy.product.name:
        raise _Unproven(f'the recipe is of "{project.name}", the policy of "{policy.product.name}"')
    if project.repository not in {"", recorded.repository}:
        raise _Unproven(f"the spec names the repository {project.repository}")


def _signer(recorded: RecipeSource, signers: tuple[str, ...], objects: GitObjects) -> str:
    """Name who signed that the commit is the ref: a tag; the commit itself where no ref is claimed."""
    if not recorded.ref:
        commit = read_commit(objects.get(object_title(recorded.name, "commit"), b""))
        if signer := signer_of(commit.payload, commit.signature, signers):
            return signer
        raise _Unproven("no maintainer signed the commit")
    data = objects.get(object_title(recorded.name, "tag"))
    if data is None:
        raise _Unproven(f"the bundle has no signed tag, and {recorded.ref} is seen in the repository only")
    tag = read_tag(data)
    if tag.target != recorded.commit or f"refs/tags/{tag.name}" != recorded.ref:
        raise _Unproven(f"the bundle's tag is not {recorded.ref} of {recorded.commit}")
    if signer := signer_of(tag.payload, tag.signature, signers):
        return signer
    raise _Unproven(f"no maintainer signed the tag {tag.name}")


class _Commit:
    """A commit whose id was checked, and the tree objects that the bundle has of it."""

    def __init__(self, recorded: RecipeSource, objects: GitObjects) -> None:
        self.digits = len(recorded.commit)
        data = objects.get(object_title(recorded.name, "commit"), b"")
        if object_id("commit", data, digits=self.digits) != recorded.commit:
            raise _Unproven("the bundle does not have the commit object")
        self.root = data.partition(b"\n")[0].removeprefix(b"tree ").decode("ascii", "replace")
        start = object_title(recorded.name, "tree/")
        self.trees = {
            object_id("tree", tree, digits=self.digits): tree
            for title, tree in objects.items()
            if title.startswith(start)
        }

    def find(self, folder: str) -> str:
        """Follow the tree objects from the root to a folder; return the id there."""
        found, way = self.root, folder.split("/") if folder else []
        for depth, part in enumerate(way):
            found = self.entries(found, "/".join(way[:depth])).get(part, "")
            if not found:
                raise _Unproven(f"the commit has no folder {folder}")
        return found

    def entries(self, tree: str, folder: str) -> dict[str, str]:
        """Read what stands in a folder: names to ids."""
        if tree not in self.trees:
            raise _Unproven(f"the bundle does not have the tree object {tree} of {folder or 'the root'}")
        return read_tree(self.trees[tree], digits=self.digits)


def _check_spec(commit: _Commit, recorded: RecipeSource, recipe: Recipe) -> None:
    """The source's folder is the one that the spec names, from where spec and lock stand in the commit."""
    source = recipe.spec.source[recorded.name]
    place = recorded.place_of_spec(source)
    if place is None:
        raise _Unproven(f'its folder "{recorded.folder}" is not the path "{source.path}" of the spec')
    there = commit.entries(commit.find(place), place)
    for name, data in (("rvp.toml", recipe.spec_bytes), ("rvp.lock", recipe.lock_bytes)):
        if there.get(name) != object_id("blob", data, digits=commit.digits):
            raise _Unproven(f"the commit has another {name} in {place or 'the root'}")


def _tree_at_hand(recorded: RecipeSource, recipe: Recipe, store: Store) -> Tree:
    source = recipe.spec.source[recorded.name]
    if source.include or source.exclude:
        raise _Unproven(
            "include and exclude take a part of its folder, and the bundle shows whole folders only"
        )
    tree = load_tree(recorded.tree, store)
    if tree is None:
        raise _Unproven("the bundle does not have its files (rvp publish --with-inputs)")
    chosen = chooser(source)
    if not all(chosen(entry.path) for entry in tree.entries):
        raise _Unproven("it has paths that no source has")
    return tree
