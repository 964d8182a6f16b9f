"""What is said of an enclave, whatever file it came from: claims, and the checks of its SIGSTRUCT."""

from __future__ import annotations

from typing import Final

from pipeline.measure.measured import MRENCLAVE_CHECK, hex_check
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructMismatch
from provenance.claims import Check, ClaimValue, Measurement, Subject

# What the host chooses of every enclave with KSS; SIGSTRUCT has no field for them.
_ALWAYS_CHOSEN: Final = ("configid", "configsvn")


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
            id=MRENCLAVE_CHECK,
            status="skipped",
            expected=signed.mrenclave.hex(),
            got="no enclave at hand to compute it from",
        )
    else:
        same = hex_check(
            MRENCLAVE_CHECK,
            expected=signed.mrenclave,
            got=value,
            source="ENCLAVEHASH of the SIGSTRUCT",
            hint="not the enclave that was signed; why: rvp explain FILE, or rvp explain SIGNED_FILE FILE",
            code=SigstructMismatch.code,
        )
    return (*signed.checks(), same)


def enclave_measurement(
    subject: Subject,
    value: bytes,
    signed: Sigstruct | None,
    checks: tuple[Check, ...],
    policy_inputs: tuple[str, ...] = (),
) -> Measurement:
    """Write what was found in the names of design section 5."""
    claims: dict[str, ClaimValue] = {"mrenclave": value.hex()}
    if signed is not None and not signed.is_empty:
        claims |= signed.claims()
    chosen = (*_ALWAYS_CHOSEN, *policy_inputs)
    if signed is not None and not signed.is_empty:
        chosen += signed.left_to_the_host
    return Measurement(tee="sgx", subject=subject, claims=claims, policy_inputs=chosen, checks=checks)
