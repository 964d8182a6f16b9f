"""Compressed payloads: gzip with its header, xz, bzip2, zstd.

A payload is unpacked into memory up to a limit and looked into; a larger one is compared as a stream, and its
beginning is looked into when the difference lies there. When the payloads are equal, the compressor differs.

Source: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format 1.1.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, Protocol, cast

from pipeline.difference.content import Content, first_difference, first_difference_of_streams, hex_row
from pipeline.difference.look import Broken, Found, Look, text_of
from pipeline.difference.members import compare_attributes, moment
from pipeline.difference.model import Cause, Difference

_OUT_BYTES: Final = 1 << 20
_MEMORY: Final = 256 << 20  # xz refuses a dictionary that needs more
_GZIP_SYSTEMS: Final = {0: "FAT", 3: "Unix", 7: "Macintosh", 10: "TOPS-20", 11: "NTFS", 255: "unknown"}

Unpacker = Callable[[Content], Iterator[bytes]]


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Inflater:
    """zlib's decompressor with the interface of the other two."""

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)
        self._left = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._left + data, max_length)
        self._left = self._inner.unconsumed_tail
        return out


def _unpack(content: Content, make: Callable[[], _Decompressor], name: str) -> Iterator[bytes]:
    """Unpack concatenated streams in chunks of at most 1 MiB.

    Raises:
        Broken: the data are not what they seemed, or end too early.
    """
    unpacker = make()
    fed = False
    for chunk in content.chunks():
        data = chunk
        while True:
            try:
                out = unpacker.decompress(data, _OUT_BYTES)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
                raise Broken(f"the {name} data are damaged: {error}") from error
            fed = True
            if out:
                yield out
            if unpacker.eof:
                data = unpacker.unused_data.lstrip(b"\0")
                unpacker, fed = make(), False
                if not data:
                    break
            elif unpacker.needs_input or (not out and not data):
                break
            else:
                data = b""
    if fed:
        raise Broken(f"the {name} data end too early")


def unpack_deflate(content: Content) -> Iterator[bytes]:
    """Unpack raw deflate data (a member of a zip archive)."""
    return _unpack(content, lambda: _Inflater(-15), "deflate")


def unpack_zlib(content: Content) -> Iterator[bytes]:
    """Unpack zlib data (a compressed ELF section)."""
    return _unpack(content, lambda: _Inflater(15), "zlib")


def unpack_gzip(content: Content) -> Iterator[bytes]:
    """Unpack gzip data."""
    return _unpack(content, lambda: _Inflater(31), "gzip")


def unpack_xz(content: Content) -> Iterator[bytes]:
    """Unpack xz or lzma data."""
    return _unpack(content, lambda: lzma.LZMADecompressor(memlimit=_MEMORY), "xz")


def unpack_bzip2(content: Content) -> Iterator[bytes]:
    """Unpack bzip2 data."""
    return _unpack(content, bz2.BZ2Decompressor, "bzip2")


def unpack_zstd(content: Content) -> Iterator[bytes]:
    """Unpack zstd data.

    Raises:
        Broken: also when the package that reads zstd is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise Broken(
            "zstd data are not looked into: the Python package zstandard is not installed"
        ) from error
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        reader = unpacker.stream_reader(cast("IO[bytes]", _Reader(content)), read_across_frames=True)
        while chunk := reader.read(_OUT_BYTES):
            yield chunk
    except zstandard.ZstdError as error:
        raise Broken(f"the zstd data are damaged: {error}") from error


class _Reader:
    """The `read` that zstandard asks for."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._offset = 0

    def read(self, size: int = _OUT_BYTES) -> bytes:
        data = self._content.read(self._offset, size)
        self._offset += len(data)
        return data


def detect_gzip(head: bytes, path: str) -> bool:
    """Tell gzip by its magic and method."""
    del path
    return head.startswith(b"\x1f\x8b\x08")


def detect_xz(head: bytes, path: str) -> bool:
    """Tell xz by its magic."""
    del path
    return head.startswith(b"\xfd7zXZ\0")


def detect_bzip2(head: bytes, path: str) -> bool:
    """Tell bzip2 by its magic and block magic."""
    del path
    return head[:3] == b"BZh" and head[4:10] == b"1AY&SY"


def detect_zstd(head: bytes, path: str) -> bool:
    """Tell zstd by its magic."""
    del path
    return head.startswith(b"\x28\xb5\x2f\xfd")


