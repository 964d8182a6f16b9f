"""A source is proven by git objects alone; each link of the chain can break, and then nothing is proven."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pipeline.project import load_project
from pipeline.recipe import Recipe
from pipeline.source_proof import SourceOther, SourceProof, prove_sources
from pipeline.store import FolderStore
from provenance.errors import PolicyFailure
from provenance.events import ignore
from provenance.policy import Policy, QuorumPolicy, SourcePolicy, TrustPolicy
from provenance.policy import Product as ProductPolicy
from provenance.predicates.core import Source
from provenance.predicates.shapes import Sha256Digest
from tests.fakes.project import HEAD, write_project
from tests.unit.verifier.test_ssh_signature import git
from verifier.verify.source import read_git_objects

REPOSITORY = "https://example.org/demo.git"


class Case(msgspec.Struct, kw_only=True):
    """A recipe of the folder product/code/app at tag v1, and the objects that show it."""

    recipe: Recipe
    objects: dict[str, bytes]
    trust: TrustPolicy
    store: FolderStore

    def prove(self) -> SourceProof:
        (proof,) = prove_sources(self.recipe, self.trust, self.objects, self.store)
        return proof

    def say(self, **changes: object) -> None:
        """Have the recipe say something else of its source."""
        source = msgspec.structs.replace(self.recipe.sources[0], **changes)
        self.recipe = msgspec.structs.replace(self.recipe, sources=(source,))

    def expect(self, **changes: object) -> None:
        """Have the policy expect something else."""
        self.trust = msgspec.structs.replace(
            self.trust, policy=msgspec.structs.replace(self.trust.policy, **changes)
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    clone, store = tmp_path / "clone", FolderStore(tmp_path / "store")
    home = clone / "product"
    for app, text in (("code/app", "A\n"), ("other/code/app", "another\n")):
        (home / app).mkdir(parents=True)
        (home / app / "a").write_text(text)
    write_project(home, head=HEAD.replace('"src"', '"code/app"'), store=store)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", clone / "key"], check=True)
    git(clone, "init", "-q", "-b", "main")
    git(clone, "add", "product")
    git(clone, "commit", "-q", "-S", "-m", "first")
    git(clone, "tag", "-s", "-m", "first", "v1")
    git(clone, "remote", "add", "origin", REPOSITORY)
    recipe = load_project(home, store=store, observer=ignore).recipe
    found = recipe.sources[0]
    revision = Source(
        name="app",
        repository=REPOSITORY,
        ref=found.ref,
        commit=found.commit,
        tree_digest=Sha256Digest(sha256=found.tree),
    )
    policy = Policy(
        schema="rvp/policy/v1",
        product=ProductPolicy(name="demo"),
        source=SourcePolicy(repository=REPOSITORY, signed_by=("key.pub",)),
        quorum=QuorumPolicy(n=1),
        operator=(),
    )
    signers = (" ".join((clone / "key.pub").read_text().split()[:2]),)
    return Case(
        recipe=recipe,
        objects=read_git_objects(home, revision, folder=found.folder),
        trust=TrustPolicy(policy=policy, digest=b"", operator_keys={}, source_signers=signers),
        store=store,
    )


def test_the_whole_chain_proves_it(case: Case, tmp_path: Path) -> None:
    proof = case.prove()
    assert proof.unproven == ""
    assert proof.git_tree == git(tmp_path / "clone", "rev-parse", "v1:product/code/app")
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "clone" / "key.pub"], capture_output=True, text=True, check=True
    )
    assert proof.signer == listed.stdout.split()[1]


def test_a_signed_commit_is_enough_where_no_ref_is_claimed(case: Case) -> None:
    case.say(ref="")
    proof = case.prove()
    assert (proof.unproven, proof.ref) == ("", "")
    assert f"commit {proof.commit} signed by" in proof.words
    case.trust = msgspec.structs.replace(case.trust, source_signers=("ssh-ed25519 AAAA",))
    assert "no maintainer signed the commit" in case.prove().unproven


BREAKS: dict[str, Callable[[Case], object]] = {
    "names no maintainer": lambda case: setattr(
        case, "trust", msgspec.structs.replace(case.trust, source_signers=())
    ),
    "no maintainer signed the tag v1": lambda case: setattr(
        case, "trust", msgspec.structs.replace(case.trust, source_signers=("ssh-ed25519 AAAA",))
    ),
    "not a folder of the repository": lambda case: case.say(repository="https://example.org/second.git"),
    'the recipe is of "demo", the policy of "other"': lambda case: case.expect(
        product=ProductPolicy(name="other")
    ),
    "the bundle has no signed tag": lambda case: case.objects.pop("git/app/tag"),
    "the bundle's tag is not refs/tags/v2": lambda case: case.say(ref="refs/tags/v2"),
    "the bundle's tag is not refs/heads/main": lambda case: case.say(ref="refs/heads/main"),
    f"not refs/tags/v1 of {'c' * 40}": lambda case: case.say(commit="c" * 40),
    "does not have the commit object": lambda case: case.objects.update({"git/app/commit": b"tree x\n"}),
    "of the root": lambda case: case.objects.pop("git/app/tree/0"),
    "of product": lambda case: case.objects.pop("git/app/tree/1"),
    "of product/code": lambda case: case.objects.pop("git/app/tree/2"),
    'is not the path "code/app" of the spec': lambda case: case.say(folder="product/other"),
    "the commit has no folder product/nowhere": lambda case: case.say(folder="product/nowhere/code/app"),
    "the tree object": lambda case: case.say(folder="product/other/code/app"),
    "another rvp.toml in product": lambda case: setattr(
        case,
        "recipe",
        msgspec.structs.replace(case.recipe, spec_bytes=case.recipe.spec_bytes + b"# changed\n"),
    ),
    "another rvp.lock in product": lambda case: setattr(
        case,
        "recipe",
        msgspec.structs.replace(case.recipe, lock_bytes=case.recipe.lock_bytes + b"# changed\n"),
    ),
    "does not have its files": lambda case: case.store.path_of(
        bytes.fromhex(case.recipe.sources[0].tree)
    ).unlink(),
}


@pytest.mark.parametrize("reason", BREAKS)
def test_a_broken_link_proves_nothing(case: Case, reason: str) -> None:
    BREAKS[reason](case)
    proof = case.prove()
    assert reason in proof.unproven
    assert proof.git_tree == ""


def test_a_folder_where_another_spec_stands_is_not_the_source(case: Case, tmp_path: Path) -> None:
    """Who makes a recipe may not choose among the folders of a signed commit."""
    trees = {
        f"git/app/tree/more{number}": subprocess.run(
            ["git", "cat-file", "tree", f"v1:{path}"],
            cwd=tmp_path / "clone",
            capture_output=True,
            check=True,
        ).stdout
        for number, path in enumerate(("product/other", "product/other/code"))
    }
    case.objects |= trees
    case.say(folder="product/other/code/app")
    assert "the commit has another rvp.toml in product/other" in case.prove().unproven


def test_other_files_are_another_source(case: Case) -> None:
    _, size_bytes = case.store.put([b"B\n"])
    digest, _ = case.store.put([b"B\n"])
    said = b'{"entries":[{"kind":"file","path":"a","sha256":"%s","size_bytes":%d}]}'
    tree, _ = case.store.put([said % (digest.hex().encode(), size_bytes)])
    case.say(tree=tree.hex())
    with pytest.raises(SourceOther, match="expected git tree") as caught:
        case.prove()
    assert isinstance(caught.value, PolicyFailure)


def test_a_tree_that_climbs_out_is_another_source(case: Case) -> None:
    tree, _ = case.store.put([b'{"entries":[{"kind":"dir","path":"../a"}]}'])
    case.say(tree=tree.hex())
    with pytest.raises(SourceOther, match="no tree of a commit"):
        case.prove()
