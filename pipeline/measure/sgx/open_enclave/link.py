"""Link the images of an Open Enclave enclave: addresses, one table of relocations, what modules need.

The loader links at most one shared object (Edgeless RT: a payload before it) into the enclave. Symbols are
looked up now, not in the enclave: every symbolic relocation becomes a relative one, and the modules' dynamic
sections get relocations as a dynamic linker would apply them. The table is measured after the images.

Source: Open Enclave, `loadelf.c` (0.16 and later); Edgeless RT's patch of it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.open_enclave.image import (
    R_64,
    R_GLOB_DAT,
    R_JUMP_SLOT,
    R_RELATIVE,
    LoadedImage,
)
from pipeline.measure.sgx.open_enclave.properties import BadOpenEnclave, Generation
from provenance.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DYNAMIC: Final = struct.Struct("<QQ")
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
# DT_STRTAB, DT_SYMTAB, DT_RELA, DT_GNU_HASH, DT_VERSYM
_DYNAMIC_ADDRESSES: Final = frozenset({5, 6, 7, 0x6FFFFEF5, 0x6FFFFFF0})
_DT_PLTGOT: Final = 3
_WORD: Final = 1 << 64
_LONGEST_NAME: Final = 255  # bytes of a file's name
WITH_TLS: Final = 72  # bytes of a record of Edgeless RT's `_module_info`; two of them: since 0.5


class MissingModule(UsageError):
    """A file that is linked into an enclave is not beside it, or not given.

    Cure: put the shared object that the enclave needs into the enclave's folder, as its loader wants it; an
    EGo program needs the `ego-enclave` of the EGo release that signed it (`--runtime`).
    """

    code = "RVP-5031"


def place_images(images: tuple[LoadedImage, ...]) -> int:
    """Put the images one after the other; return where the last one ends."""
    at = 0
    for image in images:
        image.base = at
        at += image.size
    return at


def is_linked(image: LoadedImage) -> bool:
    """Tell whether an enclave needs a shared object."""
    return any(tag == _DT_NEEDED for tag, _ in _dynamic(image))


def needed_name(image: LoadedImage) -> str:
    """Name the shared object that an enclave is linked against; empty: none.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    needed: list[int] = []
    strings = 0
    for tag, value in _dynamic(image):
        if tag in {_DT_RPATH, _DT_RUNPATH}:
            image.bad("DT_RPATH, DT_RUNPATH: an enclave must not have them", image.elf.phoff)
        if tag == _DT_STRTAB:
            strings = value
        if tag == _DT_NEEDED:
            needed.append(value)
    if not needed:
        return ""
    if len(needed) > 1:
        image.bad(f"DT_NEEDED: {len(needed)} modules, one can be linked", image.elf.phoff)
    if strings + needed[0] >= image.size:
        image.bad(f"DT_NEEDED: its name at {strings + needed[0]:#x} lies outside the image", image.elf.phoff)
    raw = image.read(strings + needed[0], min(PAGE, image.size - strings - needed[0]))
    name = raw.partition(b"\0")[0].replace(b"\\", b"/").rpartition(b"/")[2].decode("utf-8", "replace")
    if name in {"", ".", ".."} or len(name.encode()) > _LONGEST_NAME:
        image.bad(f"DT_NEEDED: {name[:80]!r} names no file", image.elf.phoff)
    return name


def needed_module(path: Path, image: LoadedImage) -> LoadedImage | None:
    """Load the shared object that an enclave is linked against, from its own folder.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadElf: RVP-5001.
    """
    name = needed_name(image)
    if not name:
        return None
    module = path.parent / name
    if not module.is_file():
        raise MissingModule(
            f"the enclave needs {name}",
            place=str(path),
            hint=f"put {name} into the enclave's folder: it is part of the enclave and of its measurement",
        )
    return LoadedImage(Elf(map_file(module), name=str(module)))


