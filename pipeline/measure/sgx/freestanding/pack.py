"""Lay out an enclave: from the ELF file that a linker wrote to one that a loader can build and EINIT accepts.

The input is a freestanding enclave: no C library, no shared libraries, no thread-local storage; an entry
point, a note `.note.sgxmeta` with room for the metadata, and a symbol `g_global_data` that begins with the
marker of this interface. The output is the same file with one metadata record (version 1.5, the form that
SGX1 loaders of Intel's SDK read) in the note, and the owner's SIGSTRUCT in it when there is one. Nothing but
the input, the configuration and the SIGSTRUCT goes in: equal inputs give equal bytes.

Memory, after the segments: heap (added, not measured); for each thread 16 guard pages, stack, 16 guard pages,
TCS, two SSA frames, 16 guard pages, one page of thread data; a guard up to the next power of two.

What the enclave's code finds (docs/reference/sgx.md):
    g_global_data   u64 marker, enclave size, heap offset, heap size, stack size of a thread, threads
    thread data     at fs:0 and gs:0: u64 zero, distance from the TCS down to the stack's top, stack size

Source: facts of Intel's signing tool; layout and templates as in `sdk.layout`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from pipeline.measure.measured import MeasureOptions, OptionNotTaken
from pipeline.measure.sgx.elf import PF_X, PT_TLS, BadElf, Elf, Symbol, map_file
from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_R, SECINFO_REG, SECINFO_TCS, SECINFO_W
from pipeline.measure.sgx.freestanding.config import EnclaveConfig, check_config, read_config
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.sdk.enclave import enclave_of_record
from pipeline.measure.sgx.sdk.layout import DT_TEXTREL, EADD, EEXTEND, enclave_image
from pipeline.measure.sgx.sdk.metadata import (
    DIRECTORIES_AT,
    DIRECTORY,
    ENTRY,
    GROUP_BIT,
    HEADER,
    MAGIC,
    PATCH,
    SIGSTRUCT_AT,
    is_laid_out,
    metadata_block,
    read_metadata,
)
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, check_fields
from pipeline.measure.sgx.unsigned import Unsigned
from provenance.errors import UsageError

# What a spec means that names no configuration: every key has its default.
DEFAULT_CONFIG: Final = b'schema = "rvp/enclave/v1"\n'
MARKER: Final = b"rvpencl1"  # the first 8 bytes of g_global_data
GLOBAL_DATA: Final = struct.Struct("<8sQQQQQ16x")
THREAD_DATA: Final = struct.Struct("<QQQ40x")
GUARD_PAGES: Final = 16
SSA_FRAMES: Final = 2
SSA_FRAME_PAGES: Final = 1
_TCS: Final = struct.Struct("<QQQIIQQQQII")
_VERSION: Final = 1 << 32 | 5
_MAX_SAVE_BUFFER: Final = 2688  # XSAVE area of the features that the signature lets the loader choose
_XFRM_WISHED: Final = 0xE7
_HEAP, _TCS_ID, _TD, _SSA, _STACK, _GUARD, _GROUP = 1, 4, 5, 6, 8, 10, GROUP_BIT | 9
_RW: Final = SECINFO_REG | SECINFO_R | SECINFO_W
_STACK_FILL: Final = 0xCCCCCCCC
_DT_NEEDED: Final = 1
# ELF header fields that name the section headers: zero when measured, so that stripping changes nothing
_SECTION_FIELDS: Final = ((60, 2), (40, 8), (62, 2))


class CannotPack(UsageError):
    """A file is not a freestanding enclave that this packer can lay out.

    Cure: the message says what is missing; docs/reference/sgx.md lists what a freestanding enclave needs. Of
    Gramine, name the manifest; an SGXS stream is signed by its own tool.
    """

    code = "RVP-5008"


def pack_enclave(elf: bytes | Path, config: EnclaveConfig, sigstruct: bytes | None = None) -> bytes:
    """Lay out an enclave, and graft its owner's SIGSTRUCT.

    Args:
        elf: the linked enclave.
        config: memory, threads, identity.
        sigstruct: the owner's signature; without it the file measures but cannot be launched.

    Returns:
        The whole file.

    Raises:
        CannotPack: RVP-5008. BadEnclaveConfig: RVP-5007. BadElf: RVP-5001.
        SigstructMismatch: RVP-5005: the SIGSTRUCT signs another enclave, other fields, or nothing.
        SigstructNotVerified: RVP-5012.
    """
    unsigned = _unsigned(elf, config)
    return unsigned.write(None if sigstruct is None else Sigstruct(sigstruct))


def lay_out_freestanding(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out a freestanding enclave for signing.

    Raises:
        CannotPack: RVP-5008. BadEnclaveConfig: RVP-5007. BadElf: RVP-5001.
    """
    if options.config is None:
        raise CannotPack(
            "an enclave is laid out by its configuration", place=str(path), hint="give --config enclave.toml"
        )
    if options.generation:
        raise OptionNotTaken(
            "--generation is not for a freestanding enclave: this program lays it out, and has one way to",
            place=str(path),
        )
    config = read_config(options.config, name=options.config_name)
    elf = Elf(map_file(path), name=str(path))
    if is_laid_out(elf):
        return _again(elf, config)
    return _unsigned(path, config)


