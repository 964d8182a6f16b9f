"""From an Open Enclave file to the pages that its loader adds.

    ECREATE; the segments of the image, of a module linked into it; the relocation table (read only);
    [what Edgeless RT calls the payload's data]; the heap, added and not measured;
    for each thread: guard, stack (0xCC), guard, TCS, two SSA pages, guard, thread-local pages, thread data

The loader first writes into the image: where things lie (`.oeinfo` and exported symbols), zeros over the
SIGSTRUCT. An enclave based at address zero begins at its start address, and all offsets count from zero.

Nothing in a file says which release signed it. Where two releases would lay it out differently, the one
whose MRENCLAVE the SIGSTRUCT signs is taken; of a file that is not signed, the newest.

Source: Open Enclave, `create.c`, releases 0.5 to 0.19.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.enclave_image import (
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    Bytes,
    EnclaveImage,
    Pages,
)
from pipeline.measure.sgx.hashing import HEADER, MEASURED_PAGE, mrenclave
from pipeline.measure.sgx.open_enclave_image import LoadedImage
from pipeline.measure.sgx.open_enclave_link import (
    describe_module,
    link_images,
    needed_module,
    place_images,
)
from pipeline.measure.sgx.open_enclave_properties import (
    EXECUTABLE_HEAP,
    GENERATIONS,
    IMAGE_INFO,
    BadOpenEnclave,
    Generation,
    Properties,
    read_properties,
)
from pipeline.measure.sgx.segment_pages import ZERO_PAGE, round_up
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct
from provenance.claims import Check

CONTROL_PAGES: Final = 4  # TCS, two SSA frames, a guard
_OLD_CONTROL_PAGES: Final = 6
_STACK_PAGE: Final = b"\xcc" * PAGE
_RW: Final = SECINFO_REG | SECINFO_R | SECINFO_W
_TCS: Final = struct.Struct("<QQQIIQQQQII")
_MAX_ENCLAVE: Final = 1 << 46
_MAX_STREAM: Final = 64 << 30


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What an enclave is made of, before it is laid out.

    Attributes:
        path: the file of the main image.
        main: the image whose `.oeinfo` and symbols the loader fills.
        modules: what is linked into it, in order.
        payload: bytes that follow the relocation table, measured and read only.
        properties: what is measured as the main image's `.oeinfo`.
    """

    path: Path
    main: Elf
    modules: tuple[Elf, ...] = ()
    payload: Bytes = b""
    properties: Properties


