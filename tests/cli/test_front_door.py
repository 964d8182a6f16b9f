"""What a user meets first: help, typos, missing extras, and that nothing heavy is loaded on the way."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

import rvp
from tests.conftest import ROOT

HEAVY = {
    "docker",
    "networkx",
    "sigstore",
    "in_toto",
    "numpy",
    "rich",
    "jinja2",
    "debian",
    "resolvelib",
    "pysequoia",
}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["verify", "--help"], ["show", "--help"], ["explain", "--help"]]
)
def test_the_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    found = python(
        "import sys, rvp\n"
        "try:\n    rvp.main(sys.argv[1:])\n"
        "except SystemExit as done:\n    assert done.code == 0, done.code\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))",
        *arguments,
    )
    assert found.returncode == 0, found.stderr
    loaded = set(found.stdout.rpartition("LOADED")[2].split())
    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", sorted(rvp.COMMANDS))
def test_every_command_of_the_table_exists_and_has_help(name: str) -> None:
    module, _, line = rvp.COMMANDS[name]
    command = getattr(importlib.import_module(module), name.replace("-", "_"))
    assert isinstance(command, click.Command)
    assert command.help
    assert line.endswith(".")


def test_a_misspelt_command_is_answered_with_the_nearest_one() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "rvp", "verfy"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert found.returncode == 2
    assert 'did you mean "verify"?' in found.stderr
    assert not found.stdout


def test_a_command_whose_packages_are_missing_names_the_extra() -> None:
    # The packages of the pipeline are hidden, as in a base installation.
    found = python(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {sorted(HEAVY)!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import rvp; rvp.main(sys.argv[1:])",
        "build",
    )
    assert found.returncode == 2, found.stderr
    assert "RVP-1001" in found.stderr
    assert "reference-value-pipeline[pipeline]" in found.stderr


def test_the_working_folder_option_says_when_the_folder_is_not_there() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "rvp", "-C", "/does/not/exist", "plan"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "/does/not/exist" in found.stderr
