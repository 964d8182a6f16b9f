"""Write the metadata of a layout: the main record, and the records for older loaders.

A record is header, SIGSTRUCT, directories, then in this order: the enclave's range, the extension table, the
TCS template, the contents of g_global_data, eight zero bytes, the patch table, the layout table (in SDK 1.x
the layout table stands after the TCS template). Offsets of contents are visible in g_global_data, which is
measured: the order matters.

Source: Intel SGX SDK, `manage_metadata.cpp`, `sign_tool.cpp`, `update_global_data.hxx`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.sdk.metadata import (
    DIRECTORIES_AT,
    DIRECTORY,
    ELRANGE,
    ENTRY,
    HEADER,
    IPP_FIPS,
    MAGIC,
    PATCH,
    SIGSTRUCT_AT,
)
from pipeline.measure.sgx.sdk.plan import (
    GUARD,
    HEAP_INIT,
    HEAP_MAX,
    HEAP_MIN,
    POST_ADD,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    SSA,
    SSA_FRAMES,
    SSA_GPR,
    STACK_MAX,
    STACK_MIN,
    TCS,
    TD,
    THREAD_GROUP,
    Entry,
    Plan,
    numbered,
)
from pipeline.measure.sgx.sigstruct import KEY_BYTES, SIGSTRUCT_SIZE

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_TCS: Final = struct.Struct("<QQQIIQQQQII")
_AEXNOTIFY: Final = 2  # in TCS.FLAGS
_EXTENSION: Final = struct.Struct("<IIII")
_FIPS_BYTES: Final = KEY_BYTES + 4 + KEY_BYTES
_OLD_SAVE_BUFFER: Final = 2632
_DYNAMIC_STACKS: Final = {STACK_MAX + 10, STACK_MIN + 10}
# ELF header fields that name the section headers: zero when measured, so that stripping changes nothing
_SECTION_FIELDS: Final = ((60, 2), (40, 8), (62, 2))


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is written into the note.

    Attributes:
        main: the main record, which the signing tool measures; it is not always stored.
        stored: the records as they are stored, one after the other.
        block_bytes: what the signing tool writes, zeros included.
    """

    main: bytes
    stored: tuple[bytes, ...]
    block_bytes: int

    def block(self, sigstruct: bytes) -> bytes:
        """Write the block with the owner's SIGSTRUCT in every record."""
        return b"".join(signed(record, sigstruct) for record in self.stored).ljust(self.block_bytes, b"\0")


def signed(record: bytes, sigstruct: bytes) -> bytes:
    """Put a SIGSTRUCT into a record, and sign it again where the IPP FIPS module wants that."""
    end = SIGSTRUCT_AT + SIGSTRUCT_SIZE
    data = bytearray(record[:SIGSTRUCT_AT] + sigstruct + record[end:])
    at = fips_place(record)
    if at is not None and any(sigstruct):
        from pipeline.measure.sgx.sdk.fips import sign_for_fips

        data[at : at + _FIPS_BYTES] = sign_for_fips(sigstruct)
    return bytes(data)


def fips_place(record: bytes) -> int | None:
    """Find the signature that the IPP FIPS module wants: its offset in a record of ours."""
    major, minor = struct.unpack_from("<II", record, 8)[::-1]
    if not (major % 10 == 3 and minor >= 2) and not (major % 10 == 1 and minor >= 5):
        return None
    offset, size = DIRECTORY.unpack_from(record, DIRECTORIES_AT + 3 * DIRECTORY.size)
    for ident, _, at, _ in _EXTENSION.iter_unpack(record[offset : offset + size]):
        if ident == IPP_FIPS:
            return int(at)
    return None


def write_metadata(plan: Plan) -> Metadata:
    """Write all records of a layout.

    Raises:
        BadSdkConfig: RVP-5026 when the layout does not fit.
    """
    rules = plan.config.generation
    major, minor = rules.metadata
    ranged = 10 if plan.config.elrange else 0
    main = _record(plan, (major + ranged, minor), plan.entries)
    stored = [main]
    if rules.copy_minor is not None and not ranged:
        stored.append(_record(plan, (2, rules.copy_minor), plan.entries))
    if rules.legacy_minor is not None and (plan.with_sgx1 or not rules.ssa_grows):
        if rules.ssa_grows and not plan.with_sgx2:
            stored.clear()
        stored.append(_record(plan, (1 + ranged, rules.legacy_minor), legacy_entries(plan)))
    size = max(len(main), sum(len(one) for one in stored))
    room = min(rules.block_bytes, plan.object.block[1])
    if size > room:
        plan.config.bad(
            f"the metadata has {size:#x} bytes, the note has room for {plan.object.block[1]:#x}, "
            f"SDK {rules.name} writes at most {rules.block_bytes:#x}"
        )
    return Metadata(main=main, stored=tuple(stored), block_bytes=rules.block_bytes)


