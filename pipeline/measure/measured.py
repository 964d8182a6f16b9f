"""What every measurer takes and gives, whatever it measures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.machine import Machine
from provenance.claims import Check, Measurement, Subject
from provenance.errors import MeasurementMismatch, SignatureFailure, UsageError
from provenance.measurement_log import MeasurementLog


class CheckFailed(MeasurementMismatch):
    """A check of a measurement failed: the file contradicts itself, or its signature contradicts it.

    The message names the check with what was expected and got. Cure: the file is damaged, was changed
    after it was signed, or carries the signature of another one; build or fetch it again.
    """

    code = "RVP-5010"


class SignatureCheckFailed(SignatureFailure):
    """The signature inside a measured file, or beside it, does not verify.

    The message names the check: `signature` (RSA), `q1q2` (the quotients that EINIT needs), `header`,
    `reserved` bytes, `modulus`, `signature-in-range`; of an ID block `id-block-signature`, `id-key-
    signature`.
    Cure: what was signed was changed after it was signed, or is not it; take it from its owner again.
    """

    code = "RVP-5011"


class OptionNotTaken(UsageError):
    """An option was given that the file's format has no use for; none is ignored in silence.

    Cure: leave it out, or check that the file is the one that was meant: the message says what it was taken
    for.
    """

    code = "RVP-5014"


class OnlyStated(UsageError):
    """A file says which value it has, and there is nothing to compute that value from.

    A SIGSTRUCT states an MRENCLAVE. `rvp measure` shows it as such; it is not verified, built or signed as
    the measurement of an enclave. Cure: give the enclave, and the SIGSTRUCT with `--sigstruct` or with the
    key `sigstruct` of the spec.
    """

    code = "RVP-5013"


# Compares the computed MRENCLAVE with the one that was signed.
MRENCLAVE_CHECK: Final = "mrenclave-equals-sigstruct"
# The checks of a SIGSTRUCT in itself: whoever signed what.
SIGNATURE_CHECKS: Final = frozenset(
    {"header", "reserved", "modulus", "signature-in-range", "signature", "q1q2"}
)
# Those of an ID block, likewise.
ID_BLOCK_CHECKS: Final = frozenset({"id-block-signature", "id-key-signature"})


class MeasureOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurer may need beside the file.

    Attributes:
        name: what to call the subject; default: the file's name.
        sigstruct: a SIGSTRUCT that is not inside the enclave file (for SGXS, for a detached signature).
        sigstruct_name: where that came from, for messages.
        config: the configuration of an enclave that is not laid out yet.
        config_name: where that came from, for messages.
        manifest: of a Gramine enclave.
        libpal: the runtime that is part of an enclave: Gramine's libpal.so, EGo's ego-enclave.
        generation: of the tool whose layout is meant (`2.26` of Intel's SDK, `1.9` of Gramine); empty: what
            the file says, else the newest.
        companions: take what lies beside the file by custom (FILE.sig); a build names its inputs instead.
        inside: path of the enclave in a container image; empty: every enclave of it.
        image: which image of an archive with several: its name, platform, or the beginning of a digest.
        machine: what starts a firmware, and what with.
        with_log: also write the measurement log.
    """

    name: str = ""
    sigstruct: bytes | None = None
    sigstruct_name: str = ""
    config: bytes | None = None
    config_name: str = ""
    manifest: Path | None = None
    libpal: Path | None = None
    generation: str = ""
    companions: bool = True
    inside: str = ""
    image: str = ""
    machine: Machine | None = None
    with_log: bool = True


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements, and the logs that fold to them."""

    measurements: tuple[Measurement, ...]
    logs: tuple[MeasurementLog, ...] = ()


def subject_of(data: bytes | memoryview, name: str) -> Subject:
    """Name a file by its digest."""
    return Subject(name=name, digest={"sha256": hashlib.sha256(data).hexdigest()})


def hex_check(check_id: str, *, expected: bytes, got: bytes, source: str, hint: str, code: str) -> Check:
    """Compare two digests."""
    if expected == got:
        return Check(id=check_id, status="passed", expected=expected.hex(), got=got.hex(), source=source)
    return Check(
        id=check_id,
        status="failed",
        expected=expected.hex(),
        got=got.hex(),
        source=source,
        hint=hint,
        code=code,
    )


def require_passed(measurements: tuple[Measurement, ...]) -> None:
    """Raise when a check of a measurement failed, or when there is no measurement.

    Raises:
        OnlyStated: RVP-5013, when nothing was measured.
        SignatureCheckFailed: RVP-5011, when a signature does not verify. CheckFailed: RVP-5010, for the first
            other check that failed. The message counts the others.
    """
    if not measurements:
        raise OnlyStated("nothing was measured")
    failed = [(one, check) for one in measurements for check in one.checks if check.status == "failed"]
    if not failed:
        return
    of_signatures = SIGNATURE_CHECKS | ID_BLOCK_CHECKS
    failed.sort(key=lambda pair: pair[1].id not in of_signatures)
    measurement, check = failed[0]
    kind = SignatureCheckFailed if check.id in of_signatures else CheckFailed
    more = f" ({len(failed) - 1} more failed)" if len(failed) > 1 else ""
    raise kind(
        f"check {check.id} failed: expected {check.expected}, got {check.got}{more}",
        place=measurement.subject.name,
        hint=check.hint,
    )


def require_computed(measurements: tuple[Measurement, ...]) -> None:
    """Raise when a check failed, or when a value was read from a file and not computed.

    Raises:
        OnlyStated: RVP-5013. As `require_passed`.
    """
    require_passed(measurements)
    for one in measurements:
        for check in one.checks:
            if check.id == MRENCLAVE_CHECK and check.status == "skipped":
                raise OnlyStated(
                    "a SIGSTRUCT states an MRENCLAVE, and no enclave is at hand to compute it from",
                    place=one.subject.name,
                    hint="give the enclave with --sigstruct; rvp measure checks a SIGSTRUCT in itself",
                )


def warnings_of(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """Write the warnings of measurements in lines, each once: what a signed value does not say."""
    lines = [
        f"{one.subject.name}: {check.id}: {check.got}"
        for one in measurements
        for check in one.checks
        if check.status == "warning"
    ]
    return tuple(dict.fromkeys(lines))
