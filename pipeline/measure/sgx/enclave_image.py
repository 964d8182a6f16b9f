"""An enclave as the CPU sees it being built: one ECREATE, then pages in order.

This is the one model of all SGX formats: readers make it, and the hash, the log and the SGXS writer are made
of it. Order matters: MRENCLAVE is a hash of a stream, not of a set.

Invariants: addresses are offsets from the enclave's base, multiples of the page size (of 256 for chunks).

Example:
    >>> heap = Pages(address=0x1000, count=4, flags=SECINFO_REG | SECINFO_R | SECINFO_W, label="heap")
    >>> heap.is_measured
    False
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

PAGE: Final = 4096
CHUNK: Final = 256  # what one EEXTEND measures
# SECINFO.FLAGS, Intel SDM vol. 3D, "Security Information (SECINFO)"
SECINFO_R, SECINFO_W, SECINFO_X = 1, 2, 4
SECINFO_TCS: Final = 0x100
SECINFO_REG: Final = 0x200

Bytes = bytes | memoryview


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """A run of pages that are added one after the other, each measured whole or not at all.

    Attributes:
        address: offset of the first page from the enclave's base.
        count: how many pages.
        flags: SECINFO.FLAGS as the CPU hashes them (a TCS is 0x100 whatever the loader passed).
        content: empty: added, not measured (zeros); one page: every page is this one; else all the pages.
        label: what it is, in words.
    """

    address: int
    count: int
    flags: int
    content: Bytes = b""
    label: str = ""

    @property
    def is_measured(self) -> bool:
        """Tell whether the pages' content is in MRENCLAVE."""
        return len(self.content) > 0

    @property
    def is_filled(self) -> bool:
        """Tell whether every page has the same content."""
        return len(self.content) == PAGE


class Chunks(msgspec.Struct, frozen=True, kw_only=True):
    """A run of 256-byte chunks of a page that was added before (SGXS files may measure parts of a page)."""

    address: int
    content: Bytes
    label: str = ""


Part = Pages | Chunks


class EnclaveImage(msgspec.Struct, frozen=True, kw_only=True):
    """The whole enclave: the parameters of ECREATE, and its parts in order.

    Attributes:
        size_bytes: SECS.SIZE, the size of the enclave's address range: a power of two.
        ssa_frame_size: SECS.SSAFRAMESIZE in pages.
        parts: in order; they can be iterated again and again.
        is_file: the file that it was read from is, byte for byte, the stream that MRENCLAVE is the hash of.
    """

    size_bytes: int
    ssa_frame_size: int
    parts: Iterable[Part]
    is_file: bool = False


def describe_flags(flags: int) -> str:
    """Write SECINFO.FLAGS in words: `r-x`, `rw-`, `TCS`.

    Example:
        >>> describe_flags(0x205), describe_flags(0x100)
        ('r-x', 'TCS')
    """
    if flags >> 8 & 0xFF == SECINFO_TCS >> 8:
        return "TCS"
    return "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", SECINFO_R), ("w", SECINFO_W), ("x", SECINFO_X))
    )
