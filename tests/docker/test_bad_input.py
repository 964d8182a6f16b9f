"""What a step does wrong, on the command line: an exit code, a code, the place, and the same command afterwards.

The rows are those of the table in docs/testing.md. Each also has tests of the library in the other rooms here.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from tests.docker.test_build import ROOT, Site, containers
from tests.fakes.project import HEAD, step

pytestmark = pytest.mark.docker

ONCE = HEAD.replace("times = 2", "times = 1")
ROWS = {
    "output missing": ("touch {out}/others", "", "RVP-3010", 'left no "bad"'),
    "link out of the folder": ("ln -s ../../etc/passwd {out}/bad", "", "RVP-3011", "../../etc/passwd"),
    "absolute link": ("ln -s /etc/passwd {out}/bad", "", "RVP-3011", "/etc/passwd"),
    "pipe": ("mkfifo {out}/bad", "", "RVP-3012", "is a pipe"),
    "device node": ("mknod {out}/bad c 1 3", "", "RVP-3001", "Operation not permitted"),
    "output over its limit": (
        "head -c 3000000 /dev/zero > {out}/bad",
        'output = "1MiB"',
        "RVP-3013",
        "3000000",
    ),
    "sparse output": (
        "truncate -s 10G {out}/bad",
        'output = "1GiB", disk = "20GiB"',
        "RVP-3013",
        "10737418240",
    ),
    "file over the disk limit": ("truncate -s 10G {out}/bad", "", "RVP-3004", "MiB"),
    "network": ('bash -c "exec 3<>/dev/tcp/192.0.2.1/80"', "", "RVP-3001", "Network is unreachable"),
    "failure": ("echo the reason >&2; exit 9", "", "RVP-3001", "| the reason"),
    "hang": ("sleep 600", 'time = "2s"', "RVP-3002", "longer than 2 s"),
    "memory": (
        "x=$(head -c 400000000 /dev/zero | tr '\\0' x)",
        'memory = "64MiB"',
        "RVP-3003",
        "more than 64 MiB",
    ),
    "forks without end": (
        "i=0; while [ $i -lt 99 ]; do sleep 99 & i=$((i+1)); done; wait",
        'pids = 32, time = "20s"',
        "RVP-3005",
        "could not make another process",
    ),
    "no such command": ("exec /nowhere/gcc", "", "RVP-3007", "cannot be executed in its base"),
    "escapes in the log": ("printf '\\033[2Jgone\\n'; exit 1", "", "RVP-3001", "\\x1b[2Jgone"),
    "a line without an end": (
        "head -c 3000000 /dev/zero | tr '\\0' x; exit 1",
        "",
        "RVP-3001",
        "xxxx",
    ),
}


@pytest.fixture
def site(tmp_path: Path, base: Rootfs, shared_store: FolderStore, docker_engine: Engine) -> Site:
    del docker_engine
    return Site(tmp_path / "project", base, shared_store)


def bad_step(script: str, limits: str) -> str:
    more = f"limits = {{ {limits} }}\n" if limits else ""
    return step("bad", script, more=more)


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_step_is_exit_5_and_loses_nothing(site: Site, docker_engine: Engine, row: str) -> None:
    script, limits, code, words = ROWS[row]
    good = step("good", "echo A > {out}/good")
    site.write(good, bad_step(script, limits), head=ONCE)
    process = site.start("build", "--jobs", "1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert f"error[{code}" in err
    assert words in err
    assert "\x1b" not in err
    assert "full log: " in err or code.startswith("RVP-301")
    assert "rvp build bad --debug-shell" in err
    assert containers(docker_engine, process.pid) == []
    site.write(good, bad_step("echo B > {out}/bad", limits), head=ONCE)
    status, out, err = site.rvp("build")
    assert status == 0, err
    assert "step.good  cached" in out


@pytest.mark.parametrize(
    ("host", "code"),
    [("unix:///nowhere/docker.sock", "RVP-2001"), ("tcp://127.0.0.1:1", "RVP-2001")],
)
def test_an_engine_that_is_not_there_is_exit_4(site: Site, host: str, code: str) -> None:
    site.write(step("one", "echo 1 > {out}/one"), head=ONCE)
    status, _, err = site.rvp("build", DOCKER_HOST=host)
    assert status == 4, err
    assert f"error[{code}]" in err


def test_a_source_that_changed_in_the_store_is_not_built_from(site: Site) -> None:
    """The disk flipped a byte: it is told, removed, and the same command reads the source again."""
    site.write(step("one", "cat {source.app}/a > {out}/one", "source.app"), head=ONCE)
    status, _, err = site.rvp("build")
    assert status == 0, err
    entry = site.store.path_of(hashlib.sha256(b"A\n").digest())
    entry.chmod(0o644)
    entry.write_bytes(b"B\n")
    status, _, err = site.rvp("build", "--again")
    assert status == 4
    assert "error[RVP-2105]" in err
    status, _, err = site.rvp("build", "--again")
    assert status == 0, err
    assert (site.folder / ".rvp/build/artifacts/one").read_text() == "A\n"


def test_a_full_disk_is_exit_4_and_the_same_command_goes_on(site: Site) -> None:
    """A store on a file system of two MiB, then on a larger one."""
    site.write(step("one", "head -c 4000000 /dev/urandom > {out}/one"), head=ONCE)
    small = site.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "none", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        subprocess.run(["cp", "-a", f"{site.store.folder}/.", str(small)], check=True)
        subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=False, capture_output=True)
        filler = small / "filler"
        with filler.open("wb") as out:
            try:
                while True:
                    out.write(bytes(1 << 20))
            except OSError:
                pass
        status, _, err = site.rvp("build", "--store", str(small))
        assert status == 4, err
        assert "error[RVP-2103]" in err
        filler.unlink()
        status, _, err = site.rvp("build", "--store", str(small))
        assert status == 0, err
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_json_progress_of_a_hostile_log_is_one_document_a_line(site: Site) -> None:
    site.write(bad_step("printf 'a\\033[2J\\377\\n{\"event\": 1}\\n'; exit 1", ""), head=ONCE)
    done = subprocess.run(
        [sys.executable, "-m", "rvp", "-C", str(site.folder), "build", "--progress", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"event":"')]
    assert {"a\x1b[2J\ufffd", '{"event": 1}'} <= {event.get("line") for event in events}