def compare_gzip(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two gzip files: header fields, then payload."""
    (one, one_size), (other, other_size) = _gzip_header(left), _gzip_header(right)
    details = compare_attributes(path, one, other)
    bodies = [side.part(size, side.size) for side, size in ((left, one_size), (right, other_size))]
    if details and first_difference(bodies[0], bodies[1], tick=look.tick) is None:
        return Found(details=tuple(details), comments=("the payloads are equal: only the header differs",))
    found = compare_payload(path, left, right, look, unpack=unpack_gzip)
    return Found(
        details=(*details, *found.details), comments=found.comments, where=found.where, causes=found.causes
    )


def compare_xz(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two xz files: integrity check, then payload."""
    details = compare_attributes(path, {"check": left.read(7, 1).hex()}, {"check": right.read(7, 1).hex()})
    found = compare_payload(path, left, right, look, unpack=unpack_xz)
    return Found(
        details=(*details, *found.details), comments=found.comments, where=found.where, causes=found.causes
    )


def compare_bzip2(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two bzip2 files."""
    return compare_payload(path, left, right, look, unpack=unpack_bzip2)


def compare_zstd(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two zstd files."""
    return compare_payload(path, left, right, look, unpack=unpack_zstd)


def compare_payload(
    path: str,
    left: Content,
    right: Content,
    look: Look,
    *,
    unpack: Unpacker,
    unpack_right: Unpacker | None = None,
    name: str = "",
) -> Found:
    """Compare what two compressed contents hold.

    Args:
        path: the path of the compressed content.
        left: one side, packed.
        right: the other side, packed.
        look: the look.
        unpack: how to unpack.
        unpack_right: how to unpack the right side, when that is another way.
        name: what to call the payload; the path without its last suffix when empty.
    """
    inner = name or f"{path}/{_payload_name(path)}"
    other_unpack = unpack_right or unpack
    room = look.payload_bytes()
    one, one_whole = _hold(unpack(left), room, look)
    other, other_whole = _hold(other_unpack(right), room, look)
    if one_whole and other_whole:
        with look.holding(len(one) + len(other)):
            found = look.inside(inner, Content(one), Content(other))
        return Found(details=(found,)) if found else _equal_payloads()
    del one, other
    try:
        different = first_difference_of_streams(
            unpack(left), other_unpack(right), tick=look.tick, limit_bytes=look.limits.stream_bytes
        )
    except OverflowError as error:
        return Found(where="payload, beyond the limit", comments=(f"{error}; the rest was not unpacked",))
    if different is None:
        return _equal_payloads()
    offset, one_bytes, other_bytes = different
    comment = f"the payload is larger than {room} bytes"
    if offset < room:
        head, other_head = _hold(unpack(left), room, look)[0], _hold(other_unpack(right), room, look)[0]
        with look.holding(len(head) + len(other_head)):
            found = look.inside(inner, Content(head), Content(other_head))
        if found:
            return Found(details=(found,), comments=(f"{comment}: only its beginning was looked into",))
    return Found(
        details=(
            Difference(
                path=inner,
                kind="binary",
                where=f"offset {offset:#x}",
                offset=offset,
                left=f"{offset:#010x}: {hex_row(one_bytes[:16])}",
                right=f"{offset:#010x}: {hex_row(other_bytes[:16])}",
                comments=(f"{comment}: it was compared as a stream and not looked into",),
            ),
        )
    )


def _equal_payloads() -> Found:
    return Found(
        where="compressed form",
        causes=(Cause.COMPRESSION,),
        comments=("the payloads are equal: the compressor, its level or its version differs",),
    )


def _payload_name(path: str) -> str:
    last = path.rsplit("/", 1)[-1]
    for suffix in (".gz", ".xz", ".bz2", ".zst", ".lzma"):
        if last.endswith(suffix) and last != suffix:
            return last.removesuffix(suffix)
    return last.removesuffix(".tgz") + ".tar" if last.endswith(".tgz") else "(payload)"


def _hold(chunks: Iterator[bytes], room: int, look: Look) -> tuple[bytes, bool]:
    """Collect chunks up to a limit; tell whether that was all."""
    held = bytearray()
    for chunk in chunks:
        look.tick()
        held += chunk
        if len(held) > room:
            del held[room:]
            return bytes(held), False
    return bytes(held), True


def _gzip_header(content: Content) -> tuple[dict[str, str], int]:
    """Read the header of the first member; return its fields and its size."""
    head = content.read(0, 1 << 16)
    flags = head[3] if len(head) > 3 else 0
    fields = {
        "mtime": moment(int.from_bytes(head[4:8], "little")),
        "level": {2: "best", 4: "fastest"}.get(head[8] if len(head) > 8 else 0, "default"),
        "system": _GZIP_SYSTEMS.get(head[9] if len(head) > 9 else 255, "other"),
    }
    offset = 10
    if flags & 0x04:
        size = int.from_bytes(head[offset : offset + 2], "little")
        fields["extra field"] = head[offset + 2 : offset + 2 + size].hex()
        offset += 2 + size
    for bit, field in ((0x08, "name"), (0x10, "comment")):
        if flags & bit:
            value = head[offset:].split(b"\0", 1)[0]
            fields[field] = text_of(value)
            offset += len(value) + 1
    return fields, offset + (2 if flags & 0x02 else 0)
