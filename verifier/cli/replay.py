"""`rvp replay`: what an event log says, what it folds to, and whether registers have those values."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import click
import msgspec

from provenance.plain_text import one_line
from provenance.strict import read_file
from verifier.cli.terminal import Settings, format_option, styled, write_file
from verifier.evidence.event_log import EventLog, read_event_log, read_log_file
from verifier.evidence.event_log_json import looks_like_json, read_json_log
from verifier.evidence.fold import measurement_logs
from verifier.evidence.register_values import (
    MAX_VALUES_BYTES,
    RegisterValues,
    read_register_values,
    values_of_quote,
)
from verifier.evidence.replay import Replay, ReplayedRegister, replay_log, require_equal

_MARKS: Final = {
    "matches": "✓",
    "description": "·",
    "not hashed": "!",
    "not extended": "-",
    "undecided": "?",
}
_MAX_WORDS: Final = 240
_KINDS: Final = {"tpm": "TPM event log", "ccel": "CCEL, the event log of a confidential VM"}
_STATUS: Final = {
    "equal": "passed",
    "different": "failed",
    "not in the log": "inconclusive",
    "not compared": "skipped",
}


@click.command(
    epilog="""\b
Examples:
  rvp replay /sys/kernel/security/tpm0/binary_bios_measurements
  rvp replay boot.log --evidence pcrs.txt        (what tpm2_pcrread prints)
  rvp replay ccel.bin --evidence quote.bin --format json
  rvp replay quote-report.json                   (dstack: log and quote in one)
"""
)
@click.argument("path", metavar="EVENTLOG", type=click.Path(path_type=Path))
@click.option(
    "--evidence",
    metavar="QUOTE",
    type=click.Path(path_type=Path),
    help="Compare with a TDX quote, or with PCR values.",
)
@click.option(
    "--kind",
    type=click.Choice(("tpm", "ccel")),
    help="What the log's indices are, where it does not show: PCRs, or a CCEL's registers.",
)
@click.option(
    "--log",
    "log_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the measurement log of every register.",
)
@format_option()
@click.pass_obj
def replay(
    settings: Settings,
    path: Path,
    evidence: Path | None,
    kind: Literal["tpm", "ccel"] | None,
    log_file: Path | None,
    output_format: str,
) -> None:
    """Replay EVENTLOG: every event in words, and the registers that it folds to.

    EVENTLOG is a TPM's (TCG) log, a CCEL, or JSON that has one. With --evidence the registers are compared.
    Exit code 0 when all that could be compared are equal, 12 when one differs, 20 when none could be
    compared, 2 when the log is truncated or contradicts itself. A quote's signature is not verified here.
    """
    log, values = _read(path, evidence, kind)
    found = replay_log(log, values, name=str(path))
    if log_file is not None:
        logs = [msgspec.to_builtins(one) for one in measurement_logs(log)]
        write_file(log_file, msgspec.json.format(msgspec.json.encode(logs), indent=2) + b"\n")
    if output_format == "json":
        settings.out_json(found)
    else:
        settings.out("\n".join(replay_lines(found, verbose=settings.verbose > 0)))
    require_equal(found)


def _read(
    path: Path, evidence: Path | None, kind: Literal["tpm", "ccel"] | None
) -> tuple[EventLog, RegisterValues | None]:
    data = read_log_file(path)
    beside = b""
    if looks_like_json(data):
        both = read_json_log(data, name=str(path))
        log, beside = both.log, both.quote
    else:
        log = read_event_log(data, name=str(path), kind=kind)
    if evidence is not None:
        given = read_file(evidence, limit_bytes=MAX_VALUES_BYTES)
        return log, read_register_values(given, name=str(evidence))
    return log, values_of_quote(beside, name=f"{path}: $.quote") if beside else None


def replay_lines(found: Replay, *, verbose: bool = False) -> list[str]:
    """Write a replay for people: events, registers, what was compared with what."""
    log = found.log
    padding = f", {log.padding_bytes} bytes of padding" if log.padding_bytes else ""
    lines = [
        f"{one_line(found.name)}  {_KINDS[log.kind]}",
        f"  {log.events} events in {log.size_bytes} bytes{padding}; {log.form}, {', '.join(log.banks)}",
        "",
    ]
    width = max((len(one.register) for one in found.events), default=0)
    digits = len(str(log.events))
    for event in found.events:
        mark = _MARKS[event.preimage.outcome]
        words = one_line(event.words)
        if not verbose and len(words) > _MAX_WORDS:
            words = f"{words[:_MAX_WORDS]}… (-v shows all)"
        lines.append(f"  {event.number:>{digits}}  {event.register:<{width}}  {mark}  {event.type}  {words}")
    lines += [
        "",
        "  ✓ the data are what was hashed   · the data only describe it",
        "  ! the data are not what was hashed   - not extended   ? undecided",
    ]
    for bank in dict.fromkeys(one.bank for one in found.registers):
        lines += ["", f"registers, {bank}"]
        for one in found.registers:
            if one.bank == bank:
                lines += _register_lines(one)
    lines.append("")
    lines += [f"note: {one}" for one in found.notes]
    if found.compared_with is None:
        lines.append("nothing was compared: --evidence takes a TDX quote or PCR values")
    else:
        counted = {status: sum(one.compared == status for one in found.registers) for status in _STATUS}
        told = [f"{count} {status}" for status, count in counted.items() if count]
        lines.append(f"compared with: {found.compared_with.source}; {found.compared_with.trust}")
        lines.append(f"registers: {', '.join(told)}")
    return lines


def _register_lines(one: ReplayedRegister) -> list[str]:
    events = f"{one.events} event{'' if one.events == 1 else 's'}"
    name = f"{one.register:<6}"
    match one.compared:
        case "equal":
            return [f"  {styled('passed', '✓ equal')}  {name} {one.value}  {events}"]
        case "different":
            return [
                f"  {styled('failed', '✗ different')}  {name} {events}",
                f"      the log folds to  {one.value}",
                f"      the register has  {one.given}",
                f"      {one_line(one.hint)}",
            ]
        case "not in the log":
            return [f"  {styled('inconclusive', '? not in the log')}  {name} {one.given}  {one.hint}"]
        case _:
            hint = f"  {one.hint}" if one.hint else ""
            return [f"  {name} {one.value}  {events}{hint}".rstrip()]
