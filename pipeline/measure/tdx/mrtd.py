"""MRTD: one SHA-384 over the records of the pages that a VMM adds before a trust domain starts.

    MEM.PAGE.ADD   per page      128 bytes: the name, the address at 16, zeros
    MR.EXTEND      per 256 bytes 128 bytes: the name, the address at 16, zeros; then the 256 bytes

Sections come in the order of the metadata; a page of a measured section has 16 MR.EXTEND. In which order
they stand inside a section is up to the VMM, and both orders are in use:

    single-pass    every page is added and extended before the next: Linux KVM since 6.16 with QEMU since
                   10.1, Google Compute Engine, most forks of QEMU 8.1 and 9, the td-shim specification
    two-pass       all pages of a section are added, then all are extended: KVM of the first patch series
                   (v19) with the QEMU 8.2 of Ubuntu 24.04, and other forks

MRTD has nothing of the variables, the TD HOB, the memory size and the vCPUs (OVMF).

Units: addresses are guest-physical, sizes are bytes, digests are SHA-384.
Source: Intel TDX module ABI 1.5, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; TDVF design guide, section 11.
    Two-pass: td-shim issue 740, QEMU and KVM of Ubuntu's "noble".
Cost: near the bare SHA-384 of the records; 2 MiB of memory. numpy writes the records; Python sees no page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pipeline.measure.ovmf import PAGE
from pipeline.measure.tdx.tdvf import Section, Tdvf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK: Final = 256
RECORD: Final = 128
PAGE_ADD: Final = b"MEM.PAGE.ADD"
MR_EXTEND: Final = b"MR.EXTEND"
_EXTENDED: Final = RECORD + CHUNK
_CHUNKS: Final = PAGE // CHUNK
_BATCH_PAGES: Final = 128  # 128 * 6272 bytes: stays in the cache while it is hashed
_BATCH_ADDS: Final = 8192

Sink = Callable[[Any], object]


class PageOrder(StrEnum):
    """The order of PAGE.ADD and MR.EXTEND inside a section."""

    SINGLE_PASS = "single-pass"  # noqa: S105  an order
    TWO_PASS = "two-pass"  # noqa: S105  an order


# Who uses which, in words for people.
USED_BY: Final = {
    PageOrder.SINGLE_PASS: "KVM since 6.16 with QEMU since 10.1, Google, most forks of QEMU 8.1 and 9",
    PageOrder.TWO_PASS: "Ubuntu 24.04 (QEMU 8.2) and other forks with KVM's first TDX patches (v19)",
}


def mrtd(tdvf: Tdvf, data: bytes | memoryview, order: PageOrder) -> bytes:
    """Compute MRTD.

    Args:
        tdvf: the metadata of the firmware.
        data: the firmware.
        order: of the VMM.

    Returns:
        48 bytes.
    """
    hashing = hashlib.sha384()
    write_records(tdvf, data, order, hashing.update)
    return hashing.digest()


def write_records(tdvf: Tdvf, data: bytes | memoryview, order: PageOrder, sink: Sink) -> None:
    """Write all records that MRTD hashes, in batches."""
    for section in tdvf.sections:
        if not section.is_added:
            continue
        if not section.is_measured:
            _write_adds(section, sink)
        elif order is PageOrder.TWO_PASS:
            _write_adds(section, sink)
            _write_pages(section, data, sink, with_add=False)
        else:
            _write_pages(section, data, sink, with_add=True)


def _write_adds(section: Section, sink: Sink) -> None:
    import numpy as np

    for address, count in _batches(section, _BATCH_ADDS):
        records = np.zeros((count, RECORD), np.uint8)
        _name(records, PAGE_ADD)
        _addresses(records, address, PAGE)
        sink(records)


def _write_pages(section: Section, data: bytes | memoryview, sink: Sink, *, with_add: bool) -> None:
    import numpy as np

    head = RECORD if with_add else 0
    content = np.frombuffer(data, np.uint8, section.raw_size, section.offset)
    records = np.zeros((_BATCH_PAGES, head + _CHUNKS * _EXTENDED), np.uint8)
    adds, extends = records[:, :head], records[:, head:].reshape(_BATCH_PAGES, _CHUNKS, _EXTENDED)
    if with_add:
        _name(adds, PAGE_ADD)
    _name(extends, MR_EXTEND)
    for address, count in _batches(section, _BATCH_PAGES):
        if with_add:
            _addresses(adds[:count], address, PAGE)
        starts = np.arange(count, dtype=np.uint64) * np.uint64(PAGE) + np.uint64(address)
        chunks = np.arange(_CHUNKS, dtype=np.uint64) * np.uint64(CHUNK)
        _put(extends[:count], starts[:, None] + chunks)
        at = address - section.address
        piece = content[at : at + count * PAGE]
        if len(piece) < count * PAGE:
            piece = np.concatenate([piece, np.zeros(count * PAGE - len(piece), np.uint8)])
        extends[:count, :, RECORD:] = piece.reshape(count, _CHUNKS, CHUNK)
        sink(records[:count])


def _batches(section: Section, pages: int) -> Iterator[tuple[int, int]]:
    for start in range(section.address, section.address + section.size, pages * PAGE):
        yield start, min(pages, (section.address + section.size - start) // PAGE)


def _name(records: npt.NDArray[np.uint8], name: bytes) -> None:
    import numpy as np

    records[..., : len(name)] = np.frombuffer(name, np.uint8)


def _addresses(records: npt.NDArray[np.uint8], first: int, stride: int) -> None:
    import numpy as np

    _put(records, np.arange(len(records), dtype=np.uint64) * np.uint64(stride) + np.uint64(first))


def _put(records: npt.NDArray[np.uint8], addresses: npt.NDArray[np.uint64]) -> None:
    import numpy as np

    records[..., 16:24] = addresses.astype("<u8")[..., None].view(np.uint8)
