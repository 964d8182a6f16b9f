"""A tree: path, type, executable bit, content; nothing else.

Sources, fetched files and step outputs are all trees. A tree is a sorted tuple of entries; its digest is
the SHA-256 of its canonical JSON; the content of its files lies in the store. Times, owners, modes beyond
the executable bit and extended attributes are not part of it, so that two machines agree.

Example:
    >>> entry = TreeEntry(path="bin/tool", kind="file", executable=True, sha256="00" * 32, size_bytes=3)
    >>> Tree(entries=(entry,)).find("bin/tool").size_bytes
    3
"""

from __future__ import annotations

import bisect
import functools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from pipeline.store import Store
from provenance.canonical import canonical_json
from provenance.digest import chunks_of, sha256
from provenance.errors import SpecError


class BadPath(SpecError):
    """A path that a tree cannot hold: absolute, climbing out with `..`, empty, or not text.

    Cure: name a path inside the folder.
    """

    code = "RVP-1301"


class BadEntry(SpecError):
    """Something a tree cannot hold: a device node, a socket, a pipe, a link that leads out of the folder.

    Cure: remove it, or have the step write a file.
    """

    code = "RVP-1302"


class TreeEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One path of a tree.

    Attributes:
        path: relative, with `/`, normalised.
        kind: file, dir (only listed when empty), or symlink.
        executable: of a file: somebody may execute it.
        sha256: of a file's content, hex.
        size_bytes: of a file.
        target: of a symlink: relative and inside the tree.
    """

    path: str
    kind: Literal["file", "dir", "symlink"]
    executable: bool = False
    sha256: str = ""
    size_bytes: int = 0
    target: str = ""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A tree: entries sorted by path."""

    entries: tuple[TreeEntry, ...] = ()

    @functools.cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the canonical JSON of the tree."""
        return sha256(self.to_json())

    def to_json(self) -> bytes:
        """Write the tree in its canonical form; `msgspec.json.decode(data, type=Tree)` reads it again."""
        return canonical_json(self)

    def find(self, path: str) -> TreeEntry | None:
        """Find the entry of a path."""
        index = bisect.bisect_left(self.entries, path, key=lambda entry: entry.path)
        if index < len(self.entries) and self.entries[index].path == path:
            return self.entries[index]
        return None

    def under(self, path: str) -> Tree:
        """Return the part of the tree below a folder, with paths relative to it."""
        prefix = path.rstrip("/") + "/"
        return Tree(
            tuple(
                msgspec.structs.replace(entry, path=entry.path[len(prefix) :])
                for entry in self.entries
                if entry.path.startswith(prefix)
            )
        )

    def select(self, path: str) -> Tree:
        """Return one file under its own name, what is below a folder, or all for an empty path."""
        if not path:
            return self
        entry = self.find(path)
        if entry is None or entry.kind == "dir":
            return self.under(path)
        return Tree((msgspec.structs.replace(entry, path=PurePosixPath(path).name),))

    @property
    def size_bytes(self) -> int:
        """The content of all files together."""
        return sum(entry.size_bytes for entry in self.entries)


def make_tree(entries: Iterable[TreeEntry]) -> Tree:
    """Build a tree from entries in any order; check each path.

    Raises:
        BadPath: RVP-1301, also for a path that stands twice or lies below a file.
        BadEntry: RVP-1302 for a link that leads out.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    files: set[str] = set()
    seen: set[str] = set()
    for entry in ordered:
        check_path(entry.path)
        if entry.path in seen:
            raise BadPath(f'"{entry.path}" stands twice in one tree')
        seen.add(entry.path)
        if entry.kind != "dir":
            files.add(entry.path)
        if entry.kind == "symlink":
            check_link(entry.path, entry.target)
    for entry in ordered:
        for parent in PurePosixPath(entry.path).parents:
            if str(parent) in files:
                raise BadPath(f'"{entry.path}" lies below "{parent}", which is not a folder')
    return Tree(tuple(entry for entry in ordered if entry.kind != "dir" or _is_empty(entry.path, ordered)))


