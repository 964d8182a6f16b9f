"""`rvp build` with a real engine: caching, divergence, interruption, two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.build_result import read_result
from pipeline.engine import Engine
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from tests.fakes.project import HEAD, step, write_project

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
VARIED = HEAD.replace('["time"]', '["time", "hostname", "umask", "build-path"]')


def share(digest: bytes, source: FolderStore, target: FolderStore) -> None:
    path = target.path_of(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.path_of(digest), path)
    except OSError:
        shutil.copy(source.path_of(digest), path)


class Site:
    """A project, a store that has its base, and rvp as a process."""

    def __init__(self, folder: Path, base: Rootfs, shared: FolderStore) -> None:
        self.folder, self.base = folder, base
        self.store = FolderStore(folder / ".rvp" / "store")
        share(base.tar, shared, self.store)
        for entry in base.variation_tools.entries:
            if entry.kind == "file":
                share(bytes.fromhex(entry.sha256), shared, self.store)

    def write(self, *steps: str, head: str = VARIED) -> None:
        write_project(self.folder, *steps, head=head, store=self.store, rootfs=self.base)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rvp", "-C", str(self.folder), *arguments],
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rvp(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def result(self):
        return read_result(self.folder / ".rvp" / "build")


@pytest.fixture
def site(tmp_path: Path, base: Rootfs, shared_store: FolderStore, docker_engine: Engine) -> Site:
    del docker_engine
    return Site(tmp_path / "project", base, shared_store)


def containers(engine: Engine, pid: int) -> list[str]:
    found = engine.api.containers(all=True, filters={"label": f"rvp.pid={pid}"})
    return [one["Id"] for one in found]


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


ONE = step("one", "cat {source.app}/a > {out}/one", "source.app")
TWO = step("two", "cat {step.one}/one {step.one}/one > {out}/two", "step.one")
SLOW = step("slow", "echo begun; sleep 30; cat {step.one}/one > {out}/slow", "step.one")


def test_two_steps_are_reproduced_and_the_second_build_runs_nothing(site: Site):
    site.write(ONE, TWO)
    code, out, err = site.rvp("build")
    assert code == 0, err
    assert site.result().verdict == "reproduced"
    assert (site.folder / ".rvp/build/artifacts/two").read_text() == "A\nA\n"
    rebuilt = site.result().nodes[0].runs[1]
    assert "umask" in rebuilt.exercised
    code, out, err = site.rvp("build", DOCKER_HOST="unix:///nowhere.sock")
    assert code == 0, err
    assert "step.two  cached  cached  ✓ reproduced" in out


@pytest.mark.parametrize(
    "script", ["date +%N > {out}/odd", "head -c 8 /dev/urandom > {out}/odd", "hostname > {out}/odd"]
)
def test_a_step_that_diverges_is_named_and_its_consumer_is_not(site: Site, script: str):
    site.write(ONE, step("odd", script), step("user", "cat {step.odd}/odd > {out}/user", "step.odd"))
    code, _, err = site.rvp("build")
    assert code == 11, err
    assert "step.odd gave other outputs in run 2 than in run 1" in err
    faulty = [node.node for node in site.result().nodes if node.verdict == "diverged" and node.inputs_agree]
    assert faulty == ["step.odd"]
    document = json.loads((site.folder / ".rvp/build/difference.json").read_text())
    assert [fault["node"] for fault in document["faults"]] == ["step.odd"]


def test_a_failed_step_shows_its_last_lines_its_log_and_what_to_run(site: Site):
    site.write(step("bad", "echo the last words; exit 7"))
    code, _, err = site.rvp("build")
    assert code == 5
    assert "the last words" in err
    assert ".rvp/logs/step.bad.run" in err
    assert "rvp build bad --debug-shell" in err


def test_a_debug_shell_sees_the_inputs_of_the_step_that_failed(site: Site):
    site.write(ONE, step("bad", "exit 7", "step.one", more='environment = { WHERE = "{step.one}" }\n'))
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "rvp",
            "-C",
            str(site.folder),
            "build",
            "bad",
            "--times",
            "1",
            "--debug-shell",
        ],
        cwd=ROOT,
        input='cat "$WHERE/one"; id -u; exit\n',
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 5, process.stderr
    assert "the step ended with status 7" in process.stdout
    assert "A\n1000\n" in process.stdout
    assert "then a shell opens: sh -c 'exit 7'" in process.stderr


def test_an_interrupted_build_removes_its_containers_and_goes_on(site: Site, docker_engine: Engine):
    site.write(ONE, SLOW)
    process = site.start("build")
    wait_for(lambda: any("begun" in path.read_text() for path in site.folder.glob(".rvp/logs/step.slow*")))
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert time.monotonic() - started < 20
    assert containers(docker_engine, process.pid) == []
    site.write(ONE, step("slow", "cat {step.one}/one > {out}/slow", "step.one"))
    code, _, err = site.rvp("build", "--progress", "plain")
    assert code == 0, err
    assert "step.one (run 1 of 2): started" not in err


def test_a_killed_build_is_cleaned_up_by_the_next_and_goes_on(site: Site, docker_engine: Engine):
    site.write(ONE, SLOW)
    process = site.start("build")
    wait_for(lambda: any("begun" in path.read_text() for path in site.folder.glob(".rvp/logs/step.slow*")))
    process.kill()
    process.communicate()
    assert containers(docker_engine, process.pid)
    site.write(ONE, step("slow", "cat {step.one}/one > {out}/slow", "step.one"))
    code, _, err = site.rvp("build", "--progress", "plain")
    assert code == 0, err
    assert "step.one (run 1 of 2): started" not in err
    assert containers(docker_engine, process.pid) == []


def test_killing_at_many_moments_never_breaks_the_same_command(site: Site):
    site.write(ONE, TWO)
    for pause in (0.3, 0.7, 1.1, 1.6, 2.2):
        process = site.start("build")
        time.sleep(pause)
        process.kill()
        process.communicate()
    code, _, err = site.rvp("build")
    assert code == 0, err
    assert site.result().verdict == "reproduced"


def test_two_builds_at_once_over_one_store_agree(site: Site):
    site.write(ONE, TWO, step("three", "cat {step.two}/two > {out}/three", "step.two"))
    processes = [site.start("build", "--format", "json") for _ in range(2)]
    documents = []
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    assert documents[0]["artifacts"] == documents[1]["artifacts"]
    assert [node["runs"][0]["outputs"] for node in documents[0]["nodes"]] == [
        node["runs"][0]["outputs"] for node in documents[1]["nodes"]
    ]
    assert not list((site.store.folder / "temporary").iterdir())


def test_without_an_engine_the_build_says_so(site: Site):
    site.write(ONE)
    code, _, err = site.rvp("build", DOCKER_HOST="unix:///nowhere.sock")
    assert code == 4
    assert "/nowhere.sock" in err


def test_memory_does_not_grow_with_the_artifact(site: Site):
    site.write(step("big", "head -c 600M /dev/zero > {out}/big", more='limits = { disk = "4GiB" }\n'))
    code = (
        "import pathlib, sys; sys.argv[0] = 'rvp'; from rvp import cli; from verifier.cli.terminal import run;"
        "code = run(cli, sys.argv[1:]); status = pathlib.Path('/proc/self/status').read_text();"
        "print('peak', status.partition('VmHWM:')[2].split()[0], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-C", str(site.folder), "build", "-j", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak_kib = int(done.stderr.rpartition("peak ")[2])
    assert peak_kib < 250 << 10
