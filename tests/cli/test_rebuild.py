"""`rvp rebuild`: a second party rebuilds from the bundle alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.agreement import stated_cores
from pipeline.base import LockedBase
from pipeline.build_result import read_result
from pipeline.leaves import keep_base
from pipeline.lock import read_lock
from pipeline.sandbox import Rootfs
from pipeline.sign import state_build
from pipeline.store import FolderStore
from provenance.bundle import Bundle, pack_folder, read_bundle, write_bundle
from provenance.policy import load_policy
from rvp import cli
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.executor import ProcessExecutor
from tests.fakes.project import HEAD, step, write_project
from verifier.cli import terminal

REPOSITORY = "https://example.org/demo.git"
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
POLICY = """\
schema = "rvp/policy/v1"

[product]
name = "demo"
series = "stable"
minimum_release = 1

[source]
repository = "{repository}"
refs = ["refs/heads/*"]

[quorum]
n = 1

[[operator]]
name = "acme"
key = "acme.pub"
"""


class Changing(ProcessExecutor):
    """Gives another file than the first operator's, the same in each run."""

    def _fill(self, text, places):
        return super()._fill(f"{text}; printf x >> {{out}}/elf" if "cat " in text else text, places)


@pytest.fixture
def world(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("RVP_STORE", raising=False)
    executors = [ProcessExecutor]
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, _jobs: executors[-1]())
    monkeypatch.chdir(tmp_path)

    def rvp(*arguments: str) -> tuple[int, str, str]:
        code = terminal.run(cli, [str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    home = tmp_path / "acme"
    (home / "src").mkdir(parents=True)
    (home / "src" / "enclave.elf").write_bytes(enclave_elf())
    write_project(
        home, step("elf", "cat {source.app}/enclave.elf > {out}/elf", "source.app"), PRODUCTS, head=HEAD
    )
    code, out, err = rvp("-C", home, "build")
    monkeypatch.chdir(tmp_path)
    assert code == 0, err
    assert "mrenclave" in out
    return World(tmp_path, home, rvp, executors)


class World:
    def __init__(self, folder, home, rvp, executors) -> None:
        self.folder, self.home, self.rvp, self.executors = folder, home, rvp, executors

    def bundle(self, *statements: bytes) -> Path:
        path = self.folder / "demo.bundle"
        write_bundle(
            path, Bundle(statements=statements, recipe=pack_folder(self.home / ".rvp" / "build" / "recipe"))
        )
        return path

    def other_store(self) -> Path:
        """A store with the base and the source; a stranger gets them from mirrors and repositories."""
        theirs, ours = FolderStore(self.home / ".rvp" / "store"), FolderStore(self.folder / "other-store")
        locked: LockedBase = read_lock(self.home / "rvp.lock").base["t"]
        keep_base(locked, Rootfs(digest=b"t" * 32, image=locked.image), ours)
        recipe = json.loads((self.home / ".rvp/build/recipe/recipe.json").read_text())
        tree = bytes.fromhex(recipe["sources"]["app"])
        for digest in (tree, *self._files(theirs, tree)):
            with theirs.get(digest) as stream:
                ours.put([stream.read()])
        return ours.folder

    def _files(self, store, tree):
        with store.get(tree) as stream:
            return [bytes.fromhex(entry["sha256"]) for entry in json.loads(stream.read())["entries"]]

    def statement(self, **changes) -> bytes:
        """The reference values of the first build; unsigned, because nothing here judges signatures."""
        made = state_build(self.home / ".rvp" / "build", builder_id="https://example.org/b")
        payload = next(one.payload for one in made.statements.values() if b'"core"' in one.payload)
        for before, after in changes.items():
            payload = payload.replace(before.encode(), after.encode())
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": ""}],
        }
        return json.dumps({"dsseEnvelope": envelope}).encode()

    def rebuild(self, bundle, *more) -> tuple[int, str, str]:
        store = self.other_store()
        return self.rvp("rebuild", bundle, "-o", self.folder / "again", "--store", store, *more)


def test_a_stranger_who_gets_the_same_agrees(world):
    code, out, err = world.rebuild(world.bundle(world.statement()))
    assert code == 0, err
    assert "it agrees with what the bundle states" in out
    assert "without --policy the source is not checked" in err
    mine, theirs = read_result(world.home / ".rvp/build"), read_result(world.folder / "again/.rvp/build")
    assert mine.recipe == theirs.recipe
    assert mine.artifacts == theirs.artifacts


def test_other_artifacts_end_with_11_and_both_digests(world):
    world.executors.append(Changing)
    bundle = world.bundle(world.statement())
    code, _, err = world.rebuild(bundle)
    assert code == 11, err
    assert "demo.so (sha256)" in err


def test_other_values_of_the_same_artifact_end_with_12(world):
    result = read_result(world.home / ".rvp/build")
    value = result.measurements[0].measurements[0].claims["mrenclave"]
    code, _, err = world.rebuild(world.bundle(world.statement(**{value: "00" * 32})))
    assert code == 12, err
    assert f"mrenclave (sgx/demo.so)\n  expected {'00' * 32}\n       got {value}" in err


def test_another_digest_of_an_artifact_ends_with_11(world):
    digest = read_result(world.home / ".rvp/build").artifacts[0].digest["sha256"]
    code, _, err = world.rebuild(world.bundle(world.statement(**{digest: "11" * 32})))
    assert code == 11, err
    assert "11" * 32 in err


def test_a_bundle_without_values_is_inconclusive(world):
    code, out, _ = world.rebuild(world.bundle())
    assert code == 20
    assert "states no values" in out


def test_another_source_is_refused_before_anything_runs(world):
    (world.folder / "policy.toml").write_text(POLICY.format(repository=REPOSITORY))
    policy = world.folder / "policy.toml"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (world.folder / "acme.pub").write_bytes(pem)
    code, _, err = world.rebuild(world.bundle(world.statement()), "--policy", policy)
    assert code == 13, err
    assert REPOSITORY in err
    assert not (world.folder / "again" / "rvp.toml").exists()


def test_with_a_policy_only_what_its_operators_signed_counts(world):
    (world.folder / "policy.toml").write_text(POLICY.format(repository=REPOSITORY))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (world.folder / "acme.pub").write_bytes(pem)
    bundle = read_bundle(world.bundle(world.statement()))
    assert len(stated_cores(bundle)) == 1
    assert stated_cores(bundle, load_policy(world.folder / "policy.toml")) == ()


def test_a_folder_that_is_in_use_is_left_alone(world):
    (world.folder / "again").mkdir()
    (world.folder / "again" / "mine").write_text("")
    code, _, err = world.rebuild(world.bundle())
    assert code == 2
    assert "not empty" in err


def test_the_same_command_goes_on_where_it_ended(world):
    bundle = world.bundle(world.statement())
    assert world.rebuild(bundle)[0] == 0
    code, out, _ = world.rebuild(bundle)
    assert code == 0
    assert "cached" in out


def test_json_has_the_build_and_the_differences(world):
    code, out, _ = world.rebuild(world.bundle(world.statement()), "--format", "json")
    document = json.loads(out)
    assert code == 0
    assert (document["agrees"], document["differences"]) == (True, [])
    assert msgspec.convert(document["build"], dict)["verdict"] == "reproduced"


def test_other_files_under_the_name_of_the_expected_revision_are_refused(world):
    from tests.unit.pipeline.test_sources import git

    upstream = world.folder / "upstream"
    (upstream / "src").mkdir(parents=True)
    (upstream / "src" / "enclave.elf").write_text("what the maintainers released")
    git(upstream, "init", "-q", "-b", "main")
    git(upstream, "add", ".")
    git(upstream, "commit", "-q", "-m", "first")
    origin = world.home / ".rvp/build/recipe/origin.json"
    said = json.loads(origin.read_text())
    claim = {"repository": upstream.as_uri(), "commit": git(upstream, "rev-parse", "HEAD")}
    said["sources"][0] |= {**claim, "ref": "refs/heads/main", "folder": "src", "dirty": False}
    origin.write_text(json.dumps(said))
    policy = world.folder / "policy.toml"
    policy.write_text(POLICY.format(repository=upstream.as_uri()))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (world.folder / "acme.pub").write_bytes(pem)
    code, _, err = world.rebuild(world.bundle(), "--policy", policy)
    assert code == 3, err
    assert "RVP-1328" in err
    assert "is not the one of the recipe" in err
    assert not (world.folder / "again" / ".rvp" / "build").exists()
