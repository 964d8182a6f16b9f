"""The index of an image's files: a table on disk to which layers are applied, member by member.

Invariants: every entry's folder is an entry; a path stands once; `layer` is the last layer that named it.

Example:
    >>> import tempfile
    >>> from pipeline.measure.layer_tar import MAX_PATH, Member
    >>> with tempfile.TemporaryDirectory() as folder, FileIndex(Path(folder) / "index", "image") as index:
    ...     index.begin_layer(0)
    ...     index.add(Member(b"etc/os", "file", b"", 512, 10), "")
    ...     index.end_layer()
    ...     index.begin_layer(1)
    ...     index.add(Member(b"etc/.wh.os", "file", b"", 512, 0), "")
    ...     index.resolve(b"/etc/os", "image") is None
    True
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from pipeline.measure.image_room import BadImage
from pipeline.measure.layer_tar import MAX_PATH, Member

_MAX_ENTRIES: Final = 2_000_000
_MAX_NAME_BYTES: Final = 1 << 30
_MAX_LINKS: Final = 40  # as Linux
_CACHE_BYTES: Final = 1 << 20
_TOP: Final = b"\xff" * (MAX_PATH + 1)
_STEP: Final = 1_000_000
_MAX_STEPS: Final = 10_000  # of a million instructions of SQLite: minutes, for an image made to be slow
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."
_COLUMNS: Final = "path, kind, layer, content_layer, at, size, target, hint"


class Entry(msgspec.Struct, frozen=True):
    """What stands at a path.

    Attributes:
        path: without a slash at either end.
        kind: file, symlink, folder, other, sparse; "unclear" where engines disagree.
        layer: the last one that named it.
        content_layer: where its content is.
        at: offset of the content in that layer, uncompressed.
        size_bytes: of the content.
        target: of a symlink, as written.
        hint: which part of an enclave it may be.
    """

    path: bytes
    kind: str
    layer: int
    content_layer: int
    at: int
    size_bytes: int
    target: bytes
    hint: str


class FileIndex:
    """The table. Layers are applied from the base upwards."""

    def __init__(self, path: Path, place: str) -> None:
        self._place = place
        self._layer = 0
        self._entries = self._name_bytes = self._steps = 0
        self._folders: dict[bytes, bytes] = {}
        self._cached = 0
        self._table = sqlite3.connect(path, isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._table.execute("PRAGMA cache_size = -12288")
        self._table.execute(
            "CREATE TABLE entry (path BLOB PRIMARY KEY, kind TEXT, layer INTEGER, content_layer INTEGER, "
            "at INTEGER, size INTEGER, target BLOB, hint TEXT) WITHOUT ROWID"
        )
        self._table.set_progress_handler(self._count_step, _STEP)

    def __enter__(self) -> Self:
        """Give the index; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the table."""
        self._table.close()

    def _count_step(self) -> int:
        self._steps += 1
        return int(self._steps > _MAX_STEPS)

    def _do(self, query: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._table.execute(query, values)
        except sqlite3.OperationalError as error:
            if self._steps > _MAX_STEPS:
                raise self._bad("the layers are too tangled to be applied") from error
            raise self._bad(f"the index of files cannot be kept: {error}") from error

    def _bad(self, message: str) -> BadImage:
        return BadImage(message, place=self._place)

    def begin_layer(self, number: int) -> None:
        """Begin to apply a layer."""
        self._layer = number
        self._forget()
        self._do("BEGIN")  # what is changed is written when it leaves the cache, not after every member

    def end_layer(self) -> None:
        """End it: nothing of it is believed before."""
        self._do("COMMIT")
        self._forget()

    def _forget(self) -> None:
        self._folders.clear()
        self._cached = 0

    def add(self, member: Member, hint: str) -> None:
        """Apply a member of the current layer.

        Raises:
            BadImage: RVP-5101 for one that engines refuse as well, or that is one too many.
        """
        parent, _, base = member.path.rpartition(b"/")
        if not base:
            if member.kind != "folder":
                raise self._bad(f"the root of the image is a {member.kind}")
            return
        self._tally(member.path)
        folder = self._folder(parent)
        if base.startswith(_WHITEOUT):
            self._white_out(folder, base)
            return
        path = _join(folder, base)
        before = self.get(path)
        if member.kind == "folder" and before is not None and before.kind in {"folder", "unclear"}:
            self._do("UPDATE entry SET layer = ? WHERE path = ?", self._layer, path)
            return
        entry = Entry(
            path, member.kind, self._layer, self._layer, member.at, member.size_bytes, member.target, hint
        )
        if member.kind == "link":
            entry = self._linked(path, member.target)
        if before is not None and before.kind in {"folder", "unclear"}:
            self._do("DELETE FROM entry WHERE path > ? AND path < ?", path + b"/", path + b"0")
        if (
            before is not None and before.kind in {"folder", "symlink", "unclear"}
        ) or entry.kind == "symlink":
            self._forget()
        self._put(entry)

    def _tally(self, path: bytes) -> None:
        self._entries += 1
        self._name_bytes += len(path)
        if self._entries > _MAX_ENTRIES or self._name_bytes > _MAX_NAME_BYTES:
            raise self._bad(f"more than {_MAX_ENTRIES} members, or names of more than 1 GiB")

    def _put(self, entry: Entry) -> None:
        self._do(
            f"INSERT OR REPLACE INTO entry ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  a constant
            *msgspec.structs.astuple(entry),
        )

    def _linked(self, path: bytes, target: bytes) -> Entry:
        parent, _, base = target.rpartition(b"/")
        folder = self.resolve(parent, self._place) if parent else None
        real = _join(folder.path if folder else b"", base)
        found = self.get(real) if folder or not parent else None
        if found is None or found.kind in {"folder", "unclear"} or real == path:
            raise self._bad(f"{_show(path)} is a hard link to {_show(target)}, which is no file")
        return msgspec.structs.replace(found, path=path, layer=self._layer)

    def _white_out(self, folder: bytes, base: bytes) -> None:
        if base == _OPAQUE:
            low, high = (folder + b"/", folder + b"0") if folder else (b"", _TOP)
            self._do("DELETE FROM entry WHERE path > ? AND path < ? AND layer < ?", low, high, self._layer)
        elif not base.startswith(_AUFS):
            name = base.removeprefix(_WHITEOUT)
            if name in {b"", b".", b".."}:
                raise self._bad(f"{_show(_join(folder, base))} hides nothing that has a name")
            path = _join(folder, name)
            self._do("DELETE FROM entry WHERE path = ? AND layer < ?", path, self._layer)
            self._do(
                "DELETE FROM entry WHERE path > ? AND path < ? AND layer < ?",
                path + b"/",
                path + b"0",
                self._layer,
            )
        self._forget()

    def _folder(self, path: bytes) -> bytes:
        """Return where a folder that a member lies in is; it is made if need be."""
        if not path:
            return b""
        if path in self._folders:
            return self._folders[path]
        real = b""
        for name in path.split(b"/"):
            real = self._enter(_join(real, name))
        self._cached += len(path) + len(real)
        if self._cached > _CACHE_BYTES:
            self._forget()
        self._folders[path] = real
        return real

    def _enter(self, path: bytes) -> bytes:
        before = self.get(path)
        if before is None:
            self._tally(path)
        elif before.layer == self._layer and before.kind in {"folder", "unclear"}:
            return path
        elif before.kind == "symlink" and before.layer == self._layer:
            there = self.resolve(path, self._place)
            if there is None or there.kind != "folder":
                raise self._bad(f"a member lies below {_show(path)}, a link that leads to no folder")
            return there.path
        elif before.kind in {"symlink", "unclear"}:
            self._put(msgspec.structs.replace(before, kind="unclear", layer=self._layer))
            return path
        elif before.layer == self._layer:
            raise self._bad(f"a member lies below {_show(path)}, which is a {before.kind}")
        self._put(Entry(path, "folder", self._layer, self._layer, 0, 0, b"", ""))
        return path

    def get(self, path: bytes) -> Entry | None:
        """Return what stands at a path; no link is followed."""
        row = self._do(f"SELECT {_COLUMNS} FROM entry WHERE path = ?", path).fetchone()  # noqa: S608  a constant
        return None if row is None else Entry(*row)

    def resolve(self, path: bytes, place: str) -> Entry | None:
        """Follow all links, inside the image's root.

        Returns:
            What is there; None when there is nothing.

        Raises:
            BadImage: RVP-5101 for a loop, or a link that engines resolve differently.
        """
        left = [part for part in reversed(path.split(b"/")) if part not in {b"", b"."}]
        at, links, found = b"", 0, Entry(b"", "folder", 0, 0, 0, 0, b"", "")
        while left:
            name = left.pop()
            if name == b"..":
                at = at.rpartition(b"/")[0]
                found = self.get(at) or Entry(b"", "folder", 0, 0, 0, 0, b"", "")
                continue
            step = self.get(_join(at, name)) if found.kind == "folder" else None
            if step is None:
                return None
            if step.kind == "unclear":
                raise BadImage(
                    f"{_show(step.path)} is a link of a lower layer, and a later layer has members below it: "
                    "engines put them in different places",
                    place=place,
                    hint="build the image so that its layers name real paths",
                )
            if step.kind == "symlink":
                links += 1
                left += [part for part in reversed(step.target.split(b"/")) if part not in {b"", b"."}]
                if links > _MAX_LINKS or len(left) > _MAX_LINKS * 256:
                    raise BadImage(f"{_show(path)} leads through more than {_MAX_LINKS} links", place=place)
                if step.target.startswith(b"/"):
                    at, found = b"", Entry(b"", "folder", 0, 0, 0, 0, b"", "")
                continue
            at, found = step.path, step
        return found

    def names(self, path: bytes, limit: int = 1000) -> list[bytes]:
        """Name what stands beside a path that was not found."""
        folder = self.get(path.strip(b"/").rpartition(b"/")[0])
        low = folder.path + b"/" if folder else b""
        high = folder.path + b"0" if folder else _TOP
        rows = self._do("SELECT path FROM entry WHERE path > ? AND path < ? LIMIT ?", low, high, limit)
        return [row[0].rpartition(b"/")[2] for row in rows]

    def all(self) -> Iterator[Entry]:
        """Give everything, in the order of paths."""
        for row in self._do(f"SELECT {_COLUMNS} FROM entry ORDER BY path"):  # noqa: S608  a constant
            yield Entry(*row)

    def hinted(self) -> Iterator[Entry]:
        """Give the files that may be a part of an enclave, in the order of paths."""
        for row in self._do(
            f"SELECT {_COLUMNS} FROM entry WHERE hint != '' AND kind = 'file' ORDER BY path"  # noqa: S608  a constant
        ):
            yield Entry(*row)

    def ending(self, name: bytes) -> Iterator[Entry]:
        """Give the regular files whose path ends like this, in the order of paths."""
        for row in self._do(
            f"SELECT {_COLUMNS} FROM entry WHERE substr(path, ?) = ? AND kind = 'file' ORDER BY path",  # noqa: S608
            -len(name),
            name,
        ):
            yield Entry(*row)

    def below(self, folder: bytes) -> Iterator[Entry]:
        """Give the regular files below a folder (of the root: all), in the order of paths."""
        low, high = (folder + b"/", folder + b"0") if folder else (b"", _TOP)
        for row in self._do(
            f"SELECT {_COLUMNS} FROM entry WHERE path > ? AND path < ? AND kind = 'file' ORDER BY path",  # noqa: S608
            low,
            high,
        ):
            yield Entry(*row)

    def count(self) -> tuple[int, int]:
        """Count the regular files and their bytes."""
        row = self._do("SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE kind = 'file'").fetchone()
        return int(row[0]), int(row[1])


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _show(path: bytes) -> str:
    return f'"/{os.fsdecode(path[:200]).encode("utf-8", "replace").decode()}"'
