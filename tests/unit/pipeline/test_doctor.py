"""Findings about a machine, each with its fix."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import doctor

ROOT = Path(__file__).resolve().parents[3]


def find(diagnosis: doctor.Diagnosis, name: str) -> doctor.Finding:
    return next(finding for finding in diagnosis.findings if finding.id == name)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")


def test_an_engine_that_is_not_there_fails_with_its_fix(nowhere, tmp_path):
    diagnosis = doctor.diagnose(tmp_path / "a/b/store", now=4e9)
    assert find(diagnosis, "engine").status == "failed"
    assert "rvp engine start" in find(diagnosis, "engine").fix
    assert not diagnosis.is_healthy


def test_a_clock_behind_the_newest_file_fails(nowhere, tmp_path):
    assert find(doctor.diagnose(tmp_path, now=1e9), "clock").status == "failed"
    assert find(doctor.diagnose(tmp_path, now=4e9), "clock").status == "passed"


def test_every_finding_that_is_not_passed_has_a_fix(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = doctor.diagnose(tmp_path, now=1e9).findings
    assert [finding.id for finding in findings if finding.status != "passed" and not finding.fix] == []
    assert {finding.status for finding in findings if finding.id.startswith("tool-")} == {"warning"}


def test_without_the_docker_package_it_is_a_finding(nowhere, tmp_path, monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "docker", None)
    diagnosis = doctor.diagnose(tmp_path, now=4e9)
    assert "pip install" in find(diagnosis, "engine").fix
    assert find(diagnosis, "package-docker").status == "failed"


def test_the_command_ends_with_4_and_one_document(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rvp", "doctor", "--format", "json"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/x.sock", "PYTHONPATH": str(ROOT)},
    )
    import msgspec

    document = msgspec.json.decode(done.stdout)
    assert document["schema"] == "rvp/doctor/v1"
    assert done.returncode == 4
    assert b"RVP-2030" in done.stderr