def is_freestanding(path: Path) -> bool:
    """Tell whether a file is a freestanding enclave, laid out or not.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        elf = Elf(map_file(path), name=str(path))
        found = elf.symbol("g_global_data")
        if found is None:
            return False
        at = elf.file_offset(found.value, len(MARKER))
        return bytes(elf.data[at : at + len(MARKER)]) == MARKER
    except BadElf:
        return False


def lay_out_freestanding_anew(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out a freestanding enclave by its configuration alone: metadata that it has already is forgotten.

    Raises:
        CannotPack: RVP-5008. BadEnclaveConfig: RVP-5007. BadElf: RVP-5001.
    """
    config = read_config(options.config or b"", name=options.config_name)
    data = bytearray(map_file(path))
    block = metadata_block(Elf(memoryview(bytes(data)), name=str(path)))
    if block is not None:
        data[block[0] : sum(block)] = bytes(block[1])
    return _unsigned(bytes(data), config, name=str(path))


def _again(elf: Elf, config: EnclaveConfig) -> Unsigned:
    """Let an enclave that is laid out be signed again; its memory stays as it is."""
    found = metadata_block(elf)
    records = read_metadata(elf)
    enclave = enclave_of_record(elf, records[0])
    fields = config.fields(mrenclave(enclave.image))

    def write(signed: Sigstruct | None) -> bytes:
        if signed is not None:
            check_fields(signed, fields)
        data = bytearray(elf.data)
        at = found[0] if found else 0
        for record in records:
            place = slice(at + SIGSTRUCT_AT, at + SIGSTRUCT_AT + SIGSTRUCT_SIZE)
            data[place] = bytes(SIGSTRUCT_SIZE) if signed is None else signed.raw
            at += record.size_bytes
        return bytes(data)

    return Unsigned(enclave=enclave, fields=fields, write=write)


def _unsigned(elf: bytes | Path, config: EnclaveConfig, *, name: str = "") -> Unsigned:
    check_config(config)
    name = str(elf) if isinstance(elf, Path) else name
    data = bytearray(map_file(elf) if isinstance(elf, Path) else elf)
    image = Elf(memoryview(bytes(data)), name=name)
    at, room = _room(image)
    record = _record(image, config)
    if len(record) > room:
        raise CannotPack(f"the metadata has {len(record):#x} bytes, its note has {room:#x}", place=name)
    data[at : at + len(record)] = record
    laid_out = Elf(memoryview(bytes(data)), name=name)
    enclave = enclave_of_record(laid_out, read_metadata(laid_out)[0])
    fields = config.fields(mrenclave(enclave.image))

    def write(signed: Sigstruct | None) -> bytes:
        if signed is None:
            return bytes(laid_out.data)
        check_fields(signed, fields)
        start = at + SIGSTRUCT_AT
        return b"".join((laid_out.data[:start], signed.raw, laid_out.data[start + SIGSTRUCT_SIZE :]))

    return Unsigned(enclave=enclave, fields=fields, write=write)


def measure_packed(data: bytes) -> bytes:
    """Compute MRENCLAVE of a file that is laid out."""
    elf = Elf(memoryview(data))
    return mrenclave(enclave_image(elf, read_metadata(elf)[0]))


def _room(image: Elf) -> tuple[int, int]:
    block = metadata_block(image)
    if block is None:
        raise CannotPack(
            "the enclave has no section .note.sgxmeta to put its metadata into", place=image.name
        )
    at, room = block
    if any(image.data[at : at + room]):
        raise CannotPack(
            "the enclave is laid out already", place=image.name, hint="pack the file that the linker wrote"
        )
    return at, room