def _is_empty(path: str, ordered: list[TreeEntry]) -> bool:
    index = bisect.bisect_left(ordered, path + "/", key=lambda entry: entry.path)
    return index >= len(ordered) or not ordered[index].path.startswith(path + "/")


def check_path(path: str) -> None:
    """Refuse a path that is not relative, normalised and printable UTF-8.

    Raises:
        BadPath: RVP-1301.
    """
    if (
        not path
        or path.startswith("/")
        or path != str(PurePosixPath(path))
        or ".." in path.split("/")
        or path == "."
    ):
        raise BadPath(f'"{path}" is not a relative, normalised path inside the folder')
    if "\0" in path or "\n" in path:
        raise BadPath(f"{path!r} has a control character")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadPath(f"{path!r} is not UTF-8") from error


def check_link(path: str, target: str) -> None:
    """Refuse a symbolic link that is absolute or leads out of its tree.

    Raises:
        BadEntry: RVP-1302.
    """
    depth = len(PurePosixPath(path).parent.parts)
    if target.startswith("/") or not target:
        raise BadEntry(
            f'the link "{path}" leads to "{target}", outside its folder', hint="make the link relative"
        )
    for part in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            raise BadEntry(f'the link "{path}" leads to "{target}", outside its folder')


def read_folder(folder: Path, store: Store, *, skip: frozenset[str] = frozenset()) -> Tree:
    """Copy a folder into the store and return its tree.

    Args:
        folder: what to read; links in it are kept as links.
        store: receives the content.
        skip: relative paths to leave out, with everything below them.

    Raises:
        BadPath: RVP-1301. BadEntry: RVP-1302.

    Cost: one pass over the content.
    """
    return make_tree(_walk(folder, "", store, skip))


def _walk(folder: Path, prefix: str, store: Store, skip: frozenset[str]) -> Iterator[TreeEntry]:
    with os.scandir(folder) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        path = f"{prefix}{child.name}"
        if path in skip:
            continue
        mode = child.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            yield TreeEntry(path=path, kind="symlink", target=os.readlink(child.path))  # noqa: PTH115
        elif stat.S_ISDIR(mode):
            yield TreeEntry(path=path, kind="dir")
            yield from _walk(Path(child.path), f"{path}/", store, skip)
        elif stat.S_ISREG(mode):
            digest, size_bytes = store.put_file(Path(child.path))
            yield TreeEntry(
                path=path,
                kind="file",
                executable=bool(mode & 0o111),
                sha256=digest.hex(),
                size_bytes=size_bytes,
            )
        else:
            raise BadEntry(f'"{path}" is neither file, folder nor link', place=str(folder))


def read_file_entry(path: Path, name: str, store: Store) -> TreeEntry:
    """Copy one file into the store and return its entry under a name."""
    digest, size_bytes = store.put_file(path)
    executable = bool(path.stat().st_mode & 0o111)
    return TreeEntry(
        path=name, kind="file", executable=executable, sha256=digest.hex(), size_bytes=size_bytes
    )


def write_folder(tree: Tree, store: Store, folder: Path, *, epoch: int | None = None) -> None:
    """Write a tree to a new folder: 0644 and 0755, modification time `epoch` when given.

    Cost: one pass over the content; files are streamed.
    """
    folder.mkdir(parents=True, exist_ok=False)
    folders = {folder}
    for entry in tree.entries:
        path = folder / entry.path
        if entry.kind == "dir":
            path.mkdir(parents=True, exist_ok=True)
            folders.add(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(folder / parent for parent in PurePosixPath(entry.path).parents)
        if entry.kind == "symlink":
            path.symlink_to(entry.target)
        elif entry.kind == "file":
            with path.open("xb") as out, store.get(bytes.fromhex(entry.sha256)) as content:
                for chunk in chunks_of(content):
                    out.write(chunk)
            path.chmod(0o755 if entry.executable else 0o644)
        if epoch is not None and entry.kind != "dir":
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    for path in sorted(folders, reverse=True):
        path.chmod(0o755)
        if epoch is not None:
            os.utime(path, (epoch, epoch))
