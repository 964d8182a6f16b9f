"""The wheel: what a user installs has everything, and the base installation is the verifier alone."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source],
        check=True, timeout=280,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.mark.network
def test_the_wheel_has_the_three_floors_their_types_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"rvp.py", "pipeline/py.typed", "provenance/py.typed", "verifier/py.typed"} <= names
    shipped = {
        str(path.relative_to(ROOT))
        for floor in ("pipeline", "provenance", "verifier")
        for path in (ROOT / floor).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not shipped - names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.network
def test_the_base_installation_is_the_verifier_alone(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, timeout=280)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.partition("==")[0].lower() for line in listed.stdout.split()} - {"pip", "setuptools"}
    assert names == {
        "reference-value-pipeline",
        "click",
        "cryptography",
        "msgspec",
        "cbor2",
        "cffi",
        "pycparser",
    } - (
        {"pycparser"} - names  # newer cffi does without it
    )
    environment = {"PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for arguments, code, words in (
        (["--version"], 0, "rvp "),
        (["explain", "RVP-1013"], 0, "RVP-1013"),
        (["verify", "nothing-here"], None, ""),
        (["build"], 2, "reference-value-pipeline[pipeline]"),
    ):
        found = subprocess.run(
            ["rvp", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert found.returncode == code or (code is None and found.returncode not in {0, 1}), found.stderr
        assert words in found.stdout + found.stderr
