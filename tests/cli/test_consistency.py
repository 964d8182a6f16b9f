"""Every command alike: help with an example, one JSON document, errors with a code and a cure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest

import rvp
from pipeline.cli.schema import SCHEMAS, schema_of
from tests.conftest import ROOT
from tests.fakes.build_folder import ENCLAVE, write_build

CASE = ROOT / "tests" / "conformance" / "verify" / "two-of-two"
KEYS = ROOT / "tests" / "conformance" / "keys"
NO_ENGINE = "unix:///run/nothing-here.sock"


def walk(command: click.Command, *name: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Go through all commands, groups included."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for one in command.list_commands(context):
            found = command.get_command(context, one)
            assert found is not None
            yield from walk(found, *name, one)


def offers_json(command: click.Command) -> bool:
    return any(
        "--format" in option.opts and isinstance(option.type, click.Choice) and "json" in option.type.choices
        for option in command.params
    )


COMMANDS = dict(walk(rvp.cli))
WITH_JSON = {" ".join(name) for name, command in COMMANDS.items() if offers_json(command)}


def run(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rvp", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": NO_ENGINE, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, a finished build, its statements, and a bundle."""
    room = tmp_path_factory.mktemp("room")
    write_build(room / ".rvp" / "build")
    for arguments in (
        ["key", "new", "ci.key"],
        ["sign", "--key", "ci.key"],
        ["publish", "one.bundle"],
        ["policy", "init", "one.bundle", "--operator", "ci=ci.key.pub"],
    ):
        done = run(*arguments, folder=room)
        assert done.returncode == 0, done.stderr
    return room


# Help


@pytest.mark.parametrize("name", sorted(COMMANDS), ids=" ".join)
def test_help_is_whole_and_has_an_example(name: tuple[str, ...]) -> None:
    command = COMMANDS[name]
    text = command.get_help(click.Context(command, info_name=" ".join(["rvp", *name])))
    assert "\\b" not in text
    assert "..." not in text.partition("Commands:")[2], "a first sentence that is cut"
    assert f"  {' '.join(['rvp', *name])}" in text.partition("Options:")[2], "no example"
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert [one.opts for one in options if not one.help] == []


@pytest.mark.parametrize("name", sorted(COMMANDS), ids=" ".join)
def test_the_options_of_examples_exist(name: tuple[str, ...]) -> None:
    command = COMMANDS[name]
    for line in (command.epilog or "").replace("\\\n", " ").splitlines():
        if not line.strip().startswith("rvp "):
            continue
        words = line.split(">")[0].split("|")[0].split()[1:]
        called, rest = rvp.cli, words
        while isinstance(called, click.Group) and rest and not rest[0].startswith("-"):
            found = called.get_command(click.Context(called), rest[0])
            assert found is not None, line
            called, rest = found, rest[1:]
        known = {opt for one in (*called.params, *rvp.cli.params) for opt in one.opts}
        assert {word for word in rest if re.fullmatch(r"--[a-z-]+", word)} <= known, line


# One document


FAILING = {
    "lock": [],
    "plan": [],
    "build": [],
    "rebuild": ["nothing.bundle"],
    "replay": ["missing.log"],
    "measure": ["nothing"],
    "sign": ["--key", "nothing.key"],
    "release": [
        "nothing", "--key", "k", "--series", "s", "--sequence", 1, "--version", "1", "--not-after", "2099-01-01T00:00:00Z",
    ],
    "publish": ["new.bundle"],
    "verify": ["nothing.bundle"],
    "policy check": ["nothing.toml"],
    "key new": ["no/such/folder/key"],
    "key show": ["nothing.pub"],
    "show": ["nothing"],
    "explain": ["RVP-0001"],
    "sgx digest": ["nothing", "--date", "2026-02-04", "-o", "new.tbs"],
    "sgx sign": ["nothing", "--key", "none.pem", "--date", "2026-02-04", "-o", "new.sig"],
    "sgx pack": ["nothing", "-o", "new.so"],
    "sgx assemble": ["nothing", "--signature", "none.rsa", "--public-key", "none.pub", "-o", "new.sig"],
    "sgx show": ["nothing"],
    "sgx verify": ["nothing"],
    "engine start": ["--nonsense"],
    "engine stop": ["--nonsense"],
    "engine status": ["--nonsense"],
    "doctor": [],
}  # fmt: skip


def test_no_command_is_forgotten_here() -> None:
    assert set(FAILING) == WITH_JSON


@pytest.mark.parametrize("name", sorted(FAILING))
def test_a_failure_is_one_document_with_code_message_and_cure(name: str, tmp_path: Path) -> None:
    done = run(*name.split(), *FAILING[name], "--format", "json", folder=tmp_path)
    document = json.loads(done.stdout)
    valid(document)
    assert done.returncode not in {0, 1}, done.stderr
    code = re.search(r"error\[(RVP-\d{4})\]", done.stderr)
    assert code, done.stderr
    assert f"more: rvp explain {code[1]}" in done.stderr
    assert "  hint: " in done.stderr
    if document["schema"] == "rvp/error/v1":
        assert (document["code"], document["exit_code"]) == (code[1], done.returncode)
    assert run("explain", code[1], folder=tmp_path).returncode == 0


