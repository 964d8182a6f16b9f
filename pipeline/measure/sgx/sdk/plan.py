"""Where the signing tool of Intel's SDK puts heap, stacks, threads and reserved memory: the layout table.

After the segments: heap (least, first, growing); the first thread; threads of the pool; threads that the
loader removes again; dynamic threads; reserved memory; the user region; a guard up to the next power of two.
Each thread is guard, stack (growing, least), guard, TCS, SSA, guard, thread-local storage and data.

Units: addresses are offsets in the enclave, sizes are bytes.
Source: Intel SGX SDK, `manage_metadata.cpp`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_R, SECINFO_REG, SECINFO_TCS, SECINFO_W, SECINFO_X
from pipeline.measure.sgx.sdk.config import SdkConfig, check_elrange
from pipeline.measure.sgx.sdk.object import SdkObject

EADD, EEXTEND, EREMOVE, POST_ADD, POST_REMOVE, DYN_THREAD, GROW_DOWN = 1, 2, 4, 8, 0x10, 0x20, 0x40
HEAP_MIN, HEAP_INIT, HEAP_MAX, TCS, TD, SSA, STACK_MAX, STACK_MIN = 1, 2, 3, 4, 5, 6, 7, 8
THREAD_GROUP, GUARD, THREAD_GROUP_DYN = 0x1009, 10, 0x1013
RSRV_MIN, RSRV_INIT, RSRV_MAX, USER_REGION = 20, 21, 22, 23
_TWIN: Final = 10  # ids of dynamic threads are this much higher
_GROUP_BIT: Final = 0x1000
SSA_FRAMES: Final = 2
SSA_GPR: Final = 184  # bytes of registers at the end of an SSA frame
_RW: Final = SECINFO_REG | SECINFO_R | SECINFO_W
_RWX: Final = _RW | SECINFO_X
_STACK_FILL: Final = 0xCCCCCCCC
_MEASURED: Final = EADD | EEXTEND
_COUNT_MOST: Final = 0xFFFFFFFF
# SDK 1.x numbers its entries otherwise
_SGX1_IDS: Final = {HEAP_MIN: 1, TCS: 2, TD: 3, SSA: 4, STACK_MIN: 5, THREAD_GROUP: 0x1006, GUARD: 7}
# bookkeeping of dynamic memory, in bytes: a node, its bit array (sgx-emm, `ema_imp.h`, `bit_array_imp.h`)
_EMA, _BIT_ARRAY = 72, 24


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the layout table; a group repeats the `count` entries before it `times` times.

    Attributes:
        ident: what it is.
        attributes: EADD, EEXTEND and the others.
        fill: the 32-bit word that fills the pages.
        has_template: its content is the TCS template.
    """

    ident: int
    attributes: int = 0
    pages: int = 0
    fill: int = 0
    flags: int = 0
    has_template: bool = False
    address: int = 0
    count: int = 0
    times: int = 0
    step: int = 0

    @property
    def is_group(self) -> bool:
        """Tell whether it repeats others."""
        return bool(self.ident & _GROUP_BIT)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A layout with addresses.

    Attributes:
        entries: of the main record.
        enclave_size: a power of two.
        edmm_bytes: bookkeeping of dynamic memory.
        reserved_first: reserved memory that is there from the start.
        with_sgx1: a record for loaders of SGX1 is wanted; with_sgx2: one for loaders of SGX2.
    """

    config: SdkConfig
    object: SdkObject
    entries: tuple[Entry, ...]
    enclave_size: int
    frame_pages: int
    xsave: int
    edmm_bytes: int
    reserved_first: int
    with_sgx1: bool
    with_sgx2: bool

    def first(self, ident: int) -> Entry:
        """Find the first entry of a kind."""
        return next(one for one in self.entries if one.ident == ident)


def plan(file: SdkObject, config: SdkConfig) -> Plan:
    """Lay out an enclave.

    Raises:
        BadSdkConfig: RVP-5026, also for a layout that does not fit.
    """
    rules = config.generation
    wished = config.wished_xfrm
    xsave = [size for bits, size in rules.xsave if wished & bits == bits][-1]
    frame_pages = _up(xsave + SSA_GPR) // PAGE if rules.ssa_grows else 1
    dynamic = config.is_dynamic and config["MiscSelect"] & 1
    with_sgx2 = bool(config["UserRegionSize"] or dynamic)
    with_sgx1 = not with_sgx2 or not (config["UserRegionSize"] or config["MiscMask"] & 1)

    reserved = _reserved(config)
    threads = _thread(file, config, frame_pages)
    entries = [*_heap(config), *_threads(config, threads), *reserved]
    edmm = 0
    if rules.edmm != "none" and with_sgx2:
        region, edmm = _user_region(file, config, frame_pages)
        entries.append(Entry(ident=USER_REGION, attributes=POST_ADD, pages=region // PAGE, flags=_RW))
    for one in entries:
        if max(one.pages, one.times) > _COUNT_MOST:
            config.bad(f"{max(one.pages, one.times):#x} pages or threads of a kind, more than a layout holds")

    placed, end = _place(entries, file.end + (PAGE if rules.odd_page and file.is_odd else 0))
    size = 1 << (end - 1).bit_length()
    if size > min(rules.enclave_most, 1 << 44):
        config.bad(f"the enclave would have {size:#x} bytes, more than SDK {rules.name} lays out")
    first = config.reserved[1]
    if end < size:
        extra = (size - end) // PAGE
        last = placed[-1]
        if rules.pads_reserved and last.ident in {RSRV_MIN, RSRV_INIT, RSRV_MAX} and last.pages:
            placed[-1] = msgspec.structs.replace(last, pages=last.pages + extra)
            first += (
                0 if last.ident == RSRV_MAX else extra * PAGE & 0xFFFFFFFF
            )  # 32 bits, as they computed it
        else:
            placed.append(Entry(ident=GUARD, pages=extra, address=end))
    check_elrange(config, size)
    return Plan(
        config=config,
        object=file,
        entries=tuple(placed),
        enclave_size=size,
        frame_pages=frame_pages,
        xsave=xsave,
        edmm_bytes=edmm,
        reserved_first=first,
        with_sgx1=with_sgx1,
        with_sgx2=with_sgx2,
    )


def numbered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Give entries the numbers of SDK 1.x."""
    return tuple(msgspec.structs.replace(one, ident=_SGX1_IDS[one.ident]) for one in entries)


