"""RTMRs: registers that are extended by digests of events, and the logs that fold to them.

    RTMR' = SHA-384(RTMR || digest)      from 48 zero bytes on

An event whose digest cannot be known has a name and a reason instead; its register has then no value, and its
log has every other event in its place.

Source: Intel TDX module ABI 1.5, TDG.MR.RTMR.EXTEND; TCG PC Client Platform Firmware Profile 1.06, section 10
    (types of events).

Example:
    >>> fold((event(EV_SEPARATOR, bytes(4), "separator"),)).hex()[:8]
    '518923b0'
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.measure.tdx.mrtd_log import TdxLogDoesNotFold
from provenance.claims import Unpredicted
from provenance.measurement_log import LogEvent, MeasurementLog

SIZE: Final = 48

EV_SEPARATOR: Final = 0x4
EV_EVENT_TAG: Final = 0x6
EV_PLATFORM_CONFIG_FLAGS: Final = 0xA
EV_IPL: Final = 0xD
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_VARIABLE_BOOT: Final = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB2: Final = 0x8000000A
EV_EFI_HANDOFF_TABLES2: Final = 0x8000000B
EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0

NAMES: Final = {
    value: name
    for name, value in tuple(globals().items())
    if name.startswith("EV_") and isinstance(value, int)
}


EVENT_TYPES: Final = {name: value for value, name in NAMES.items()}


class RtmrEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        kind: its type; 0 for what an application extends.
        digest: 48 bytes; None when it cannot be known.
        label: in words.
        name: of an event without a digest.
        reason: why it has none.
    """

    kind: int
    digest: bytes | None
    label: str
    name: str = ""
    reason: str = ""


def event(kind: int, data: bytes | memoryview, label: str) -> RtmrEvent:
    """Make an event whose digest is the one of some bytes."""
    return RtmrEvent(kind=kind, digest=hashlib.sha384(data).digest(), label=label)


def unknown(kind: int, name: str, reason: str) -> RtmrEvent:
    """Make an event that cannot be predicted."""
    return RtmrEvent(kind=kind, digest=None, label=name, name=name, reason=reason)


def separator() -> RtmrEvent:
    """Make the separator: four zero bytes."""
    return event(EV_SEPARATOR, bytes(4), "separator")


def extend(value: bytes, digest: bytes) -> bytes:
    """Extend a register; a shorter digest is filled up with zeros."""
    return hashlib.sha384(value + digest.ljust(SIZE, b"\0")).digest()


def fold(events: Sequence[RtmrEvent]) -> bytes | None:
    """Fold events to the value of their register; None when one of them is not known."""
    value = bytes(SIZE)
    for one in events:
        if one.digest is None:
            return None
        value = extend(value, one.digest)
    return value


def gaps(register: str, events: Sequence[RtmrEvent]) -> tuple[Unpredicted, ...]:
    """Name the events of a register that cannot be predicted."""
    return tuple(
        Unpredicted(register=register, event=one.name, reason=one.reason)
        for one in events
        if one.digest is None
    )


def write_rtmr_log(register: str, events: Sequence[RtmrEvent]) -> MeasurementLog:
    """Write the log of a register; `content` is the digest that extends it, none when it is not known."""
    value = fold(events)
    return MeasurementLog(
        tee="tdx",
        register=register,
        algorithm="sha384",
        value="" if value is None else value.hex(),
        events=tuple(
            LogEvent(
                op=NAMES.get(one.kind, "RTMR.EXTEND"),
                flags=one.kind,
                content="" if one.digest is None else one.digest.hex(),
                label=one.label,
            )
            for one in events
        ),
    )


def fold_rtmr_log(log: MeasurementLog) -> bytes:
    """Fold the log of a register again.

    Raises:
        TdxLogDoesNotFold: RVP-5202, when it gives another value or an event has no digest.
    """
    value = bytes(SIZE)
    for one in log.events:
        if not one.content:
            raise TdxLogDoesNotFold(f"the digest of {one.label} is not known", place=log.register)
        value = extend(value, bytes.fromhex(one.content))
    if value.hex() != log.value:
        raise TdxLogDoesNotFold(f"the log folds to {value.hex()}, it states {log.value}", place=log.register)
    return value