def _check_freestanding(image: Elf) -> Symbol:
    """Check what the code of a freestanding enclave must be; return its g_global_data."""

    def need(fulfilled: bool, message: str) -> None:  # noqa: FBT001  the condition itself
        if not fulfilled:
            raise CannotPack(message, place=image.name)

    need(bool(image.loads), "the enclave has no loadable segments")
    need(_DT_NEEDED not in image.dynamic, "the enclave needs shared libraries")
    need(DT_TEXTREL not in image.dynamic, "the enclave has relocations in its code (link it with -z text)")
    need(all(one.kind != PT_TLS for one in image.segments), "the enclave has thread-local storage")
    for one in image.loads:
        need(one.address > 0 or not one.flags & PF_X, "page 0 of the enclave is executable")
        need(one.address + one.memory_size < 1 << 40, f"a segment lies at {one.address:#x}")
    found = image.symbol("g_global_data")
    if found is None:
        raise CannotPack("the enclave exports no symbol g_global_data", place=image.name)
    need(found.size >= GLOBAL_DATA.size, f"g_global_data has {found.size} bytes, needs {GLOBAL_DATA.size}")
    at = image.file_offset(found.value, GLOBAL_DATA.size)
    got = bytes(image.data[at : at + len(MARKER)])
    need(got == MARKER, f"g_global_data begins with {got!r}, expected {MARKER!r}")
    return found


def _record(image: Elf, config: EnclaveConfig) -> bytes:
    found = _check_freestanding(image)
    start = max((one.address + one.memory_size + PAGE - 1) & -PAGE for one in image.loads)
    heap, stack = config.heap_bytes // PAGE, config.stack_bytes // PAGE
    ssa = SSA_FRAMES * SSA_FRAME_PAGES
    step = (GUARD_PAGES + stack + GUARD_PAGES + 1 + ssa + GUARD_PAGES + 1) * PAGE
    end = start + heap * PAGE + config.threads * step
    enclave_size = 1 << (end - 1).bit_length()

    # the record: header, SIGSTRUCT, four directories, contents, patch table, layout table
    data = bytearray(DIRECTORIES_AT + 4 * DIRECTORY.size)

    def place(content: bytes) -> tuple[int, int]:
        at = len(data)
        data.extend(content.ljust((len(content) + 7) & -8, b"\0"))
        return at, len(content)

    stack_to_tcs = GUARD_PAGES * PAGE
    tcs_to_data = (1 + ssa + GUARD_PAGES) * PAGE
    tcs = _TCS.pack(
        0, 0, PAGE, 0, SSA_FRAMES, image.entry, 0, tcs_to_data, tcs_to_data, 0xFFFFFFFF, 0xFFFFFFFF
    )
    tcs_at, tcs_size = place(tcs)
    td_at, td_size = place(THREAD_DATA.pack(0, stack_to_tcs, stack * PAGE))
    patches = [
        (
            image.file_offset(found.value, GLOBAL_DATA.size),
            place(GLOBAL_DATA.pack(MARKER, enclave_size, start, heap * PAGE, stack * PAGE, config.threads)),
        )
    ]
    patches += [(offset, place(bytes(size))) for offset, size in _SECTION_FIELDS]
    patch_table = place(b"".join(PATCH.pack(target, at, size) for target, (at, size) in patches))

    entries: list[bytes] = []
    at = start

    def add(
        ident: int, pages: int, attributes: int = 0, content: tuple[int, int] = (0, 0), flags: int = 0
    ) -> None:
        nonlocal at
        size, offset = content
        entries.append(ENTRY.pack(ident, attributes, pages, at, size, offset, flags))
        at += pages * PAGE

    measured = EADD | EEXTEND
    if heap:
        add(_HEAP, heap, EADD, flags=_RW)
    thread = len(entries)
    add(_GUARD, GUARD_PAGES)
    add(_STACK, stack, measured, (_STACK_FILL, 0), _RW)
    add(_GUARD, GUARD_PAGES)
    add(_TCS_ID, 1, measured, (tcs_size, tcs_at), SECINFO_TCS)
    add(_SSA, ssa, measured, flags=_RW)
    add(_GUARD, GUARD_PAGES)
    add(_TD, 1, measured, (td_size, td_at), _RW)
    if config.threads > 1:
        entries.append(ENTRY.pack(_GROUP, len(entries) - thread, config.threads - 1, step, 0, 0, 0))
    at = end
    if end < enclave_size:
        add(_GUARD, (enclave_size - end) // PAGE)
    layout_table = place(b"".join(entries))

    HEADER.pack_into(
        data,
        0,
        MAGIC,
        _VERSION,
        len(data),
        1,  # threads are bound to their TCS
        SSA_FRAME_PAGES,
        _MAX_SAVE_BUFFER,
        config.miscselect,
        0,
        enclave_size,
        struct.pack("<QQ", config.attribute_flags, _XFRM_WISHED),
    )
    DIRECTORY.pack_into(data, DIRECTORIES_AT, *patch_table)
    DIRECTORY.pack_into(data, DIRECTORIES_AT + DIRECTORY.size, *layout_table)
    return bytes(data)
