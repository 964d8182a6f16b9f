"""The demonstration that the README names: it tells its whole story, and every attack fails for its own reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from pipeline.engine import Engine
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.docker,
    pytest.mark.network,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("demo"),
]


@pytest.fixture(scope="module")
def told(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    del docker_engine
    folder = tmp_path_factory.mktemp("demo")
    shim = folder / "bin" / "rvp"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rvp "$@"\n')
    shim.chmod(0o755)
    found = subprocess.run(
        [sys.executable, ROOT / "workflows" / "demo.py", folder / "story"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{shim.parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=880,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    return found.stdout


def test_two_operators_agree_and_the_bundle_passes(told: str) -> None:
    assert told.count("level     reproduced") == 2
    assert "it agrees with what the policy's operators state" in told
    cores = set(re.findall(r"core      sha256:([0-9a-f]{64})", told))
    assert len(cores) == 1
    assert re.search(r"^  PASSED", told, re.MULTILINE)


def test_the_byte_that_differs_is_named(told: str) -> None:
    explained = told.partition("Which byte")[2].partition("Attack 4")[0]
    assert "first divergence: page 3: the content differs" in explained
    assert "byte 0x100 of the page" in explained


def test_every_attack_fails_for_its_own_reason(told: str) -> None:
    summary = told.rpartition("Summary")[2]
    outcomes = re.findall(r"exit code +(\d+) +(PASSED|FAILED)(?: +([a-z-]+))?", summary)
    assert outcomes == [
        ("0", "PASSED", ""),
        ("10", "FAILED", "bundle"),
        ("13", "FAILED", "agreement"),
        ("12", "FAILED", "artifacts"),
        ("13", "FAILED", "source-repository"),
    ]


def test_the_readme_shows_how_it_ends(told: str) -> None:
    summary = [line.strip() for line in told.rpartition("Summary")[2].splitlines() if "exit code" in line]
    readme = (ROOT / "README.md").read_text()
    assert summary
    assert all(line in readme for line in summary)
