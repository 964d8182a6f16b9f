"""Measure an SDK-style enclave file: every metadata record, its SIGSTRUCT, and whether they agree."""

from __future__ import annotations

from pathlib import Path

from pipeline.measure.measured import Measured, MeasureOptions, hex_check, subject_of
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave_image import EnclaveImage
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.log import write_log
from pipeline.measure.sgx.sdk_layout import laid_out
from pipeline.measure.sgx.sdk_metadata import Record, read_metadata
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructMismatch
from provenance.claims import POLICY_INPUTS, Check, ClaimValue, Measurement, Subject
from provenance.measurement_log import MeasurementLog


def measure_signed_elf(path: Path, options: MeasureOptions) -> Measured:
    """Measure an enclave file with SDK metadata.

    Raises:
        BadElf: RVP-5001. BadSgxMetadata: RVP-5002.

    Cost: one hash of the enclave's stream for each metadata record, no copies of the file.
    """
    name = options.name or path.name
    data = map_file(path)
    subject = subject_of(data, name)
    elf = Elf(data, name=str(path))
    records = read_metadata(elf)
    values: list[bytes] = []
    logs: list[MeasurementLog] = []
    for record in records:
        with laid_out(elf, record) as image:
            values.append(mrenclave(image))
            if options.with_log and not logs:
                logs.append(write_log(image, values[0]))
    signed = _sigstruct_of(records[0], options, str(path))
    checks = [*sigstruct_checks(signed, values[0])]
    checks.append(_agreement(records, values))
    return Measured(
        measurements=(enclave_measurement(subject, values[0], signed, tuple(checks)),), logs=tuple(logs)
    )


def measure_elf_image(elf: Elf, record: Record) -> bytes:
    """Compute MRENCLAVE of one record of an enclave file."""
    with laid_out(elf, record) as image:
        return mrenclave(image)


def image_log(image: EnclaveImage) -> MeasurementLog:
    """Compute MRENCLAVE of an image that can be iterated twice, with its log."""
    return write_log(image, mrenclave(image))


def _sigstruct_of(record: Record, options: MeasureOptions, place: str) -> Sigstruct:
    if options.sigstruct is not None:
        return Sigstruct(options.sigstruct, name=options.sigstruct_name)
    return Sigstruct(record.sigstruct, name=place)


def sigstruct_checks(signed: Sigstruct, value: bytes | None) -> tuple[Check, ...]:
    """Check a SIGSTRUCT, and that it signs this MRENCLAVE (when one could be computed)."""
    if signed.is_empty:
        return (
            Check(
                id="signature",
                status="skipped",
                expected="a SIGSTRUCT",
                got="not signed",
                hint="its owner signs it with `rvp sgx sign`, or gives a SIGSTRUCT to graft",
            ),
        )
    if value is None:
        same = Check(
            id="mrenclave-equals-sigstruct",
            status="skipped",
            expected=signed.mrenclave.hex(),
            got="no enclave at hand to compute it from",
        )
    else:
        same = hex_check(
            "mrenclave-equals-sigstruct",
            expected=signed.mrenclave,
            got=value,
            source="ENCLAVEHASH of the SIGSTRUCT",
            hint="the enclave is not the one that was signed",
            code=SigstructMismatch.code,
        )
    return (*signed.checks(), same)


def enclave_measurement(
    subject: Subject, value: bytes, signed: Sigstruct | None, checks: tuple[Check, ...]
) -> Measurement:
    """Write what was found in the names of design section 5."""
    claims: dict[str, ClaimValue] = {"mrenclave": value.hex()}
    if signed is not None and not signed.is_empty:
        claims |= signed.claims()
    return Measurement(
        tee="sgx", subject=subject, claims=claims, policy_inputs=POLICY_INPUTS["sgx"], checks=checks
    )


def _agreement(records: tuple[Record, ...], values: list[bytes]) -> Check:
    """Check that every metadata record has the same SIGSTRUCT and gives the same MRENCLAVE."""
    versions = ", ".join(record.version for record in records)
    for record, value in zip(records, values, strict=True):
        if value != values[0]:
            return Check(
                id="metadata-records-agree",
                status="failed",
                expected=f"{values[0].hex()} (record {records[0].version})",
                got=f"{value.hex()} (record {record.version})",
                hint="loaders of different generations would build different enclaves of this file",
                code=SigstructMismatch.code,
            )
        if record.sigstruct != records[0].sigstruct:
            return Check(
                id="metadata-records-agree",
                status="failed",
                expected=f"the SIGSTRUCT of record {records[0].version}",
                got=f"another one in record {record.version}",
                code=SigstructMismatch.code,
            )
    return Check(
        id="metadata-records-agree", status="passed", expected="one value", got=f"records {versions}"
    )
