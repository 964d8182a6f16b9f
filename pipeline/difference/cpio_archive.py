"""cpio "newc": initial RAM disks: members with inodes, times, owners and modes, then their content.

Several archives may follow each other, with zeros between them, and what comes after the last one (a
compressed archive, usually) is looked into as "(what follows)".

Source: cpio(5), "New ASCII Format"; Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline.difference.content import CHUNK_BYTES, Content
from pipeline.difference.look import Broken, Found, Look, text_of
from pipeline.difference.members import Member, compare_members, moment

_MAGICS: Final = (b"070701", b"070702")
_HEADER: Final = 110
_NAME_BYTES: Final = 1 << 12
_NOT_ZERO: Final = re.compile(rb"[^\0]")


def detect(head: bytes, path: str) -> bool:
    """Tell a newc archive by its magic."""
    del path
    return head.startswith(_MAGICS)


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two cpio archives, or two chains of them."""
    return compare_members(path, read_members(left, look), read_members(right, look), look)


def read_members(archive: Content, look: Look) -> list[Member]:
    """Read all headers of all archives.

    Raises:
        Broken: a header that is none, or that says more than is there.
    """
    members: list[Member] = []
    offset = 0
    while offset < archive.size:
        look.tick()
        header = archive.read(offset, _HEADER)
        if not header.startswith(_MAGICS):
            offset = _skip_zeros(archive, offset, look)
            if offset < archive.size and not archive.read(offset, 6).startswith(_MAGICS):
                rest = archive.part(offset, archive.size - offset)
                members.append(Member(name="(what follows)", attributes={}, content=rest))
                break
            continue
        if len(members) >= look.limits.members:
            raise Broken(f"more than {look.limits.members} members")
        try:
            fields = [int(header[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        except ValueError as error:
            raise Broken(f"the cpio header at offset {offset:#x} is not one") from error
        inode, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, name_size, _ = fields
        if min(fields) < 0 or name_size > _NAME_BYTES:
            raise Broken(f"the cpio header at offset {offset:#x} has a name of {name_size} bytes")
        name = text_of(archive.read(offset + _HEADER, name_size).rstrip(b"\0"))
        body = _aligned(offset + _HEADER + name_size)
        if body + size > archive.size:
            raise Broken(f"the cpio member at offset {offset:#x} ends after the archive")
        attributes = {
            "mtime": moment(mtime),
            "mode": f"{mode:o}",
            "uid": str(uid),
            "gid": str(gid),
            "inode": str(inode),
            "links": str(links),
            "device": f"{major}:{minor} {rmajor}:{rminor}",
        }
        members.append(Member(name=name, attributes=attributes, content=archive.part(body, size)))
        offset = _aligned(body + size)
    return members


def _aligned(offset: int) -> int:
    return (offset + 3) // 4 * 4


def _skip_zeros(archive: Content, offset: int, look: Look) -> int:
    while chunk := archive.read(offset, CHUNK_BYTES):
        look.tick()
        match = _NOT_ZERO.search(chunk)
        if match:
            return offset + match.start()
        offset += len(chunk)
    return archive.size
