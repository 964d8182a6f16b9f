r"""From the loadable segments of an ELF file to pages: the file's bytes, patches over them, zeros around.

Nothing is copied but pages at a segment's edges and pages that a patch touches.

Example:
    >>> data = memoryview(bytes(PAGE * 3))
    >>> patched = PatchedFile(data, [(PAGE + 1, b"hello")])
    >>> [(count, bytes(view[:6])) for count, view in patched.pages(0, 3)]
    [(1, b'\x00\x00\x00\x00\x00\x00'), (1, b'\x00hello'), (1, b'\x00\x00\x00\x00\x00\x00')]
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from pipeline.measure.sgx.elf import PF_R, PF_W, PF_X, Elf, Segment
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_W,
    SECINFO_X,
    Bytes,
    Pages,
)

ZERO_PAGE: Final = bytes(PAGE)
_RECENT: Final = 64  # patched pages that are kept
_LETTERS: Final = ((PF_R, "r"), (PF_W, "w"), (PF_X, "x"))


def round_up(size: int) -> int:
    """Round a size in bytes up to whole pages."""
    return (size + PAGE - 1) & -PAGE


class PatchedFile:
    """A file with bytes written over it, in order; the file itself is never written."""

    def __init__(self, data: memoryview, patches: Iterable[tuple[int, bytes]] = ()) -> None:
        """Index the patches.

        Args:
            data: the file.
            patches: file offset and bytes; the caller has checked that they lie inside the file.

        Cost: one entry for each page that a patch touches.
        """
        self.data = data
        self._patches = tuple(patches)
        self._touched: dict[int, list[int]] = {}  # page of the file: which patches, in order
        for index, (offset, content) in enumerate(self._patches):
            if content:
                for page in range(offset // PAGE, (offset + len(content) - 1) // PAGE + 1):
                    self._touched.setdefault(page, []).append(index)
        self._order = sorted(self._touched)
        self._recent: dict[int, bytearray] = {}

    def read(self, offset: int, size: int) -> bytes:
        """Copy a part of the patched file."""
        found = bytearray()
        end = min(offset + size, len(self.data))
        while offset < end:
            page, inside = divmod(offset, PAGE)
            count = min(PAGE - inside, end - offset)
            if page in self._touched:
                found += self._patched(page)[inside : inside + count]
            else:
                found += self.data[offset : offset + count]
            offset += count
        return bytes(found)

    def _patched(self, page: int) -> bytearray:
        """Give a page of the file with its patches; many segments may want the same one."""
        if page not in self._recent:
            start = page * PAGE
            found = bytearray(self.data[start : start + PAGE])
            for index in self._touched[page]:
                at, content = self._patches[index]
                first, end = max(at, start), min(at + len(content), start + PAGE)
                found[first - start : end - start] = content[first - at : end - at]
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            self._recent[page] = found
        return self._recent[page]

    def pages(self, offset: int, count: int) -> Iterator[tuple[int, Bytes]]:
        """Give whole pages from a file offset on, as runs: views; a copy of each page that is patched."""
        first = bisect_left(self._order, offset // PAGE)
        last = bisect_right(self._order, (offset + count * PAGE - 1) // PAGE)
        touched = sorted(
            {
                index
                for page in self._order[first:last]
                for index in range(
                    (page * PAGE - offset) // PAGE, (page * PAGE + PAGE - 1 - offset) // PAGE + 1
                )
                if 0 <= index < count
            }
        )
        at = 0
        for index in touched:
            if at < index:
                yield index - at, self.data[offset + at * PAGE : offset + index * PAGE]
            yield 1, self.read(offset + index * PAGE, PAGE)
            at = index + 1
        if at < count:
            yield count - at, self.data[offset + at * PAGE : offset + count * PAGE]


def secinfo(segment: Segment) -> int:
    """Translate the permissions of a segment to SECINFO.FLAGS."""
    flags = SECINFO_REG
    for bit, flag in ((PF_R, SECINFO_R), (PF_W, SECINFO_W), (PF_X, SECINFO_X)):
        flags |= flag if segment.flags & bit else 0
    return flags


def segment_label(elf: Elf, segment: Segment) -> str:
    """Name a loadable segment: its number among them, and its permissions."""
    letters = "".join(letter if segment.flags & bit else "-" for bit, letter in _LETTERS)
    return f"segment {elf.loads.index(segment)} {letters}"


def segment_pages(
    elf: Elf, segment: Segment, file: PatchedFile, *, base: int = 0, within: int = 0
) -> Iterator[Pages]:
    """Give the pages of a loadable segment: zeros in front, the file's bytes, zeros behind; all measured.

    Args:
        elf: the file.
        segment: one of its loadable segments.
        file: its bytes with what is written over them.
        base: where virtual address 0 lies in the enclave.
        within: where the ELF file begins in the patched one.
    """
    flags, label = secinfo(segment), segment_label(elf, segment)
    at = segment.address & -PAGE
    end = round_up(segment.address + segment.memory_size)
    offset, left = within + segment.offset, segment.file_size
    lead = segment.address - at
    if lead and end > at:
        size = min(PAGE - lead, left)
        page = (bytes(lead) + file.read(offset, size)).ljust(PAGE, b"\0")
        yield Pages(address=base + at, count=1, flags=flags, content=page, label=label)
        offset, left, at = offset + size, left - size, at + PAGE
    for count, content in file.pages(offset, left // PAGE):
        yield Pages(address=base + at, count=count, flags=flags, content=content, label=label)
        at += count * PAGE
    if left % PAGE:
        page = file.read(offset + left // PAGE * PAGE, left % PAGE).ljust(PAGE, b"\0")
        yield Pages(address=base + at, count=1, flags=flags, content=page, label=label)
        at += PAGE
    if at < end:
        yield Pages(address=base + at, count=(end - at) // PAGE, flags=flags, content=ZERO_PAGE, label=label)
