"""The members of a layer's tar, one after the other, as an engine reads them; nothing is held but a header.

Every name is relative, without `.` and `..` and empty parts; one that climbs is refused. Old, POSIX and GNU
headers, pax records and GNU long names are read; sparse files are seen and marked: their content is not read.

Units: bytes.
Source: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format".
Cost: one pass; a header with its long names takes at most 1 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.measure.image_room import BadImage

BLOCK: Final = 512
_SPARSE: Final = b"GNU.sparse."
_SPARSE_NAME: Final = b"GNU.sparse.name"
MAX_PATH: Final = 4096  # PATH_MAX of Linux
MAX_DEPTH: Final = 255
_MAX_IN_A_ROW: Final = 64
_MAX_HEADER: Final = 1 << 20  # extended attributes may be large
_ZERO: Final = bytes(BLOCK)
_ZEROS_IN_A_ROW: Final = 2
KINDS: Final = {b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "symlink", b"5": "folder"}
_OTHERS: Final = b"346"  # devices and pipes


class Member(msgspec.Struct, frozen=True):
    """One member.

    Attributes:
        path: without a slash at either end; empty for the root.
        kind: file, link (hard), symlink, folder, other (devices, pipes), sparse.
        target: of a link (normalised) or a symlink (as written).
        at: offset of the content in the uncompressed layer.
        size_bytes: of the content; 0 for all but files.
    """

    path: bytes
    kind: str
    target: bytes
    at: int
    size_bytes: int


class TarStream:
    """Reads members from chunks. After each member, its content may be read; what is not read is skipped."""

    def __init__(self, chunks: Iterator[bytes], place: str) -> None:
        self._chunks = chunks
        self._place = place
        self._rest = memoryview(b"")
        self._at = 0  # of the rest, in the layer
        self._left = 0  # of the current member's content and padding
        self._content = 0

    def members(self) -> Iterator[Member]:
        """Go through the members.

        Raises:
            BadImage: RVP-5101.
        """
        pax: dict[bytes, bytes] = {}
        shared: dict[bytes, bytes] = {}
        in_a_row = 0
        while True:
            self._skip(self._left)
            self._left = 0
            header = self._block()
            if header is None:
                return
            kind, size = header[156:157], _number(header[124:136], self._place)
            if kind in b"xgLK" and kind:
                in_a_row += 1
                if in_a_row > _MAX_IN_A_ROW:
                    raise self._bad(
                        f"more than {_MAX_IN_A_ROW} headers in a row before one member of a layer"
                    )
                data = self._extra(size)
                if kind == b"L":
                    pax[b"path"] = data.rstrip(b"\0")
                elif kind == b"K":
                    pax[b"linkpath"] = data.rstrip(b"\0")
                else:
                    (pax if kind == b"x" else shared).update(_records(data, self._place))
                continue
            member = self._member(header, kind, size, {**shared, **pax} if shared else pax)
            pax, in_a_row = {}, 0
            yield member

    def content(self) -> Iterator[memoryview]:
        """Stream the content of the member that was given last; once."""
        while self._content:
            if not self._rest and not self._fill():
                raise self._bad("a layer ends in the middle of a file")
            piece = self._rest[: self._content]
            self._take(len(piece))
            self._content -= len(piece)
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read what stands behind the end mark."""
        for _ in self._chunks:
            pass

    def _bad(self, message: str) -> BadImage:
        return BadImage(message, place=self._place)

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                return True
        return False

    def _take(self, size: int) -> None:
        self._rest = self._rest[size:]
        self._at += size

    def _skip(self, size: int) -> None:
        while size:
            if not self._rest and not self._fill():
                raise self._bad("a layer ends in the middle of a file")
            step = min(size, len(self._rest))
            self._take(step)
            size -= step

    def _read(self, size: int) -> bytes:
        if len(self._rest) >= size:
            data = bytes(self._rest[:size])
            self._take(size)
            return data
        found = bytearray()
        while len(found) < size and (self._rest or self._fill()):
            piece = self._rest[: size - len(found)]
            found += piece
            self._take(len(piece))
        return bytes(found)

    def _block(self) -> bytes | None:
        """Read a header; None at the end: two blocks of zeros, or nothing more."""
        header = self._read(BLOCK)
        if header == _ZERO:
            following = self._read(BLOCK)
            if following not in {_ZERO, b""}:
                raise self._bad("a block of zeros stands between two members of a layer")
            return None
        if not header:
            return None
        if len(header) != BLOCK:
            raise self._bad("a layer ends in the middle of a header")
        stated = _number(header[148:156], self._place)
        if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise self._bad(f"a header's checksum is wrong at byte {self._at - BLOCK:#x} of a layer")
        return header

    def _extra(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise self._bad(f"a header of {size} bytes in a layer")
        data = self._read(size)
        self._skip(-size % BLOCK)
        if len(data) != size:
            raise self._bad("a layer ends in the middle of a header")
        return data

    def _member(self, header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes]) -> Member:
        if b"size" in pax:
            if not pax[b"size"].isdigit() or len(pax[b"size"]) > 20:
                raise self._bad(f"a size of {pax[b'size'][:40]!r} in a layer")
            size = int(pax[b"size"])
        path = self._path(pax.get(b"path") or _name(header), "a member")
        found = KINDS.get(kind, "")
        if kind == b"S":
            found = "sparse"
            self._skip_sparse_map(header)
        elif _SPARSE in pax or _SPARSE_NAME in pax:
            found = "sparse"
            path = self._path(pax.get(_SPARSE_NAME, path), "a sparse file")
        elif not found:
            if kind not in _OTHERS:
                raise self._bad(f"{_show(path)} has the type {kind!r}, which engines read differently")
            found = "other"
        target = b""
        if found in {"link", "symlink"}:
            target = pax.get(b"linkpath") or header[157:257].partition(b"\0")[0]
            if not target or len(target) > MAX_PATH or b"\0" in target:
                raise self._bad(f"{_show(path)} is a link to nowhere, or to a name of {len(target)} bytes")
            if found == "link":
                target = self._path(target, "a hard link")
        if found not in {"file", "sparse"}:
            if size and found != "folder":
                raise self._bad(f"{_show(path)} is a {found} with {size} bytes of content")
            if size:
                raise self._bad(f"the folder {_show(path)} has {size} bytes of content")
        self._content = size if found == "file" else 0
        self._left = size + -size % BLOCK
        return Member(path, found, target, self._at, size if found == "file" else 0)

    def _skip_sparse_map(self, header: bytes) -> None:
        more = header[482]
        while more:
            block = self._read(BLOCK)
            if len(block) != BLOCK:
                raise self._bad("a layer ends in the middle of a header")
            more = block[504]

    def _path(self, name: bytes, what: str) -> bytes:
        if len(name) > MAX_PATH or b"\0" in name:
            raise self._bad(f"{what} has a name of {len(name)} bytes")
        parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
        if len(parts) > MAX_DEPTH:
            raise self._bad(f"{what} lies {len(parts)} folders deep")
        if b".." in parts:
            raise self._bad(f"{what} leads out of the image: {_show(name)}")
        return b"/".join(parts)


def _show(name: bytes) -> str:
    return f'"{name[:200].decode("utf-8", "replace")}"'


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes, place: str) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if value >> 63:
            raise BadImage(f"a number of {value} in a layer", place=place)
        return value
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise BadImage(f"{field!r} is not a number in a layer", place=place)
    return int(text or b"0", 8)


def _records(data: bytes, place: str) -> dict[bytes, bytes]:
    """Read pax records; only names, link targets, sizes and marks of sparse files matter here."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        length = data[at:space] if space > at else b""
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(data) - at:
            raise BadImage("a pax header of a layer is malformed", place=place)
        key, equals, value = data[space + 1 : at + int(length) - 1].partition(b"=")
        if not equals or data[at + int(length) - 1 : at + int(length)] != b"\n":
            raise BadImage("a pax header of a layer is malformed", place=place)
        if key in {b"path", b"linkpath", b"size", _SPARSE_NAME}:
            found[key] = value
        elif key.startswith(_SPARSE):
            found[_SPARSE] = b""
        at += int(length)
    return found