WORKING = (
    ["sign", "--key", "ci.key"],
    ["sign", "--key", "ci.key", "--dry-run"],
    [
        "release", ".rvp/statements", "--key", "ci.key", "--series", "s", "--sequence", 1, "--version", "1",
        "--not-after", "2099-01-01T00:00:00Z", "--yes", "-o", "elsewhere",
    ],
    ["publish", "two.bundle"],
    ["verify", "one.bundle", "--policy", "policy.toml"],
    ["verify", CASE / "bundle.tar", "--policy", CASE / "policy.toml", "--at", "2026-03-01T00:00:00Z"],
    ["policy", "check", "policy.toml"],
    ["key", "new", "another.key"],
    ["key", "show", "ci.key.pub"],
    ["show", "one.bundle"],
    ["show", "policy.toml"],
    ["explain"],
    ["explain", "6204"],
    ["engine", "status"],
    ["measure", f".rvp/build/artifacts/{ENCLAVE}"],
    ["doctor"],
)  # fmt: skip


@pytest.mark.parametrize("arguments", WORKING, ids=lambda words: " ".join(map(str, words[:2])))
def test_a_result_is_one_document_of_a_schema_that_is_printed(arguments: list[str], room: Path) -> None:
    done = run(*arguments, "--format", "json", folder=room)
    document = json.loads(done.stdout)
    assert document["schema"] != "rvp/error/v1", done.stderr
    valid(document)


def valid(document: dict[str, object]) -> None:
    """Hold a document to the schema of its name."""
    names = {"build": "build", **{name: name for name in SCHEMAS}}
    name = str(document["schema"]).split("/")[1]
    jsonschema.validate(document, schema_of(names[name]))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


def test_quiet_says_nothing_but_the_result(room: Path) -> None:
    loud = run("publish", "three.bundle", folder=room)
    quiet = run("-q", "publish", "three.bundle", folder=room)
    assert "next:" in loud.stderr
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")


def test_no_colour_reaches_a_pipe_or_a_person_who_does_not_want_it(room: Path) -> None:
    for environment in ({}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        for arguments in (["verify", "one.bundle"], ["doctor"], ["policy", "check", "policy.toml"]):
            done = run(*arguments, folder=room, **environment)
            assert "\x1b" not in done.stdout + done.stderr
            assert "\\x1b" not in done.stdout + done.stderr, "an escape shown as text"


def test_a_terminal_without_unicode_is_no_reason_to_fail(room: Path) -> None:
    done = run("verify", "one.bundle", folder=room, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 20, done.stderr
    assert "INCONCLUSIVE" in done.stdout


def test_a_reader_that_leaves_early_is_no_traceback(room: Path) -> None:
    command = f"{sys.executable} -m rvp explain | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=room,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["buld"], '"build"'),
        (["key", "nwe"], "'new'"),
        (["build", "--stroe", "x"], "'--store'"),
        (["schema", "polcy"], '"policy"'),
        (["explain", "RVP-6205x"], "RVP-6205"),
        (["explain", "9999"], "RVP-"),
        (["explain", "agreemnt"], "agreement"),
    ],
)
def test_a_misspelt_word_is_told_with_the_one_that_was_meant(
    arguments: list[str], meant: str, tmp_path: Path
) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert meant in done.stderr
    assert re.search(r"error\[RVP-\d{4}\]", done.stderr)


def test_a_folder_that_cannot_be_written_is_the_machines_fault_not_a_bug(tmp_path: Path) -> None:
    done = run("key", "new", "no/such/folder/key", folder=tmp_path)
    assert done.returncode in {2, 4}
    assert "RVP-1000" not in done.stderr
    assert "no/such/folder/key" in done.stderr


def test_a_file_of_another_kind_is_called_by_its_name(room: Path) -> None:
    (room / "spec.toml").write_text('schema = "rvp/spec/v1"\n')
    done = run("policy", "check", "spec.toml", folder=room)
    assert 'it is a document of "rvp/spec/v1", not of rvp/policy/v1' in done.stderr


@pytest.mark.parametrize("arguments", [["plan"], ["build"], ["lock"]])
def test_a_place_is_told_as_it_is_typed(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("rvp.toml: error[RVP-1101]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_calls_rvp(shell: str, tmp_path: Path) -> None:
    done = run("completion", shell, folder=tmp_path)
    assert done.returncode == 0
    assert "_RVP_COMPLETE" in done.stdout


def test_completion_offers_commands_and_options(tmp_path: Path) -> None:
    asked = {"_RVP_COMPLETE": "bash_complete", "COMP_WORDS": "rvp re", "COMP_CWORD": "1"}
    assert {"rebuild", "release"} <= set(re.findall(r"plain,(\w+)", run(folder=tmp_path, **asked).stdout))
    asked = {"_RVP_COMPLETE": "bash_complete", "COMP_WORDS": "rvp verify --po", "COMP_CWORD": "2"}
    assert "--policy" in run(folder=tmp_path, **asked).stdout


def test_init_says_what_cannot_be_measured_yet(tmp_path: Path) -> None:
    done = run("init", "--tee", "tdx", folder=tmp_path)
    assert done.returncode == 0
    assert "tdx is not known yet" in done.stderr
    assert "not known yet" not in run("init", "--force", folder=tmp_path).stderr


def test_init_speaks_of_src_only_where_the_spec_does(tmp_path: Path) -> None:
    assert "src/, which is not there" in run("init", folder=tmp_path).stderr
    (tmp_path / "Dockerfile").write_text("FROM debian:bookworm\nCOPY . /x\nRUN true\n")
    assert "src/" not in run("init", "--force", "--from", "Dockerfile", folder=tmp_path).stderr
