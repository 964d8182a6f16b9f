r"""What a log folds to: register' = H(register || digest), event by event, for each register and bank.

Registers begin with zeros; PCR 0 with the startup locality as its last byte. EV_NO_ACTION is never extended.

Source: TPM 2.0 library, part 1, 17.2 (PCR extend); Intel TDX module ABI 1.5, TDG.MR.RTMR.EXTEND.
Cost: one hash an event and bank.

Example:
    >>> fold("sha256", [], b"\\0" * 32) == b"\\0" * 32
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from provenance.measurement_log import LogEvent, MeasurementLog
from verifier.evidence.event_log import NO_REGISTER, Algorithm, Event, EventLog, Kind
from verifier.evidence.event_words import in_words, type_name
from verifier.evidence.preimage import is_computable


def fold(algorithm: str, digests: Iterable[bytes], start: bytes) -> bytes:
    """Extend a register with digests, one after the other."""
    value = start
    for digest in digests:
        value = hashlib.new(algorithm, value + digest).digest()
    return value


def register_name(kind: Kind, index: int) -> str:
    """Name the register of an index: pcr7, or rtmr0 for 1."""
    if index == NO_REGISTER:
        return "none"
    if kind == "tpm":
        return f"pcr{index}"
    return f"rtmr{index - 1}" if index else "mrtd"


def start_of(log: EventLog, index: int, bank: Algorithm) -> bytes:
    """Tell what a register begins with."""
    last = (log.startup_locality or 0) if index == 0 else 0
    return bytes(bank.size - 1) + bytes([last])


def extended(log: EventLog, index: int) -> tuple[Event, ...]:
    """List the events that went into a register."""
    return tuple(event for event in log.events if event.index == index and event.is_extended)


def measurement_logs(log: EventLog) -> tuple[MeasurementLog, ...]:
    """Write a log register by register: what each folds to, and the events with their words.

    Of each event: its type as `op` and `flags`, where it begins as `address`, the length of its data, the
    digest that was extended as `content`. Banks that cannot be computed here are left out.
    """
    made = []
    labels = {event.number: in_words(event, log.kind) for event in log.events}
    by_index: dict[int, list[Event]] = {}
    for event in log.events:
        if event.is_extended:
            by_index.setdefault(event.index, []).append(event)
    for place, bank in enumerate(log.banks):
        if not is_computable(bank.name):
            continue
        for index, events in sorted(by_index.items()):
            digests = [event.digests[place] for event in events]
            made.append(
                MeasurementLog(
                    tee="tdx" if log.kind == "ccel" else "tpm",
                    register=register_name(log.kind, index),
                    algorithm=bank.name,
                    value=fold(bank.name, digests, start_of(log, index, bank)).hex(),
                    events=tuple(
                        LogEvent(
                            op=type_name(event.type),
                            address=max(event.offset, 0),
                            length=len(event.data),
                            flags=event.type,
                            content=digest.hex(),
                            label=labels[event.number],
                        )
                        for event, digest in zip(events, digests, strict=True)
                    ),
                )
            )
    return tuple(made)
