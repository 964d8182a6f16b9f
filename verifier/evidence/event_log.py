"""Event logs in the TCG's form: what firmware, boot loader and kernel say that they extended, in order.

A log is read whole or refused: every size is checked against what is left, every digest against the
algorithms that the first event declares, and nothing may follow the last event but padding. Event data are
claims of whoever wrote the log; what is bound to a register are the digests alone.

    crypto-agile   first event in the old form: EV_NO_ACTION, "Spec ID Event03", digest sizes; then
                   index u32, type u32, count u32, count * (algorithm u16, digest), size u32, data
    SHA-1 only     every event: index u32, type u32, digest 20 bytes, size u32, data
    CCEL           crypto-agile with a bank of SHA-384; the index counts MRTD 0, RTMR0 1 … RTMR3 4

Units: offsets and sizes are bytes from the start of the file; integers are little-endian.
Source: TCG PC Client Platform Firmware Profile 1.05, section 10; UEFI 2.10, 38.4 (confidential computing).
Cost: one pass; memory is that of the file and of at most 65,536 events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from provenance.errors import UsageError
from provenance.strict import NotReadable

MAX_LOG_BYTES: Final = 32 << 20  # firmware gives 64 KiB to 1 MiB
MAX_EVENTS: Final = 1 << 16
MAX_BANKS: Final = 16
PCRS: Final = 24
MR_INDICES: Final = 5  # MRTD, RTMR0 … RTMR3
NO_ACTION: Final = 3
HCRTM: Final = 0x8000_0010
NO_REGISTER: Final = 0xFFFF_FFFF  # of a terminator, or of an EV_NO_ACTION that belongs to no register
_NO_REGISTER_BYTES: Final = b"\xff\xff\xff\xff\x03\0\0\0"
_SIGNATURE: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)  # PFP 1.05, 10.4.5.3
_INDEX_BYTES: Final = 4

Kind = Literal["tpm", "ccel"]


class EventLogDamaged(UsageError):
    """An event log is truncated, contradicts itself, or is no event log.

    The message has the event, the field and the offset in the file. A log is used whole or not at all: an
    event that is missing, or read from the wrong offset, would give another register.
    Cure: read the log again as root, from /sys/kernel/security/tpm0/binary_bios_measurements or
    /sys/firmware/acpi/tables/data/CCEL, with cp or cat, and compare the sizes.
    """

    code = "RVP-7000"

    def __init__(self, message: str, *, offset: int, field: str, name: str = "", hint: str = "") -> None:
        place = f"{name}: {field}" if name else field
        if offset >= 0:
            place += f" at offset {offset:#x}"
        super().__init__(message, place=place, hint=hint)
        self.offset = offset
        self.field = field


class Algorithm(msgspec.Struct, frozen=True):
    """A digest algorithm: its TCG number, name (as hashlib has it) and digest size in bytes."""

    number: int
    name: str
    size: int


# TCG Algorithm Registry 1.34, table 3.
ALGORITHMS: Final = {
    one.number: one
    for one in (
        Algorithm(0x0004, "sha1", 20),
        Algorithm(0x000B, "sha256", 32),
        Algorithm(0x000C, "sha384", 48),
        Algorithm(0x000D, "sha512", 64),
        Algorithm(0x0012, "sm3", 32),
        Algorithm(0x0027, "sha3_256", 32),
        Algorithm(0x0028, "sha3_384", 48),
        Algorithm(0x0029, "sha3_512", 64),
    )
}
_SHA1: Final = ALGORITHMS[0x0004]
_SHA384: Final = ALGORITHMS[0x000C]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        number: its place in the log, from 0; the header event counts.
        offset: where it begins in the file; -1 where the log is JSON.
        index: the PCR, or the measurement register index of a CCEL.
        type: the event type.
        digests: one for each bank, in the order of `EventLog.banks`.
        data: the event data, whole.
        name: what a runtime event is called (dstack).
    """

    number: int
    offset: int
    index: int
    type: int
    digests: tuple[bytes, ...]
    data: bytes
    name: str = ""

    @property
    def is_extended(self) -> bool:
        """Tell whether the event went into its register: all but EV_NO_ACTION do."""
        return self.type != NO_ACTION


class EventLog(msgspec.Struct, frozen=True, kw_only=True):
    """A log that was read whole.

    Attributes:
        kind: tpm (indices are PCRs) or ccel (indices are measurement registers).
        form: how it was written: crypto-agile, sha1, json.
        banks: the algorithms, in the order of each event's digests.
        events: all, the header too.
        size_bytes: how long the log is without padding.
        padding_bytes: what follows it.
        startup_locality: what PCR 0 begins with; None when the log does not say.
    """

    kind: Kind
    form: Literal["crypto-agile", "sha1", "json"]
    banks: tuple[Algorithm, ...]
    events: tuple[Event, ...]
    size_bytes: int
    padding_bytes: int = 0
    startup_locality: int | None = None


