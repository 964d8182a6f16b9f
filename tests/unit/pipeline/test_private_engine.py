"""The private engine's places and refusals, without starting one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import private_engine


def test_two_folders_have_two_short_sockets(tmp_path):
    one, other = (private_engine.status(tmp_path / name).url for name in ("a" * 200, "b"))
    assert one != other
    assert len(one.removeprefix("unix://")) < 40


def test_an_engine_that_was_never_started_does_not_run(tmp_path):
    assert not private_engine.status(tmp_path).running
    assert private_engine.running_url(tmp_path) is None


def test_who_is_not_root_is_told_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(private_engine.EngineNeedsRoot) as caught:
        private_engine.start(tmp_path)
    assert caught.value.exit_code == 4
    assert "sudo" in caught.value.hint


def test_a_pid_that_somebody_else_has_is_not_the_engine(tmp_path, monkeypatch):
    places = private_engine._Places(tmp_path)
    monkeypatch.setattr(places, "pid_file", tmp_path / "pid")
    Path(places.pid_file).write_text(str(os.getpid()))
    assert private_engine._pid(places) == 0


@pytest.mark.parametrize("pid", [1, 0, -1])
def test_nothing_but_one_process_is_ever_ended(pid, monkeypatch):
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    private_engine._end(pid, 0.1)


def test_no_apt_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(private_engine.EngineDownloadFailed, match="apt-get"):
        private_engine._fetch(tmp_path / "programs", tmp_path / "programs/root")
