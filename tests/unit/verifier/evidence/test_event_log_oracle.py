"""Registers and event counts against tpm2_eventlog (Debian's tpm2-tools), on every log there is.

Its release in Debian 12 (5.4) knows no startup locality and extends EV_NO_ACTION, so such logs are not compared.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.event_logs import BOOT, CCEL, agile_log, sha1_log
from verifier.evidence.event_log import read_event_log
from verifier.evidence.fold import measurement_logs
from verifier.evidence.register_values import read_register_values

pytestmark = pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="tpm2-tools is not installed")


def told(path: Path) -> tuple[int, dict[tuple[str, str], str]]:
    """What tpm2_eventlog says: how many events, and the registers."""
    made = subprocess.run(["tpm2_eventlog", path], capture_output=True, check=True, timeout=60)
    text = made.stdout.decode(errors="replace")
    events, _, registers = text.partition("\npcrs:\n")
    values = read_register_values(b"pcrs:\n" + registers.encode()).values
    return len(re.findall(r"^(?:- EventNum|  PCRIndex):", events, re.MULTILINE)), {
        (one.bank, one.name): value.hex() for one, value in values.items()
    }


def as_pcrs(data: bytes) -> bytes:
    """Write a CCEL as a TPM's log, which is all that the tool reads: header of PCR 0, no padding."""
    return bytes(4) + data[4 : read_event_log(data).size_bytes]


def compare(data: bytes, path: Path) -> int:
    log = read_event_log(data, kind="tpm")
    path.write_bytes(data)
    count, registers = told(path)
    ours = {(one.algorithm, one.register): one.value for one in measurement_logs(log)}
    assert {key: value for key, value in registers.items() if key in ours} == ours, path.name
    assert all(not value.strip("0") for key, value in registers.items() if key not in ours)
    # The tool counts "PCRIndex" once an event in both forms, and "EventNum" too in the crypto-agile one.
    assert count == len(log.events) * (1 if log.form == "sha1" else 2), path.name
    return len(ours)


def test_registers_and_events_of_all_real_logs_are_those_of_tpm2_eventlog(
    vectors: Path, tmp_path: Path
) -> None:
    logs = [
        *vectors.glob("eventlog/goel_*"),
        *vectors.glob("eventlog/trustee_CCEL*"),
        *vectors.glob("boot/*.tcglog"),
    ]
    logs += vectors.glob("evidence/vtpm/*eventlog*.bin")
    registers = 0
    for path in sorted(logs):
        data = path.read_bytes()
        data = as_pcrs(data) if read_event_log(data).kind == "ccel" else data
        registers += compare(data, tmp_path / path.name)
    assert len(logs) >= 17
    assert registers >= 250


@pytest.mark.parametrize(
    "data",
    [
        agile_log(BOOT, ("sha1", "sha256", "sha384", "sha512")),
        sha1_log(BOOT),
        agile_log(CCEL, ("sha384",)),
    ],
    ids=["four banks", "sha1", "ccel"],
)
def test_written_logs_are_read_alike(data: bytes, tmp_path: Path) -> None:
    assert compare(data, tmp_path / "made.log") >= 3
