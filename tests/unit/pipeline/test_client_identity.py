"""Whose container is it, and does that client still live."""

from __future__ import annotations

import subprocess
import sys

from pipeline import client_identity as identity


def labels(**changes: str) -> dict[str, str]:
    return {**identity.own_labels(), **changes}


def test_this_process_lives_and_is_itself():
    assert identity.is_alive(labels())
    assert identity.is_own(labels())


def test_a_pid_that_was_used_again_is_not_the_client():
    assert not identity.is_alive({**labels(), identity.START_TIME: "1"})
    assert not identity.is_own({**labels(), identity.START_TIME: "1"})


def test_a_process_that_ended_is_gone():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        theirs = {
            **labels(),
            identity.PID: str(process.pid),
            identity.START_TIME: identity.start_time(process.pid),
        }
        assert identity.is_alive(theirs)
        assert not identity.is_own(theirs)
    assert not identity.is_alive(theirs)


def test_a_client_before_the_last_boot_is_gone():
    assert not identity.is_alive({**labels(), identity.BOOT: "another"})


def test_what_cannot_be_judged_from_here_counts_as_alive():
    assert identity.is_alive({**labels(), identity.MACHINE: "another", identity.BOOT: "another"})
    assert identity.is_alive({**labels(), identity.NAMESPACE: "another", identity.START_TIME: "1"})
    assert identity.is_alive({})
