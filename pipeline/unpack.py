"""Archives taken apart without trusting them: tar (gzip, bzip2, xz) and zip, straight into the store.

Nothing is written to a folder, so no name in an archive can reach outside; sizes and counts are bounded.
A file that is no archive is a tree of one file.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, Final

from pipeline.store import Store
from pipeline.tar_header import BoundedHeader
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.digest import CHUNK_BYTES
from provenance.errors import SpecError

LIMIT_BYTES: Final = 32 << 30
LIMIT_ENTRIES: Final = 1_000_000
_BROKEN: Final = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


class BadArchive(SpecError):
    """An archive is broken, encrypted, too large, or has an entry that a tree cannot hold.

    Cure: look at it with `tar -t` or `unzip -l`; unpack it by hand and use the folder as a source.
    """

    code = "RVP-1327"


def unpack(archive: BinaryIO, name: str, store: Store) -> Tree:
    """Turn a file into a tree: an archive's content, or the file itself under its name.

    Args:
        archive: the file, seekable.
        name: what the file is called, which is the path in the tree when it is no archive.
        store: receives the content.

    Raises:
        BadArchive: RVP-1327. BadPath: RVP-1301 and BadEntry: RVP-1302 for what a tree cannot hold.
    """
    magic = archive.read(2)
    archive.seek(0)
    try:
        if magic == b"PK" and zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return make_tree(_from_zip(opened, name, _Bounded(store, name)))
        archive.seek(0)
        if _is_tar(archive):
            archive.seek(0)
            with tarfile.open(fileobj=archive, tarinfo=BoundedHeader) as opened_tar:
                return make_tree(_from_tar(opened_tar, name, _Bounded(store, name)))
    except _BROKEN as error:
        raise BadArchive(f"the archive is broken: {error}", place=name) from error
    archive.seek(0)
    digest, size_bytes = store.put(iter(lambda: archive.read(CHUNK_BYTES), b""))
    return make_tree([TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size_bytes)])


class _Bounded:
    """Puts content into a store, within bounds for the whole archive."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.left_bytes = LIMIT_BYTES
        self.left_entries = LIMIT_ENTRIES

    def put(self, stream: IO[bytes]) -> tuple[str, int]:
        digest, size_bytes = self.store.put(self._counted(stream))
        return digest.hex(), size_bytes

    def count(self) -> None:
        self.left_entries -= 1
        if self.left_entries < 0:
            raise BadArchive(f"the archive has more than {LIMIT_ENTRIES} entries", place=self.name)

    def _counted(self, stream: IO[bytes]) -> Iterator[bytes]:
        while chunk := stream.read(CHUNK_BYTES):
            self.left_bytes -= len(chunk)
            if self.left_bytes < 0:
                raise BadArchive(f"the archive unpacks to more than {LIMIT_BYTES} bytes", place=self.name)
            yield chunk


def _from_tar(archive: tarfile.TarFile, name: str, into: _Bounded) -> Iterator[TreeEntry]:
    files: dict[str, TreeEntry] = {}
    folders: set[str] = set()
    for member in archive:
        into.count()
        path = _relative(member.name)
        if member.isdir():
            if path and path not in folders:
                folders.add(path)
                yield TreeEntry(path=path, kind="dir")
        elif member.issym():
            yield TreeEntry(path=path, kind="symlink", target=member.linkname)
        elif member.islnk():
            original = files.get(_relative(member.linkname))
            if original is None:
                message = f'"{member.name}" is a link to "{member.linkname}", which is not in the archive'
                raise BadArchive(message, place=name)
            files[path] = TreeEntry(
                path=path,
                kind="file",
                executable=original.executable,
                sha256=original.sha256,
                size_bytes=original.size_bytes,
            )
            yield files[path]
        elif member.isfile() and (content := archive.extractfile(member)) is not None:
            digest, size_bytes = into.put(content)
            executable = bool(member.mode & 0o111)
            files[path] = TreeEntry(
                path=path, kind="file", executable=executable, sha256=digest, size_bytes=size_bytes
            )
            yield files[path]
        else:
            raise BadArchive(f'"{member.name}" is neither file, folder nor link', place=name)


def _from_zip(archive: zipfile.ZipFile, name: str, into: _Bounded) -> Iterator[TreeEntry]:
    for member in archive.infolist():
        into.count()
        path = _relative(member.filename)
        mode = member.external_attr >> 16
        if member.flag_bits & 1:
            raise BadArchive(f'"{member.filename}" is encrypted', place=name)
        if member.is_dir():
            if path:
                yield TreeEntry(path=path, kind="dir")
        elif stat.S_ISLNK(mode):
            with archive.open(member) as content:
                target = content.read(4096).decode("utf-8", "surrogateescape")
            yield TreeEntry(path=path, kind="symlink", target=target)
        else:
            with archive.open(member) as content:
                digest, size_bytes = into.put(content)
            executable = bool(mode & 0o111)
            yield TreeEntry(
                path=path, kind="file", executable=executable, sha256=digest, size_bytes=size_bytes
            )


def _relative(path: str) -> str:
    """Normalise `./a//b/` to `a/b`; what is absolute or climbs out stays so, and is refused by the tree."""
    if path.startswith("/") or ".." in path.split("/"):
        return path
    return "/".join(part for part in path.split("/") if part not in {"", "."})


def _is_tar(archive: BinaryIO) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except (*_BROKEN, RecursionError):
        return False
