"""The bytes of one side, wherever they lie: a file, a store object, a payload in memory, or a part of these.

Nothing is mapped and nothing is copied whole: a file that shrinks while it is read gives short reads, and two
gibibytes of equal bytes cost two chunks of memory.

Example:
    >>> whole = Content(b"hello world")
    >>> whole.part(6, 5).read(0, 99), first_difference(whole, Content(b"hello World"))
    (b'world', 6)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 1 << 20
_ROW_BYTES: Final = 16


class Content:
    """A bounded, readable range of bytes."""

    __slots__ = ("_base", "_source", "size")

    def __init__(self, source: bytes | BinaryIO, *, base: int = 0, size: int | None = None) -> None:
        self._source: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
        self._base = base
        self.size = self._source.seek(0, io.SEEK_END) - base if size is None else size

    def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes; what lies outside is not there."""
        if offset < 0 or offset >= self.size or length <= 0:
            return b""
        self._source.seek(self._base + offset)
        return self._source.read(min(length, self.size - offset))

    def part(self, offset: int, length: int) -> Content:
        """Return a range of this one, clipped to what is there."""
        start = min(max(offset, 0), self.size)
        size = min(max(length, 0), self.size - start)
        return Content(self._source, base=self._base + start, size=size)

    def chunks(self) -> Iterator[bytes]:
        """Read from the start to the end in chunks of 1 MiB."""
        offset = 0
        while chunk := self.read(offset, CHUNK_BYTES):
            yield chunk
            offset += len(chunk)


def first_difference(left: Content, right: Content, *, tick: Callable[[], None] = lambda: None) -> int | None:
    """Return the offset of the first byte that differs (the shorter size when one is a prefix), or None.

    Args:
        left: one side.
        right: the other side.
        tick: called once a chunk; what it raises passes through.

    Cost: one pass up to the difference, constant memory.
    """
    offset = 0
    while True:
        tick()
        one, other = left.read(offset, CHUNK_BYTES), right.read(offset, CHUNK_BYTES)
        if one != other:
            return offset + _first_in(one, other)
        if not one:
            return None
        offset += len(one)


def _first_in(one: bytes, other: bytes) -> int:
    """Find the first difference of two chunks that differ, by halves."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def first_difference_of_streams(
    left: Iterable[bytes],
    right: Iterable[bytes],
    *,
    tick: Callable[[], None] = lambda: None,
    limit_bytes: int | None = None,
) -> tuple[int, bytes, bytes] | None:
    """Compare two streams; return the offset of the first difference and a few bytes of each from there.

    Raises:
        OverflowError: more than `limit_bytes` were equal.
    """
    ones, others = iter(left), iter(right)
    one = other = b""
    offset = 0
    while True:
        tick()
        one = one or next(ones, b"")
        other = other or next(others, b"")
        size = min(len(one), len(other))
        if one[:size] != other[:size] or (not size and (one or other)):
            start = _first_in(one[:size], other[:size]) if size else 0
            return offset + start, one[start : start + 32], other[start : start + 32]
        if not size:
            return None
        one, other, offset = one[size:], other[size:], offset + size
        if limit_bytes is not None and offset > limit_bytes:
            raise OverflowError(f"the first {limit_bytes} bytes are equal")


def window(content: Content, offset: int, *, rows: int = 2) -> str:
    """Show the rows of 16 bytes around an offset: offset, hex, printable characters.

    Example:
        >>> window(Content(b"hello world"), 6, rows=1)
        '0x00000000: 68656c6c 6f20776f 726c64 |hello world|'
    """
    start = offset - offset % _ROW_BYTES
    lines = []
    for row in range(rows):
        data = content.read(start + row * _ROW_BYTES, _ROW_BYTES)
        if not data and row:
            break
        lines.append(f"0x{start + row * _ROW_BYTES:08x}: {hex_row(data)}")
    return "\n".join(lines)


def hex_row(data: bytes) -> str:
    """Show bytes as hex in groups of four, then as characters; "(end)" when there are none."""
    if not data:
        return "(end)"
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return f"{data.hex(' ', -4)} |{shown}|"
