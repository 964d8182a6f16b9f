"""From an Open Enclave file to the enclave that its loader makes.

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

from pathlib import Path

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.enclave_image import PAGE, Bytes, EnclaveImage, Pages
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.open_enclave.image import LoadedImage
from pipeline.measure.sgx.open_enclave.link import (
    WITH_TLS,
    describe_module,
    is_linked,
    link_images,
    needed_module,
    place_images,
)
from pipeline.measure.sgx.open_enclave.pages import CONTROL_PAGES, enclave_pages, power_of_two, sizes_of
from pipeline.measure.sgx.open_enclave.properties import (
    GENERATIONS,
    IMAGE_INFO,
    BadOpenEnclave,
    Generation,
    Properties,
    read_properties,
)
from pipeline.measure.sgx.segment_pages import round_up
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct
from provenance.claims import Check


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What an enclave is made of, before it is laid out.

    Attributes:
        path: the file of the main image.
        main: the image whose `.oeinfo` and symbols the loader fills.
        properties: what is measured as the main image's `.oeinfo`.
        program: an image that Edgeless RT links in first; its `.oeinfo` holds the same properties.
        payload: bytes that follow the relocation table, measured and read only.
    """

    path: Path
    main: Elf
    properties: Properties
    program: Elf | None = None
    payload: Bytes = b""


