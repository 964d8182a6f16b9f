"""Engines that are not there, forbidden, gone; clients that were killed; the private engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline import engine as engine_module
from pipeline import private_engine
from pipeline.engine import EngineAbsent, EngineForbidden, EngineGone, connect
from pipeline.inputs import unmount_orphans
from pipeline.sandbox import SandboxLimits, StepInput, reap, run_step
from pipeline.tree import TreeEntry, make_tree
from provenance.errors import Interrupted
from provenance.events import ignore
from tests.docker.steps import make_run

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start an engine")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """An engine of Debian's packages, fetched and unpacked as on a machine that has none."""
    folder = tmp_path_factory.mktemp("engine")
    yield private_engine.start(folder, download=True), folder
    private_engine.stop(folder)


@as_root
@pytest.mark.network
def test_a_fetched_engine_runs_a_step_and_leaves_nothing(second, base, shared_store, tmp_path):
    status, folder = second
    assert status.running
    assert status.program.startswith(str(folder)), "the fetched program runs, not an installed one"
    maps = Path(f"/proc/{status.pid}/maps").read_text()
    libraries = {line.split()[-1] for line in maps.splitlines() if "libdevmapper" in line}
    assert libraries
    assert all(path.startswith(str(folder)) for path in libraries)
    engine = connect(status.url)
    assert engine.is_local
    run = make_run(base, "echo from the second engine >{out}/result")
    outputs = run_step(engine, run, shared_store, ignore, scratch=tmp_path / "scratch").outputs
    assert outputs.find("result").size_bytes == 23
    assert private_engine.start(folder).pid == status.pid, "starting twice starts once"


@as_root
@pytest.mark.network
def test_an_engine_that_goes_away_in_mid_step(second, base, shared_store, tmp_path):
    _, folder = second
    status = private_engine.start(folder)
    engine = connect(status.url)
    timer = threading.Timer(2.0, os.kill, (status.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(EngineGone) as caught:
        run_step(engine, make_run(base, "sleep 60"), shared_store, ignore, scratch=tmp_path / "scratch")
    timer.join()
    assert caught.value.exit_code == 4
    again = private_engine.start(folder)
    assert again.running
    shims = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"containerd-shim" in _bytes(path) and str(folder).encode() in _bytes(path)
    ]
    assert shims == [], "the killed engine's containers are ended by the next start"
    engine = connect(again.url)
    run_step(engine, make_run(base, "touch {out}/result"), shared_store, ignore, scratch=tmp_path / "scratch")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@as_root
@pytest.mark.network
def test_stopping_unmounts_and_removes_the_socket(second):
    _, folder = second
    status = private_engine.start(folder)
    assert private_engine.stop(folder)
    assert not private_engine.status(folder).running
    assert not Path(status.url.removeprefix("unix://")).parent.exists()
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert not private_engine.stop(folder), "stopping twice does nothing"


def test_no_engine_says_how_to_start_one(tmp_path):
    with pytest.raises(EngineAbsent) as caught:
        connect(f"unix://{tmp_path}/nothing.sock")
    assert caught.value.exit_code == 4
    assert "rvp engine start" in caught.value.hint


@as_root
def test_a_socket_that_is_not_permitted(docker_engine, tmp_path):
    """Another user asks: the errors come from the kernel, not from us."""
    script = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pipeline.engine import connect
        from provenance.errors import RvpError
        import docker, requests, docker.utils
        os.setgid(65534); os.setuid(65534)
        try:
            connect({docker_engine.url!r})
        except RvpError as error:
            print(error.code, error.exit_code, error.hint)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{EngineForbidden.code} 4 usermod"), done.stdout + done.stderr


@as_root
def test_the_private_engine_is_found_when_nothing_else_answers(monkeypatch, docker_engine):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine_module, "DEFAULT_URL", "unix:///run/rvp-no-such.sock")
    monkeypatch.setattr(private_engine, "running_url", lambda: docker_engine.url)
    assert connect().url == docker_engine.url


CLIENT = """
    import sys
    from pathlib import Path
    sys.path[:0] = [{root!r}]
    import msgspec
    from pipeline.engine import connect
    from pipeline.sandbox import StepRun, run_step
    from pipeline.store import FolderStore
    run = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=StepRun)
    store = FolderStore(Path({store!r}))
    run_step(connect({url!r}), run, store, lambda event: print(event.line, flush=True), scratch=Path(sys.argv[2]))
"""


