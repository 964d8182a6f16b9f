"""Measure an SDK-style enclave file: every metadata record, its SIGSTRUCT, and whether they agree."""

from __future__ import annotations

from pathlib import Path

from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave_measurement import enclave_measurement, sigstruct_checks
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.log import write_log
from pipeline.measure.sgx.sdk_layout import laid_out
from pipeline.measure.sgx.sdk_metadata import Record, read_metadata
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructMismatch
from provenance.claims import Check
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


def _sigstruct_of(record: Record, options: MeasureOptions, place: str) -> Sigstruct:
    if options.sigstruct is not None:
        return Sigstruct(options.sigstruct, name=options.sigstruct_name)
    return Sigstruct(record.sigstruct, name=place)


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
