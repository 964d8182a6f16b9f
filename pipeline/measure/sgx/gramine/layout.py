"""Where everything of a Gramine enclave lies, and in which order it is added.

The areas are placed from the top of the enclave downwards, and added in this order, all measured: the
manifest (with one NUL at its end); for all threads SSA, TCS, TLS; the stacks; the signal stacks; the segments
of libpal.so. What is left below is added and not measured, or with EDMM not added at all.

Units: offsets are from the enclave's base, in bytes.
Source: Gramine, `python/graminelibos/sgx_sign.py` (all releases: `gramine_generation`); the TLS page is
`struct pal_enclave_tcb`, the same from 1.0 to 1.9.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Final

from pipeline.measure.sgx.elf import Elf, Segment
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    Pages,
)
from pipeline.measure.sgx.gramine.manifest import EnclaveParameters, GramineManifest
from pipeline.measure.sgx.segment_pages import ZERO_PAGE, PatchedFile, round_up, segment_pages
from provenance.errors import UsageError

SSA_FRAME_PAGES: Final = 4
SSA_FRAMES: Final = 2  # of a thread
STACK_PAGES: Final = 64
SIGNAL_STACK_PAGES: Final = 16
_GPR_SIZE: Final = 184  # sgx_pal_gpr_t, at the end of an SSA frame
_CANARY: Final = 0xBADBADBADBAD
_LIMIT: Final = 0xFFF  # of the FS and GS segments
# Offsets in struct pal_enclave_tcb
_SELF, _CANARY_AT, _SIZE_AT, _TCS_AT, _STACK_AT = 0x0, 0x8, 0x110, 0x118, 0x120
_SIGNAL_LOW, _SIGNAL_HIGH, _SSA_AT, _GPR_AT = 0x130, 0x138, 0x148, 0x150
_MANIFEST_AT, _HEAP_MIN, _HEAP_MAX = 0x1A0, 0x1A8, 0x1B0
_RW: Final = SECINFO_REG | SECINFO_R | SECINFO_W
_RWX: Final = _RW | SECINFO_X
_MAX_ADDED: Final = 1 << 40  # bytes of free memory; 16 GiB to hash
_MAX_LIBPAL: Final = 1 << 32


class BadLibpal(UsageError):
    """A libpal.so is not one that Gramine's loader maps, or it does not fit into the enclave.

    Cure: give the `libpal.so` of Gramine for SGX (`…/gramine/sgx/libpal.so`, not `…/direct/…`), unchanged.
    """

    code = "RVP-5043"


class GramineTooSmall(UsageError):
    """The memory that Gramine needs before the application is larger than the enclave.

    Cure: a larger `sgx.enclave_size`, or fewer `sgx.max_threads`: a thread takes 344 KiB.
    """

    code = "RVP-5044"


class GramineLayout:
    """Where everything lies: offsets from the enclave's base."""

    def __init__(self, manifest: GramineManifest, parameters: EnclaveParameters, elf: Elf) -> None:
        self.elf = elf
        self.parameters = parameters
        self.manifest = manifest.data + b"\0"
        threads = parameters.threads
        self.loads = _checked_loads(elf)
        pal_size = round_up(max(one.address + one.memory_size for one in self.loads))
        self._top = parameters.size_bytes
        self._place = manifest.name
        self.manifest_at = self._down(round_up(len(self.manifest)))
        self.ssa = self._down(threads * SSA_FRAMES * SSA_FRAME_PAGES * PAGE)
        self.tcs = self._down(threads * PAGE)
        self.tls = self._down(threads * PAGE)
        self.stacks = [self._down(STACK_PAGES * PAGE) for _ in range(threads)]
        self.signal_stacks = [self._down(SIGNAL_STACK_PAGES * PAGE) for _ in range(threads)]
        self.pal = self._down(pal_size)

    def _down(self, size: int) -> int:
        self._top -= size
        if self._top < self.parameters.heap_min:
            raise GramineTooSmall(
                f"sgx.enclave_size is {self.parameters.size_bytes:#x}: the manifest, libpal.so and "
                f"{self.parameters.threads} threads do not fit above {self.parameters.heap_min:#x}",
                place=self._place,
            )
        return self._top

    def parts(self) -> Iterator[Pages]:
        """Give the runs in the order in which they are added."""
        threads = range(self.parameters.threads)
        text = self.manifest.ljust(round_up(len(self.manifest)), b"\0")
        yield self._run(self.manifest_at, SECINFO_REG | SECINFO_R, text, "manifest")
        frames = SSA_FRAMES * SSA_FRAME_PAGES
        for thread in threads:
            yield self._zeros(self.ssa + thread * frames * PAGE, frames, f"SSA {thread}")
        for thread in threads:
            yield self._run(self.tcs + thread * PAGE, SECINFO_TCS, self._tcs(thread), f"TCS {thread}")
        for thread in threads:
            yield self._run(self.tls + thread * PAGE, _RW, self._tls(thread), f"TLS {thread}")
        for thread in threads:
            yield self._zeros(self.stacks[thread], STACK_PAGES, f"stack {thread}")
        for thread in threads:
            yield self._zeros(self.signal_stacks[thread], SIGNAL_STACK_PAGES, f"signal stack {thread}")
        file = PatchedFile(self.elf.data)
        for segment in self.loads:
            yield from segment_pages(self.elf, segment, file, base=self.pal)
        free = self.pal - self.parameters.heap_min
        if free and not self.parameters.edmm:
            if free > _MAX_ADDED:
                raise GramineTooSmall(
                    f"sgx.enclave_size: {free:#x} bytes of free memory to add, {_MAX_ADDED:#x} allowed",
                    place=self._place,
                    hint="an enclave of this size is launched with sgx.edmm_enable",
                )
            yield Pages(address=self.parameters.heap_min, count=free // PAGE, flags=_RWX, label="free memory")

    @staticmethod
    def _run(address: int, flags: int, content: bytes, label: str) -> Pages:
        return Pages(address=address, count=len(content) // PAGE, flags=flags, content=content, label=label)

    @staticmethod
    def _zeros(address: int, count: int, label: str) -> Pages:
        return Pages(address=address, count=count, flags=_RW, content=ZERO_PAGE, label=label)

    def _tcs(self, thread: int) -> bytes:
        """Write a TCS page: FLAGS is zero, FS begins at 0, GS at the thread's TLS page."""
        page = bytearray(PAGE)
        ssa = self.ssa + thread * SSA_FRAMES * SSA_FRAME_PAGES * PAGE
        struct.pack_into("<QII", page, 16, ssa, 0, SSA_FRAMES)
        struct.pack_into("<Q", page, 32, self.pal + self.elf.entry)
        struct.pack_into("<QQII", page, 48, 0, self.tls + thread * PAGE, _LIMIT, _LIMIT)
        return bytes(page)

    def _tls(self, thread: int) -> bytes:
        page = bytearray(PAGE)
        base = self.parameters.base
        ssa = base + self.ssa + thread * SSA_FRAMES * SSA_FRAME_PAGES * PAGE
        signal = base + self.signal_stacks[thread]
        for at, value in (
            (_SELF, base + self.tls + thread * PAGE),
            (_CANARY_AT, _CANARY),
            (_SIZE_AT, self.parameters.size_bytes),
            (_TCS_AT, self.tcs + thread * PAGE),  # the only one that does not count from the base
            (_STACK_AT, base + self.stacks[thread] + STACK_PAGES * PAGE),
            (_SIGNAL_LOW, signal),
            (_SIGNAL_HIGH, signal + SIGNAL_STACK_PAGES * PAGE),
            (_SSA_AT, ssa),
            (_GPR_AT, ssa + SSA_FRAME_PAGES * PAGE - _GPR_SIZE),
            (_MANIFEST_AT, len(self.manifest)),
            (_HEAP_MIN, base + self.parameters.heap_min),
            (_HEAP_MAX, base + self.pal),
        ):
            struct.pack_into("<Q", page, at, value)
        return bytes(page)


def _checked_loads(elf: Elf) -> tuple[Segment, ...]:
    """Check the segments as a loader must: from address 0, whole pages apart, file and memory in step."""

    def need(fulfilled: bool, message: str) -> None:  # noqa: FBT001  the condition itself
        if not fulfilled:
            raise BadLibpal(message, place=elf.name)

    loads = tuple(one for one in elf.loads if one.memory_size)
    need(bool(loads), "program headers: there are no loadable segments")
    need(len(loads) == len(elf.loads), "p_memsz: a loadable segment is empty")
    ranges = []
    for one in loads:
        need(
            one.address < _MAX_LIBPAL and one.memory_size < _MAX_LIBPAL,
            f"p_vaddr, p_memsz: {one.memory_size:#x} bytes at {one.address:#x}",
        )
        need(
            one.offset % PAGE == one.address % PAGE or not one.file_size,
            f"p_offset {one.offset:#x} and p_vaddr {one.address:#x} differ within their pages",
        )
        ranges.append((one.address & -PAGE, round_up(one.address + one.memory_size)))
    ranges.sort()
    need(ranges[0][0] == 0, f"p_vaddr: the file begins at {ranges[0][0]:#x}, a libpal.so at 0")
    for (_, end), (start, _) in itertools.pairwise(ranges):
        need(start >= end, f"p_vaddr: two segments share the page at {start:#x}")
    need(elf.entry < ranges[-1][1], f"e_entry: {elf.entry:#x} lies behind the segments")
    return loads
