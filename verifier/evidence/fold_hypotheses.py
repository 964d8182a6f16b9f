"""Why a register is not what its log folds to: single changes of the log that give the register's value.

Each is tried by folding; one that fits is a hypothesis, never a pass. The earliest event is named first.

Cost: linear for what ends early, quadratic for one event more or less, which is bounded by 256 events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from verifier.evidence.event_log import Algorithm, Event, EventLog
from verifier.evidence.event_words import in_words, type_name
from verifier.evidence.fold import extended, fold, register_name, start_of
from verifier.evidence.preimage import check_preimage

MAX_EVENTS_TRIED: Final = 256


def why_different(log: EventLog, index: int, bank: Algorithm, value: bytes, *, thorough: bool = True) -> str:
    """Say what would explain a value that a register has instead of the fold of its events.

    Args:
        log: the log.
        index: of the register.
        bank: of the value.
        value: what the register has.
        thorough: try single changes, too; otherwise only whether the log goes on after the register.
    """
    place = log.banks.index(bank)
    events = extended(log, index)
    if not events:
        return "the log has no event of this register"
    digests = [event.digests[place] for event in events]
    start = start_of(log, index, bank)
    for words in _tried(log, index, bank, value, events, digests, start, thorough=thorough):
        return f"hypothesis: {words}"
    if not thorough:
        return "see the first registers that differ"
    liars = [event for event in events if check_preimage(event, log.banks).outcome == "not hashed"]
    if liars:
        return f"look first at {_named(log, liars[0])}: its data are not what was hashed"
    return (
        f"no single change of its {len(events)} events explains it: another boot, or a changed log; "
        f"the register's first event is {_named(log, events[0])}"
    )


def _tried(
    log: EventLog,
    index: int,
    bank: Algorithm,
    value: bytes,
    events: tuple[Event, ...],
    digests: list[bytes],
    start: bytes,
    *,
    thorough: bool,
) -> Iterator[str]:
    running = start
    for number, event in enumerate(events):
        if running == value and number == 0:
            yield f"nothing was extended into it, and the log has {len(events)} events of it"
        elif running == value:
            missing = _named(log, event)
            yield f"it has the first {number} of {len(events)} events; the first that it lacks is {missing}"
        running = hashlib.new(bank.name, running + digests[number]).digest()
    if not thorough:
        return
    for other in sorted({event.index for event in log.events if event.is_extended} - {index}):
        others = [event.digests[log.banks.index(bank)] for event in extended(log, other)]
        if fold(bank.name, others, start_of(log, other, bank)) == value:
            yield f"it is what {register_name(log.kind, other)} folds to"
    if index == 0 and log.kind == "tpm":
        for locality in (0, 3, 4):
            if fold(bank.name, digests, bytes(bank.size - 1) + bytes([locality])) == value:
                yield f"PCR 0 began with locality {locality}, and the log says {log.startup_locality or 0}"
    if len(events) <= MAX_EVENTS_TRIED:
        yield from _one_event(log, bank, value, events, digests, start)
    if len(log.events) <= MAX_EVENTS_TRIED:
        yield from _one_moved(log, index, bank, value, start)


def _one_event(
    log: EventLog,
    bank: Algorithm,
    value: bytes,
    events: tuple[Event, ...],
    digests: list[bytes],
    start: bytes,
) -> Iterator[str]:
    running = start
    for number, event in enumerate(events):
        own, rest = digests[number], digests[number + 1 :]
        changes = {
            "is not in it": (),
            "was extended twice": (own, own),
            "was extended with the digest of its data": (hashlib.new(bank.name, event.data).digest(),),
        }
        for words, instead in changes.items():
            if fold(bank.name, (*instead, *rest), running) == value:
                yield f"{_named(log, event)} {words}"
        if rest and fold(bank.name, (rest[0], own, *rest[1:]), running) == value:
            yield f"{_named(log, event)} and the one after it went in the other way round"
        running = hashlib.new(bank.name, running + own).digest()


def _one_moved(log: EventLog, index: int, bank: Algorithm, value: bytes, start: bytes) -> Iterator[str]:
    """Take one event of another register into this one: edk2 before 202411 did so with a separator."""
    place = log.banks.index(bank)
    for moved in log.events:
        if moved.index == index or len(moved.digests) <= place:
            continue
        digests = [
            event.digests[place]
            for event in log.events
            if event is moved or (event.index == index and event.is_extended)
        ]
        if fold(bank.name, digests, start) == value:
            where = register_name(log.kind, moved.index)
            yield f"{_named(log, moved)} went into it, and the log has it in {where}"


def _named(log: EventLog, event: Event) -> str:
    return f"event {event.number} ({type_name(event.type)}, {in_words(event, log.kind)[:80]})"
