"""Each variation: a step that prints what it varies diverges under it, and is reproduced without it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from pipeline.sandbox import StepInput
from pipeline.tree import Tree, TreeEntry, make_tree
from tests.docker.steps import make_run

pytestmark = pytest.mark.docker

PRINTS = {
    "timezone": "date -d @0 +%H:%M",
    "hostname": "hostname; cat /etc/hostname; uname -n",
    "locale": "locale charmap; printf '%s\\n' i I ç z | sort | tr '\\n' ' '; printf '%.1f\\n' 1,5 || true",
    "umask": "umask; touch file; stat -c %a file",
    "user": "id -u; whoami",
    "home": "echo $HOME; cd; pwd",
    "environment": "env | grep -v -e ^HOME -e ^PWD | sort",
    "build-path": "pwd; echo {source.app}",
    "cpus": "nproc",
    "file-order": "cd {source.app}; ls -U . sub",
    "kernel-release": "uname -r",
}


@pytest.fixture(scope="session")
def app(shared_store) -> StepInput:
    digest, size_bytes = shared_store.put([b"x\n"])
    names = [f"{folder}{name}" for folder in ("", "sub/") for name in ("a", "b", "c", "d", "e.c", "f.h")]
    return StepInput(
        name="source.app",
        tree=make_tree(
            TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size_bytes) for name in names
        ),
    )


@pytest.mark.parametrize("name", PRINTS)
def test_it_diverges_under_the_variation_and_is_reproduced_without(step, base, app, name):
    if name == "cpus" and (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one processor")
    first = make_run(base, f"exec >{{out}}/result; {PRINTS[name]}", inputs=(app,))
    others = tuple(one for one in [*PRINTS, "time"] if one != name)
    again = msgspec.structs.replace(first, run=2)
    varied = msgspec.structs.replace(first, run=2, variations=(name,))
    if name == "environment":  # these set variables too
        others = tuple(one for one in others if one not in {"time", "timezone", "locale", "user", "hostname"})
    rest = msgspec.structs.replace(first, run=2, variations=others)
    outputs = step(first)
    assert step(again).result.outputs == outputs.result.outputs
    under = step(varied)
    assert under.result.exercised == (name,)
    assert under.result.outputs != outputs.result.outputs, outputs.tree_text("result")
    beside = step(rest)
    assert beside.tree_text("result") == outputs.tree_text("result")
    assert set(beside.result.exercised) == set(others)


def test_a_faked_clock_is_far_off_and_goes_on(step, base):
    script = "exec >{out}/result; date +%s; sleep 1; date +%s"
    real = step(make_run(base, script)).tree_text("result").split()
    faked = step(make_run(base, script, run=2, variations=("time",))).tree_text("result").split()
    assert abs(int(real[0]) - time.time()) < 60
    assert int(faked[0]) - int(real[0]) > 300 * 86400
    assert int(faked[1]) - int(faked[0]) in {1, 2}


def test_a_faked_clock_leaves_file_times_alone(step, base, app):
    """Setting times to SOURCE_DATE_EPOCH is what reproducible builds do; it must hold under a faked clock."""
    script = (
        "cd {out}; mkdir d; cp {source.app}/a d; touch -d @$SOURCE_DATE_EPOCH d/a d; "
        "tar -cf result --owner=0 --group=0 d; stat -c %Y d/a {source.app}/a >times"
    )
    runs = [
        step(make_run(base, script, inputs=(app,), outputs=("result", "times"), run=number, variations=names))
        for number, names in ((1, ()), (2, ("time",)))
    ]
    assert runs[0].tree_text("times") == runs[1].tree_text("times")
    assert runs[0].result.outputs == runs[1].result.outputs


def test_reversed_order_is_the_reverse_and_its_mount_goes_away(step, base, app):
    script = "ls -U {source.app} >{out}/result"
    plain = step(make_run(base, script, inputs=(app,))).tree_text("result").split()
    varied = step(make_run(base, script, inputs=(app,), run=2, variations=("file-order",)))
    assert varied.tree_text("result").split() == plain[::-1]
    mounts = Path("/proc/self/mountinfo").read_text()
    assert f"rvp-order:{os.getpid()}:" not in mounts


def test_all_variations_together(step, base, app):
    script = "cat {source.app}/a {source.app}/sub/b >{out}/result"
    plain = step(make_run(base, script, inputs=(app,)))
    names = (*PRINTS, "time")
    varied = step(make_run(base, script, inputs=(app,), run=2, variations=names))
    assert varied.result.outputs == plain.result.outputs
    assert set(varied.result.exercised) == set(names)


def test_a_remote_engine_does_not_reverse_and_says_so(step, base, app, docker_engine, monkeypatch):
    monkeypatch.setattr(docker_engine, "is_local", False)
    got = step(
        make_run(
            base, "cp {source.app}/a {out}/result", inputs=(app,), run=2, variations=("file-order", "time")
        )
    )
    assert got.result.exercised == ("time",)
    assert got.result.not_exercised[0].variation == "file-order"


def test_a_base_without_tools_says_what_could_not_take_effect(step, base):
    bare = msgspec.structs.replace(base, variation_tools=Tree())
    got = step(make_run(bare, "touch {out}/result", run=2, variations=("time", "locale", "hostname")))
    assert got.result.exercised == ("hostname",)
    assert {one.variation: one.reason for one in got.result.not_exercised} == {
        "time": "the base has no libfaketime",
        "locale": "the base has no locale but C and POSIX",
    }
