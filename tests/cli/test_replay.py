"""What a user of `rvp replay` sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rvp import cli
from tests.conftest import ROOT
from tests.fakes.event_logs import BOOT, CCEL, Entry, agile_log, folded, tdx_quote
from verifier.cli.terminal import run

RTMRS = tuple(folded(CCEL, "sha384", index) for index in range(1, 5))


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    Path("boot.log").write_bytes(agile_log(BOOT))
    Path("ccel.bin").write_bytes(agile_log(CCEL, ("sha384",), first_index=1) + b"\xff" * 4096)
    Path("quote.bin").write_bytes(tdx_quote(RTMRS))
    pcrs = "".join(f"    {n} : 0x{folded(BOOT, 'sha256', n).hex().upper()}\n" for n in range(10))
    Path("pcrs.txt").write_text(f"  sha1:\n  sha256:\n{pcrs}")


def test_without_values_it_says_that_nothing_was_compared(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", "boot.log"]) == 0
    out = capfd.readouterr().out
    assert "nothing was compared" in out
    assert folded(BOOT, "sha256", 4).hex() in out
    assert "grub command: linux /vmlinuz quiet" in out


def test_equal_registers_are_exit_code_0(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", "ccel.bin", "--evidence", "quote.bin"]) == 0
    out = capfd.readouterr().out
    assert "the signature of the quote was NOT verified" in out
    assert "registers: 4 equal" in out
    assert run(cli, ["replay", "boot.log", "--evidence", "pcrs.txt"]) == 0


def test_a_register_that_differs_is_exit_code_12_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    Path("quote.bin").write_bytes(tdx_quote((RTMRS[0], folded(CCEL[:-1], "sha384", 2), *RTMRS[2:])))
    assert run(cli, ["replay", "ccel.bin", "--evidence", "quote.bin"]) == 12
    told = capfd.readouterr()
    assert "ccel.bin: error[RVP-7010]: rtmr1 of sha384 is not what the log folds to" in told.err
    assert "it has the first 1 of 2 events; the first that it lacks is event 5" in told.err
    assert "✗ different  rtmr1" in told.out


def test_nothing_comparable_is_exit_code_20(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", "ccel.bin", "--evidence", "pcrs.txt"]) == 20
    assert "RVP-7011" in capfd.readouterr().err


@pytest.mark.parametrize("cut", [1, 31, 80, 400])
def test_a_truncated_log_is_exit_code_2_with_its_offset(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    Path("cut.log").write_bytes(agile_log(BOOT)[:-cut] if cut < 31 else agile_log(BOOT)[:cut])
    assert run(cli, ["replay", "cut.log"]) == 2
    told = capfd.readouterr()
    assert "error[RVP-7000]" in told.err
    assert "at offset 0x" in told.err
    assert told.out == ""


@pytest.mark.parametrize("name", ["missing.log", "."])
def test_a_file_that_cannot_be_read_is_exit_code_2(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", name]) == 2
    assert "RVP-1010" in capfd.readouterr().err


def test_a_quote_that_is_cut_is_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    Path("quote.bin").write_bytes(tdx_quote(RTMRS)[:600])
    assert run(cli, ["replay", "ccel.bin", "--evidence", "quote.bin"]) == 2
    assert "RVP-7001" in capfd.readouterr().err


@pytest.mark.parametrize(("log", "code"), [("ccel.bin", 0), ("cut.log", 2)])
def test_json_is_one_document_whatever_happens(
    log: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("cut.log").write_bytes(agile_log(BOOT)[:-1])
    assert run(cli, ["replay", log, "--evidence", "quote.bin", "--format", "json"]) == code
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == ("rvp/error/v1" if code else "rvp/replay/v1")
    if not code:
        assert document["verdict"] == "equal"
        assert document["compared_with"]["trust"] == "the signature of the quote was NOT verified"
        assert document["events"][4]["words"].startswith("load options of the kernel")


def test_a_difference_is_one_document_too(capfd: pytest.CaptureFixture[str]) -> None:
    Path("quote.bin").write_bytes(tdx_quote((b"x" * 48, *RTMRS[1:])))
    assert run(cli, ["replay", "ccel.bin", "--evidence", "quote.bin", "--format", "json"]) == 12
    assert json.loads(capfd.readouterr().out)["verdict"] == "different"


def test_dstacks_report_is_compared_with_the_quote_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    event = {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "c0ffee"}
    runtime = Entry(4, 0x08000001, hashed=b"\x01\0\0\x08:app-id:\xc0\xff\xee")
    zeros = (bytes(48),) * 3
    for rtmr3, code in ((folded([runtime], "sha384", 4), 0), (b"x" * 48, 12)):
        report = {"quote": tdx_quote((*zeros, rtmr3)).hex(), "event_log": json.dumps([event])}
        Path("report.json").write_text(json.dumps(report))
        assert run(cli, ["replay", "report.json"]) == code
    assert "runtime event app-id: c0ffee" in capfd.readouterr().out


def test_data_that_are_not_what_was_hashed_are_marked(capfd: pytest.CaptureFixture[str]) -> None:
    Path("lie.log").write_bytes(
        agile_log([Entry(8, 0xD, b"kernel_cmdline: quiet\0", b"init=/bin/sh"), *BOOT])
    )
    assert run(cli, ["replay", "lie.log"]) == 0
    out = capfd.readouterr().out
    assert "pcr8  !  EV_IPL  kernel command line: quiet" in out
    assert "note: data that are not what was hashed: event 1; only the digest counts" in out


def test_what_a_log_says_cannot_steer_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Path("evil.log").write_bytes(
        agile_log([Entry(8, 0xD, b"grub_cmd: \x1b[2J\n  \xe2\x9c\x93 equal\0"), *BOOT])
    )
    assert run(cli, ["replay", "evil.log"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2J\\n" in out


def test_the_measurement_logs_are_written(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["replay", "ccel.bin", "--log", "log.json"]) == 0
    made = json.loads(Path("log.json").read_text())
    assert [(one["register"], one["value"]) for one in made] == [
        (f"rtmr{n}", RTMRS[n].hex()) for n in range(3)
    ]


def test_it_loads_nothing_heavy() -> None:
    code = "import sys; from rvp import main\ntry: main(['replay', 'boot.log'])\nexcept SystemExit: pass\n"
    code += "print([n for n in ('docker', 'networkx', 'numpy', 'rich', 'pipeline') if n in sys.modules])"
    made = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, capture_output=True, check=True)  # fmt: skip
    assert made.stdout.decode().splitlines()[-1] == "[]"