@pytest.fixture
def client(docker_engine, shared_store, tmp_path):
    """Start another client process whose step says "ready" and then sleeps."""
    import msgspec

    started = []

    def start(run):
        (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
        script = textwrap.dedent(
            CLIENT.format(root=str(ROOT), store=str(shared_store.folder), url=docker_engine.url)
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run.json"), str(tmp_path / "scratch")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        line = process.stdout.readline()
        assert line == "ready\n", line + process.stdout.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    reap(docker_engine)


def containers_of(engine, pid: int) -> int:
    return len(engine.api.containers(all=True, filters={"label": f"rvp.pid={pid}"}))


def test_a_killed_client_is_reaped_and_a_live_one_is_not(client, base, docker_engine):
    first, second = (client(make_run(base, "echo ready; sleep 300")) for _ in range(2))
    first.kill()
    first.wait()
    assert containers_of(docker_engine, first.pid) == 1, "a killed client leaves its container running"
    reap(docker_engine)
    assert containers_of(docker_engine, first.pid) == 0
    assert containers_of(docker_engine, second.pid) == 1
    assert second.poll() is None


def test_sigint_removes_the_own_container(client, base, docker_engine):
    process = client(make_run(base, "echo ready; sleep 300"))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert containers_of(docker_engine, process.pid) == 0


@as_root
def test_the_mount_of_a_killed_client_is_unmounted(client, base, shared_store):
    digest, size_bytes = shared_store.put([b"x"])
    tree = make_tree(
        TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size_bytes) for name in "ab"
    )
    run = make_run(
        base,
        "echo ready; sleep 300",
        inputs=(StepInput(name="source.app", tree=tree),),
        variations=("file-order",),
        run=2,
    )
    process = client(run)
    mark = f"rvp-order:{process.pid}:"
    assert mark in Path("/proc/self/mountinfo").read_text()
    process.kill()
    process.wait()
    assert unmount_orphans() >= 1
    assert mark not in Path("/proc/self/mountinfo").read_text()


def test_stop_own_ends_a_step_of_another_thread(docker_engine, base, shared_store, tmp_path):
    engine = connect(docker_engine.url)
    caught = []

    def work():
        try:
            run_step(engine, make_run(base, "sleep 300"), shared_store, ignore, scratch=tmp_path / "scratch")
        except Interrupted as error:
            caught.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    until = time.monotonic() + 20
    while not engine.containers and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    engine.stop_own()
    worker.join(20)
    assert not worker.is_alive()
    assert [error.exit_code for error in caught] == [130]


def test_parallel_steps_get_processors_of_their_own(docker_engine):
    if docker_engine.usable_cpus < 2:
        pytest.skip("this machine has one processor")
    with docker_engine.cpuset(1) as one, docker_engine.cpuset(1) as other:
        assert one != other


def test_memory_of_the_client_stays_flat(base, docker_engine, shared_store, tmp_path):
    """A 512 MiB artifact streams through; the peak of the process says that it was never held."""
    script = (
        textwrap.dedent(CLIENT.format(root=str(ROOT), store=str(tmp_path / "store"), url=docker_engine.url))
        # Of this program alone: the kernel's ru_maxrss also counts the process that it was forked from.
        + "status = Path('/proc/self/status').read_text()\n"
        + "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    import msgspec

    from pipeline.store import FolderStore

    with shared_store.get(base.tar) as tar:
        FolderStore(tmp_path / "store").put(iter(lambda: tar.read(1 << 20), b""))
    run = make_run(
        msgspec.structs.replace(base, variation_tools=make_tree([])),
        "truncate -s 512M {out}/result",
        limits=SandboxLimits(output_bytes=1 << 30),
    )
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json\n" + script,
            str(tmp_path / "run.json"),
            str(tmp_path / "scratch"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) < 150_000, "KiB"


def test_a_debug_shell_has_what_the_failed_step_left(base, docker_engine, shared_store, tmp_path):
    import msgspec

    script = textwrap.dedent(
        CLIENT.format(root=str(ROOT), store=str(shared_store.folder), url=docker_engine.url)
    )
    script = script.rsplit("run_step(", 1)[0] + (
        "from pipeline.sandbox import debug_shell\n"
        "sys.exit(debug_shell(connect(), run, store, scratch=Path(sys.argv[2])))\n"
    )
    run = make_run(base, "echo trace >left-behind; echo broken; exit 9")
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(run))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.json"), str(tmp_path / "scratch")],
        input=b"cat left-behind; id -u; exit 3\n",
        capture_output=True,
        check=False,
        env={**os.environ, "DOCKER_HOST": docker_engine.url},
        timeout=60,
    )
    text = done.stdout.decode()
    assert "ended with status 9" in text, text + done.stderr.decode()
    assert "trace" in text.split("ended with status 9")[1]
    assert "1000" in text
    assert done.returncode == 3