def _up(value: int, to: int = PAGE) -> int:
    return (value + to - 1) // to * to


def _heap(config: SdkConfig) -> list[Entry]:
    least, first, most = config.heap
    if config.generation.is_sgx1:
        return [Entry(ident=HEAP_MIN, attributes=EADD, pages=most // PAGE, flags=_RW)]
    found = [Entry(ident=HEAP_MIN, attributes=EADD, pages=least // PAGE, flags=_RW)]
    if first > least:
        removable = EADD | POST_REMOVE | POST_ADD
        found.append(Entry(ident=HEAP_INIT, attributes=removable, pages=(first - least) // PAGE, flags=_RW))
    if most > first:
        found.append(Entry(ident=HEAP_MAX, attributes=POST_ADD, pages=(most - first) // PAGE, flags=_RW))
    return found


def _thread(file: SdkObject, config: SdkConfig, frame_pages: int) -> list[Entry]:
    least, most = config.stack
    if config.generation.is_sgx1:
        least = most
    guard = Entry(ident=GUARD, pages=config.generation.guard_pages)
    found = [guard]
    if most > least:
        found.append(
            Entry(
                ident=STACK_MAX,
                attributes=_MEASURED | GROW_DOWN,
                pages=(most - least) // PAGE,
                fill=_STACK_FILL,
                flags=_RW,
            )
        )
    stack = Entry(ident=STACK_MIN, attributes=_MEASURED, pages=least // PAGE, fill=_STACK_FILL, flags=_RW)
    tcs = Entry(ident=TCS, attributes=_MEASURED, pages=1, flags=SECINFO_TCS, has_template=True)
    ssa = Entry(ident=SSA, attributes=_MEASURED, pages=SSA_FRAMES * frame_pages, flags=_RW)
    data = Entry(ident=TD, attributes=_MEASURED, pages=1 + file.tls_pages, flags=_RW)
    return [*found, stack, guard, tcs, ssa, guard, data]


def _group(template: list[Entry], times: int, ident: int = THREAD_GROUP) -> Entry:
    return Entry(ident=ident, count=len(template), times=times)


def _changed(template: list[Entry], attributes: int, *idents: int) -> list[Entry]:
    """Add attributes to the entries of these kinds; of none: to all but guards."""
    return [
        msgspec.structs.replace(one, attributes=one.attributes | attributes)
        if (one.ident in idents if idents else one.ident != GUARD)
        else one
        for one in template
    ]


def _dynamic(template: list[Entry]) -> list[Entry]:
    found = []
    for one in template:
        if one.ident == GUARD:
            found.append(one)
            continue
        grows = one.ident == STACK_MAX
        attributes = POST_ADD | (GROW_DOWN if grows else DYN_THREAD)
        found.append(msgspec.structs.replace(one, ident=one.ident + _TWIN, attributes=attributes))
    return found


def _threads(config: SdkConfig, template: list[Entry]) -> list[Entry]:
    rules = config.generation
    if rules.threads == "one group":
        # its group repeats all entries before it but the heap
        return [*template, _group(template, config["TCSNum"] - 1)] if config["TCSNum"] > 1 else template
    pool = config.pool
    removed = config["TCSNum"] - 1 - pool
    if rules.threads == "group":
        found = list(template)
        if pool:
            found.append(_group(template, pool))
    else:
        found = _changed(template, POST_ADD | POST_REMOVE, STACK_MAX)
        if pool:
            found += template
        if pool > 1:
            found.append(_group(template, pool - 1))
    if removed:
        found += _changed(template, EREMOVE)
    if removed > 1:
        found.append(_group(template, removed - 1))
    if config.tcs_max > pool + 1:
        found += _dynamic(template)
        if rules.threads == "copies" or config.tcs_max > config["TCSMinPool"]:
            found.append(_group(template, config.tcs_max - pool - 1, THREAD_GROUP_DYN))
    return found


def _reserved(config: SdkConfig) -> list[Entry]:
    least, first, most = config.reserved
    if not (least or first or most):
        return []
    flags = _RWX if config["ReservedMemExecutable"] else _RW
    found = [Entry(ident=RSRV_MIN, attributes=EADD, pages=least // PAGE, flags=flags)]
    if first > least:
        removable = EADD | POST_REMOVE | POST_ADD
        found.append(Entry(ident=RSRV_INIT, attributes=removable, pages=(first - least) // PAGE, flags=flags))
    if most > first:
        found.append(Entry(ident=RSRV_MAX, attributes=POST_ADD, pages=(most - first) // PAGE, flags=_RW))
    return found


def _place(entries: list[Entry], start: int) -> tuple[list[Entry], int]:
    placed: list[Entry] = []
    at = start
    for index, one in enumerate(entries):
        if one.is_group:
            step = sum(before.pages for before in entries[index - one.count : index]) * PAGE
            placed.append(msgspec.structs.replace(one, step=step))
            at += one.times * step
        else:
            placed.append(msgspec.structs.replace(one, address=at))
            at += one.pages * PAGE
    return placed, at


def _user_region(file: SdkObject, config: SdkConfig, frame_pages: int) -> tuple[int, int]:
    """Compute the size of the user region, and the bookkeeping in it."""
    asked = config["UserRegionSize"]
    kind = config.generation.edmm
    raw = _bookkeeping(file, config, frame_pages)
    if kind == "reserve":
        if asked:
            raw += max(_up(asked >> 15), PAGE)  # one byte of bookkeeping for 32 KiB
        reserve = _up(raw + 32, 0x10000)
        return asked + reserve + 0x10000, reserve
    if kind == "bytes":
        region = _up(raw + 0x20000)
    else:
        # each reservation is twice the one before, with two guards of 32 KiB
        reservations = (_up(raw, 0x10000) >> 16).bit_length()
        region = ((1 << reservations) - 1 + reservations) << 16
    if asked:
        region += asked + _up(asked >> 15)
    return region, 0


def _bookkeeping(file: SdkObject, config: SdkConfig, frame_pages: int) -> int:
    kind = config.generation.edmm

    def block(size: int, bits: bool = False) -> int:  # noqa: FBT001, FBT002  one size more or less
        if kind == "reserve":  # as its allocator rounds
            return max(_up(size + 8, 8), 16)
        return _up(size, 16) if kind == "doubling" and not bits else size

    ema, array = block(_EMA), block(_BIT_ARRAY)

    def node(pages: int) -> int:
        bits = _up(pages & 0xFFFFFFFF, 0x80 if kind == "doubling" else 8) >> 3
        return ema + array + block(bits, bits=True)

    def region(sizes: tuple[int, int, int]) -> int:
        least, first, most = (size // PAGE for size in sizes)
        found = node(least)
        found += node(first - least) if first > least else 0
        return found + (node(most - first) if most > first else 0)

    least, most = (size // PAGE for size in config.stack)
    nodes = [least, 1, SSA_FRAMES * frame_pages, 1 + file.tls_pages]
    nodes += [most - least] if most > least else []
    kept = 3 * ema + sum(node(pages) for pages in nodes)
    removed = (3 + len(nodes)) * ema
    pool, tcs_max = config.pool, config.tcs_max
    total = region(config.heap) + region(config.reserved)
    total += kept * (1 + pool) + removed * (1 + config["TCSNum"] - 1 - pool)
    total += kept * (tcs_max - pool) if tcs_max > pool + 1 else 0
    total += sum(node(_up(one.memory_size) // PAGE) for one in file.elf.loads)
    return total + (ema if kind == "reserve" else 0)
