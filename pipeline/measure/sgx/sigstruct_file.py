"""Measure a SIGSTRUCT file on its own: what its owner states, and whether the signature is right."""

from __future__ import annotations

from pathlib import Path

from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.sgx.enclave_measurement import enclave_measurement, sigstruct_checks
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct
from provenance.strict import read_file


def companion(path: Path) -> Sigstruct | None:
    """Read the SIGSTRUCT that lies beside an enclave: `FILE.sig`, or FILE with the suffix `.sig`.

    Raises:
        BadSigstruct: RVP-5004, for a file of that name that is none.
    """
    for beside in (path.with_name(f"{path.name}.sig"), path.with_suffix(".sig")):
        if beside != path and beside.is_file():
            return Sigstruct(read_file(beside, limit_bytes=4 * SIGSTRUCT_SIZE), name=str(beside))
    return None


def measure_sigstruct(path: Path, options: MeasureOptions) -> Measured:
    """Read the values that a SIGSTRUCT signs; MRENCLAVE is stated by it, not computed.

    Raises:
        BadSigstruct: RVP-5004.
    """
    raw = read_file(path, limit_bytes=4 * SIGSTRUCT_SIZE)
    signed = Sigstruct(raw, name=str(path))
    subject = subject_of(raw, options.name or path.name)
    checks = sigstruct_checks(signed, None)
    return Measured(measurements=(enclave_measurement(subject, signed.mrenclave, signed, checks),))
