"""Lay out an Open Enclave file for its owner's signature, as `oesign` does: properties, fields, the file.

The signed file is the linker's with the merged properties and the SIGSTRUCT in `.oeinfo`; what the loader
fills in stays as the linker left it. Equal inputs give equal bytes.

Source: Open Enclave, `oesign.c` and `sgxsign.c`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import BadElf, Elf, map_file
from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.open_enclave.config import BadOpenEnclaveConfig, merge, read_conf
from pipeline.measure.sgx.open_enclave.enclave import (
    Parts,
    generations_of,
    guessed,
    lay_out_as,
)
from pipeline.measure.sgx.open_enclave.image import LoadedImage
from pipeline.measure.sgx.open_enclave.properties import (
    CAPTURE_PF_GP,
    DEBUG,
    KSS,
    MODE64BIT,
    SECTION,
    Generation,
    Properties,
    read_properties,
)
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, SigstructFields, check_fields
from pipeline.measure.sgx.unsigned import Unsigned

_XFRM: Final = 3
_MISC_MASK: Final = 0xFFFFFFFF
_EXINFO: Final = 1


def is_open_enclave(path: Path) -> bool:
    """Tell whether a file is an ELF file with `.oeinfo`.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        return Elf(map_file(path)).section(SECTION) is not None
    except BadElf:
        return False


def lay_out_unsigned_open_enclave(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out an Open Enclave file for signing; one that is signed already can be signed again.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadOpenEnclaveConfig: RVP-5032. BadElf: RVP-5001.
    """
    if options.config is None:
        raise BadOpenEnclaveConfig(
            "an Open Enclave file is laid out by its .conf", place=str(path), hint="give --config FILE.conf"
        )
    conf = read_conf(options.config, name=options.config_name)
    main = Elf(map_file(path), name=str(path))
    before = own_properties(main)
    parts = Parts(path=path, main=main, properties=before)
    candidates = generations_of(parts, options.generation)
    generation = candidates[0]
    properties = msgspec.structs.replace(
        merge(before, conf, generation, name=options.config_name), sigstruct=bytes(SIGSTRUCT_SIZE)
    )
    laid_out = lay_out_as(msgspec.structs.replace(parts, properties=properties), generation)
    enclave = guessed(laid_out, candidates)
    fields = fields_of(properties, generation, mrenclave(enclave.image))

    def write(signed: Sigstruct | None) -> bytes:
        return with_properties(main, properties, fields, signed)

    if any(before.sigstruct):
        enclave = msgspec.structs.replace(enclave, sigstruct=Sigstruct(before.sigstruct, name=str(path)))
    return Unsigned(enclave=enclave, fields=fields, write=write)


def own_properties(elf: Elf) -> Properties:
    """Read the properties that the linker left; where there are none, the signer begins with defaults.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    image = LoadedImage(elf)
    section, data = image.info_section, image.info_bytes(PAGE)
    if not any(data[:4]) and section.size in {1960, 1952, 1920}:
        zero = Properties(
            size=section.size, heap_pages=0, stack_pages=0, threads=0, product_id=0, security_version=0
        )
        return msgspec.structs.replace(zero, attributes=MODE64BIT, end_marker=0)
    return read_properties(data, place=f"{elf.name}: byte {section.offset:#x}")


def fields_of(properties: Properties, generation: Generation, value: bytes) -> SigstructFields:
    """State what the owner signs, with the masks of a release's signer."""
    attributes = properties.attributes
    flags_mask = generation.flags_mask
    if attributes & DEBUG:
        flags_mask &= ~DEBUG
    has_kss = bool(attributes & KSS)
    if has_kss:
        flags_mask |= KSS
    capture = properties.flags & CAPTURE_PF_GP and not generation.flags_mask & KSS
    return SigstructFields(
        mrenclave=value,
        isvprodid=properties.product_id,
        isvsvn=properties.security_version,
        attributes=(attributes, _XFRM),
        attributes_mask=(flags_mask, generation.xfrm_mask),
        miscselect=0,
        miscselect_mask=_MISC_MASK & ~_EXINFO if capture else _MISC_MASK,
        isvextprodid=_id(properties.extended_product_id, generation) if has_kss else bytes(16),
        isvfamilyid=_id(properties.family_id, generation) if has_kss else bytes(16),
    )


def _id(value: bytes, generation: Generation) -> bytes:
    """Give an id as a release's signer copies it: early ones copied its first byte alone."""
    return value[: generation.id_bytes].ljust(16, b"\0")


def with_properties(
    elf: Elf, properties: Properties, fields: SigstructFields, signed: Sigstruct | None
) -> bytes:
    """Write the file with its properties, and the SIGSTRUCT when there is one.

    Raises:
        SigstructNotVerified: RVP-5012. SigstructMismatch: RVP-5005.
    """
    raw = bytes(SIGSTRUCT_SIZE)
    if signed is not None:
        check_fields(signed, fields)
        raw = signed.raw
    at = LoadedImage(elf).info_section.offset
    content = msgspec.structs.replace(properties, sigstruct=raw).encode()
    return b"".join((elf.data[:at], content, elf.data[at + len(content) :]))
