r"""The id that git gives a tree, computed from our own trees: no repository and no git are needed.

The id says the same as ours does: path, type, executable bit and content. So a source that came with a bundle
can be compared with what a signed commit names. Only a tree in its one form has an id: two trees never share
one, except by a collision; for those of SHA-1 see docs/threat-model.md.

    Source: git's gitformat-pack and `git hash-object`: `blob SIZE\0content`, `tree SIZE\0` and entries
    `MODE NAME\0ID`, sorted by name, a folder as if its name ended with `/`.
    Cost: one pass over the content; files are streamed.

Example:
    >>> from pathlib import Path
    >>> from pipeline.store import FolderStore
    >>> tree_id(Tree(), FolderStore(Path("unused")), digits=40)
    '4b825dc642cb6eb9a060e54bf8d69288fbee4904'
"""

from __future__ import annotations

import hashlib
from typing import Final

from pipeline.store import Store
from pipeline.tree import BadEntry, BadPath, Tree, TreeEntry, make_tree
from provenance.digest import chunks_of
from verifier.verify.ssh_signature import object_id

MAX_PATH_BYTES: Final = 4096
_FILE, _EXECUTABLE, _LINK, _FOLDER = b"100644", b"100755", b"120000", b"40000"


def tree_id(tree: Tree, store: Store, *, digits: int) -> str:
    """Compute the id of the git tree object that holds what a tree holds.

    Args:
        tree: an empty folder is git's empty tree.
        store: has the content.
        digits: of an id: 40 in a SHA-1 repository, 64 in a SHA-256 one.

    Raises:
        BadPath: RVP-1301. BadEntry: RVP-1302: the tree is not in its one form, or a size is wrong.
        ObjectMissing: RVP-2101. ObjectDamaged: RVP-2105.
    """
    _check_form(tree)
    folders: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for entry in tree.entries:
        if entry.kind == "dir":
            _folder(folders, entry.path)
            continue
        parent, _, name = entry.path.rpartition("/")
        _folder(folders, parent)[name] = _mode(entry), _blob_id(entry, store, digits)
    for path in sorted(folders, key=lambda path: path.count("/"), reverse=True):
        if path:
            parent, _, name = path.rpartition("/")
            folders[parent][name] = _FOLDER, _folder_id(folders[path], digits)
    return _folder_id(folders[""], digits)


def _check_form(tree: Tree) -> None:
    for entry in tree.entries:
        if len(entry.path.encode("utf-8", "replace")) > MAX_PATH_BYTES:
            raise BadPath(f"a path of more than {MAX_PATH_BYTES} bytes")
    if make_tree(_in_form(entry) for entry in tree.entries) != tree:
        raise BadEntry("the tree is not in its one form: order, or members that its entries cannot have")


def _in_form(entry: TreeEntry) -> TreeEntry:
    """The same path and content, with nothing that the kind of entry does not have."""
    match entry.kind:
        case "file":
            try:
                digest = bytes.fromhex(entry.sha256)
            except ValueError as error:
                raise BadEntry(f'"{entry.path}" has no SHA-256') from error
            return TreeEntry(
                path=entry.path,
                kind="file",
                executable=entry.executable,
                sha256=digest.hex(),
                size_bytes=entry.size_bytes,
            )
        case "symlink":
            return TreeEntry(path=entry.path, kind="symlink", target=entry.target)
        case "dir":
            return TreeEntry(path=entry.path, kind="dir")


def _folder(folders: dict[str, dict[str, tuple[bytes, str]]], path: str) -> dict[str, tuple[bytes, str]]:
    """Find a folder; make it and those above it."""
    known = path
    while known not in folders:
        folders[known] = {}
        known = known.rpartition("/")[0]
    return folders[path]


def _mode(entry: TreeEntry) -> bytes:
    if entry.kind == "symlink":
        return _LINK
    return _EXECUTABLE if entry.executable else _FILE


def _blob_id(entry: TreeEntry, store: Store, digits: int) -> str:
    if entry.kind == "symlink":
        return object_id("blob", entry.target.encode("utf-8", "surrogateescape"), digits=digits)
    head = b"blob %d\0" % entry.size_bytes
    hashing = hashlib.sha256(head) if digits == 64 else hashlib.sha1(head, usedforsecurity=False)
    size_bytes = 0
    with store.get(bytes.fromhex(entry.sha256)) as content:
        for chunk in chunks_of(content):
            hashing.update(chunk)
            size_bytes += len(chunk)
    if size_bytes != entry.size_bytes:
        raise BadEntry(f'"{entry.path}" has {size_bytes} bytes, its tree says {entry.size_bytes}')
    return hashing.hexdigest()


def _folder_id(children: dict[str, tuple[bytes, str]], digits: int) -> str:
    def order(child: tuple[str, tuple[bytes, str]]) -> bytes:
        name, (mode, _) = child
        return name.encode() + (b"/" if mode == _FOLDER else b"")

    rows = (
        b"%s %s\0%s" % (mode, name.encode(), bytes.fromhex(id_))
        for name, (mode, id_) in sorted(children.items(), key=order)
    )
    return object_id("tree", b"".join(rows), digits=digits)
