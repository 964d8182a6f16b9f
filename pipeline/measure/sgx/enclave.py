"""An enclave as a file describes it, whatever the file's format; and what is measured of it.

Every SGX format is one function `lay_out(path, options) -> tuple[Enclave, ...]` and one line in the table of
formats. What comes after is the same for all: MRENCLAVE, the checks of the SIGSTRUCT, the log, the claims.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import msgspec

from pipeline.measure.beside import WORTH_A_THREAD, Beside, digest_of
from pipeline.measure.measured import Measured, MeasureOptions
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave_image import EnclaveImage
from pipeline.measure.sgx.enclave_measurement import enclave_measurement, sigstruct_checks
from pipeline.measure.sgx.hashing import mrenclaves, require_bounded
from pipeline.measure.sgx.log import write_log
from pipeline.measure.sgx.sigstruct import (
    SIGSTRUCT_SIZE,
    Sigstruct,
    SigstructMismatch,
    SigstructNotVerified,
)
from provenance.claims import Check, Subject
from provenance.measurement_log import MeasurementLog


class MappedElf(msgspec.Struct, frozen=True, kw_only=True):
    """An ELF file whose segments lie in the enclave.

    Attributes:
        elf: the file.
        base: the enclave's address of virtual address 0.
    """

    elf: Elf
    base: int = 0


class Enclave(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a file describes an enclave; an SDK file has one for each metadata record.

    Attributes:
        layout: whose rules laid it out, in words: `SDK metadata 3.3`, `SGXS`.
        image: its pages.
        sigstruct: what the file carries, or what lies beside it by its format's custom; None: not signed.
        elves: whose segments are in it: for labels.
        facts: the parameters of the layout in the words of its configuration, to be read and compared.
        checks: of the format itself.
        policy_inputs: what the host chooses beside CONFIGID and CONFIGSVN.
        by_config: it was laid out by the configuration that was given; what is laid out already is not.
    """

    layout: str
    image: EnclaveImage
    sigstruct: Sigstruct | None = None
    elves: tuple[MappedElf, ...] = ()
    facts: dict[str, str | int] = {}
    checks: tuple[Check, ...] = ()
    policy_inputs: tuple[str, ...] = ()
    by_config: bool = False


def lay_out(path: Path, options: MeasureOptions | None = None) -> tuple[Enclave, ...]:
    """Lay out the enclave of a file, whatever its format.

    Raises:
        UnknownFormat: RVP-5000, for a file that holds no enclave; and what its reader raises (RVP-50nn).
        OptionNotTaken: RVP-5014, for an option that the format has no use for.
        EnclaveTooLarge: RVP-5070.
    """
    from pipeline.measure.formats import UnknownFormat, detect, require_taken, split_inside

    found = detect(path, tee="sgx", options=options)
    if not found.lay_out:
        raise UnknownFormat(
            f"this has no pages: {found.title}", place=str(path), hint="name the enclave; rvp sgx show FILE"
        )
    require_taken(found, options or MeasureOptions(), path)
    module, _, function = found.lay_out.partition(":")
    reader = cast(
        "Callable[[Path, MeasureOptions], tuple[Enclave, ...]]",
        getattr(importlib.import_module(module), function),
    )
    options = options or MeasureOptions()
    image, inside = split_inside(path)
    if inside:
        options = msgspec.structs.replace(options, inside=inside)
    enclaves = reader(image, options)
    for one in enclaves:
        require_bounded(one.image, str(path))
    return enclaves


def measure_enclave(path: Path, options: MeasureOptions) -> Measured:
    """Measure a file that holds an enclave.

    Raises:
        UnknownFormat: RVP-5000. BadSigstruct: RVP-5004. SigstructNotVerified: RVP-5012, for an empty one that
            was given; and what the format's reader raises (RVP-50nn).

    Cost: one hash of the enclave's stream (what several descriptions have in common at the beginning is
        hashed once); beside it, in threads, one of the file and for the log one of the measured content.
    """
    in_a_thread = len(map_file(path)) > WORTH_A_THREAD
    with Beside(digest_of(path), in_a_thread=in_a_thread) as digest:
        enclaves = lay_out(path, options)
        first = enclaves[0]
        with Beside(_log_of(first, is_wanted=options.with_log), in_a_thread=in_a_thread) as log:
            if first.image.is_file and len(enclaves) == 1:
                values: tuple[bytes, ...] = (digest.value(),)
            else:
                values = mrenclaves([one.image for one in enclaves])
            logs = tuple(msgspec.structs.replace(one, value=values[0].hex()) for one in log.value())
        subject = Subject(name=options.name or path.name, digest={"sha256": digest.value().hex()})
    signed = first.sigstruct or Sigstruct(bytes(SIGSTRUCT_SIZE))
    if options.sigstruct is not None:
        signed = Sigstruct(options.sigstruct, name=options.sigstruct_name)
        if signed.is_empty:
            raise SigstructNotVerified("the SIGSTRUCT that was given is empty", place=options.sigstruct_name)
    checks = [*sigstruct_checks(signed, values[0])]
    if len(enclaves) > 1:
        checks.append(_agreement(enclaves, values))
    if options.config is not None and not (first.by_config and signed.is_empty):
        from pipeline.measure.sgx.config_check import config_check

        checks.append(config_check(path, options, first, values[0], signed))
    checks += first.checks
    measurement = msgspec.structs.replace(
        enclave_measurement(subject, values[0], signed, tuple(checks), first.policy_inputs),
        layout=_layouts(enclaves),
    )
    return Measured(measurements=(measurement,), logs=logs)


def _log_of(one: Enclave, *, is_wanted: bool) -> Generator[None, None, tuple[MeasurementLog, ...]]:
    """Write the log; its value is not known yet."""
    yield
    return (write_log(one.image, b"", elves=one.elves),) if is_wanted else ()


def _agreement(enclaves: tuple[Enclave, ...], values: tuple[bytes, ...]) -> Check:
    """Check that every description has the same SIGSTRUCT and gives the same MRENCLAVE."""
    first = enclaves[0]
    for one, value in zip(enclaves, values, strict=True):
        if value != values[0]:
            return Check(
                id="metadata-records-agree",
                status="failed",
                expected=f"{values[0].hex()} ({first.layout})",
                got=f"{value.hex()} ({one.layout})",
                hint="loaders of different generations would build different enclaves of this file",
                code=SigstructMismatch.code,
            )
        if (one.sigstruct and one.sigstruct.raw) != (first.sigstruct and first.sigstruct.raw):
            return Check(
                id="metadata-records-agree",
                status="failed",
                expected=f"the SIGSTRUCT of {first.layout}",
                got=f"another one in {one.layout}",
                code=SigstructMismatch.code,
            )
    return Check(
        id="metadata-records-agree",
        status="passed",
        expected="one value",
        got=_layouts(enclaves),
    )


def _layouts(enclaves: tuple[Enclave, ...]) -> str:
    """Name all layouts; what they have in common is said once: `SDK metadata 2.4, 2.1, 1.4`."""
    first, *others = (one.layout for one in enclaves)
    head = first.rpartition(" ")[0]
    same = head and all(one.rpartition(" ")[0] == head for one in others)
    return ", ".join((first, *(one.rpartition(" ")[2] if same else one for one in others)))
