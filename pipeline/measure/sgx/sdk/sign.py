"""From the shared object that the linker wrote and `Enclave.config.xml` to the enclave of Intel's SDK.

What its signing tool does, in its order: read the configuration; lay out the memory after the segments; write
the metadata; measure; sign; put the metadata into the note. The code of the file is not touched: signing it
again, with another configuration, lays it out anew.

Source: Intel SGX SDK, `sign_tool`; docs/reference/sgx-sdk.md states what was compared with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import BadElf, Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.freestanding.pack import MARKER
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.sdk.config import SdkConfig, read_sdk_config
from pipeline.measure.sgx.sdk.generation import (
    COMPARED,
    GENERATIONS,
    PUBLISHED,
    Generation,
    fitted,
    generation,
    generation_of,
)
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import NOTE_SECTION, read_record
from pipeline.measure.sgx.sdk.object import NotAnSdkEnclave, SdkObject, read_object
from pipeline.measure.sgx.sdk.plan import Plan, plan
from pipeline.measure.sgx.sdk.record import Metadata, write_metadata
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, check_fields
from pipeline.measure.sgx.unsigned import Unsigned
from provenance.claims import Check

_FIRST_STORED: Final = (2, 9)  # since then g_global_data begins with the SDK's version


def is_sdk_enclave(path: Path) -> bool:
    """Tell whether a file was linked with Intel's SDK, signed or not."""
    try:
        elf = Elf(map_file(path), name=str(path))
        if elf.section(NOTE_SECTION) is None:
            return False
        found = elf.symbol("g_global_data")
        if found is None:
            return False
        at = elf.file_offset(found.value, len(MARKER))
        return bytes(elf.data[at : at + len(MARKER)]) != MARKER
    except BadElf:
        return False


def candidates(elf: Elf) -> tuple[str, ...]:
    """Name the releases that may have signed a file: the one that it tells, else those of its g_global_data.

    Raises:
        NotAnSdkEnclave: RVP-5027. UnknownSdk: RVP-5025. BadElf: RVP-5001.
    """
    file = read_object(elf)
    if _stores_version(file):
        return (generation_of(file.version).name,)
    return _of_size(file) or (_generation(file, "").name,)


def _of_size(file: SdkObject) -> tuple[str, ...]:
    size = file.global_data_bytes
    fitting = [one for one in GENERATIONS if not one.stores_version]
    return tuple(one.name for one in reversed(fitting) if fitted(one, size).global_data_bytes == size)