def lay_out_open_enclave(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out an Open Enclave file: signed, or not signed with its `.conf`.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadOpenEnclaveConfig: RVP-5032. BadElf: RVP-5001.
    """
    if options.config is not None:
        from pipeline.measure.sgx.open_enclave_sign import lay_out_unsigned_open_enclave

        return (lay_out_unsigned_open_enclave(path, options).enclave,)
    main = Elf(map_file(path), name=str(path))
    return (choose_layout(Parts(path=path, main=main, properties=properties_of(main)), options.generation),)


def properties_of(elf: Elf) -> Properties:
    """Read the properties of a file.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    section = LoadedImage(elf).info_section
    data = bytes(elf.bytes_at(section.offset, min(section.size, PAGE), section.name))
    return read_properties(data, place=f"{elf.name}: byte {section.offset:#x}")


def generations_of(main: Elf, properties: Properties, wanted: str = "") -> tuple[Generation, ...]:
    """Name the releases whose loader could have laid out a file, the newest first.

    Args:
        main: the file.
        properties: of the enclave.
        wanted: a release; only what it does is then given.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    known = [one for one in GENERATIONS if one.size == properties.size]
    if wanted:
        version = _version(wanted)
        before = [one for one in known if _version(one.name) <= version]
        if not before:
            names = ", ".join(one.name for one in known)
            raise BadOpenEnclave(
                f"release {wanted} has no properties of {properties.size} bytes",
                place=main.name,
                hint=f"known for this file: {names} (and later ones up to the next)",
            )
        return (before[0],)
    image = LoadedImage(main)
    with_modules = "_module_info" in image.symbols
    with_tls = "_td_from_tcs_offset" in image.symbols
    fit = [one for one in known if one.joins_plt == with_modules and one.tls_pages == with_tls] or known
    return tuple(
        one
        for index, one in enumerate(fit)
        if not any(_differ_in_tls_alone(one, newer) and _same_tls(image, one, newer) for newer in fit[:index])
    )


def _differ_in_tls_alone(one: Generation, other: Generation) -> bool:
    return one.tls_align_from_header != other.tls_align_from_header and one.size == other.size


def _same_tls(image: LoadedImage, one: Generation, other: Generation) -> bool:
    return image.tls_sizes(one) == image.tls_sizes(other)


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return tuple(int(part) for part in parts)
    return ()


def choose_layout(parts: Parts, wanted: str = "") -> Enclave:
    """Lay an enclave out; of several candidates, take the one that its SIGSTRUCT signs.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadElf: RVP-5001.

    Cost: one hash for each candidate, and none when there is only one.
    """
    candidates = [
        (one, lay_out_as(parts, one)) for one in generations_of(parts.main, parts.properties, wanted)
    ]
    signed = Sigstruct(parts.properties.sigstruct)
    if len(candidates) > 1 and not signed.is_empty:
        for _, enclave in candidates:
            if mrenclave(enclave.image) == signed.mrenclave:
                return enclave
    if len(candidates) > 1 and signed.is_empty:
        return msgspec.structs.replace(candidates[0][1], checks=(_guess(candidates),))
    return candidates[0][1]


def _guess(candidates: list[tuple[Generation, Enclave]]) -> Check:
    """Say that the file does not tell its release, and that releases differ."""
    first, *others = (one.title for one, _ in candidates)
    return Check(
        id="open-enclave-release",
        status="warning",
        expected="a file that tells its release, or a signature",
        got=f"laid out as {first} does",
        hint=f"releases {', '.join(others)} would lay it out differently: name yours with --generation",
    )


def lay_out_as(parts: Parts, generation: Generation) -> Enclave:
    """Lay an enclave out as the loader of a release does.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadElf: RVP-5001.
    """
    main = LoadedImage(parts.main)
    if not parts.main.entry:
        main.bad("e_entry: no entry point", 24)
    modules = [LoadedImage(one) for one in parts.modules]
    if generation.joins_plt and (not modules or _takes_two(main)):
        needed = needed_module(parts.path, main)
        modules += [needed] if needed is not None else []
    images = (main, *modules)
    image_size = place_images(images)
    relocations = link_images(images, generation)
    tls = round_up(main.tls_bytes(generation)) // PAGE if generation.tls_pages else 1
    properties = parts.properties
    payload_size = round_up(len(parts.payload))
    threads_at = _check_size(parts, generation, image_size + len(relocations) + payload_size, tls)
    used, enclave_size = threads_at
    heap_at = image_size + len(relocations) + payload_size
    info = IMAGE_INFO.pack(
        main.info_section.address,
        properties.size,
        image_size,
        len(relocations),
        heap_at,
        used if generation.records_end else enclave_size,
    )
    _patch(main, parts, generation, info, tls)
    for index, module in enumerate(modules):
        describe_module(main, module, index, len(parts.payload) if index == 0 else 0)
        if index == 0 and parts.modules:
            _blank_copy(module, properties)
    start = properties.start
    size = _power_of_two(used + start) if start else enclave_size
    runs = [*_pages(images, relocations, parts, heap_at, generation, tls)]
    if start:
        runs = [
            Pages(
                address=run.address + start,
                count=run.count,
                flags=run.flags,
                content=run.content,
                label=run.label,
            )
            for run in runs
        ]
    return Enclave(
        layout=f"Open Enclave {generation.title}",
        image=EnclaveImage(size_bytes=size, ssa_frame_size=1, parts=tuple(runs)),
        sigstruct=None
        if not any(properties.sigstruct)
        else Sigstruct(properties.sigstruct, name=str(parts.path)),
        elves=tuple(MappedElf(elf=one.elf, base=start + one.base) for one in images),
        facts=_facts(properties, generation, tls),
    )


def _takes_two(main: LoadedImage) -> bool:
    symbol = main.symbols.get("_module_info")
    return symbol is not None and symbol.size > 72


def _facts(properties: Properties, generation: Generation, tls: int) -> dict[str, str | int]:
    facts: dict[str, str | int] = {
        "sdk": f"Open Enclave {generation.title}",
        "heap_pages": properties.heap_pages,
        "stack_pages": properties.stack_pages,
        "threads": properties.threads,
        "tls_pages": tls,
        "attributes": f"{properties.attributes:#x}",
        "flags": f"{properties.flags:#x}",
        "isvprodid": properties.product_id,
        "isvsvn": properties.security_version,
    }
    if properties.start:
        facts["start_address"] = f"{properties.start:#x}"
    return facts


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _check_size(parts: Parts, generation: Generation, before_heap: int, tls: int) -> tuple[int, int]:
    """Bound every count; return the bytes that are used and the enclave's size."""
    properties = parts.properties

    def bad(field: str, value: int, limit: int) -> None:
        raise BadOpenEnclave(f"{field}: {value}, at most {limit}", place=str(parts.path))

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
        raise BadOpenEnclave(
            f"start_address: {properties.start:#x} lies inside a page", place=str(parts.path)
        )
    control = _OLD_CONTROL_PAGES if generation.fixed_size else CONTROL_PAGES + 1 + tls
    thread = properties.stack_pages + 2 + control
    added = properties.stack_pages + 2 + CONTROL_PAGES + 1 + tls
    used = before_heap + (properties.heap_pages + properties.threads * thread) * PAGE
    size = _power_of_two(used)
    if max(used, size) + properties.start > _MAX_ENCLAVE:
        bad("the enclave's size", used, _MAX_ENCLAVE)
    if before_heap + (properties.heap_pages + properties.threads * added) * PAGE > size:
        raise BadOpenEnclave("the threads do not fit into the enclave", place=str(parts.path))
    stream = (
        before_heap // PAGE * MEASURED_PAGE
        + properties.heap_pages * HEADER
        + properties.threads * added * MEASURED_PAGE
    )
    if stream > _MAX_STREAM:
        bad("bytes to hash", stream, _MAX_STREAM)
    return used, size


def _patch(main: LoadedImage, parts: Parts, generation: Generation, info: bytes, tls: int) -> None:
    """Write into the main image what the loader writes."""
    properties = msgspec.structs.replace(parts.properties, image_info=info, sigstruct=bytes(SIGSTRUCT_SIZE))
    section = main.info_section
    _, _, reloc_at, reloc_size, _, _ = IMAGE_INFO.unpack(info)
    if generation.clears_section_table:
        main.clear_section_table()
    exported = generation.tls_pages  # since they know of thread-local pages, loaders look at exported symbols
    main.write(section.address, properties.encode(), section.name)
    needed = [
        ("_enclave_rva", main.value_of("_enclave_rva", exported=exported) or 0),
        ("_reloc_rva", reloc_at),
        ("_reloc_size", reloc_size),
    ]
    for name, value in needed:
        if not main.set_symbol(name, value, exported=exported):
            raise BadOpenEnclave(
                f"no symbol {name}: its loader would refuse it",
                place=main.elf.name,
                hint="" if exported else "an enclave of a release before 0.11 must keep its symbols",
            )
    (data_at, data, data_align), (zeros, zeros_align) = main.tls_sizes(generation)
    optional = [("_td_from_tcs_offset", (tls + CONTROL_PAGES) * PAGE)] if generation.tls_pages else []
    if data:
        optional += [("_tdata_rva", data_at), ("_tdata_size", data), ("_tdata_align", data_align)]
    if zeros:
        optional += [("_tbss_size", zeros), ("_tbss_align", zeros_align)]
    for name, value in optional:
        main.set_symbol(name, value, exported=exported)


def _blank_copy(payload: LoadedImage, properties: Properties) -> None:
    """The payload's own `.oeinfo` holds the same properties; its SIGSTRUCT is zero when measured."""
    section = payload.info_section
    content = msgspec.structs.replace(properties, sigstruct=bytes(SIGSTRUCT_SIZE)).encode()
    payload.write(section.address, content, section.name)


def _pages(
    images: tuple[LoadedImage, ...],
    relocations: bytes,
    parts: Parts,
    heap_at: int,
    generation: Generation,
    tls: int,
) -> Iterator[Pages]:
    for index, image in enumerate(images):
        for run in image.pages():
            label = run.label if index == 0 else f"module {index}: {run.label}"
            yield Pages(
                address=run.address, count=run.count, flags=run.flags, content=run.content, label=label
            )
    at = heap_at - round_up(len(parts.payload)) - len(relocations)
    read_only = SECINFO_REG | SECINFO_R
    if relocations:
        count = len(relocations) // PAGE
        yield Pages(address=at, count=count, flags=read_only, content=relocations, label="relocations")
        at += len(relocations)
    whole = len(parts.payload) // PAGE
    if whole:
        content = parts.payload[: whole * PAGE]
        yield Pages(address=at, count=whole, flags=read_only, content=content, label="payload data")
    if len(parts.payload) % PAGE:
        content = bytes(parts.payload[whole * PAGE :]).ljust(PAGE, b"\0")
        yield Pages(
            address=at + whole * PAGE, count=1, flags=read_only, content=content, label="payload data"
        )
    properties = parts.properties
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
        tcs = _tcs(properties.start, at, parts.main.entry, generation, tls)
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
