"""Event logs inside JSON: dstack's reports, and TDX evidence of the Confidential Containers.

    dstack   {"quote": hex, "event_log": "[{imr, event_type, digest, event, event_payload}, …]"},
             or the list alone
    CoCo     {"quote": base64, "cc_eventlog": base64 of a CCEL}

dstack's events have one digest, SHA-384, and count RTMRs from 0. Its runtime events (RTMR3) may leave the
digest out: it is then computed from type, name and payload.

Source: dstack (cc-eventlog, quote-report), Confidential Containers (attester, TdxEvidence).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from provenance.strict import NotWellFormed, parse_json
from verifier.evidence.event_log import (
    ALGORITHMS,
    MAX_EVENTS,
    MAX_LOG_BYTES,
    Event,
    EventLog,
    EventLogDamaged,
    read_event_log,
)
from verifier.evidence.event_words import RUNTIME
from verifier.evidence.preimage import runtime_digest

_SHA384: Final = ALGORITHMS[0x000C]


class LogAndQuote(msgspec.Struct, frozen=True):
    """A log, and the quote that lay beside it; none is an empty quote."""

    log: EventLog
    quote: bytes = b""


class _Entry(msgspec.Struct, frozen=True):
    """One event of dstack; other keys are left to newer versions."""

    imr: int
    event_type: int
    digest: str = ""
    event: str = ""
    event_payload: str = ""


def looks_like_json(data: bytes) -> bool:
    """Tell JSON from a binary log, whose first byte is the number of a register."""
    return data.lstrip()[:1] in {b"{", b"["}


def read_json_log(data: bytes, *, name: str = "") -> LogAndQuote:
    """Read a log that lies inside JSON, and the quote beside it.

    Raises:
        EventLogDamaged: RVP-7000. NotWellFormed: RVP-1011. DuplicateKey: RVP-1012.
    """
    document = parse_json(data, name=name, limit_bytes=MAX_LOG_BYTES)
    if isinstance(document, dict):
        inner: Any = document.get("tdx", document)
        document = inner if isinstance(inner, dict) else document
        quote = bytes_of_text(document["quote"]) if isinstance(document.get("quote"), str) else b""
        if quote is None:
            raise _error("the quote is neither hex nor base64", "$.quote", name)
        if isinstance(text := document.get("cc_eventlog"), str):
            log = bytes_of_text(text)
            if log is None:
                raise _error("the log is neither hex nor base64", "$.cc_eventlog", name)
            return LogAndQuote(read_event_log(log, name=f"{name}: $.cc_eventlog" if name else ""), quote)
        entries = document.get("event_log")
        if isinstance(entries, str):
            try:
                entries = parse_json(entries.encode("utf-8", errors="replace"), limit_bytes=MAX_LOG_BYTES)
            except NotWellFormed as error:
                raise _error(f"the text is no JSON: {error}", "$.event_log", name) from error
        field = "$.event_log"
    else:
        entries, quote, field = document, b"", "$"
    if not isinstance(entries, list) or not entries:
        raise _error("there is no list of events", field, name)
    return LogAndQuote(_log_of(entries, field, name, len(data)), quote)


def bytes_of_text(text: str) -> bytes | None:
    """Decode hex or base64; None where the text is neither."""
    packed = "".join(text.split())
    try:
        return bytes.fromhex(packed.removeprefix("0x"))
    except ValueError:
        pass
    for altchars in (b"+/", b"-_"):
        try:
            return base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=altchars, validate=True)
        except (binascii.Error, ValueError):
            continue
    return None


def _log_of(entries: list[Any], field: str, name: str, size_bytes: int) -> EventLog:
    if len(entries) > MAX_EVENTS:
        raise _error(f"there are more than {MAX_EVENTS} events", field, name)
    events = tuple(_event(entry, number, f"{field}[{number}]", name) for number, entry in enumerate(entries))
    return EventLog(kind="ccel", form="json", banks=(_SHA384,), events=events, size_bytes=size_bytes)


def _event(entry: Any, number: int, field: str, name: str) -> Event:
    try:
        read = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise _error(str(error), field, name) from error
    if not 0 <= read.imr <= 3:
        raise _error(f"{read.imr} is no RTMR (0 to 3)", f"{field}.imr", name)
    if not 0 <= read.event_type < 1 << 32:
        raise _error(f"{read.event_type} is no event type", f"{field}.event_type", name)
    try:
        digest, data = bytes.fromhex(read.digest), bytes.fromhex(read.event_payload)
    except ValueError as error:
        raise _error("digest and payload must be hex", field, name) from error
    event = Event(
        number=number,
        offset=-1,
        index=read.imr + 1,
        type=read.event_type,
        digests=(digest,),
        data=data,
        name=read.event,
    )
    if not digest and read.event_type == RUNTIME:
        event = msgspec.structs.replace(event, digests=(runtime_digest(event),))
    elif len(digest) != _SHA384.size:
        raise _error(f"the digest has {len(digest)} bytes, not {_SHA384.size}", f"{field}.digest", name)
    return event


def _error(message: str, field: str, name: str) -> EventLogDamaged:
    return EventLogDamaged(message, offset=-1, field=field, name=name)