def _record(plan: Plan, version: tuple[int, int], entries: Sequence[Entry]) -> bytes:
    config, rules = plan.config, plan.config.generation
    data = bytearray(DIRECTORIES_AT + rules.directories * DIRECTORY.size)
    directories = dict.fromkeys(range(rules.directories), (0, 0))

    def place(content: bytes) -> tuple[int, int]:
        at = len(data)
        data.extend(content)
        return at, len(content)

    if config.elrange:
        if rules.directories > 2:
            directories[2] = place(ELRANGE.pack(*config.elrange))
        else:  # its directory stands at the beginning of the data, which is the same place
            place(DIRECTORY.pack(len(data) + DIRECTORY.size, ELRANGE.size))
            place(ELRANGE.pack(*config.elrange))
    if config["EnableIPPFIPS"]:
        at = len(data) + _EXTENSION.size
        directories[3] = place(_EXTENSION.pack(IPP_FIPS, _FIPS_BYTES, at, 0))
        place(bytes(_FIPS_BYTES))
    template = tcs_template(plan)
    template_at = place(template)[0]

    def table(rows: Sequence[Entry]) -> bytes:
        return b"".join(_pack(one, template_at) for one in rows)

    if rules.is_sgx1:
        directories[1] = place(table(numbered(entries)))
    global_data_at = place(_global_data(plan, template, table(plan.entries)))
    zeros_at = place(bytes(8))[0]
    patches = [(plan.object.global_data_at, *global_data_at)]
    patches += [(offset, zeros_at, size) for offset, size in _SECTION_FIELDS]
    directories[0] = place(b"".join(PATCH.pack(*one) for one in patches))
    if not rules.is_sgx1:
        directories[1] = place(table(entries))

    HEADER.pack_into(
        data,
        0,
        MAGIC,
        version[0] << 32 | version[1],
        len(data),
        config["TCSPolicy"],
        plan.frame_pages,
        plan.xsave if rules.ssa_grows else _OLD_SAVE_BUFFER,
        config["MiscSelect"] if rules.keeps_misc else 0,
        config["TCSMinPool"],
        plan.enclave_size,
        struct.pack("<QQ", config.attributes[0], config.wished_xfrm),
    )
    for index, directory in directories.items():
        DIRECTORY.pack_into(data, DIRECTORIES_AT + index * DIRECTORY.size, *directory)
    return bytes(data)


def _pack(one: Entry, template_at: int) -> bytes:
    if one.is_group:
        return ENTRY.pack(one.ident, one.count, one.times, one.step, 0, 0, 0)
    size, at = (_TCS.size, template_at) if one.has_template else (one.fill, 0)
    return ENTRY.pack(one.ident, one.attributes, one.pages, one.address, size, at, one.flags)


def tcs_template(plan: Plan) -> bytes:
    """Write the TCS of a thread; its offsets are relative to itself."""
    shift = 0
    if plan.config.elrange:
        image, start, _ = plan.config.elrange
        shift = image - start
    tcs, ssa = plan.first(TCS).address, plan.first(SSA).address
    thread_data = _thread_data_at(plan) + shift
    flags = _AEXNOTIFY if plan.config["EnableAEXNotify"] else 0
    entry = plan.object.entry + shift
    words = (0, flags, ssa - tcs + shift, 0, SSA_FRAMES, entry, 0, thread_data, thread_data)
    return _TCS.pack(*(word & _MASK for word in words), 0xFFFFFFFF, 0xFFFFFFFF)


def _thread_data_at(plan: Plan) -> int:
    """Give the distance from a TCS to its thread's data page."""
    data = plan.first(TD)
    return data.address - plan.first(TCS).address + (data.pages - 1) * PAGE


def _thread_data(plan: Plan) -> bytes:
    rules = plan.config.generation
    tcs, ssa = plan.first(TCS).address, plan.first(SSA).address
    stack = plan.first(STACK_MIN)
    base = stack.address + stack.pages * PAGE - tcs
    data = _thread_data_at(plan)
    storage = plan.first(TD).address - tcs
    if plan.object.tls_bytes is not None:
        storage = data - plan.object.tls_bytes
    registers = ssa - tcs + plan.frame_pages * PAGE - SSA_GPR
    frame = plan.frame_pages if rules.is_sgx1 else plan.xsave
    words = [data, base, base, base - plan.config["StackMaxSize"], registers, 0, 0, frame, 0]
    if rules.thread_data_bytes > 160:
        words += [0, 0, ssa - tcs]
    words += [0, storage, data + 8 * (len(words) + 1)]
    size = 152 if rules.is_sgx1 else rules.thread_data_bytes
    return struct.pack(f"<{len(words)}Q", *(word & _MASK for word in words)).ljust(size, b"\0")


