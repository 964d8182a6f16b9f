"""tar: members in order, with their times, owners, modes and links, then their content.

The reader is our own: it takes no path from the archive to a file system, reads only headers, and hands out
content as ranges of the archive. It knows ustar, the old format, GNU long names and pax headers.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar, "Basic Tar Format".
"""

from __future__ import annotations

from typing import Final

from pipeline.difference.content import Content
from pipeline.difference.look import Broken, Found, Look, text_of
from pipeline.difference.members import Member, compare_attributes, compare_members, moment

_BLOCK: Final = 512
_EXTENSION_BYTES: Final = 1 << 20  # of one long name or pax header
_TYPES: Final = {
    "0": "file",
    "\0": "file",
    "1": "hard link",
    "2": "symbolic link",
    "3": "character device",
    "4": "block device",
    "5": "folder",
    "6": "pipe",
    "7": "file",
}


def detect(head: bytes, path: str) -> bool:
    """Tell a tar by the checksum of its first header."""
    del path
    return len(head) >= _BLOCK and any(head[:_BLOCK]) and _checksum_fits(head[:_BLOCK])


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two tar archives."""
    ones, one_end = read_members(left, look)
    others, other_end = read_members(right, look)
    found = compare_members(path, ones, others, look)
    ends = compare_attributes(path, {"trailing bytes": one_end}, {"trailing bytes": other_end})
    return Found(details=(*found.details, *ends), comments=found.comments)


def read_members(archive: Content, look: Look) -> tuple[list[Member], str]:
    """Read all headers; return the members and a word on what follows them.

    Raises:
        Broken: a header that is none.
    """
    members: list[Member] = []
    offset = 0
    defaults: dict[str, str] = {}
    extended: dict[str, str] = {}
    while offset + _BLOCK <= archive.size:
        header = archive.read(offset, _BLOCK)
        if not any(header):
            return members, f"{archive.size - offset} after the last member"
        if not _checksum_fits(header):
            raise Broken(f"the tar header at offset {offset:#x} has a wrong checksum")
        if len(members) >= look.limits.members:
            raise Broken(f"more than {look.limits.members} members")
        look.tick()
        kind = chr(header[156])
        size = _number(header[124:136])
        body = offset + _BLOCK
        if kind in "LKxgX":
            data = archive.read(body, min(size, _EXTENSION_BYTES))
            if kind == "g":
                defaults |= _pax(data)
            elif kind in "xX":
                extended |= _pax(data)
            else:
                extended["path" if kind == "L" else "linkpath"] = text_of(data.rstrip(b"\0"))
        else:
            values = defaults | extended
            size = _decimal(values.get("size", ""), size)
            has_content = kind not in "123456"
            members.append(_member(header, kind, values, archive.part(body, size) if has_content else None))
            extended = {}
            size = size if has_content else 0
        offset = body + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    return members, "0 after the last member"


def _member(header: bytes, kind: str, values: dict[str, str], content: Content | None) -> Member:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = values.get("path") or "/".join(part for part in (prefix, _text(header[:100])) if part)
    attributes = {
        "type": _TYPES.get(kind, f"type {kind!r}"),
        "mtime": moment(_number(header[136:148])),
        "mode": f"{_number(header[100:108]) & 0o7777:04o}",
        "uid": values.get("uid") or str(_number(header[108:116])),
        "gid": values.get("gid") or str(_number(header[116:124])),
        "owner": values.get("uname") or _text(header[265:297]),
        "group": values.get("gname") or _text(header[297:329]),
        "link": values.get("linkpath") or _text(header[157:257]),
        "device": f"{_number(header[329:337])}:{_number(header[337:345])}",
        "format": header[257:265].hex(),
    }
    attributes |= {
        f"pax {key}" if key != "mtime" else "mtime": value
        for key, value in values.items()
        if key not in {"path", "linkpath", "uid", "gid", "uname", "gname", "size"}
    }
    return Member(name=name, attributes=attributes, content=content)


def _pax(data: bytes) -> dict[str, str]:
    """Read `length key=value` records; stop at the first that is none."""
    values: dict[str, str] = {}
    while data:
        digits = data[:20].split(b" ", 1)[0]
        if not digits.isdigit():
            break
        length = int(digits)
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not equals or length < len(digits) + 2:
            break
        values[text_of(key)] = text_of(value.rstrip(b"\n"))
        data = data[length:]
    return values


def _checksum_fits(header: bytes) -> bool:
    stored = header[148:156].strip(b" \0")
    try:
        expected = int(stored, 8)
    except ValueError:
        return False
    return expected == sum(header[:148]) + 8 * 0x20 + sum(header[156:])


def _number(field: bytes) -> int:
    """Read octal, or base 256 when the high bit is set (GNU)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return max(0, int(field.strip(b" \0") or b"0", 8))
    except ValueError:
        return 0


def _decimal(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else otherwise


def _text(field: bytes) -> str:
    return text_of(field.split(b"\0", 1)[0])