def lay_out_object(elf: Elf, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out an unsigned enclave: what the signing tool measures, and what it stores for older loaders.

    Raises:
        NotAnSdkEnclave: RVP-5027. UnknownSdk: RVP-5025. BadSdkConfig: RVP-5026. BadElf: RVP-5001.
    """
    laid_out, metadata = _lay_out(elf, options)
    records = [metadata.main, *(one for one in metadata.stored if one != metadata.main)]
    return tuple(_enclave(laid_out, record) for record in records)


def lay_out_sdk_unsigned(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out an enclave of Intel's SDK for signing; one that is signed is laid out anew.

    Raises:
        NotAnSdkEnclave: RVP-5027. UnknownSdk: RVP-5025. BadSdkConfig: RVP-5026. BadElf: RVP-5001.
    """
    elf = Elf(map_file(path), name=str(path))
    laid_out, metadata = _lay_out(elf, options)
    enclave = _enclave(laid_out, metadata.main)
    fields = laid_out.config.fields(mrenclave(enclave.image))
    at = laid_out.object.block[0]

    def write(signed: Sigstruct | None) -> bytes:
        if signed is not None:
            check_fields(signed, fields)
        block = metadata.block(bytes(SIGSTRUCT_SIZE) if signed is None else signed.raw)
        return b"".join((elf.data[:at], block, elf.data[at + len(block) :]))

    return Unsigned(enclave=enclave, fields=fields, write=write)


def _lay_out(elf: Elf, options: MeasureOptions) -> tuple[Plan, Metadata]:
    if options.config is None:
        raise NotAnSdkEnclave(
            "an enclave of Intel's SDK is laid out by its configuration, also when it is signed again",
            place=elf.name,
            hint="give --config Enclave.config.xml",
        )
    file = read_object(elf)
    rules = _generation(file, options.generation)
    laid_out = plan(file, read_sdk_config(options.config, name=options.config_name, generation=rules))
    return laid_out, write_metadata(laid_out)


def _generation(file: SdkObject, wished: str) -> Generation:
    """Choose the rules: those wished for, else those of the SDK that the file was linked with."""
    if wished:
        return fitted(generation(wished), file.global_data_bytes)
    if _stores_version(file):
        return fitted(generation_of(file.version), file.global_data_bytes)
    size, known = file.global_data_bytes, _of_size(file)[::-1]
    raise NotAnSdkEnclave(
        "the enclave does not say which SDK it was linked with (SDK 2.9.1 and later do)",
        place=file.elf.name,
        hint=f"its g_global_data has {size} bytes, as in SDK {', '.join(known)}: give --generation"
        if known
        else "give the SDK's release with --generation",
    )


def _stores_version(file: SdkObject) -> bool:
    return file.version >> 32 < 100 and (file.version >> 32, file.version >> 16 & 0xFFFF) >= _FIRST_STORED


def _enclave(laid_out: Plan, data: bytes) -> Enclave:
    config, file = laid_out.config, laid_out.object
    record = read_record(data, file.elf, file.block[0])
    base = config.elrange[0] - config.elrange[1] if config.elrange else 0
    return Enclave(
        layout=f"SDK {config.generation.name}, metadata {record.version}",
        image=enclave_image(file.elf, record),
        elves=(MappedElf(elf=file.elf, base=base),),
        facts={
            "sdk": config.generation.name,
            "metadata": record.version,
            "enclave_size": laid_out.enclave_size,
            **config.effective,
        },
        checks=(_compared(config), *_version_checks(file, config), *file.checks()),
    )


def _compared(config: SdkConfig) -> Check:
    """Say whether this generation's rules were compared with its signing tool."""
    name = config.generation.name
    tool, published = COMPARED.get(name, 0), PUBLISHED.get(name, 0)
    found = [f"{tool} files of its signing tool"] if tool else []
    found += [f"{published} published enclaves"] if published else []
    return Check(
        id="sdk-generation-proven",
        status="passed" if found else "warning",
        expected=f"the rules of SDK {name} compared with files that it signed",
        got=f"{' and '.join(found)} equal" if found else "written from its source, not compared",
        hint="" if found else "compare the result with an enclave that was signed with this SDK",
    )


def _version_checks(file: SdkObject, config: SdkConfig) -> tuple[Check, ...]:
    """Say when the rules are not those of the SDK that the file was linked with."""
    rules = config.generation
    found = []
    if _stores_version(file) or rules.stores_version:
        major, minor, revision = file.version >> 32, file.version >> 16 & 0xFFFF, file.version & 0xFFFF
        same = _stores_version(file) and rules.version[:2] == (major, minor)
        theirs = f"SDK {major}.{minor}.{revision}" if _stores_version(file) else "an SDK before 2.9.1"
        found.append(
            Check(
                id="sdk-version",
                status="passed" if same else "warning",
                expected=f"SDK {rules.name}",
                got=f"linked with {theirs}",
                hint="" if same else "sgx_sign refuses an enclave that was linked with another release",
            )
        )
    if file.global_data_bytes != rules.global_data_bytes:
        found.append(
            Check(
                id="global-data-size",
                status="warning",
                expected=f"{rules.global_data_bytes} bytes of g_global_data in SDK {rules.name}",
                got=f"{file.global_data_bytes} bytes",
                hint="the enclave was linked with another release, or with an SDK that was changed",
            )
        )
    return tuple(found)
