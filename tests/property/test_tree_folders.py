"""Trees: what is written can be read again; nothing leads out."""

from __future__ import annotations

import hashlib
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import FolderStore
from pipeline.tree import BadEntry, BadPath, Tree, TreeEntry, check_link, make_tree, read_folder, write_folder

NAMES = st.text(alphabet=string.ascii_letters + "._- é", min_size=1, max_size=6).filter(
    lambda name: name not in {".", ".."}
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def contents(draw) -> dict[str, tuple[bytes, bool]]:
    found: dict[str, tuple[bytes, bool]] = {}
    for path in draw(st.lists(PATHS, max_size=6, unique=True)):
        if any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in found):
            continue
        found[path] = (draw(st.binary(max_size=20)), draw(st.booleans()))
    return found


def tree_of(files: dict[str, tuple[bytes, bool]], store: FolderStore) -> Tree:
    entries = []
    for path, (data, executable) in files.items():
        digest, size = store.put([data])
        entries.append(
            TreeEntry(path=path, kind="file", executable=executable, sha256=digest.hex(), size_bytes=size)
        )
    return make_tree(entries)


@settings(max_examples=60, deadline=None)
@given(files=contents())
def test_what_is_written_is_read_again(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("tree")
    store = FolderStore(folder / "store")
    tree = tree_of(files, store)
    write_folder(tree, store, folder / "out", epoch=1_700_000_000)
    assert read_folder(folder / "out", store) == tree
    for path, (data, executable) in files.items():
        status = (folder / "out" / path).stat()
        assert (folder / "out" / path).read_bytes() == data
        assert status.st_mode & 0o777 == (0o755 if executable else 0o644)
        assert status.st_mtime == 1_700_000_000


@settings(max_examples=60, deadline=None)
@given(files=contents(), seed=st.randoms())
def test_the_digest_does_not_depend_on_the_order(tmp_path_factory, files, seed):
    store = FolderStore(tmp_path_factory.mktemp("store"))
    items = list(files.items())
    seed.shuffle(items)
    assert tree_of(dict(items), store).digest == tree_of(files, store).digest


@settings(max_examples=200)
@given(
    path=PATHS, target=st.lists(st.sampled_from(["..", ".", "a", "b"]), min_size=1, max_size=6).map("/".join)
)
def test_a_link_is_accepted_only_when_it_stays_inside(path, target):
    parts: list[str] = ["root", *path.split("/")[:-1]]
    inside = True
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
            inside = inside and bool(parts)
        elif part != ".":
            parts.append(part)
    if inside:
        check_link(path, target)
    else:
        with pytest.raises(BadEntry):
            check_link(path, target)


def test_selecting_gives_a_file_under_its_name_a_folder_or_everything(tmp_path: Path):
    tree = tree_of({"bin/tool": (b"x", True), "lib/a": (b"y", False)}, FolderStore(tmp_path))
    assert [entry.path for entry in tree.select("bin/tool").entries] == ["tool"]
    assert [entry.path for entry in tree.select("lib").entries] == ["a"]
    assert tree.select("") == tree
    assert tree.select("none").entries == ()


def test_a_device_and_a_pipe_are_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    with pytest.raises(BadEntry):
        read_folder(tmp_path / "in", FolderStore(tmp_path / "store"))


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "a//b", "", ".", "a/", "a\nb", "a\0b"])
def test_a_path_that_is_not_plain_is_refused(path):
    with pytest.raises(BadPath):
        make_tree([TreeEntry(path=path, kind="file", sha256=hashlib.sha256(b"").hexdigest())])
