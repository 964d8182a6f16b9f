"""The hermetic rules, each shown by a step that tries to break it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.engine import TooFewProcessors
from pipeline.sandbox import SandboxLimits, StepInput
from pipeline.step_failure import (
    CommandAbsent,
    StepDiskLimit,
    StepFailed,
    StepLogLimit,
    StepOutOfMemory,
    StepProcessLimit,
    StepTimedOut,
)
from pipeline.tree import TreeEntry, make_tree
from tests.docker.steps import EPOCH, make_run

pytestmark = pytest.mark.docker


def source(store, **files: str) -> StepInput:
    entries = []
    for name, text in files.items():
        digest, size_bytes = store.put([text.encode()])
        entries.append(TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size_bytes))
    return StepInput(name="source.app", tree=make_tree(entries))


def test_a_step_gives_its_declared_output_and_its_log(step, base):
    got = step(make_run(base, "echo hello; echo result >{out}/result; echo more >{out}/undeclared"))
    assert got.tree_text("result") == "result\n"
    assert [entry.path for entry in got.result.outputs.entries] == ["result"]
    assert got.log == b"hello\n"
    assert got.lines == ["hello"]


def test_there_is_no_network(step, base):
    got = step(
        make_run(
            base,
            "",
            argv=(
                "/bin/bash",
                "-c",
                (
                    "ls /sys/class/net >{out}/result; "
                    "if (exec 3<>/dev/tcp/192.0.2.1/80) 2>>{out}/result; then echo connected >>{out}/result; fi"
                ),
            ),
        )
    )
    text = got.tree_text("result")
    assert text.splitlines()[0] == "lo"
    assert "unreachable" in text
    assert "connected" not in text


def test_a_step_that_needs_the_network_fails_with_its_last_lines(step, base):
    with pytest.raises(StepFailed) as caught:
        step(make_run(base, "", argv=("/bin/bash", "-c", "echo trying; exec 3<>/dev/tcp/192.0.2.1/80")))
    assert caught.value.exit_code == 5
    assert caught.value.last_lines[0] == "trying"
    assert "unreachable" in caught.value.message
    assert Path(caught.value.log).exists()


def test_the_surroundings_are_fixed(step, base, monkeypatch):
    monkeypatch.setenv("LEAK", "of the host")
    got = step(
        make_run(
            base,
            """exec >{out}/result; env | sort; id; hostname; umask; nproc; pwd; cat /etc/resolv.conf /etc/hosts
            cat /etc/hostname; whoami""",
        )
    )
    assert got.tree_text("result").splitlines() == [
        "HOME=/home/builder",
        "HOSTNAME=rvp",
        "LANG=C.UTF-8",
        "LC_ALL=C.UTF-8",
        "LOGNAME=builder",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/build/work",
        f"SOURCE_DATE_EPOCH={EPOCH}",
        "TZ=UTC",
        "USER=builder",
        "uid=1000(builder) gid=1000(builder) groups=1000(builder)",
        "rvp",
        "0022",
        "1",
        "/build/work",
        "# a step has no network",
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost",
        "127.0.1.1 rvp",
        "rvp",
        "builder",
    ]


def test_capabilities_are_dropped_and_none_can_be_gained(step, base):
    got = step(make_run(base, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status >{out}/result"))
    values = dict(line.split(":\t") for line in got.tree_text("result").splitlines())
    assert values.pop("NoNewPrivs") == "1"
    assert set(values.values()) == {"0" * 16}


@pytest.mark.parametrize("remote", [False, True], ids=["mounted", "sent"])
def test_inputs_are_roots_and_read_only(step, base, shared_store, docker_engine, monkeypatch, remote):
    monkeypatch.setattr(docker_engine, "is_local", not remote)
    app = source(shared_store, **{"main.c": "int x;\n"})
    got = step(
        make_run(
            base,
            """stat -c '%u:%g %a %Y %F' {source.app} {source.app}/main.c >{out}/result
            for attempt in "echo x >{source.app}/new" "echo x >{source.app}/main.c" "chmod 777 {source.app}" \
                "mv {source.app} {work}/x" "rm -rf {source.app}"; do
                if sh -c "$attempt" 2>/dev/null; then echo "$attempt" worked >>{out}/result; fi
            done; cat {source.app}/main.c >>{out}/result""",
            inputs=(app,),
        )
    )
    assert got.tree_text("result").splitlines() == [
        f"0:0 755 {EPOCH} directory",
        f"0:0 644 {EPOCH} regular file",
        "int x;",
    ]


def test_a_failing_step_tells_status_and_log(step, base):
    with pytest.raises(StepFailed, match="exit status 7") as caught:
        step(make_run(base, "seq 100; exit 7"))
    assert caught.value.exit_status == 7
    assert caught.value.last_lines == tuple(str(number) for number in range(81, 101))
    assert len(Path(caught.value.log).read_text().splitlines()) == 100


def test_a_command_that_is_not_there(step, base):
    with pytest.raises(CommandAbsent, match="no-such-tool"):
        step(make_run(base, "", argv=("no-such-tool",)))


def test_a_step_that_hangs_is_killed(step, base):
    with pytest.raises(StepTimedOut, match="longer than 1 s"):
        step(make_run(base, "echo start; sleep 1000", limits=SandboxLimits(time_s=1)))


def test_a_step_that_closes_its_output_and_hangs_is_killed(step, base):
    with pytest.raises(StepTimedOut):
        step(make_run(base, "exec >/dev/null 2>&1; sleep 1000", limits=SandboxLimits(time_s=1)))


def test_a_step_that_eats_memory_is_told_so(step, base):
    with pytest.raises(StepOutOfMemory, match="64 MiB"):
        step(make_run(base, "tail /dev/zero", limits=SandboxLimits(memory_bytes=64 << 20, time_s=60)))


def test_a_fork_bomb_stops_at_its_limit(step, base):
    with pytest.raises(StepProcessLimit, match="limit: 32"):
        step(
            make_run(
                base,
                "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait",
                limits=SandboxLimits(pids=32, time_s=20),
            )
        )


def test_a_step_that_prints_too_much_is_stopped(step, base):
    with pytest.raises(StepLogLimit):
        step(make_run(base, "yes", limits=SandboxLimits(log_bytes=1 << 20, time_s=60)))


def test_a_file_over_the_disk_limit_fails(step, base):
    with pytest.raises(StepDiskLimit):
        step(make_run(base, "head -c 30M /dev/zero >{work}/big", limits=SandboxLimits(disk_bytes=10 << 20)))


def test_many_files_over_the_disk_limit_are_stopped(step, base):
    script = "i=0; while :; do i=$((i+1)); head -c 4M /dev/zero >{work}/$i; sleep 0.02; done"
    with pytest.raises(StepDiskLimit):
        step(make_run(base, script, limits=SandboxLimits(disk_bytes=40 << 20, time_s=60)))


def test_nothing_is_left_in_the_engine(step, base, docker_engine):
    with pytest.raises(StepFailed):
        step(make_run(base, "exit 1"))
    mine = docker_engine.api.containers(all=True, filters={"label": f"rvp.pid={os.getpid()}"})
    assert mine == []


def test_a_step_that_fixes_more_processors_than_there_are_is_refused(step, base, docker_engine):
    wanted = docker_engine.usable_cpus + 1
    with pytest.raises(TooFewProcessors, match=f"fixes {wanted} processors"):
        step(make_run(base, "nproc > {out}/result", limits=SandboxLimits(cpus=wanted)))
