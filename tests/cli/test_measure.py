"""What a user of `rvp measure` sees."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click.testing
import pytest

from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
from pipeline.measure.sgx.sgxs import write_sgxs
from rvp import cli
from verifier.cli.terminal import run


def stream() -> bytes:
    pages = Pages(address=0, count=2, flags=0x205, content=bytes(PAGE), label="pages")
    return write_sgxs(EnclaveImage(size_bytes=0x4000, ssa_frame_size=1, parts=(pages,)))


def test_json_is_one_document(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.sgxs").write_bytes(stream())
    assert run(cli, ["measure", str(tmp_path / "a.sgxs"), "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "rvp/measurements/v1"
    (measurement,) = document["measurements"]
    assert measurement["claims"] == {"mrenclave": hashlib.sha256(stream()).hexdigest()}
    assert measurement["policy_inputs"] == ["configid", "configsvn"]
    assert measurement["layout"] == "SGXS"


def test_text_shows_full_values_and_what_was_not_checked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.sgxs").write_bytes(stream())
    assert run(cli, ["measure", "sgx", str(tmp_path / "a.sgxs")]) == 0
    out = capfd.readouterr().out
    assert hashlib.sha256(stream()).hexdigest() in out
    assert "not signed" in out
    assert "laid out by    SGXS" in out


def test_the_log_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.sgxs").write_bytes(stream())
    log = tmp_path / "a.log.json"
    assert run(cli, ["measure", str(tmp_path / "a.sgxs"), "--log", str(log)]) == 0
    document = json.loads(log.read_bytes())
    assert document["value"] == hashlib.sha256(stream()).hexdigest()
    assert [event["op"] for event in document["events"]] == ["ECREATE", "EADD+EEXTEND"]


def test_an_unknown_file_is_exit_2_and_says_what_is_known(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "readme").write_text("hello")
    assert run(cli, ["measure", str(tmp_path / "readme")]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "RVP-5000" in captured.err
    assert "SGXS" in captured.err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["sgx"], "rvp measure sgx FILE"),
        (["a.sgxs", "sgx"], "rvp measure sgx a.sgxs"),
        (["a.sgxs", "a.sig"], "--sigstruct"),
        (["sgx", "a.sgxs", "a.sig"], "one FILE"),
    ],
)
def test_operands_in_another_order_are_exit_2_and_say_the_right_one(
    typed: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sgxs").write_bytes(stream())
    assert run(cli, ["measure", *typed]) == 2
    assert said in capfd.readouterr().err


def test_a_missing_file_is_exit_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["measure", str(tmp_path / "none")]) == 2
    assert "RVP-1010" in capfd.readouterr().err


def test_a_changed_enclave_is_exit_12_and_names_the_check(
    vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((vectors / "sgx/mini/keysvc.signed.so").read_bytes())
    data[0x2100] ^= 1
    (tmp_path / "e.so").write_bytes(data)
    assert run(cli, ["measure", str(tmp_path / "e.so"), "--format", "json"]) == 12
    captured = capfd.readouterr()
    assert "mrenclave-equals-sigstruct" in captured.err
    assert json.loads(captured.out)["measurements"]


def test_help_has_an_example() -> None:
    result = click.testing.CliRunner().invoke(cli, ["measure", "--help"])
    assert "rvp measure enclave.signed.so" in result.output
