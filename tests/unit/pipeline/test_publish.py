"""Publishing: a recipe that strangers can rebuild, or its inputs with it."""

import json
from pathlib import Path

import msgspec
import pytest

from pipeline import recipe as recipes
from pipeline.lock import Lock, write_toml_lock
from pipeline.publish import (
    InputMissing,
    NotForStrangers,
    NothingSigned,
    StatementOther,
    gather,
    unload_inputs,
)
from pipeline.recipe import Recipe, RecipeSource
from pipeline.sources import load_tree
from pipeline.store import FolderStore
from pipeline.tree import read_folder
from provenance.bundle import pack_folder, title_of
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.predicates.type_uri import REFERENCE_VALUES, RELEASE
from tests.unit.pipeline.test_sources import git
from verifier.verify.ssh_signature import object_id

SPEC = b'schema = "rvp/spec/v1"\n[project]\nname = "hello"\nversion = "1"\n[source.app]\npath = "src"\n'


def statement(recipe: str, kind: str = REFERENCE_VALUES) -> bytes:
    return envelope(kind, {"core": {"recipeDigest": {"sha256": recipe}}})


def envelope(kind: str, predicate: dict) -> bytes:
    import base64

    payload = base64.b64encode(json.dumps({"predicateType": kind, "predicate": predicate}).encode()).decode()
    return json.dumps({"dsseEnvelope": {"payload": payload}}).encode()


class Room:
    def __init__(
        self,
        folder: Path,
        *,
        dirty: bool = False,
        repository: str = "https://example.org/h.git",
        commit: str = "c" * 40,
    ) -> None:
        self.store = FolderStore(folder / "store")
        (folder / "src").mkdir()
        (folder / "src" / "run").write_text("#!/bin/sh")
        (folder / "src" / "run").chmod(0o755)
        (folder / "src" / "link").symlink_to("run")
        self.tree = read_folder(folder / "src", self.store)
        commit = commit if repository else ""
        source = RecipeSource(
            name="app",
            kind="path",
            tree=self.tree.digest.hex(),
            repository=repository,
            commit=commit,
            dirty=dirty,
        )
        self.recipe = Recipe(
            spec_bytes=SPEC, lock_bytes=write_toml_lock(Lock()), source_date_epoch=1, sources=(source,)
        )
        self.build = folder / "build"
        self.build.mkdir()
        recipes.write(self.recipe, self.build / "recipe", self.store)
        (self.build / "measurement-logs").mkdir()
        (self.build / "measurement-logs" / "a.json").write_text("{}")
        self.statements = folder / "statements"
        self.statements.mkdir()
        (self.statements / "a.sigstore.json").write_bytes(statement(self.recipe.digest.hex()))

    def gather(self, **changes: object):
        return gather(self.build, self.statements, store=self.store, **changes)


def test_statements_logs_and_recipe_are_gathered(tmp_path: Path) -> None:
    room = Room(tmp_path)
    made = room.gather()
    assert len(made.statements) == 1
    assert [title_of(log) for log in made.logs] == ["a.json"]
    assert made.recipe.digest == pack_folder(room.build / "recipe").digest
    assert made.inputs == ()


def test_git_objects_are_gathered_from_the_clone_that_has_them(tmp_path: Path) -> None:
    clones = []
    for name in ("application", "library"):
        clones.append(tmp_path / name)
        clones[-1].mkdir()
        (clones[-1] / "what").write_text(name)
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", name]):
            git(clones[-1], *command)
    commit = git(clones[1], "rev-parse", "HEAD")
    (tmp_path / "room").mkdir()
    room = Room(tmp_path / "room", commit=commit)
    assert room.gather(clones=clones[:1]).inputs == ()
    found = {title_of(blob): b"".join(blob.chunks()) for blob in room.gather(clones=clones).inputs}
    assert object_id("commit", found["git/app/commit"], digits=40) == commit


@pytest.mark.parametrize("change", [{"dirty": True}, {"repository": ""}])
def test_what_strangers_cannot_fetch_is_refused(tmp_path: Path, change: dict) -> None:
    with pytest.raises(NotForStrangers) as caught:
        Room(tmp_path, **change).gather()
    assert caught.value.exit_code == 13


def test_with_inputs_a_stranger_finds_the_tree_in_the_store(tmp_path: Path) -> None:
    room = Room(tmp_path, repository="")
    store = room.store
    room.store.put([room.tree.to_json()])
    other = FolderStore(tmp_path / "other")
    unload_inputs(room.gather(with_inputs=True), other)
    assert load_tree(room.tree.digest.hex(), other) == room.tree
    assert store.has(room.tree.digest)


def test_inputs_that_are_not_in_the_store_are_told(tmp_path: Path) -> None:
    room = Room(tmp_path, repository="")
    with pytest.raises(InputMissing):
        gather(room.build, room.statements, store=FolderStore(tmp_path / "empty"), with_inputs=True)


def test_nothing_signed_is_told(tmp_path: Path) -> None:
    room = Room(tmp_path)
    (room.statements / "a.sigstore.json").unlink()
    with pytest.raises(NothingSigned):
        room.gather()


def test_a_statement_of_an_earlier_build_is_refused(tmp_path: Path) -> None:
    room = Room(tmp_path)
    (room.statements / "old.sigstore.json").write_bytes(statement("0" * 64))
    with pytest.raises(StatementOther):
        room.gather()


def test_a_release_of_other_values_is_refused(tmp_path: Path) -> None:
    room = Room(tmp_path)
    core = {"recipeDigest": {"sha256": room.recipe.digest.hex()}}
    release = {"coreDigest": {"sha256": sha256(canonical_json(core)).hex()}}
    (room.statements / "release.sigstore.json").write_bytes(envelope(RELEASE, release))
    assert len(room.gather().statements) == 2
    (room.statements / "old.sigstore.json").write_bytes(
        envelope(RELEASE, {"coreDigest": {"sha256": "0" * 64}})
    )
    with pytest.raises(StatementOther, match="releases the core"):
        room.gather()


def test_equal_contents_gather_equal(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = Room(tmp_path / "a").gather(), Room(tmp_path / "b").gather()
    assert msgspec.structs.asdict(first) == msgspec.structs.asdict(second)
