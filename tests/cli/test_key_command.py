"""`rvp key`: what a user types, what comes out."""

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from rvp import cli
from verifier.cli.terminal import run

ROOT = Path(__file__).resolve().parents[2]


def rvp(*args, cwd, env=None):
    """Run a command line in this process; a process of its own for each would take minutes."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    environment = {k: v for k, v in os.environ.items() if k != "RVP_PASSPHRASE"}
    environment |= {"NO_COLOR": "1", **(env or {})}
    try:
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("sys.stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(cli, ["-C", str(cwd), *map(str, args)])
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def test_the_installed_front_door_has_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rvp", "key", "new", "k"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "fingerprint  sha256:" in done.stdout


def test_a_new_key_is_written_and_shown(tmp_path):
    made = rvp("key", "new", "ci.key", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "ci.key").stat().st_mode) == 0o600
    private = rvp("key", "show", "ci.key", "--format", "json", cwd=tmp_path)
    public = rvp("key", "show", "ci.key.pub", "--format", "json", cwd=tmp_path)
    assert private.stdout == public.stdout
    document = json.loads(public.stdout)
    assert document["type"] == "p256"
    assert document["fingerprint"]["sha256"] in made.stdout
    assert document["pem"] == (tmp_path / "ci.key.pub").read_text()


def test_the_private_key_never_reaches_the_terminal(tmp_path):
    made = rvp("-v", "key", "new", "ci.key", "--format", "json", cwd=tmp_path)
    shown = rvp("-v", "key", "show", "ci.key", cwd=tmp_path)
    secret = (tmp_path / "ci.key").read_text().splitlines()[1]
    for done in (made, shown):
        assert secret not in done.stdout + done.stderr


def test_a_key_is_not_overwritten(tmp_path):
    rvp("key", "new", "ci.key", cwd=tmp_path)
    before = (tmp_path / "ci.key").read_bytes()
    again = rvp("key", "new", "ci.key", cwd=tmp_path)
    assert again.returncode == 2
    assert "RVP-6007" in again.stderr
    assert (tmp_path / "ci.key").read_bytes() == before


@pytest.mark.parametrize("key_type", ["p384", "ed25519"])
def test_the_limits_of_other_types_are_told(tmp_path, key_type):
    made = rvp("key", "new", "k", "--type", key_type, cwd=tmp_path)
    assert made.returncode == 0
    assert "P-256 works everywhere" in made.stderr


def test_a_passphrase_from_the_environment(tmp_path):
    made = rvp("key", "new", "k", "--encrypt", cwd=tmp_path, env={"RVP_PASSPHRASE": "secret"})
    assert made.returncode == 0, made.stderr
    assert "ENCRYPTED" in (tmp_path / "k").read_text()
    assert rvp("key", "show", "k", cwd=tmp_path, env={"RVP_PASSPHRASE": "secret"}).returncode == 0
    wrong = rvp("key", "show", "k", cwd=tmp_path, env={"RVP_PASSPHRASE": "wrong"})
    assert (wrong.returncode, "RVP-6004" in wrong.stderr) == (2, True)
    missing = rvp("key", "show", "k", cwd=tmp_path)
    assert (missing.returncode, "RVP-6005" in missing.stderr) == (2, True)


def test_a_passphrase_from_a_file_descriptor(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"secret\n")
    os.close(writer)
    made = rvp("key", "new", "k", "--passphrase-fd", reader, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert rvp("key", "show", "k", cwd=tmp_path, env={"RVP_PASSPHRASE": "secret"}).returncode == 0


def test_encrypt_without_a_passphrase_writes_nothing(tmp_path):
    done = rvp("key", "new", "k", "--encrypt", cwd=tmp_path)
    assert (done.returncode, "RVP-6005" in done.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_key_is_told(tmp_path):
    (tmp_path / "x").write_text("hello")
    done = rvp("key", "show", "x", cwd=tmp_path)
    assert (done.returncode, "RVP-6001" in done.stderr) == (2, True)
