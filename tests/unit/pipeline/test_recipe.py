"""The recipe: one digest for the same inputs, wherever they were found; every part checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from pipeline import recipe
from pipeline.lock import Lock, write_toml_lock
from pipeline.recipe import Recipe, RecipeDamaged, RecipeFile, RecipeSource
from pipeline.store import FolderStore
from pipeline.tree import Tree, make_tree, read_folder

SPEC = b'schema = "rvp/spec/v1"\n[project]\nname = "hello"\nversion = "1"\n[source.app]\npath = "src"\n'


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path, store: FolderStore) -> Tree:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.c").write_text("int main;")
    return read_folder(tmp_path / "src", store)


@pytest.fixture
def made(store: FolderStore, tree: Tree) -> Recipe:
    digest, size = store.put([b"configuration"])
    return Recipe(
        spec_bytes=SPEC,
        lock_bytes=write_toml_lock(Lock()),
        source_date_epoch=1700000000,
        repository="https://example.org/hello.git",
        files=(RecipeFile(path="conf/enclave.toml", sha256=digest.hex(), size=size),),
        sources=(
            RecipeSource(
                name="app",
                kind="path",
                tree=tree.digest.hex(),
                repository="https://example.org/hello.git",
                commit="c" * 40,
            ),
        ),
    )


def test_a_recipe_reads_back(made: Recipe, tmp_path: Path, store: FolderStore, tree: Tree) -> None:
    recipe.write(made, tmp_path / "a", store, trees={"app": tree})
    other = FolderStore(tmp_path / "other-store")
    assert recipe.read(tmp_path / "a", other) == made
    assert all(other.has(bytes.fromhex(file.sha256)) for file in made.files)
    assert other.has(bytes.fromhex(tree.entries[0].sha256))


def test_the_digest_is_the_one_of_recipe_json(made: Recipe, tmp_path: Path, store: FolderStore) -> None:
    recipe.write(made, tmp_path / "a", store)
    assert hashlib.sha256((tmp_path / "a" / "recipe.json").read_bytes()).digest() == made.digest


def test_the_place_of_a_source_is_not_part_of_the_digest(made: Recipe) -> None:
    moved = msgspec.structs.replace(made.sources[0], repository="https://example.com/fork", commit="d" * 40)
    assert msgspec.structs.replace(made, sources=(moved,)).digest == made.digest


@pytest.mark.parametrize("change", ["spec", "lock", "epoch", "files", "tree"])
def test_every_input_is_part_of_the_digest(made: Recipe, change: str) -> None:
    changes = {
        "spec": {"spec_bytes": SPEC + b"# x\n"},
        "lock": {"lock_bytes": write_toml_lock(Lock(files={"x": "00"}))},
        "epoch": {"source_date_epoch": 1},
        "files": {"files": (msgspec.structs.replace(made.files[0], sha256="00" * 32),)},
        "tree": {"sources": (msgspec.structs.replace(made.sources[0], tree=make_tree(()).digest.hex()),)},
    }
    assert msgspec.structs.replace(made, **changes[change]).digest != made.digest


@pytest.mark.parametrize(
    "part", ["rvp.toml", "rvp.lock", "recipe.json", "files/conf/enclave.toml", "sources/app/main.c"]
)
def test_a_changed_part_is_told(
    made: Recipe, tmp_path: Path, store: FolderStore, tree: Tree, part: str
) -> None:
    recipe.write(made, tmp_path / "a", store, trees={"app": tree})
    path = tmp_path / "a" / part
    extra = {"rvp.toml": b"# x\n", "rvp.lock": b"", "recipe.json": b"\n"}.get(part, b"x")
    data = path.read_bytes() + extra
    if part == "rvp.lock":
        data = write_toml_lock(Lock(files={"x": "00"}))
    path.write_bytes(data)
    with pytest.raises(RecipeDamaged):
        recipe.read(tmp_path / "a", FolderStore(tmp_path / "other"))


def test_a_dirty_or_homeless_source_is_not_fetchable(made: Recipe) -> None:
    source = made.sources[0]
    assert source.fetchable
    assert not msgspec.structs.replace(source, dirty=True).fetchable
    assert not msgspec.structs.replace(source, commit="", repository="").fetchable
    assert msgspec.structs.replace(source, kind="url", commit="", repository="").fetchable


@pytest.mark.parametrize("name", ["../../src", "other"])
def test_a_source_that_the_spec_does_not_have_is_refused(
    made: Recipe, tmp_path: Path, store: FolderStore, name: str
) -> None:
    renamed = msgspec.structs.replace(made.sources[0], name=name)
    recipe.write(msgspec.structs.replace(made, sources=(renamed,)), tmp_path / "a", store)
    with pytest.raises(RecipeDamaged, match="sources"):
        recipe.read(tmp_path / "a", FolderStore(tmp_path / "other"))
