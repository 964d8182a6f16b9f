"""Where the parts of a container image lie: a folder, or an archive that is never unpacked.

Both give files by name, with their size and a stream. Archives are indexed header by header with bounds on
everything (tarfile reads a long name whole into the memory); a path that climbs out is refused, a link is
followed only to another member of the archive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Protocol

from provenance.digest import CHUNK_BYTES
from provenance.errors import UsageError
from provenance.strict import NotReadable

_BLOCK: Final = 512
_MAX_MEMBERS: Final = 50_000
_MAX_LONG: Final = 1 << 16  # a pax header or a GNU long name


class BadImage(UsageError):
    """A file or folder is not a container image: a part is missing, malformed, or leads out of it.

    Cure: `skopeo copy … oci-archive:image.tar`, `docker save` and `rvp build` write what can be measured.
    """

    code = "RVP-5101"


class Room(Protocol):
    """Files by name."""

    def size_of(self, name: str) -> int | None:
        """Return the size of a file, or None when there is none."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """Stream a file."""
        ...


class FolderRoom:
    """An image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def _path(self, name: str) -> Path | None:
        path = self._folder / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise BadImage(f'"{name}" is not a file', place=str(self._folder))
        except OSError:
            return None
        if not path.resolve().is_relative_to(self._folder):
            raise BadImage(f'"{name}" leads out of the image', place=str(self._folder))
        return path

    def size_of(self, name: str) -> int | None:
        """Return the size of a file, or None when there is none."""
        path = self._path(name)
        return None if path is None else path.stat().st_size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Stream a file."""
        path = self._path(name)
        if path is None:
            raise BadImage(f'"{name}" is missing', place=str(self._folder))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk


class ArchiveRoom:
    """An image in a tar archive."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._index()

    def size_of(self, name: str) -> int | None:
        """Return the size of a file, or None when there is none."""
        place = self._members.get(self._links.get(name, name))
        return None if place is None else place[1]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Stream a file."""
        place = self._members.get(self._links.get(name, name))
        if place is None:
            raise BadImage(f'"{name}" is missing', place=self._name)
        at, left = place
        while left:
            self._stream.seek(at)
            chunk = self._stream.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise BadImage(f'"{name}" ends in the middle: the archive is cut', place=self._name)
            yield chunk
            at += len(chunk)
            left -= len(chunk)

    def _bad(self, message: str) -> BadImage:
        return BadImage(message, place=self._name)

    def _index(self) -> None:
        end = self._stream.seek(0, os.SEEK_END)
        at, count = 0, 0
        long_name: str | None = None
        long_size: int | None = None
        while at + _BLOCK <= end:
            self._stream.seek(at)
            header = self._stream.read(_BLOCK)
            if not any(header):
                return
            _check_sum(header, self._name)
            size = long_size if long_size is not None else _number(header[124:136], self._name)
            at += _BLOCK
            if at + size > end:
                raise self._bad(f"a member of {size} bytes goes beyond the archive's {end}")
            kind = header[156:157]
            if kind in b"xLK":
                if size > _MAX_LONG:
                    raise self._bad(f"a header of {size} bytes")
                data = self._stream.read(size)
                if kind == b"L":
                    long_name = data.rstrip(b"\0").decode("utf-8", "replace")
                elif kind == b"x":
                    records = _pax(data, self._name)
                    long_name = records.get("path", long_name)
                    long_size = int(records["size"]) if records.get("size", "").isdigit() else None
            elif kind != b"g":
                count += 1
                if count > _MAX_MEMBERS:
                    raise self._bad(f"more than {_MAX_MEMBERS} members")
                self._add(kind, _normal(long_name or _name(header), self._name), header, at, size)
                long_name = long_size = None
            at += -(-size // _BLOCK) * _BLOCK
        raise self._bad("the archive ends without its end mark: it is cut")

    def _add(self, kind: bytes, name: str, header: bytes, at: int, size: int) -> None:
        if kind == b"5":
            return
        if name in self._members or name in self._links:
            raise self._bad(f'"{name}" stands twice')
        if kind in {b"0", b"\0"}:
            self._members[name] = (at, size)
        elif kind in {b"1", b"2"}:  # docker save links equal layers
            target = header[157:257].partition(b"\0")[0].decode("utf-8", "replace")
            joined = target if kind == b"1" else os.path.normpath(f"{PurePosixPath(name).parent}/{target}")
            self._links[name] = _normal(joined, self._name)
        else:
            raise self._bad(f'"{name}" is neither file, folder nor link')


def _normal(name: str, place: str) -> str:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts or not parts:
        if name.rstrip("/") in {".", ""} and not name.startswith("/"):
            return "."
        raise BadImage(f'"{name}" leads out of the image', place=place)
    return "/".join(parts)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    prefix = header[345:500].partition(b"\0")[0].decode("utf-8", "replace")
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes, place: str) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        text = field.strip(b" \0")
        if not all(digit in b"01234567" for digit in text):
            raise BadImage(f"{field!r} is not a number", place=place)
        value = int(text or b"0", 8)
    return value


def _check_sum(header: bytes, place: str) -> None:
    stated = _number(header[148:156], place)
    if stated != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise BadImage(
            "a header's checksum is wrong: this is not a tar archive, or it is damaged", place=place
        )


def _pax(data: bytes, place: str) -> dict[str, str]:
    found: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data):
            raise BadImage("a pax header is malformed", place=place)
        record = data[len(length) + 1 : int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        data = data[int(length) :]
    return found


@contextmanager
def open_room(path: Path) -> Iterator[Room]:
    """Open a folder or an archive.

    Raises:
        NotReadable: RVP-1010. BadImage: RVP-5101.
    """
    if path.is_dir():
        yield FolderRoom(path)
        return
    try:
        stream = path.open("rb")
    except OSError as error:
        raise NotReadable(f"cannot read the file: {error.strerror}", place=str(path)) from error
    with stream:
        yield ArchiveRoom(stream, str(path))
