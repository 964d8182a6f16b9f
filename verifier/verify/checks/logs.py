"""Do the measurement logs in the bundle say what was agreed?

A log that an agreeing operator named is read strictly and compared with the agreed sets: its TEE, its
register and its value. Folding its events needs the content of the artifact, which a bundle does not have:
that the events give the value is seen by whoever measures the artifact (`rvp measure FILE --log LOG`).
Logs that nobody who agrees has named are told and not looked at: they may belong to a dissenter.
"""

from __future__ import annotations

from provenance.claims import CLAIMS, Check, has_shape
from provenance.errors import RvpError
from provenance.measurement_log import MeasurementLog
from provenance.predicates.core import Core
from provenance.predicates.reference_values import LogReference
from provenance.strict import read_json
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say

MAX_LOG_BYTES = 64 << 20


def logs(case: Case) -> Check:
    """Every measurement log that an agreeing operator names states a value that was agreed."""
    if case.bundle is None or case.core is None:
        return not_reached("logs")
    named = {log.digest.sha256: log for one in case.agreed for log in one.predicate.logs}
    wrong, told, strangers = [], [], 0
    for blob in {blob.digest: blob for blob in case.bundle.logs}.values():
        reference = named.get(blob.digest.hex())
        if reference is None:
            strangers += 1
            continue
        try:
            data = blob.read(limit_bytes=MAX_LOG_BYTES)
            log = read_json(data, MeasurementLog, name=reference.name, limit_bytes=MAX_LOG_BYTES)
            reason = _contradiction(log, reference, case.core)
        except RvpError as error:
            reason = str(error)
        if reason:
            wrong.append(reason)
        else:
            told.append(f"{log.tee} {log.register}")
    if wrong:
        return say(
            "logs",
            "failed",
            "\n".join(wrong),
            expected="each log states a value of the agreed sets",
            source="the agreed statements",
            hint="the operators signed a log that contradicts their values: ask them",
        )
    parts = [f"stated: {', '.join(sorted(set(told)))}; not folded, which needs the artifact"] if told else []
    parts += [f"{count(strangers, 'log')} that nobody who agrees has named"] if strangers else []
    parts = parts or [f"none of {count(len(named), 'log')} is in the bundle" if named else "no log is named"]
    return say("logs", "passed" if told else "skipped", "; ".join(parts))


def count(number: int, word: str) -> str:
    """Write a number with its word.

    Example:
        >>> count(1, "log"), count(2, "log")
        ('1 log', '2 logs')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def _contradiction(log: MeasurementLog, reference: LogReference, core: Core) -> str:
    """Tell what a log says otherwise than its reference and the agreed sets; empty when nothing."""
    where = f"{reference.name}: {log.tee} {log.register}"
    if (log.tee, log.register) != (reference.tee, reference.register):
        return f"{where}, named as the log of {reference.tee} {reference.register}"
    shape = CLAIMS.get(log.tee, {}).get(log.register)
    if shape is None or not has_shape(log.value, shape):
        return f"{where} is no register, or {log.value!r} no value of it"
    if not log.events:
        return f"{where} has no event"
    agreed = [
        one.claims[log.register] for one in core.sets if one.tee == log.tee and log.register in one.claims
    ]
    if not any(claim.admits(log.value) for claim in agreed):
        known = ", ".join(dict.fromkeys(claim.words() for claim in agreed)) or "nothing"
        return f"{where} is {log.value} in the log; agreed: {known}"
    return ""
