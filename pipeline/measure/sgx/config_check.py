"""Does this configuration give this enclave? It is laid out anew by it, and compared with the file.

What a file was laid out with is not always written in it: where several releases of a tool could have, each
is tried, and the one that agrees best is named. What a `.conf` of Open Enclave leaves out stays as the file
has it; Gramine's manifest is its own configuration, so there is nothing to compare.

Cost: the hash of the enclave once for each release that is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_TCS, EnclaveImage, Pages
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructMismatch
from pipeline.measure.sgx.sigstruct_fields import configuration_check
from pipeline.measure.sgx.unsigned import Unsigned, lay_out_unsigned
from provenance.claims import Check
from provenance.errors import RvpError

CHECK_ID: Final = "config-gives-this-enclave"


def config_check(
    path: Path, options: MeasureOptions, enclave: Enclave, value: bytes, signed: Sigstruct
) -> Check:
    """Compare an enclave with what its configuration gives.

    Args:
        path: of the enclave.
        options: the configuration; with `generation`, that release alone is tried.
        enclave: as the file describes it.
        value: its MRENCLAVE.
        signed: its SIGSTRUCT; of an empty one no fields are compared.

    Raises:
        BadSdkConfig: RVP-5026; and what else the format's reader says of a configuration that cannot be.
    """
    best: tuple[int, Unsigned, Check | None] | None = None
    refused: RvpError | None = None
    for one in _releases(path, options):
        try:
            anew = lay_out_anew(path, msgspec.structs.replace(options, generation=one))
        except RvpError as error:
            refused = refused or error
            continue
        fields = None if signed.is_empty else configuration_check(signed, anew.fields)
        same = anew.fields.mrenclave == value
        score = 2 * same + (fields is None or fields.status == "passed")
        if best is None or score > best[0]:
            best = score, anew, fields
        if score == 3:
            break
    if best is None:
        raise refused or RuntimeError("no release was tried")
    return _said(best[1], best[2], enclave, value, options)


def _said(
    anew: Unsigned, fields: Check | None, enclave: Enclave, value: bytes, options: MeasureOptions
) -> Check:
    wanted, got = [], []
    if anew.fields.mrenclave != value:
        for name, theirs, ours in _differences(anew.enclave.image, enclave.image):
            wanted.append(f"{name} {theirs}")
            got.append(f"{name} {ours}")
        wanted.append(f"mrenclave {anew.fields.mrenclave.hex()}")
        got.append(f"mrenclave {value.hex()}")
    if fields is not None and fields.status == "failed":
        wanted.append(fields.expected)
        got.append(fields.got)
    source = f"{options.config_name or 'the configuration'}, laid out by {anew.enclave.layout}"
    if not wanted:
        return Check(
            id=CHECK_ID,
            status="passed",
            expected="MRENCLAVE and the signed fields that the configuration gives",
            got=anew.enclave.layout
            if fields
            else f"{anew.enclave.layout}; nothing is signed, MRENCLAVE agrees",
            source=source,
        )
    return Check(
        id=CHECK_ID,
        status="failed",
        expected="; ".join(wanted),
        got="; ".join(got),
        source=source,
        hint="another configuration, release of the tool (--generation) or build; "
        "make the configuration what its owner signed, or let the owner sign again",
        code=SigstructMismatch.code,
    )


def _releases(path: Path, options: MeasureOptions) -> Iterator[str]:
    """Name the releases whose tool may have laid the file out; empty: as the file says."""
    from pipeline.measure.sgx.open_enclave.ego import is_ego_file
    from pipeline.measure.sgx.open_enclave.properties import GENERATIONS as OPEN_ENCLAVE
    from pipeline.measure.sgx.open_enclave.sign import is_open_enclave
    from pipeline.measure.sgx.sdk.sign import candidates, is_sdk_enclave

    if options.generation:
        yield options.generation
    elif is_sdk_enclave(path):
        yield from candidates(Elf(map_file(path), name=str(path)))
    elif is_open_enclave(path) or is_ego_file(path):
        yield from (one.name for one in OPEN_ENCLAVE)
    else:
        yield ""


def lay_out_anew(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay a file out by its configuration alone, whether it is laid out already or not."""
    from pipeline.measure.sgx.freestanding.pack import is_freestanding, lay_out_freestanding_anew

    if is_freestanding(path):
        return lay_out_freestanding_anew(path, options)
    return lay_out_unsigned(path, options)


def _differences(wanted: EnclaveImage, found: EnclaveImage) -> Iterator[tuple[str, str, str]]:
    """Name the parameters of two layouts that differ: sizes, threads, areas by their labels."""
    for name, theirs, ours in (
        ("enclave size", wanted.size_bytes, found.size_bytes),
        ("SSA frame pages", wanted.ssa_frame_size, found.ssa_frame_size),
    ):
        if theirs != ours:
            yield name, f"{theirs:#x}", f"{ours:#x}"
    first, other = _areas(wanted), _areas(found)
    same = True
    for name in sorted(first.keys() | other.keys()):
        if first.get(name, 0) != other.get(name, 0):
            same = False
            unit = "" if name == "threads" else " bytes"
            yield name, f"{first.get(name, 0):#x}{unit}", f"{other.get(name, 0):#x}{unit}"
    if same and (address := _first_other(wanted, found)) is not None:
        yield "content or access of the pages from", address, address


def _areas(image: EnclaveImage) -> dict[str, int]:
    """Sum the bytes of areas: heap, reserved memory, of threads the first one's."""
    found: dict[str, int] = {}
    for part in image.parts:
        if not isinstance(part, Pages):
            continue
        if part.flags == SECINFO_TCS:
            found["threads"] = found.get("threads", 0) + part.count
            continue
        stem, _, number = part.label.rpartition(" ")
        name = part.label
        if number.isdigit():
            name = stem if number == "0" else ""
        if name and not name.startswith("segment"):
            found[name] = found.get(name, 0) + part.count * PAGE
    return found


def _first_other(wanted: EnclaveImage, found: EnclaveImage) -> str | None:
    """Find where two layouts begin to differ."""
    for one, other in zip(wanted.parts, found.parts, strict=False):
        if type(one) is not type(other) or one != other:
            return f"{min(one.address, other.address):#x} ({one.label or 'no label'})"
    return None