def _dynamic(image: LoadedImage) -> list[tuple[int, int]]:
    section = image.section(".dynamic")
    if section is None or not section.size:
        return []
    raw = image.elf.bytes_at(section.offset, section.size // _DYNAMIC.size * _DYNAMIC.size, ".dynamic")
    return list(_DYNAMIC.iter_unpack(raw))


def link_images(images: tuple[LoadedImage, ...], generation: Generation) -> bytes:
    """Make the relocation table of all images, padded to whole pages.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    tables = [one.relocations(generation) for one in images]
    main, *modules = images
    parts = [tables[0]]
    if modules:
        _resolve(main, tables[0], tuple(modules))
        for module, table in zip(modules, tables[1:], strict=True):
            _resolve(module, table, (main,))
            parts += [table, _dynamic_relocations(module, generation)]
    raw = b"".join(one.astype("<i8").tobytes() for one in parts)
    return raw + bytes(-len(raw) % PAGE)


def _resolve(image: LoadedImage, table: npt.NDArray[np.int64], others: tuple[LoadedImage, ...]) -> None:
    import numpy as np

    kinds = table[:, 1] & 0xFFFFFFFF
    table[:, 0] += image.base
    table[kinds == R_RELATIVE, 2] += image.base
    for row in np.flatnonzero(np.isin(kinds, (R_64, R_GLOB_DAT, R_JUMP_SLOT))):
        index = int(table[row, 1]) >> 32 & 0xFFFFFFFF
        name, symbol = image.symbol_at(index)
        table[row, 1] = _signed(index << 32 | R_RELATIVE)
        for where in (image, *others):
            found = where.symbols.get(name)
            if found is not None and found.is_defined:
                addend = int(table[row, 2]) if kinds[row] == R_64 else 0
                table[row, 2] = _signed(where.base + found.value + addend)
                break
        else:
            if not symbol.is_weak:
                raise BadOpenEnclave(f"the symbol {name} is defined nowhere", place=image.elf.name)


def _dynamic_relocations(module: LoadedImage, generation: Generation) -> npt.NDArray[np.int64]:
    import numpy as np

    section = module.section(".dynamic")
    rows: list[tuple[int, int, int]] = []
    wanted = _DYNAMIC_ADDRESSES | ({_DT_PLTGOT} if generation.relocates_got else set())
    for index, (tag, value) in enumerate(_dynamic(module)):
        if tag == 0:
            break
        if tag in wanted and section is not None:
            at = section.address + index * _DYNAMIC.size + 8 + module.base
            rows.append((_signed(at), R_RELATIVE, _signed(value + module.base)))
    if not rows:
        raise BadOpenEnclave("a module without a dynamic section", place=module.elf.name)
    return np.array(rows, np.int64)


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >> 63 else value


def describe_module(
    main: LoadedImage, module: LoadedImage, index: int, payload_bytes: int, generation: Generation
) -> None:
    """Tell the enclave where a module lies, as the loader does: in its `_module_info`.

    Open Enclave has one record of five numbers; Edgeless RT added the payload's size, later its thread-local
    storage, later a second record.

    Raises:
        BadOpenEnclave: RVP-5030, when the enclave cannot have modules.
    """
    symbol = main.symbols.get("_module_info")
    if symbol is None:
        raise BadOpenEnclave("no symbol _module_info: it cannot have a module", place=main.elf.name)
    record = min(symbol.size, WITH_TLS)
    numbers = [module.base]
    for name in (".init_array", ".fini_array"):
        section = next((one for one in module.elf.sections if one.name == name), None)
        numbers += [module.base + section.address, section.size] if section else [0, 0]
    numbers.append(payload_bytes)
    (address, size, _), _ = module.tls_sizes(generation)
    tls = module.tls_bytes(generation)
    if record == WITH_TLS:
        reserved = main.symbols.get("ert_reserved_tls")
        if tls > (reserved.size if reserved else 0):
            raise BadOpenEnclave(
                f"needs {tls} bytes of thread-local storage, {main.elf.name} reserves less",
                place=module.elf.name,
            )
        numbers += [address, size, tls] if size else []
    content = struct.pack(f"<{len(numbers)}Q", *(one % _WORD for one in numbers))[:record]
    main.write(symbol.value + index * record, content, "_module_info")
