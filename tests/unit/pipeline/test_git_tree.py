"""The id of a git tree: what has none, and what changes it (its oracle, git, is asked in tests/property)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.git_tree import tree_id
from pipeline.store import FolderStore
from pipeline.tree import BadEntry, BadPath, Tree, TreeEntry, make_tree
from provenance.errors import RvpError


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def file(store: FolderStore, path: str, data: bytes, **changes: object) -> TreeEntry:
    digest, size_bytes = store.put([data])
    entry = TreeEntry(path=path, kind="file", sha256=digest.hex(), size_bytes=size_bytes)
    return msgspec.structs.replace(entry, **changes)


def test_path_content_and_executable_bit_change_the_id(store: FolderStore) -> None:
    ways = [
        file(store, "a", b"x"),
        file(store, "b", b"x"),
        file(store, "a", b"y"),
        file(store, "a/a", b"x"),
        file(store, "a", b"x", executable=True),
        TreeEntry(path="a", kind="symlink", target="x"),
        TreeEntry(path="a", kind="dir"),
    ]
    for digits in (40, 64):
        ids = {tree_id(make_tree([one]), store, digits=digits) for one in ways}
        assert len(ids) == len(ways)
        assert {len(one) for one in ids} == {digits}


def test_a_tree_that_is_not_in_its_one_form_has_no_id(store: FolderStore) -> None:
    a, b = file(store, "a", b"x"), file(store, "b", b"x")
    replace = msgspec.structs.replace
    wrong: dict[str, tuple[TreeEntry, ...]] = {
        "order": (b, a),
        "twice": (a, a),
        "climbs": (replace(a, path="../a"),),
        "absolute": (replace(a, path="/a"),),
        "below a file": (a, replace(b, path="a/b")),
        "a folder that is not empty": (TreeEntry(path="a", kind="dir"), replace(b, path="a/b")),
        "a target of a file": (replace(a, target="b"),),
        "upper case": (replace(a, sha256=a.sha256.upper()),),
        "no digest": (replace(a, sha256="zz"),),
        "another size": (replace(a, size_bytes=2),),
        "a link that is executable": (TreeEntry(path="l", kind="symlink", target="a", executable=True),),
        "a link with content": (replace(TreeEntry(path="l", kind="symlink", target="a"), sha256=a.sha256),),
        "a link that leads out": (TreeEntry(path="l", kind="symlink", target="../x"),),
        "a long path": (replace(a, path="a/" * 4000 + "a"),),
    }
    for entries in wrong.values():
        with pytest.raises((BadEntry, BadPath)):
            tree_id(Tree(entries), store, digits=40)


def test_content_that_is_not_there_is_told(store: FolderStore) -> None:
    with pytest.raises(RvpError, match="has no object"):
        tree_id(make_tree([file(store, "a", b"x", sha256="00" * 32)]), store, digits=40)
