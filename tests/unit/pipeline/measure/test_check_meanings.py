"""Every check that an SGX measurement can have is explained, in the command and in the docs."""

from __future__ import annotations

import re

import pytest

from pipeline.measure.check_meanings import MEANINGS, meaning_of
from rvp import cli
from tests.conftest import ROOT
from verifier.cli.terminal import run
from verifier.verify.checks import CHECKS

ROOMS = [*sorted((ROOT / "pipeline/measure/sgx").rglob("*.py")), ROOT / "pipeline/measure/image_manifest.py"]
MADE = re.compile(r'(?:\bid=|CHECK_ID: Final = |(?:\b|_)check\(\s*)"([a-z0-9-]+)"')


def test_every_check_that_the_code_makes_is_explained() -> None:
    made = {found for path in ROOMS for found in MADE.findall(path.read_text())}
    assert {"q1q2", "mrsigner", "binds-application", "diff-ids", "config-gives-this-enclave"} <= made
    inner = {"configuration"}  # a part of config-gives-this-enclave, never shown alone
    assert made - {one.id for one in MEANINGS} - inner == set()


def test_every_explained_check_is_in_the_reference() -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    assert [one.id for one in MEANINGS if f"`{one.id}`" not in pages] == []


def test_no_name_means_a_check_of_a_verdict_and_of_a_measurement() -> None:
    assert {one.id for one in MEANINGS} & {rule.id for rule in CHECKS} == set()


def test_a_check_is_explained_with_how_the_command_ends(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["explain", "q1q2"]) == 0
    assert "exit code 10" in capfd.readouterr().out
    assert run(cli, ["explain", "binds-application"]) == 0
    assert "a warning" in capfd.readouterr().out
    assert run(cli, ["explain", "metadata-records-agree", "--format", "json"]) == 0
    assert '"RVP-5010"' in capfd.readouterr().out
    assert meaning_of("nothing") is None
