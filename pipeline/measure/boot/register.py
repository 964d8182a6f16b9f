"""Registers that are extended (PCRs, RTMRs): events in order, and the log that folds to the value.

A register begins as zeros; an event extends it: new = H(old || digest of the event). An event is hashed
once for each bank; what is hashed is the file's own bytes, never a copy.

Example:
    >>> fold((event("EV_SEPARATOR", "separator", bytes(4), banks=("sha256",)),), "sha256").hex()[:16]
    '3d458cfe55cc03ea'

Source: TCG PC Client Platform Firmware Profile 1.05, section 3.3; TPM 2.0 part 1, section 17.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from provenance.errors import UsageError
from provenance.measurement_log import LogEvent, MeasurementLog

BANKS: Final = ("sha256", "sha384")
KNOWN_BANKS: Final = ("sha1", "sha256", "sha384", "sha512")


class UnknownBank(UsageError):
    """A bank of a TPM that is not known.

    Cure: sha1, sha256, sha384 or sha512.
    """

    code = "RVP-5429"


class BootEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        op: its type in the words of the TCG profile.
        label: what it is, in words.
        length: bytes that were hashed.
        digests: what is extended, by bank.
    """

    op: str
    label: str
    length: int
    digests: dict[str, bytes]


def check_banks(banks: Sequence[str]) -> None:
    """Refuse a bank that is not known.

    Raises:
        UnknownBank: RVP-5429.
    """
    for bank in banks:
        if bank not in KNOWN_BANKS:
            raise UnknownBank(f'there is no bank "{bank}"', hint=f"known: {', '.join(KNOWN_BANKS)}")


def event(op: str, label: str, *content: bytes | memoryview, banks: Sequence[str]) -> BootEvent:
    """Make an event whose digest is that of its content.

    Args:
        op: EV_SEPARATOR, EV_IPL …
        label: in words.
        content: hashed one after the other.
        banks: for which.

    Cost: one pass over the content for each bank.
    """
    digests = {}
    for bank in banks:
        hashing = hashlib.new(bank)
        for one in content:
            hashing.update(one)
        digests[bank] = hashing.digest()
    return BootEvent(op=op, label=label, length=sum(len(one) for one in content), digests=digests)


def fold(events: Sequence[BootEvent], bank: str) -> bytes:
    """Extend a register that begins as zeros with the events, in order."""
    value = bytes(hashlib.new(bank).digest_size)
    for one in events:
        value = hashlib.new(bank, value + one.digests[bank]).digest()
    return value


def log_of(tee: str, register: str, events: Sequence[BootEvent], bank: str) -> MeasurementLog:
    """Write the log of a register: each event with the digest that extends it."""
    return MeasurementLog(
        tee=tee,
        register=register,
        algorithm=bank,
        value=fold(events, bank).hex(),
        events=tuple(
            LogEvent(op=one.op, length=one.length, content=one.digests[bank].hex(), label=one.label)
            for one in events
        ),
    )


def fold_log(log: MeasurementLog) -> bytes:
    """Fold a log again, from what it says alone."""
    value = bytes(hashlib.new(log.algorithm).digest_size)
    for one in log.events:
        value = hashlib.new(log.algorithm, value + bytes.fromhex(one.content)).digest()
    return value