def read_log_file(path: Path) -> bytes:
    """Read the file of a log, at most 32 MiB of it.

    The size that the file system states is not asked: files below /sys state none.

    Raises:
        EventLogDamaged: RVP-7000, larger than any log. NotReadable: RVP-1010.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}", place=str(path), hint="check the path"
        ) from error
    if len(data) > MAX_LOG_BYTES:
        raise EventLogDamaged(
            f"the file is larger than {MAX_LOG_BYTES >> 20} MiB; event logs have some KiB",
            offset=MAX_LOG_BYTES,
            field="size of the file",
            name=str(path),
        )
    return data


def read_event_log(data: bytes, *, name: str = "", kind: Kind | None = None) -> EventLog:
    """Read a binary event log.

    Args:
        data: the file, padding and all.
        name: what to call it in an error, usually its path.
        kind: what the indices are; without it, as the log shows.

    Raises:
        EventLogDamaged: RVP-7000.
    """
    reader = _Reader(data, name)
    _refuse_strangers(reader)
    index, type_, digest, text = _old_event(reader, "header event")
    agile = type_ == NO_ACTION and text.startswith(_SIGNATURE)
    banks = _banks(text, reader, len(text)) if agile else (_SHA1,)
    if agile and any(digest):
        raise reader.error("the digest of the header event is not zero", "header event: digest", 8)
    first = Event(number=0, offset=0, index=index, type=type_, digests=() if agile else (digest,), data=text)
    events = [first]
    while not reader.at_end():
        if len(events) >= MAX_EVENTS:
            raise reader.error(f"there are more than {MAX_EVENTS} events", "event count")
        events.append((_agile_event if agile else _sha1_event)(reader, len(events), banks))
    found = kind or _kind_of(events, banks)
    _check_indices(events, found, reader)
    return EventLog(
        kind=found,
        form="crypto-agile" if agile else "sha1",
        banks=banks,
        events=tuple(events),
        size_bytes=reader.at,
        padding_bytes=len(data) - reader.at,
        startup_locality=_startup_locality(events, reader) if found == "tpm" else None,
    )


class _Reader:
    """Takes bytes from the front, and knows where it is."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0
        self.zeros_from = len(data.rstrip(b"\0"))

    def error(self, message: str, field: str, offset: int = -1, hint: str = "") -> EventLogDamaged:
        at = self.at if offset < 0 else offset
        return EventLogDamaged(message, offset=at, field=field, name=self.name, hint=hint)

    def take(self, count: int, field: str) -> bytes:
        left = len(self.data) - self.at
        if count > left:
            raise self.error(f"{count} bytes are needed, {left} are left: the log is cut off", field)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width: int, field: str) -> int:
        return int.from_bytes(self.take(width, field), "little")

    def at_end(self) -> bool:
        """Tell whether nothing follows but padding: zeros, or ones as a terminator leaves them."""
        rest = len(self.data) - self.at
        if rest == 0:
            return True
        if self.at >= self.zeros_from:
            if rest <= _INDEX_BYTES:  # so begins an event of PCR 0, too
                raise self.error(f"{rest} zero bytes at the end are no padding: the log is cut off", "index")
            return True
        if self.data.startswith(_NO_REGISTER_BYTES, self.at):  # Windows writes such events
            return False
        end = self.data.startswith(b"\xff" * min(rest, _INDEX_BYTES), self.at)
        if end and self.data.count(b"\xff", self.at) + self.data.count(b"\0", self.at) != rest:
            raise self.error("something follows the terminator", "index")
        return end


def _refuse_strangers(reader: _Reader) -> None:
    """Say what a file is that people take for a log."""
    start = reader.data[:4]
    if start == b"CCEL":
        raise reader.error(
            "this is the ACPI table that says where the log lies, not the log",
            "signature",
            hint="the log is /sys/firmware/acpi/tables/data/CCEL",
        )
    if not reader.data.strip(b"\0"):
        raise reader.error("the file is empty or all zeros", "header event")


def _old_event(reader: _Reader, what: str) -> tuple[int, int, bytes, bytes]:
    start = reader.at
    index = _index(reader, what)
    type_ = reader.number(4, f"{what}: type")
    if index == NO_REGISTER and type_ != NO_ACTION:
        raise reader.error("an event of no register is extended", f"{what}: index", start)
    digest = reader.take(_SHA1.size, f"{what}: digest")
    size = reader.number(4, f"{what}: data size")
    return index, type_, digest, reader.take(size, f"{what}: data")


