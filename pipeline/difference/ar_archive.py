"""ar: static libraries and Debian packages: members with times, owners and modes, then their content.

Source: ar(5); GNU long names ("//" and "/123"), BSD long names ("#1/12"); deb(5).
"""

from __future__ import annotations

from typing import Final

from pipeline.difference.content import Content
from pipeline.difference.look import Broken, Found, Look, text_of
from pipeline.difference.members import Member, compare_attributes, compare_members, moment

_MAGIC: Final = b"!<arch>\n"
_THIN: Final = b"!<thin>\n"
_HEADER: Final = 60
_LONG_NAME_BYTES: Final = 1 << 12


def detect(head: bytes, path: str) -> bool:
    """Tell an ar archive by its magic."""
    del path
    return head.startswith((_MAGIC, _THIN))


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two ar archives."""
    kinds = [{"kind": text_of(side.read(2, 4))} for side in (left, right)]
    found = compare_members(path, read_members(left, look), read_members(right, look), look)
    return Found(
        details=(*compare_attributes(path, kinds[0], kinds[1]), *found.details), comments=found.comments
    )


def read_members(archive: Content, look: Look) -> list[Member]:
    """Read all headers.

    Raises:
        Broken: a header that is none, or that says more than is there.
    """
    thin = archive.read(0, 8) == _THIN
    members: list[Member] = []
    names = Content(b"")
    offset = len(_MAGIC)
    while offset < archive.size:
        look.tick()
        header = archive.read(offset, _HEADER)
        if len(header) < _HEADER or header[58:60] != b"`\n":
            raise Broken(f"the ar header at offset {offset:#x} is not one")
        if len(members) >= look.limits.members:
            raise Broken(f"more than {look.limits.members} members")
        size = _number(header[48:58], 10)
        if size is None:
            raise Broken(f"the ar member at offset {offset:#x} has no size")
        start = offset + _HEADER
        raw = header[:16].rstrip()
        content = archive.part(start, size)
        in_archive = not thin or raw in {b"/", b"//", b"/SYM64/"}
        if raw == b"//":
            names = content
        else:
            name, skipped = _name(raw, names, content)
            attributes = {
                "mtime": moment(_number(header[16:28], 10) or 0),
                "uid": text_of(header[28:34].strip()),
                "gid": text_of(header[34:40].strip()),
                "mode": text_of(header[40:48].strip()),
            }
            body = content.part(skipped, size - skipped) if in_archive else None
            members.append(Member(name=name, attributes=attributes, content=body))
        if in_archive and start + size > archive.size:
            raise Broken(f"the ar member at offset {offset:#x} ends after the archive")
        offset = start + (size + size % 2 if in_archive else 0)
    return members


def _name(raw: bytes, names: Content, content: Content) -> tuple[str, int]:
    """Return the name of a member, and how many bytes of its content are the name."""
    if raw in {b"/", b"/SYM64/"}:
        return "(symbol index)", 0
    if raw.startswith(b"#1/"):
        length = min(_number(raw[3:], 10) or 0, _LONG_NAME_BYTES)
        return text_of(content.read(0, length).rstrip(b"\0")), length
    if raw.startswith(b"/"):
        long = names.read(_number(raw[1:], 10) or 0, _LONG_NAME_BYTES)
        return text_of(long.split(b"\n", 1)[0].rstrip(b"/")), 0
    return text_of(raw.removesuffix(b"/")), 0


def _number(field: bytes, base: int) -> int | None:
    digits = field.strip()
    return int(digits, base) if digits.isdigit() else None