def _global_data(plan: Plan, template: bytes, layout: bytes) -> bytes:
    """Write what the enclave's code finds in g_global_data."""
    config, rules = plan.config, plan.config.generation
    heap = plan.first(HEAP_MIN).address
    reserved = next((one.address for one in plan.entries if one.ident == RSRV_MIN), None)
    words = [0] if rules.stores_version else []
    words += [plan.enclave_size, heap, config.heap[1]]
    if rules.has_reserved:
        words += [0, 0] if reserved is None else [reserved, plan.reserved_first]
    if rules.has_tcs_max:
        words.append(0 if reserved is None else config["ReservedMemExecutable"])
    words.append(config["TCSPolicy"])
    words += [config.tcs_max] if rules.has_tcs_max else []
    words += [config["TCSNum"]] if rules.has_tcs_count else []
    data = struct.pack(f"<{len(words)}Q", *words) + _thread_data(plan)
    if not rules.is_sgx1:
        count = len(layout) // ENTRY.size
        if count > rules.layout_room:
            config.bad(f"the layout has {count} entries, g_global_data has room for {rules.layout_room}")
        data += template + struct.pack("<II", count, 0) + layout.ljust(rules.layout_room * ENTRY.size, b"\0")
    tail: list[int] = []
    if rules.has_elrange:
        tail += config.elrange or (0, 0, plan.enclave_size if rules.elrange_size == "enclave" else 0)
    tail += [plan.edmm_bytes] if rules.has_edmm else []
    tail += [config["EnableIPPFIPS"]] if rules.has_fips else []
    return data + struct.pack(f"<{len(tail)}Q", *tail)


def legacy_entries(plan: Plan) -> tuple[Entry, ...]:
    """Derive the layout for loaders of SGX1: the same pages, one group of threads, nothing dynamic."""
    rules = plan.config.generation
    entries = list(plan.entries)
    data = next(index for index, one in enumerate(entries) if one.ident == TD)
    start = next(index for index, one in enumerate(entries) if one.ident == GUARD)
    if rules.legacy == "always":
        return _legacy_always(plan, entries, start, data)
    dynamic = next((index for index, one in enumerate(entries) if one.ident in _DYNAMIC_STACKS), None)
    if dynamic is None:
        return plan.entries
    last = dynamic - 2  # before the guard of the dynamic thread
    if data == last:
        kept = entries[: data + 1]
    elif rules.legacy == "dynamic only":
        kept = [*entries[: data + 1], _one_group(plan, entries[start : data + 1])]
    else:
        kept = [*entries[: data + 1], _merged_groups(entries, data + 1, last)]
    stacks = {STACK_MAX} if rules.legacy == "dynamic only" else set()
    return tuple(_static(kept, {HEAP_INIT, HEAP_MAX} | stacks))


def _legacy_always(plan: Plan, entries: list[Entry], start: int, data: int) -> tuple[Entry, ...]:
    kinds = {HEAP_INIT, HEAP_MAX, STACK_MAX}
    reserved = {RSRV_INIT, RSRV_MAX}
    after = entries[data + 1 :]
    if not after or after[0].ident == RSRV_MIN:
        return tuple(_static(entries, kinds | reserved))
    kept = [*entries[: data + 1], _one_group(plan, entries[start : data + 1])]
    kept += [one for one in after if one.ident in {RSRV_MIN, *reserved}]
    return tuple(_static(kept, kinds | reserved))


def _one_group(plan: Plan, thread: list[Entry]) -> Entry:
    step = sum(one.pages for one in thread) * PAGE
    return Entry(ident=THREAD_GROUP, count=len(thread), times=plan.config["TCSNum"] - 1, step=step)


def _merged_groups(entries: list[Entry], first: int, last: int) -> Entry:
    """Merge what stands between the first thread and the dynamic ones, as SDK 2.0 to 2.1.2 did."""
    one, end = entries[first], entries[last]
    if one.ident == THREAD_GROUP:
        more = 0 if first == last else (end.times + 1 if end.ident == THREAD_GROUP else 1)
        return msgspec.structs.replace(one, times=one.times + more)
    grouped = end.ident == THREAD_GROUP
    thread = entries[first : last + (0 if grouped else 1)]
    step = sum(part.pages for part in thread) * PAGE
    return Entry(ident=THREAD_GROUP, count=len(thread), times=end.times + 1 if grouped else 1, step=step)


def _static(entries: list[Entry], kinds: set[int]) -> list[Entry]:
    """Switch off what loaders of SGX1 cannot do: only the first entry of each kind, as the SDK does."""
    found = []
    open_kinds = set(kinds)
    for one in entries:
        if one.ident in open_kinds:
            open_kinds.discard(one.ident)
            flags = 0 if one.ident in {HEAP_MAX, RSRV_MAX} else one.flags
            found.append(msgspec.structs.replace(one, attributes=one.attributes & ~POST_ADD, flags=flags))
        else:
            found.append(one)
    return found
