"""The measurement log: ordered events that fold to a register.

A log is a byproduct of measuring. It is small because equal runs are one event: `count` events of the
same kind, at addresses `address`, `address + stride`, … Folding it again needs the content of the events
that have content; the log has their digests, so two logs can be compared without it.

Units: addresses are offsets from the start of what is measured, lengths and strides are bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class LogEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One event, or a run of equal ones.

    Attributes:
        op: the operation in the words of its specification (ECREATE, EADD, EEXTEND, MR.EXTEND, PAGE …).
        address: offset of the first one.
        length: bytes that one covers.
        flags: SECINFO flags, page type, PCR event type: the operation's parameter.
        content: SHA-256 of the content of the whole run, hex; empty when the operation has none. Of an event
            that extends a register (RTMR, PCR): the digest that was extended, in the register's algorithm;
            empty when it is not known.
        label: what it belongs to, in words: segment, section, heap, stack 0, TCS 2.
        count: how many of them follow each other.
        stride: bytes between two of them.
    """

    op: str
    address: int = 0
    length: int = 0
    flags: int = 0
    content: str = ""
    label: str = ""
    count: int = 1
    stride: int = 0


class MeasurementLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All events of one register, in order, and what they fold to."""

    schema: Literal["rvp/measurement-log/v1"] = "rvp/measurement-log/v1"
    tee: str
    register: str
    algorithm: str  # of the register: sha256, sha384
    value: str  # hex; empty when an event of the register is not known
    events: tuple[LogEvent, ...]
