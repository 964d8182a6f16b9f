"""A build packs container images: files, trees, a base below; always the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.graph import Leaves, Node
from pipeline.measure import measure_file, require_passed
from pipeline.products import NotSupported, make_product
from pipeline.sandbox import Rootfs
from pipeline.spec import Pack
from pipeline.store import FolderStore
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.events import ignore

EPOCH = 1700000000


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def tree_of(store: FolderStore, **files: bytes) -> Tree:
    entries = []
    for path, data in files.items():
        digest, size = store.put([data])
        entries.append(
            TreeEntry(path=path, kind="file", executable=path == "tool", sha256=digest.hex(), size_bytes=size)
        )
    return make_tree(entries)


def pack(store: FolderStore, taken: dict[str, Tree | Rootfs], **fields: object) -> Path:
    item = Pack(id="image", kind="oci", output="i.tar", entrypoint=("/usr/bin/tool",), **fields)
    node = Node(name="pack.image", kind="pack", item=item)
    tree = make_product(node, taken, Leaves(epoch=EPOCH), store, ignore)
    (entry,) = tree.entries
    assert entry.path == "i.tar"
    return store.path_of(bytes.fromhex(entry.sha256))


def test_an_image_of_a_file_and_a_tree(store: FolderStore) -> None:
    taken: dict[str, Tree | Rootfs] = {
        "step.a:tool": tree_of(store, tool=b"tool"),
        "step.b": tree_of(store, x=b"1", y=b"2"),
    }
    files = {"/usr/bin/tool": "step.a:tool", "/srv": "step.b"}
    path = pack(store, taken, files=files)
    (measurement,) = measure_file(path).measurements
    require_passed((measurement,))
    names = [name for name in (b"usr/bin/tool", b"srv/x", b"srv/y") if name in path.read_bytes()]
    assert len(names) == 3
    assert pack(store, taken, files=files) == path


def test_a_base_lies_below(store: FolderStore) -> None:
    digest, _ = store.put([bytes(10240)])
    taken: dict[str, Tree | Rootfs] = {
        "step.a:tool": tree_of(store, tool=b"tool"),
        "base.runtime": Rootfs(digest=digest, tar=digest),
    }
    path = pack(store, taken, files={"/usr/bin/tool": "step.a:tool"}, base="base.runtime")
    (measurement,) = measure_file(path).measurements
    require_passed((measurement,))
    assert measurement.claims["diff_ids"][0] == f"sha256:{hashlib.sha256(bytes(10240)).hexdigest()}"  # type: ignore[index]


def test_a_base_without_a_tar_is_refused(store: FolderStore) -> None:
    taken: dict[str, Tree | Rootfs] = {
        "step.a:tool": tree_of(store, tool=b"tool"),
        "base.runtime": Rootfs(digest=bytes(32), image="x@sha256:00"),
    }
    with pytest.raises(NotSupported):
        pack(store, taken, files={"/usr/bin/tool": "step.a:tool"}, base="base.runtime")
