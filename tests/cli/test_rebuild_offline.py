"""`rvp rebuild --policy` from a bundle alone: the repository is gone, and the git objects prove the source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from pipeline.base import LockedBase
from pipeline.leaves import keep_base
from pipeline.lock import read_lock
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from pipeline.tree import Tree, make_tree
from provenance.bundle import pack_files, read_bundle, title_of, unpack_files, write_bundle
from provenance.canonical import canonical_json
from provenance.oci import blob_of
from rvp import cli
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.executor import ProcessExecutor
from tests.fakes.project import HEAD, step, write_project
from verifier.cli import terminal

POLICY = """\
schema = "rvp/policy/v1"

[product]
name = "demo"
series = "stable"
minimum_release = 1

[source]
repository = "{repository}"
refs = ["refs/tags/v*"]
signed_by = ["maintainers.pub"]

[quorum]
n = 1

[[operator]]
name = "acme"
key = "acme.pem.pub"
"""
PRODUCTS = """
[[pack]]
id = "enclave"
kind = "sgx"
output = "demo.so"
image = "step.elf:elf"

[[measure]]
id = "enclave"
tee = "sgx"
image = "pack.enclave:demo.so"
"""
NEUTRAL = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
APP = HEAD.replace('path = "src"', 'path = "code/app"')
PART = APP.replace('path = "code/app"', 'path = "code/app"\nexclude = ["b"]')
ELSEWHERE = APP.replace('version = "1"', 'version = "1"\nrepository = "https://example.org/other.git"')


class World:
    """Maintainers with a signed tag, an operator who published, and an auditor without the repository."""

    def __init__(self, folder: Path, rvp) -> None:
        self.folder, self.rvp = folder, rvp
        self.upstream, self.home, self.bundle = folder / "upstream", folder / "acme", folder / "demo.bundle"

    def git(self, where: Path, *arguments: str) -> None:
        key = self.folder / "maintainers"
        options = ["user.name=M", "user.email=m@example.org", "gpg.format=ssh", f"user.signingkey={key}.pub"]
        given = [part for one in options for part in ("-c", one)]
        command = ["git", *given, *arguments]
        subprocess.run(command, cwd=where, env=NEUTRAL, check=True, capture_output=True)

    def publish(self, head: str = APP, *, form: str = "sha1", signed: bool = True) -> None:
        """Commit, tag, clone, build, sign, publish."""
        key = self.folder / "maintainers"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self.upstream / "code" / "app").mkdir(parents=True)
        (self.upstream / "code" / "app" / "a").write_bytes(enclave_elf())
        (self.upstream / "code" / "app" / "b").write_text("B\n")
        self.write(self.upstream, head)
        shutil.rmtree(self.upstream / ".rvp")
        shutil.rmtree(self.upstream / "src")
        self.git(self.upstream, "init", "-q", "-b", "main", f"--object-format={form}")
        self.git(self.upstream, "add", ".")
        self.git(self.upstream, "commit", "-q", "-m", "first")
        self.git(self.upstream, "tag", "-s" if signed else "-a", "-m", "first", "v1")
        self.git(self.folder, "clone", "-q", "--branch", "v1", self.upstream.as_uri(), str(self.home))
        self.write(self.home, head)
        self.done("key", "new", self.folder / "acme.pem")
        self.done("-C", self.home, "build")
        self.done("-C", self.home, "sign", "--key", self.folder / "acme.pem")
        self.done("-C", self.home, "publish", self.bundle, "--with-inputs")
        text = POLICY.format(repository=self.upstream.as_uri())
        (self.folder / "policy.toml").write_text(text)

    def write(self, place: Path, head: str) -> None:
        write_project(place, step("elf", "cat {source.app}/a > {out}/elf", "source.app"), PRODUCTS, head=head)

    def done(self, *arguments: object) -> None:
        code, _, err = self.rvp(*arguments)
        assert code == 0, err

    def rebuild(self, *more: object) -> tuple[int, str, str]:
        """With a store that has nothing but the base, which a stranger gets from a mirror."""
        locked: LockedBase = read_lock(self.home / "rvp.lock").base["t"]
        store = FolderStore(self.folder / "other-store")
        keep_base(locked, Rootfs(digest=b"t" * 32, image=locked.image), store)
        policy = ("--policy", self.folder / "policy.toml", "-o", self.folder / "again")
        return self.rvp("rebuild", self.bundle, *policy, "--store", store.folder, *more)

    def hide_repository(self) -> None:
        self.upstream.rename(self.folder / "gone")

    def drop(self, title: str) -> None:
        """Publish the bundle again without one of its inputs."""
        bundle = read_bundle(self.bundle)
        inputs = tuple(blob for blob in bundle.inputs if title_of(blob) != title)
        assert len(inputs) == len(bundle.inputs) - 1
        self.rewrite(msgspec.structs.replace(bundle, inputs=inputs))

    def change_a_byte(self) -> None:
        """Publish the bundle again, consistent in itself, with another byte in a file of the source."""
        bundle = read_bundle(self.bundle)
        files = unpack_files(bundle.recipe)
        core, origin = json.loads(files["recipe.json"]), json.loads(files["origin.json"])
        titled = {title_of(blob): blob for blob in bundle.inputs}
        tree = msgspec.json.decode(titled["tree/source/app"].read(limit_bytes=1 << 20), type=Tree)
        other = blob_of(b"b\n", "", title="placeholder")
        entry = msgspec.structs.replace(tree.entries[1], sha256=other.digest.hex())
        evil = make_tree([tree.entries[0], entry])
        core["sources"]["app"] = origin["sources"][0]["tree"] = evil.digest.hex()
        files |= {"recipe.json": canonical_json(core), "origin.json": canonical_json(origin)}
        titled["tree/source/app"] = blob_of(evil.to_json(), "", title="tree/source/app")
        titled["new"] = blob_of(b"b\n", "", title=f"object/{other.digest.hex()}")
        self.rewrite(msgspec.structs.replace(bundle, recipe=pack_files(files), inputs=tuple(titled.values())))

    def rewrite(self, bundle) -> None:
        other = self.folder / "other.bundle"
        write_bundle(other, bundle)
        self.bundle = other


@pytest.fixture
def world(tmp_path: Path, monkeypatch, capsys) -> World:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("RVP_STORE", raising=False)
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, _jobs: ProcessExecutor())

    def rvp(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        code = terminal.run(cli, [str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return World(tmp_path, rvp)


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_the_bundle_proves_the_source_where_the_repository_is_gone(world: World, form: str) -> None:
    world.publish(form=form)
    world.hide_repository()
    code, out, err = world.rebuild()
    assert code == 0, err
    assert 'source "app" proven by the bundle\'s git objects: tag v1 of commit' in out
    assert "signed by SHA256:" in out
    recipes = [
        json.loads((place / ".rvp/build/recipe/origin.json").read_text())
        for place in (world.home, world.folder / "again")
    ]
    assert recipes[0]["sources"] == recipes[1]["sources"]
    assert recipes[0]["sources"][0]["folder"] == "code/app"


def test_json_says_what_was_proven(world: World) -> None:
    world.publish()
    world.hide_repository()
    code, out, err = world.rebuild("--format", "json")
    assert code == 0, err
    (proof,) = json.loads(out)["source_proofs"]
    tree = subprocess.run(
        ["git", "rev-parse", "v1:code/app"],
        cwd=world.folder / "gone",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert (proof["ref"], proof["git_tree"]) == ("refs/tags/v1", tree)
    assert "unproven" not in proof


@pytest.mark.parametrize("hidden", [False, True])
def test_one_other_byte_of_one_file_is_another_source(world: World, *, hidden: bool) -> None:
    world.publish()
    world.change_a_byte()
    if hidden:
        world.hide_repository()
    code, _, err = world.rebuild()
    assert code == 13, err
    assert "RVP-1333" in err
    assert "expected git tree" in err
    assert not (world.folder / "again" / ".rvp" / "build").exists()


@pytest.mark.parametrize("folder", ["code", "elsewhere/code/app", ""])
def test_another_folder_of_the_signed_commit_is_not_the_source(world: World, folder: str) -> None:
    world.publish()
    bundle = read_bundle(world.bundle)
    files = unpack_files(bundle.recipe)
    origin = json.loads(files["origin.json"])
    origin["sources"][0]["folder"] = folder
    files["origin.json"] = canonical_json(origin)
    world.rewrite(msgspec.structs.replace(bundle, recipe=pack_files(files)))
    for source in ((), ("--source", world.upstream.as_uri())):
        code, _, err = world.rebuild(*source)
        assert code == 3, err
        assert f'the folder "{folder}" is not the one that the spec of the commit' in err


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("git/app/tree/1", "does not have the tree object"),
        ("tree/source/app", "does not have its files"),
    ],
)
def test_what_the_bundle_lacks_needs_the_repository(world: World, title: str, reason: str) -> None:
    world.publish()
    world.drop(title)
    world.hide_repository()
    code, _, err = world.rebuild()
    assert code == 4, err
    assert "RVP-1334" in err
    assert reason in err
    (world.folder / "gone").rename(world.upstream)
    code, out, err = world.rebuild()
    assert code == 0, err
    assert "proven by the bundle" not in out


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (PART, "include and exclude"),
        (ELSEWHERE, "the spec names the repository https://example.org/other.git"),
    ],
)
def test_what_no_signature_shows_needs_the_repository(world: World, head: str, reason: str) -> None:
    world.publish(head)
    world.hide_repository()
    code, _, err = world.rebuild()
    assert code == 4, err
    assert reason in err
    code, out, err = world.rebuild("--source", (world.folder / "gone").as_uri())
    assert code == 0, err
    assert "proven by the bundle" not in out


def test_a_tag_of_somebody_else_proves_nothing(world: World) -> None:
    world.publish(signed=False)
    world.hide_repository()
    code, _, err = world.rebuild()
    assert code == 13, err
    assert "source-signature" in err


def test_another_repository_of_the_same_maintainers_is_refused(world: World) -> None:
    world.publish()
    world.hide_repository()
    policy = world.folder / "policy.toml"
    policy.write_text(policy.read_text().replace("upstream", "expected"))
    code, _, err = world.rebuild()
    assert code == 13, err
    assert "source-repository" in err
