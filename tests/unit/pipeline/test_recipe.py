"""The recipe: one digest for the same inputs, wherever they were found; every part checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from pipeline import recipe
from pipeline.base import LockedBase
from pipeline.lock import Lock, LockedFetch, LockedSource, spec_parts, write_toml_lock
from pipeline.project import FetchNotAllowed, load_recipe
from pipeline.recipe import Recipe, RecipeDamaged, RecipeFile, RecipeSource
from pipeline.spec import parse_spec
from pipeline.spec_errors import PathOutside
from pipeline.store import FolderStore
from pipeline.tree import Tree, make_tree, read_folder
from provenance.events import ignore

SPEC = b"""\
schema = "rvp/spec/v1"
[project]
name = "hello"
version = "1"
[base.b]
tar = "conf/enclave.toml"
[source.app]
path = "src"
"""


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
        lock_bytes=write_toml_lock(Lock(files={"conf/enclave.toml": digest.hex()})),
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


def test_a_file_that_spec_and_lock_do_not_name_is_refused(
    made: Recipe, tmp_path: Path, store: FolderStore
) -> None:
    """It would be laid beside the spec: into `.rvp/store`, a forged outcome of a step that never ran."""
    digest, size = store.put([b"a forged record"])
    extra = RecipeFile(path=f".rvp/store/records/outcome/ab/{'cd' * 31}", sha256=digest.hex(), size=size)
    recipe.write(msgspec.structs.replace(made, files=(*made.files, extra)), tmp_path / "a", store)
    with pytest.raises(RecipeDamaged, match="files are not those"):
        recipe.read(tmp_path / "a", FolderStore(tmp_path / "other"))


def test_a_spec_cannot_name_a_file_of_the_working_folder() -> None:
    with pytest.raises(PathOutside, match="belongs to rvp"):
        parse_spec(SPEC.replace(b"conf/enclave.toml", b".rvp/store/records/outcome/ab/cd"))


GIT_SPEC = SPEC.replace(b'path = "src"', b'git = "https://evil.example/x.git"\nrev = "main"')


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"repository": "https://example.org/hello.git"}, "repository"),
        ({"commit": "d" * 40}, "commit"),
        ({"ref": "refs/tags/v1"}, "ref"),
        ({"kind": "path"}, "kind"),
        ({"commit": "--output=x"}, "commit"),
    ],
)
def test_a_place_that_is_not_the_specs_is_refused(
    made: Recipe, tmp_path: Path, store: FolderStore, changes: dict[str, str], what: str
) -> None:
    """A policy judges what the recipe says of its source: it must be what is fetched."""
    tree = made.sources[0].tree
    locked = LockedSource(commit="c" * 40, ref="refs/heads/main", tree=tree)
    source = RecipeSource(
        name="app",
        kind="git",
        tree=tree,
        repository="https://evil.example/x.git",
        ref="refs/heads/main",
        commit="c" * 40,
    )
    lock = Lock(files={file.path: file.sha256 for file in made.files}, source={"app": locked})
    honest = msgspec.structs.replace(
        made, spec_bytes=GIT_SPEC, lock_bytes=write_toml_lock(lock), sources=(source,)
    )
    recipe.write(honest, tmp_path / "honest", store)
    recipe.read(tmp_path / "honest", FolderStore(tmp_path / "other"))
    lying = msgspec.structs.replace(honest, sources=(msgspec.structs.replace(source, **changes),))
    recipe.write(lying, tmp_path / "a", store)
    with pytest.raises(RecipeDamaged, match=f"another {what}"):
        recipe.read(tmp_path / "a", FolderStore(tmp_path / "other"))


def test_a_strangers_fetches_do_not_reach_the_network_unasked(
    made: Recipe, tmp_path: Path, store: FolderStore, tree: Tree
) -> None:
    spec = SPEC + b'[fetch.deps]\nbase = "b"\nrun = ["npm", "ci"]\nhosts = ["registry.example"]\n'
    lock = Lock(
        parts=spec_parts(parse_spec(spec)),
        base={"b": LockedBase()},
        files={file.path: file.sha256 for file in made.files},
        fetch={"deps": LockedFetch(key="aa" * 32, tree="bb" * 32, size=1, transcript="cc" * 32)},
    )
    store.put([tree.to_json()])
    asked = msgspec.structs.replace(made, spec_bytes=spec, lock_bytes=write_toml_lock(lock))
    with pytest.raises(FetchNotAllowed, match=r"deps \(registry.example\)"):
        load_recipe(asked, tmp_path / "a", store=store, observer=ignore, cache=tmp_path / "cache")
