"""zip: members in the order of the directory, with dates, attributes and compression, then their content.

The reader is our own: it reads the central directory, hands out packed content as ranges of the archive and
unpacks within the limits of the look.

Source: APPNOTE.TXT 6.3.10, sections 4.3 and 4.4; Info-ZIP extra fields ("UT", "ux").
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.difference.compressed import (
    Unpacker,
    compare_payload,
    unpack_bzip2,
    unpack_deflate,
    unpack_xz,
    unpack_zstd,
)
from pipeline.difference.content import Content, first_difference
from pipeline.difference.look import Broken, Found, Look, text_of
from pipeline.difference.members import Member, compare_attributes, compare_members, moment
from pipeline.difference.model import Cause, Difference

_END: Final = b"PK\5\6"
_END64_LOCATOR: Final = b"PK\6\7"
_ENTRY: Final = struct.Struct("<4s4B4HL2L5HLL")
_LOCAL_BYTES: Final = 30
_METHODS: Final = {0: "stored", 8: "deflate", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
_UNPACKERS: Final[dict[str, Unpacker]] = {
    "stored": Content.chunks,
    "deflate": unpack_deflate,
    "bzip2": unpack_bzip2,
    "xz": unpack_xz,
    "zstd": unpack_zstd,
}


class _Directory(msgspec.Struct, frozen=True, kw_only=True):
    """Where the central directory lies."""

    offset: int
    size: int
    shift: int  # bytes that stand before the archive (a self-extracting program)
    comment: str


def detect(head: bytes, path: str) -> bool:
    """Tell a zip archive by the signature of its first record."""
    del path
    return head.startswith((b"PK\3\4", _END))


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two zip archives."""
    ends = _find_directory(left), _find_directory(right)
    found = compare_members(
        path,
        _read_members(left, ends[0], look),
        _read_members(right, ends[1], look),
        look,
        content=_compare_content,
    )
    comments = compare_attributes(
        path, {"archive comment": ends[0].comment}, {"archive comment": ends[1].comment}
    )
    return Found(details=(*found.details, *comments), comments=found.comments)


def _find_directory(archive: Content) -> _Directory:
    tail_offset = max(0, archive.size - 65557)
    tail = archive.read(tail_offset, 65557)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise Broken("the zip archive has no end record")
    size, offset, comment_size = struct.unpack_from("<LLH", tail, at + 12)
    end = tail_offset + at
    if 0xFFFFFFFF in {size, offset}:
        locator = archive.read(end - 20, 20)
        if not locator.startswith(_END64_LOCATOR):
            raise Broken("the zip archive has no 64-bit end record")
        end = int.from_bytes(locator[8:16], "little")
        size, offset = struct.unpack("<QQ", archive.read(end + 40, 16).ljust(16, b"\0"))
    if size > end:
        raise Broken("the zip archive's directory is larger than the archive")
    comment = text_of(tail[at + 22 : at + 22 + comment_size])
    return _Directory(offset=end - size, size=size, shift=end - size - offset, comment=comment)


def _read_members(archive: Content, directory: _Directory, look: Look) -> list[Member]:
    members: list[Member] = []
    offset, end = directory.offset, directory.offset + directory.size
    while offset + _ENTRY.size <= end:
        look.tick()
        raw = archive.read(offset, _ENTRY.size)
        if len(raw) < _ENTRY.size or not raw.startswith(b"PK\1\2"):
            raise Broken(f"the zip directory entry at offset {offset:#x} is not one")
        if len(members) >= look.limits.members:
            raise Broken(f"more than {look.limits.members} members")
        (
            _,
            made_by,
            system,
            _needed,
            _,
            flags,
            method,
            time,
            date,
            _crc,
            packed,
            unpacked,
            name_size,
            extra_size,
            comment_size,
            _disk,
            internal,
            external,
            start,
        ) = _ENTRY.unpack(raw)
        rest = archive.read(offset + _ENTRY.size, name_size + extra_size + comment_size)
        extra = rest[name_size : name_size + extra_size]
        packed, start = _wide(extra, packed, unpacked, start)
        start += directory.shift
        local = archive.read(start, _LOCAL_BYTES)
        skip = sum(struct.unpack_from("<HH", local, 26)) if len(local) == _LOCAL_BYTES else 0
        attributes = {
            "date": _date(date, time),
            "mode": f"{external >> 16:o}",
            "attributes": f"{external & 0xFFFF:#06x}, internal {internal:#06x}",
            "compression": _METHODS.get(method, f"method {method}"),
            "made by": f"system {system}, version {made_by}",
            "flags": f"{flags:#06x}",
            "comment": text_of(rest[name_size + extra_size :]),
        } | _extra(extra)
        content = archive.part(start + _LOCAL_BYTES + skip, packed)
        members.append(Member(name=text_of(rest[:name_size]), attributes=attributes, content=content))
        offset += _ENTRY.size + name_size + extra_size + comment_size
    return members


def _compare_content(path: str, left: Member, right: Member, look: Look) -> Difference | None:
    """Compare what two members hold; when only their packed forms differ, say so."""
    if left.content is None or right.content is None:
        return None
    methods = left.attributes["compression"], right.attributes["compression"]
    if methods == ("stored", "stored") or not all(method in _UNPACKERS for method in methods):
        return look.inside(path, left.content, right.content)
    if methods[0] == methods[1] and first_difference(left.content, right.content, tick=look.tick) is None:
        return None
    found = compare_payload(
        path,
        left.content,
        right.content,
        look,
        unpack=_UNPACKERS[methods[0]],
        unpack_right=_UNPACKERS[methods[1]],
        name=path,
    )
    if not found.details and methods[0] != methods[1]:
        return None  # equal content; the attribute says that the methods differ
    if found.details:
        return found.details[0]
    return Difference(
        path=path,
        kind="compressed",
        where=found.where,
        causes=found.causes or (Cause.COMPRESSION,),
        comments=found.comments,
    )


def _wide(extra: bytes, packed: int, unpacked: int, start: int) -> tuple[int, int]:
    """Take 64-bit sizes from the extra field when the 32-bit ones are full."""
    field = dict(_fields(extra)).get(0x0001, b"")
    at = 8 if unpacked == 0xFFFFFFFF else 0
    if packed == 0xFFFFFFFF:
        packed, at = int.from_bytes(field[at : at + 8], "little"), at + 8
    if start == 0xFFFFFFFF:
        start = int.from_bytes(field[at : at + 8], "little")
    return packed, start


def _extra(extra: bytes) -> dict[str, str]:
    values = {}
    for tag, data in _fields(extra):
        if tag == 0x5455 and len(data) >= 5:
            values["mtime"] = moment(int.from_bytes(data[1:5], "little", signed=True))
        elif tag == 0x7875 and len(data) > 2:
            values["owner"] = data.hex()
        elif tag != 0x0001:
            values[f"extra field {tag:04x}"] = data.hex()
    return values


def _fields(extra: bytes) -> list[tuple[int, bytes]]:
    fields = []
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<HH", extra)
        fields.append((tag, extra[4 : 4 + size]))
        extra = extra[4 + size :]
    return fields


def _date(date: int, time: int) -> str:
    """Show an MS-DOS date and time (local time of whoever packed)."""
    return (
        f"{1980 + (date >> 9)}-{date >> 5 & 15:02d}-{date & 31:02d} "
        f"{time >> 11:02d}:{time >> 5 & 63:02d}:{(time & 31) * 2:02d}"
    )
