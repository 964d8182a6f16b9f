"""The uncompressed ustar archive, read strictly and written canonically.

Reading lists files without unpacking any; writing depends on names and content alone: mode 0644 or 0755,
owner 0, time 0. Python's tarfile is not used for what strangers send: it reads a long header whole into the
memory and follows links, sparse maps and extensions that no archive of ours has.

Source: POSIX.1-1990 ustar; GNU tar's base-256 numbers, read only to tell an oversized member.

Example:
    >>> data = b"".join(tar_chunks([("note", 2, (b"hi",))]))
    >>> import io
    >>> list(tar_members(io.BytesIO(data), len(data), "note.tar"))
    [('note', 2, 512)]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from provenance.errors import SignatureFailure

_BLOCK: Final = 512
_MAX_TAIL: Final = 1 << 20  # tar pads to its record, 10 KiB by default


class NotAnArchive(SignatureFailure):
    """A file is not an uncompressed tar archive of regular files and folders.

    Cure: unpack a compressed archive first; `rvp publish` writes what is expected.
    """

    code = "RVP-6208"


class Truncated(SignatureFailure):
    """An archive ends in the middle of a member.

    Cure: the transfer was cut: get the archive again and compare its size.
    """

    code = "RVP-6202"


class ClimbsOut(SignatureFailure):
    """A path leads out of the layout: it is absolute, has `..`, or is a link.

    Cure: do not use this file; nothing of it was unpacked.
    """

    code = "RVP-6205"


class TooLarge(SignatureFailure):
    """Something in a layout is larger than its limit; it was refused before it was read.

    Cure: no honest bundle is that large; where one is, raise the limit in the call.
    """

    code = "RVP-6206"


def tar_members(stream: BinaryIO, end: int, name: str) -> Iterator[tuple[str, int, int]]:
    """List the files of an uncompressed ustar archive: name, size, offset of the content.

    Only regular files and folders are accepted, with names in the header itself: what rvp and the tools
    of the OCI world write for a layout. The caller checks each size before the content is read or skipped.

    Raises:
        NotAnArchive: RVP-6208. Truncated: RVP-6202. ClimbsOut: RVP-6205.
    """
    offset = 0
    while True:
        stream.seek(offset)
        header = stream.read(_BLOCK)
        if header == bytes(_BLOCK):
            _check_tail(stream, end - offset - _BLOCK, name)
            return
        if len(header) < _BLOCK:
            if offset == 0 and header:
                raise NotAnArchive(
                    "the file is not a tar archive", place=name, hint="a folder or a .tar is expected"
                )
            raise Truncated(f"the archive ends at byte {end}, without its end mark", place=name)
        if header[257:262] != b"ustar":
            kind = (
                "compressed"
                if header[:2] in {b"\x1f\x8b", b"BZ", b"\x28\xb5", b"\xfd7"}
                else "not a tar archive"
            )
            raise NotAnArchive(
                f"the file is {kind} (byte {offset})",
                place=name,
                hint="a folder or an uncompressed .tar is expected",
            )
        if sum(header[:148]) + sum(header[156:]) + 8 * 0x20 != _number(header[148:156], name):
            raise NotAnArchive(f"the header at byte {offset} has a wrong checksum", place=name)
        prefix, short = _text(header[345:500]), _text(header[:100])
        member = f"{prefix}/{short}" if prefix and header[257:263] == b"ustar\0" else short
        size_bytes, kind_byte = _number(header[124:136], name), header[156:157]
        offset += _BLOCK
        if kind_byte in {b"1", b"2"}:
            raise ClimbsOut(f"{member} is a link", place=name, hint="do not use this file")
        if member.startswith("/") or "\\" in member or ".." in member.split("/"):
            raise ClimbsOut(
                f"the member {member!r} leads out of the archive", place=name, hint="do not use this file"
            )
        if kind_byte in {b"0", b"\0"}:
            yield member.removeprefix("./"), size_bytes, offset
        elif kind_byte != b"5" or size_bytes:
            raise NotAnArchive(f"{member}: members of type {kind_byte!r} are not accepted", place=name)
        stream.seek(offset + size_bytes)
        if stream.read(-size_bytes % _BLOCK).strip(b"\0"):
            raise NotAnArchive(f"there are bytes behind the content of {member}", place=name)
        offset += -(-size_bytes // _BLOCK) * _BLOCK


def _check_tail(stream: BinaryIO, size_bytes: int, name: str) -> None:
    if size_bytes > _MAX_TAIL or stream.read(_MAX_TAIL).strip(b"\0"):
        raise NotAnArchive("there are bytes behind the end mark of the archive", place=name)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _number(field: bytes, name: str) -> int:
    if field[0] & 0x80:  # GNU base 256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise NotAnArchive(f"{field!r} is not an octal number", place=name)
    return int(digits or b"0", 8)


def tar_chunks(
    files: Iterable[tuple[str, int, Iterable[bytes]]], *, executable: frozenset[str] = frozenset()
) -> Iterator[bytes]:
    """Write a canonical ustar archive: mode 0644 (0755 for the executable ones), owner 0, time 0.

    Args:
        files: name, size in bytes, content; in the order in which they are to stand.
        executable: names of files that somebody may execute.

    Raises:
        ValueError: a name does not fit a ustar header, or a content has another size than announced.
    """
    for name, size_bytes, chunks in files:
        yield _header(name, size_bytes, 0o755 if name in executable else 0o644)
        written = 0
        for chunk in chunks:
            written += len(chunk)
            yield chunk
        if written != size_bytes:
            raise ValueError(f"{name} has {written} bytes, {size_bytes} were announced")
        yield bytes(-written % _BLOCK)
    yield bytes(2 * _BLOCK)


def _header(name: str, size_bytes: int, mode: int) -> bytes:
    encoded, prefix = name.encode(), b""
    if len(encoded) > 100:
        cut = encoded.rfind(b"/", 0, 156)
        if cut <= 0 or len(encoded) - cut - 1 > 100:
            raise ValueError(f"{name!r} does not fit a ustar header")
        prefix, encoded = encoded[:cut], encoded[cut + 1 :]
    if size_bytes >= 8 << 30:
        raise ValueError(f"{name} has {size_bytes} bytes, a ustar member has less than 8 GiB")
    block = bytearray(_BLOCK)
    block[0 : len(encoded)] = encoded
    block[100:108] = b"%07o\0" % mode
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size_bytes
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[329:337] = block[337:345] = b"0000000\0"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
