"""Replay an event log: every event in words, every register folded, and compared where values are given.

    log + values -> Replay: verdict `equal`, `different`, `undecided`, or `not compared`

Rules:
    1. A register is compared when the values name it and the log has its bank.
    2. Registers that every boot logs (PCR 0 to 9 and 14, RTMR0 to RTMR2; RTMR3 in dstack's JSON) are compared
       even when the log has no event of them: else leaving all events out would hide them. Others without an
       event are extended by somebody who keeps another log (IMA in PCR 10, runtime events in RTMR3 beside a
       CCEL): they are `not in the log`, and named.
    3. One register that differs makes the verdict `different`. Values were given and none could be compared:
       `undecided`. Equal means that at least one register that the log extends was compared, and all compared
       ones are equal; zeros that nobody extended prove nothing.
    4. Nothing is said of who made the values: a quote's signature is not verified here.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from provenance.errors import Inconclusive, MeasurementMismatch
from verifier.evidence.event_log import Algorithm, Event, EventLog
from verifier.evidence.event_words import in_words, type_name
from verifier.evidence.fold import extended, fold, register_name, start_of
from verifier.evidence.fold_hypotheses import why_different
from verifier.evidence.preimage import Preimage, check_preimage, is_computable
from verifier.evidence.register_values import Register, RegisterValues

_EXPLAINED_THOROUGHLY: Final = 8  # registers that differ; the search is quadratic
# Extended through the firmware, which logs: firmware 0 to 7, boot loader and kernel 8, 9 and 14 (PFP 1.05,
# table 4; GRUB, shim, Linux). PCR 10 to 13 and 15 belong to the running system.
_LOGGED_PCRS: Final = frozenset({*range(10), 14})
_LOGGED_RTMRS: Final = frozenset({1, 2, 3})  # indices
_RTMR3: Final = 4
_RESET_TO_ONES: Final = range(17, 23)  # PC Client Platform TPM Profile 1.05, table 5


class RegistersDiffer(MeasurementMismatch):
    """A register does not have the value that the event log folds to.

    The log is of another boot, is incomplete, or was changed; or the values are of another machine.
    Nothing that the log says can be relied on. Cure: read log and values in one boot; the message names the
    register, and the single change of the log that would explain it, where there is one.
    """

    code = "RVP-7010"


class NothingCompared(Inconclusive):
    """Values were given, and none of them is of a register and bank that the event log has.

    Cure: give the values of the same kind of register (RTMRs with a CCEL, PCRs with a TPM's log) in a bank of
    the log; `--kind` says what the log's indices are where it does not show.
    """

    code = "RVP-7011"


class ReplayedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        offset: where it begins in the file; -1 where the log is JSON.
        type: the name of its type; `type_code` is the number, 0x and 8 hex digits.
        digests: bank to hex.
        words: what the log says that it is; a claim, unless `preimage` says that it was hashed.
    """

    number: int
    offset: int
    register: str
    type: str
    type_code: str
    digests: dict[str, str]
    extended: bool
    words: str
    preimage: Preimage


class ReplayedRegister(msgspec.Struct, frozen=True, kw_only=True):
    """One register of one bank: what the log folds to, what was given, and what came out."""

    register: str
    bank: str
    events: int
    value: str = ""  # empty where the bank cannot be computed
    compared: Literal["equal", "different", "not in the log", "not compared"] = "not compared"
    given: str = ""
    hint: str = ""


class ComparedWith(msgspec.Struct, frozen=True, kw_only=True):
    """Where the values come from, and what was not checked of them."""

    kind: str
    source: str
    trust: str


class LogSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The log as a whole."""

    kind: Literal["tpm", "ccel"]
    form: Literal["crypto-agile", "sha1", "json"]
    banks: tuple[str, ...]
    events: int
    size_bytes: int
    padding_bytes: int
    startup_locality: int | None = None


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp replay` found."""

    schema: Literal["rvp/replay/v1"] = "rvp/replay/v1"
    name: str
    log: LogSummary
    verdict: Literal["equal", "different", "undecided", "not compared"]
    compared_with: ComparedWith | None = None
    registers: tuple[ReplayedRegister, ...]
    events: tuple[ReplayedEvent, ...]
    notes: tuple[str, ...] = ()


def replay_log(log: EventLog, values: RegisterValues | None = None, *, name: str = "") -> Replay:
    """Fold a log and compare its registers with values, if any."""
    registers: list[ReplayedRegister] = []
    for bank in log.banks:
        for index in _indices(log, bank, values):
            different = sum(one.compared == "different" for one in registers)
            registers.append(_register(log, index, bank, values, thorough=different < _EXPLAINED_THOROUGHLY))
    known = {Register(one.register, one.bank) for one in registers}
    for register, value in sorted(values.values.items()) if values else ():
        if register not in known:
            registers.append(
                ReplayedRegister(
                    register=register.name,
                    bank=register.bank,
                    events=0,
                    compared="not in the log",
                    given=value.hex(),
                    hint=_why_absent(log, register),
                )
            )
    events = tuple(_event(log, event) for event in log.events)
    return Replay(
        name=name,
        log=LogSummary(
            kind=log.kind,
            form=log.form,
            banks=tuple(bank.name for bank in log.banks),
            events=len(log.events),
            size_bytes=log.size_bytes,
            padding_bytes=log.padding_bytes,
            startup_locality=log.startup_locality,
        ),
        verdict=_verdict(registers, values),
        compared_with=None
        if values is None
        else ComparedWith(kind=values.kind, source=values.source, trust=values.trust),
        registers=tuple(registers),
        events=events,
        notes=_notes(log, events),
    )


def require_equal(replay: Replay) -> None:
    """Raise when a register differs, or when values were given and none could be compared.

    Raises:
        RegistersDiffer: RVP-7010, for the first register. NothingCompared: RVP-7011.
    """
    wrong = [one for one in replay.registers if one.compared == "different"]
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RegistersDiffer(
            f"{wrong[0].register} of {wrong[0].bank} is not what the log folds to{others}",
            hint=wrong[0].hint,
            place=replay.name,
        )
    if replay.verdict == "undecided":
        raise NothingCompared(
            "no value that was given is of a register and bank of this log", place=replay.name
        )


def _indices(log: EventLog, bank: Algorithm, values: RegisterValues | None) -> list[int]:
    found = {event.index for event in log.events if event.is_extended}
    if log.kind == "ccel":
        found |= {1, 2, 3, 4}
    elif values is not None:
        found |= {one for one in range(24) if Register(f"pcr{one}", bank.name) in values.values}
    return sorted(found)


def _register(
    log: EventLog, index: int, bank: Algorithm, values: RegisterValues | None, *, thorough: bool
) -> ReplayedRegister:
    name = register_name(log.kind, index)
    events = extended(log, index)
    given = values.values.get(Register(name, bank.name)) if values else None
    made = ReplayedRegister(register=name, bank=bank.name, events=len(events))
    if given is not None:
        made = msgspec.structs.replace(made, given=given.hex())
    if not is_computable(bank.name):
        hint = f"digests of {bank.name} cannot be computed here"
        return msgspec.structs.replace(made, compared="not compared", hint=hint)
    place = log.banks.index(bank)
    value = fold(bank.name, (event.digests[place] for event in events), start_of(log, index, bank))
    made = msgspec.structs.replace(made, value=value.hex())
    if given is None:
        return made
    if value == given:
        return msgspec.structs.replace(made, compared="equal")
    if not events and not _must_be_explained(log, index):
        ones = log.kind == "tpm" and index in _RESET_TO_ONES and given == b"\xff" * bank.size
        hint = "never extended" if ones else "whoever extended it keeps another log"
        return msgspec.structs.replace(made, compared="not in the log", hint=hint)
    return msgspec.structs.replace(
        made, compared="different", hint=why_different(log, index, bank, given, thorough=thorough)
    )


def _must_be_explained(log: EventLog, index: int) -> bool:
    """Tell whether a log has every event of a register, so that no event means that nothing was extended."""
    if log.kind == "tpm":
        return index in _LOGGED_PCRS
    return index in _LOGGED_RTMRS or (index == _RTMR3 and log.form == "json")  # dstack logs its own events


def _why_absent(log: EventLog, register: Register) -> str:
    if register.name.startswith("pcr") is (log.kind == "ccel"):
        return "a CCEL has RTMRs" if log.kind == "ccel" else "a TPM's log has PCRs"
    return f"the log has no bank {register.bank}"


def _verdict(
    registers: list[ReplayedRegister], values: RegisterValues | None
) -> Literal["equal", "different", "undecided", "not compared"]:
    if values is None:
        return "not compared"
    if any(one.compared == "different" for one in registers):
        return "different"
    replayed = any(one.compared == "equal" and one.events for one in registers)
    return "equal" if replayed else "undecided"


def _event(log: EventLog, event: Event) -> ReplayedEvent:
    return ReplayedEvent(
        number=event.number,
        offset=event.offset,
        register=register_name(log.kind, event.index),
        type=type_name(event.type),
        type_code=f"{event.type:#010x}",
        digests={bank.name: digest.hex() for bank, digest in zip(log.banks, event.digests, strict=False)},
        extended=event.is_extended,
        words=in_words(event, log.kind),
        preimage=check_preimage(event, log.banks),
    )


def _notes(log: EventLog, events: tuple[ReplayedEvent, ...]) -> tuple[str, ...]:
    notes = []
    bare = [bank.name for bank in log.banks if not is_computable(bank.name)]
    if bare:
        notes.append(f"banks that cannot be computed here: {', '.join(bare)}")
    lying = [one.number for one in events if one.preimage.outcome == "not hashed"]
    if lying:
        listed = ", ".join(map(str, lying[:16])) + (" …" if len(lying) > 16 else "")
        notes.append(f"data that are not what was hashed: event {listed}; only the digest counts")
    actions = {event.data for event in log.events if event.type == 0x8000_0007}
    if any(one.startswith(b"Calling EFI Application") for one in actions) and not any(
        one.startswith(b"Exit Boot Services") for one in actions
    ):
        notes.append("the log ends before Exit Boot Services: later events may be missing")
    return tuple(notes)
