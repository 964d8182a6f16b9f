"""The pages that Open Enclave's loader adds after it has the images: their order, and how many there are.

Every count of the file is bounded here, before any page is made of it.

Source: Open Enclave, `create.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    Bytes,
    Pages,
)
from pipeline.measure.sgx.hashing import HEADER, MEASURED_PAGE
from pipeline.measure.sgx.open_enclave.image import LoadedImage
from pipeline.measure.sgx.open_enclave.properties import (
    EXECUTABLE_HEAP,
    BadOpenEnclave,
    Generation,
    Properties,
)
from pipeline.measure.sgx.segment_pages import ZERO_PAGE, round_up

CONTROL_PAGES: Final = 4  # TCS, two SSA frames, a guard
_OLD_CONTROL_PAGES: Final = 6
_STACK_PAGE: Final = b"\xcc" * PAGE
_RW: Final = SECINFO_REG | SECINFO_R | SECINFO_W
_TCS: Final = struct.Struct("<QQQIIQQQQII")
_MAX_ENCLAVE: Final = 1 << 46
_MAX_STREAM: Final = 64 << 30


def sizes_of(
    properties: Properties, generation: Generation, before_heap: int, tls: int, name: str
) -> tuple[int, int]:
    """Bound every count; return the bytes that are used and the enclave's size.

    Args:
        properties: heap, stack and threads.
        generation: how the threads are counted.
        before_heap: bytes of images, relocations and payload.
        tls: thread-local pages of a thread.
        name: of the file, for messages.

    Raises:
        BadOpenEnclave: RVP-5030.
    """

    def bad(field: str, value: int, limit: int) -> None:
        raise BadOpenEnclave(f"{field}: {value}, at most {limit}", place=name)

    pages = _MAX_ENCLAVE // PAGE
    for field, value, limit in (
        ("num_heap_pages", properties.heap_pages, pages),
        ("num_stack_pages", properties.stack_pages, pages),
        ("num_tcs", properties.threads, 4096),
        ("start_address", properties.start, _MAX_ENCLAVE),
    ):
        if value > limit:
            bad(field, value, limit)
    if properties.start % PAGE:
        raise BadOpenEnclave(f"start_address: {properties.start:#x} lies inside a page", place=name)
    control = _OLD_CONTROL_PAGES if generation.fixed_size else CONTROL_PAGES + 1 + tls
    thread = properties.stack_pages + 2 + control
    added = properties.stack_pages + 2 + CONTROL_PAGES + 1 + tls
    used = before_heap + (properties.heap_pages + properties.threads * thread) * PAGE
    size = power_of_two(used)
    if max(used, size) + properties.start > _MAX_ENCLAVE:
        bad("the enclave's size", used, _MAX_ENCLAVE)
    if before_heap + (properties.heap_pages + properties.threads * added) * PAGE > size:
        raise BadOpenEnclave("the threads do not fit into the enclave", place=name)
    stream = (
        before_heap // PAGE * MEASURED_PAGE
        + properties.heap_pages * HEADER
        + properties.threads * added * MEASURED_PAGE
    )
    if stream > _MAX_STREAM:
        bad("num_heap_pages, num_stack_pages, num_tcs: bytes to hash", stream, _MAX_STREAM)
    return used, size


def power_of_two(size: int) -> int:
    """Round a size up to a power of two."""
    return 1 << (size - 1).bit_length()


def enclave_pages(
    images: tuple[LoadedImage, ...],
    relocations: bytes,
    payload: Bytes,
    properties: Properties,
    generation: Generation,
    tls: int,
) -> Iterator[Pages]:
    """Give the pages of an enclave that begins at offset 0, in the order in which they are added."""
    for index, image in enumerate(images):
        for run in image.pages():
            label = run.label if index == 0 else f"module {index}: {run.label}"
            yield Pages(
                address=run.address, count=run.count, flags=run.flags, content=run.content, label=label
            )
    at = sum(image.size for image in images)
    read_only = SECINFO_REG | SECINFO_R
    if relocations:
        count = len(relocations) // PAGE
        yield Pages(address=at, count=count, flags=read_only, content=relocations, label="relocations")
        at += len(relocations)
    whole = len(payload) // PAGE
    if whole:
        content = payload[: whole * PAGE]
        yield Pages(address=at, count=whole, flags=read_only, content=content, label="payload data")
    if len(payload) % PAGE:
        content = bytes(payload[whole * PAGE :]).ljust(PAGE, b"\0")
        yield Pages(
            address=at + whole * PAGE, count=1, flags=read_only, content=content, label="payload data"
        )
    heap_at = at + round_up(len(payload))
    heap_flags = _RW | (SECINFO_X if properties.flags & EXECUTABLE_HEAP else 0)
    if properties.heap_pages:
        yield Pages(address=heap_at, count=properties.heap_pages, flags=heap_flags, label="heap")
    at = heap_at + properties.heap_pages * PAGE
    for thread in range(properties.threads):
        at += PAGE
        if properties.stack_pages:
            yield Pages(
                address=at,
                count=properties.stack_pages,
                flags=_RW,
                content=_STACK_PAGE,
                label=f"stack {thread}",
            )
        at += (properties.stack_pages + 1) * PAGE
        tcs = _tcs(properties.start, at, images[0].elf.entry, generation, tls)
        yield Pages(address=at, count=1, flags=SECINFO_TCS, content=tcs, label=f"TCS {thread}")
        yield Pages(address=at + PAGE, count=2, flags=_RW, content=ZERO_PAGE, label=f"SSA {thread}")
        at += CONTROL_PAGES * PAGE
        if tls:
            label = f"thread-local storage {thread}"
            yield Pages(address=at, count=tls, flags=_RW, content=ZERO_PAGE, label=label)
        at += tls * PAGE
        yield Pages(address=at, count=1, flags=_RW, content=ZERO_PAGE, label=f"thread data {thread}")
        at += PAGE


def _tcs(start: int, at: int, entry: int, generation: Generation, tls: int) -> bytes:
    fs = start + at + (tls + CONTROL_PAGES) * PAGE
    gs = start + at + CONTROL_PAGES * PAGE if generation.gs_before_fs else fs
    limits = (0xFFFFFFFF, 0xFFFFFFFF)
    tcs = _TCS.pack(0, 0, start + at + PAGE, 0, 2, start + entry, 0, fs, gs, *limits)
    return tcs.ljust(PAGE, b"\0")