def _banks(text: bytes, outer: _Reader, size: int) -> tuple[Algorithm, ...]:
    """Read the Spec ID event: the algorithms, each once, each with its own digest size."""
    base = outer.at - size
    reader = _Reader(text, outer.name)

    def error(message: str, field: str, at: int) -> EventLogDamaged:
        return outer.error(message, f"header event: {field}", base + at)

    # signature 16, platform class 4, version minor, major, errata, size of uintn: 4
    reader.at = 24
    if len(text) < reader.at + 4:
        raise error(f"the data have {len(text)} bytes, at least 28 are needed", "data", 0)
    count = reader.number(4, "algorithm count")
    if not 1 <= count <= MAX_BANKS or reader.at + 4 * count + 1 > len(text):
        raise error(f"{count} algorithms do not fit in {len(text)} bytes", "algorithm count", 24)
    found: list[Algorithm] = []
    for _ in range(count):
        at = reader.at
        number, stated = reader.number(2, "algorithm"), reader.number(2, "digest size")
        known = ALGORITHMS.get(number)
        if known is None and not 1 <= stated <= 64:
            raise error(
                f"unknown algorithm {number:#06x} with digests of {stated} bytes", "digest size", at + 2
            )
        if known is not None and known.size != stated:
            raise error(f"{known.name} has {known.size} bytes, not {stated}", "digest size", at + 2)
        if any(one.number == number for one in found):
            raise error(f"algorithm {number:#06x} stands twice", "algorithm", at)
        found.append(known or Algorithm(number, f"algorithm-{number:04x}", stated))
    vendor = reader.number(1, "vendor size")
    if reader.at + vendor != len(text):
        raise error(
            f"{vendor} bytes of vendor data are stated, {len(text) - reader.at} are there",
            "vendor size",
            reader.at - 1,
        )
    return tuple(found)


def _agile_event(reader: _Reader, number: int, banks: tuple[Algorithm, ...]) -> Event:
    what, start = f"event {number}", reader.at
    index = _index(reader, what)
    type_ = reader.number(4, f"{what}: type")
    if index == NO_REGISTER and type_ != NO_ACTION:
        raise reader.error("an event of no register is extended", f"{what}: index", start)
    at = reader.at
    count = reader.number(4, f"{what}: digest count")
    if count != len(banks):
        raise reader.error(
            f"{count} digests, but the header declares {len(banks)} algorithms", f"{what}: digest count", at
        )
    digests: dict[int, bytes] = {}
    sizes = {one.number: one.size for one in banks}
    for _ in range(count):
        at = reader.at
        algorithm = reader.number(2, f"{what}: algorithm")
        if algorithm not in sizes or algorithm in digests:
            why = "stands twice" if algorithm in digests else "is not declared in the header"
            raise reader.error(f"algorithm {algorithm:#06x} {why}", f"{what}: algorithm", at)
        digests[algorithm] = reader.take(sizes[algorithm], f"{what}: digest")
    size = reader.number(4, f"{what}: data size")
    data = reader.take(size, f"{what}: data")
    ordered = tuple(digests[one.number] for one in banks)
    return Event(number=number, offset=start, index=index, type=type_, digests=ordered, data=data)


def _sha1_event(reader: _Reader, number: int, banks: tuple[Algorithm, ...]) -> Event:
    del banks
    start = reader.at
    index, type_, digest, data = _old_event(reader, f"event {number}")
    return Event(number=number, offset=start, index=index, type=type_, digests=(digest,), data=data)


def _index(reader: _Reader, what: str) -> int:
    start = reader.at
    index = reader.number(4, f"{what}: index")
    if index >= PCRS and index != NO_REGISTER:
        raise reader.error(f"{index:#x} is no register", f"{what}: index", start, "is this an event log?")
    return index


def _kind_of(events: list[Event], banks: tuple[Algorithm, ...]) -> Kind:
    """Tell a CCEL from a TPM's log: a bank of SHA-384, no index above RTMR3, nothing extended into MRTD.

    A TPM's log begins with PCR 0 and has a separator in each of PCR 0 to 7, so it is never taken for a CCEL.
    """
    extended = [event.index for event in events if event.is_extended]
    return "ccel" if _SHA384 in banks and all(1 <= one < MR_INDICES for one in extended) else "tpm"


def _check_indices(events: list[Event], kind: Kind, reader: _Reader) -> None:
    for event in events:
        if kind == "ccel" and event.is_extended and not 1 <= event.index < MR_INDICES:
            raise reader.error(
                f"{event.index} is no RTMR (1 is RTMR0, 4 is RTMR3)",
                f"event {event.number}: index",
                event.offset,
            )


def _startup_locality(events: list[Event], reader: _Reader) -> int | None:
    """Find what PCR 0 began with: the StartupLocality event, or locality 4 after an H-CRTM."""
    found: int | None = None
    for event in events:
        if event.type != NO_ACTION or not event.data.startswith(_LOCALITY):
            continue
        stated = event.data[len(_LOCALITY)] if len(event.data) == len(_LOCALITY) + 1 else -1
        if stated not in _LOCALITIES or (found is not None and found != stated):
            raise reader.error(
                f"{event.data[len(_LOCALITY) :][:8].hex() or 'nothing'} is no startup locality"
                if found is None
                else f"locality {stated} after locality {found}",
                f"event {event.number}: StartupLocality",
                event.offset,
            )
        found = stated
    if found is None and any(event.type == HCRTM and event.index == 0 for event in events):
        return 4
    return found