def lay_out_open_enclave(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out an Open Enclave file: signed as it is, not signed with its `.conf`.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadOpenEnclaveConfig: RVP-5032. BadElf: RVP-5001.
    """
    main = Elf(map_file(path), name=str(path))
    if options.config is not None and not is_signed(main):
        from pipeline.measure.sgx.open_enclave.sign import lay_out_unsigned_open_enclave

        enclave = lay_out_unsigned_open_enclave(path, options).enclave
        return (msgspec.structs.replace(enclave, by_config=True),)
    return (choose_layout(Parts(path=path, main=main, properties=properties_of(main)), options.generation),)


def properties_of(elf: Elf) -> Properties:
    """Read the properties of a file.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    image = LoadedImage(elf)
    return read_properties(image.info_bytes(PAGE), place=f"{elf.name}: byte {image.info_section.offset:#x}")


def is_signed(elf: Elf) -> bool:
    """Tell whether a file's `.oeinfo` has a SIGSTRUCT.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    section = LoadedImage(elf).info_section
    data = bytes(elf.bytes_at(section.offset, min(section.size, PAGE), section.name))
    if not any(data[:4]):  # the linker left no properties
        return False
    return any(read_properties(data, place=f"{elf.name}: byte {section.offset:#x}").sigstruct)


def generations_of(parts: Parts, wanted: str = "") -> tuple[Generation, ...]:
    """Name the releases whose loader could have laid out a file, the newest first.

    Args:
        parts: of the enclave.
        wanted: a release; only what it does is then given.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    known = [one for one in GENERATIONS if one.size == parts.properties.size]
    if wanted:
        version = _version(wanted)
        before = [one for one in known if _version(one.name) <= version]
        if not before:
            raise BadOpenEnclave(
                f"release {wanted} has no properties of {parts.properties.size} bytes",
                place=str(parts.path),
                hint=f"known for this file: {', '.join(one.title for one in known)}",
            )
        return (before[0],)
    image = LoadedImage(parts.main)
    with_modules = "_module_info" in image.symbols
    with_tls = "_td_from_tcs_offset" in image.symbols
    fit = [one for one in known if one.joins_plt == with_modules and one.tls_pages == with_tls] or known
    different: dict[object, Generation] = {}
    for one in fit:
        key = _what_matters(one, image, parts)
        newest = different.get(key, one)
        different[key] = msgspec.structs.replace(newest, name=one.name)
    return tuple(different.values())


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return tuple(int(part) for part in parts)
    return ()


def _what_matters(generation: Generation, image: LoadedImage, parts: Parts) -> tuple[object, ...]:
    """Give what a release's layout of this file depends on: equal for two, they lay it out equally."""
    linked = parts.program is not None or is_linked(image)
    programs = [image] if parts.program is None else [image, LoadedImage(parts.program)]
    return (
        generation.clears_section_table,
        generation.joins_plt,
        generation.relocates_got and linked,
        tuple(one.tls_sizes(generation) for one in programs),
        generation.tls_pages,
        generation.fixed_size,
        generation.records_end,
        generation.gs_before_fs,
    )


def choose_layout(parts: Parts, wanted: str = "") -> Enclave:
    """Lay an enclave out; of several candidates, take the one that its SIGSTRUCT signs.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadElf: RVP-5001.

    Cost: one hash for each candidate, and none when there is only one.
    """
    candidates = [(one, lay_out_as(parts, one)) for one in generations_of(parts, wanted)]
    signed = Sigstruct(parts.properties.sigstruct)
    if len(candidates) > 1 and not signed.is_empty:
        for _, enclave in candidates:
            if mrenclave(enclave.image) == signed.mrenclave:
                return enclave
    first = candidates[0][1]
    if len(candidates) > 1 and signed.is_empty:
        return guessed(first, tuple(one for one, _ in candidates))
    return first


def guessed(enclave: Enclave, candidates: tuple[Generation, ...]) -> Enclave:
    """Say that the file does not tell its release, where releases differ: the first one was taken."""
    if len(candidates) < 2:
        return enclave
    first, *others = (one.title for one in candidates)
    check = Check(
        id="open-enclave-release",
        status="warning",
        expected="a file that tells its release, or a signature",
        got=f"laid out as {first} does",
        hint=f"releases {', '.join(others)} would lay it out differently: name yours with --generation",
    )
    return msgspec.structs.replace(enclave, checks=(*enclave.checks, check))


def lay_out_as(parts: Parts, generation: Generation) -> Enclave:
    """Lay an enclave out as the loader of a release does.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadElf: RVP-5001.
    """
    main = LoadedImage(parts.main)
    if not parts.main.entry:
        main.bad("e_entry: no entry point", 24)
    if parts.program is not None and parts.properties.start:
        main.bad("create_zero_base_enclave: an enclave with a program cannot be based at zero", 0)
    images = (main, *_modules(main, parts, generation))
    image_size = place_images(images)
    relocations = link_images(images, generation)
    tls = round_up(main.tls_bytes(generation)) // PAGE if generation.tls_pages else 1
    properties, start = parts.properties, parts.properties.start
    heap_at = image_size + len(relocations) + round_up(len(parts.payload))
    used, enclave_size = sizes_of(properties, generation, heap_at, tls, str(parts.path))
    info = IMAGE_INFO.pack(
        *(main.info_section.address, properties.size, image_size, len(relocations), heap_at),
        used if generation.records_end else enclave_size,
    )
    _patch(main, properties, generation, info, tls)
    for index, module in enumerate(images[1:]):
        is_program = index == 0 and parts.program is not None
        describe_module(main, module, index, len(parts.payload) if is_program else 0, generation)
        if is_program:
            blank = msgspec.structs.replace(properties, sigstruct=bytes(SIGSTRUCT_SIZE))
            module.write(module.info_section.address, blank.encode(), module.info_section.name)
    runs = tuple(enclave_pages(images, relocations, parts.payload, properties, generation, tls))
    return Enclave(
        layout=f"Open Enclave {generation.title}",
        image=EnclaveImage(
            size_bytes=power_of_two(used + start) if start else enclave_size,
            ssa_frame_size=1,
            parts=tuple(_moved(run, start) for run in runs) if start else runs,
        ),
        sigstruct=Sigstruct(properties.sigstruct, name=str(parts.path))
        if any(properties.sigstruct)
        else None,
        elves=tuple(MappedElf(elf=one.elf, base=start + one.base) for one in images),
        facts=_facts(properties, generation, tls),
    )


def _modules(main: LoadedImage, parts: Parts, generation: Generation) -> list[LoadedImage]:
    """Load what is linked into the main image: a program, a shared object; both since Edgeless RT 0.5."""
    modules = [] if parts.program is None else [LoadedImage(parts.program)]
    info = main.symbols.get("_module_info")
    takes_two = info is not None and info.size > WITH_TLS
    if modules and not takes_two and is_linked(main):
        main.bad("DT_NEEDED: besides a program, which Edgeless RT takes since 0.5 only", parts.main.phoff)
    needed = needed_module(parts.path, main) if generation.joins_plt else None
    return modules if needed is None else [*modules, needed]


def _moved(run: Pages, start: int) -> Pages:
    return Pages(
        address=run.address + start, count=run.count, flags=run.flags, content=run.content, label=run.label
    )


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


def _patch(main: LoadedImage, before: Properties, generation: Generation, info: bytes, tls: int) -> None:
    """Write into the main image what the loader writes."""
    properties = msgspec.structs.replace(before, image_info=info, sigstruct=bytes(SIGSTRUCT_SIZE))
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
