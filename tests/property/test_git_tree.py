"""The id of a git tree, against git itself."""

from __future__ import annotations

import os
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.git_tree import tree_id
from pipeline.store import FolderStore
from pipeline.tree import Tree, TreeEntry, make_tree, read_folder, write_folder

ENVIRONMENT = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
# names that git orders otherwise than we do: a folder "a" stands between "a.c" and "a0"
NAMES = st.text(alphabet="a.-0_ é" + string.ascii_uppercase[:2], min_size=1, max_size=3).filter(
    lambda name: name.strip(".") != ""
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@st.composite
def trees(draw: st.DrawFn) -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = {}
    for path in draw(st.lists(PATHS, min_size=1, max_size=12, unique=True)):
        if any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in found):
            continue
        kind = draw(st.sampled_from(["file", "executable", "symlink"]))
        found[path] = (kind, draw(st.binary(max_size=40)))
    return found


def tree_of(files: dict[str, tuple[str, bytes]], store: FolderStore) -> Tree:
    entries = []
    for path, (kind, data) in files.items():
        if kind == "symlink":
            entries.append(TreeEntry(path=path, kind="symlink", target=f"to{len(data)}é"))
            continue
        digest, size_bytes = store.put([data])
        entries.append(
            TreeEntry(
                path=path,
                kind="file",
                executable=kind == "executable",
                sha256=digest.hex(),
                size_bytes=size_bytes,
            )
        )
    return make_tree(entries)


@pytest.mark.parametrize(("form", "digits"), [("sha1", 40), ("sha256", 64)])
@settings(max_examples=25, deadline=None)
@given(files=trees())
def test_the_id_is_the_one_that_git_writes(
    tmp_path_factory: pytest.TempPathFactory, form: str, digits: int, files: dict[str, tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("git")
    store = FolderStore(folder / "store")
    tree = tree_of(files, store)
    write_folder(tree, store, folder / "work")
    git(folder / "work", "init", "--quiet", f"--object-format={form}")
    git(folder / "work", "-c", "core.autocrlf=false", "add", "--all", "--force")
    assert tree_id(tree, store, digits=digits) == git(folder / "work", "write-tree")
    assert read_folder(folder / "work", store, skip=frozenset({".git"})) == tree
