"""What leaves a container, and what is refused."""

from __future__ import annotations

import re
import time

import pytest

from pipeline.outputs import OutputEscapes, OutputKind, OutputMissing, OutputTooLarge
from pipeline.sandbox import SandboxLimits
from tests.docker.steps import make_run

pytestmark = pytest.mark.docker


def test_a_folder_leaves_with_links_modes_and_empty_folders(step, base):
    got = step(
        make_run(
            base,
            "cd {out}; mkdir -p dist/empty dist/sub; echo a >dist/sub/a; chmod 755 dist/sub/a; "
            "ln -s sub/a dist/link; ln dist/sub/a dist/twin; echo secret >dist.txt",
            outputs=("dist",),
        )
    )
    assert [(e.path, e.kind, e.executable, e.target) for e in got.result.outputs.entries] == [
        ("dist/empty", "dir", False, ""),
        ("dist/link", "symlink", False, "sub/a"),
        ("dist/sub/a", "file", True, ""),
        ("dist/twin", "file", True, ""),
    ]
    assert got.tree_text("dist/twin") == "a\n"


def test_only_the_declared_part_of_a_folder_leaves(step, base):
    got = step(make_run(base, "cd {out}; mkdir d; echo 1 >d/one; echo 2 >d/two", outputs=("d/two",)))
    assert [entry.path for entry in got.result.outputs.entries] == ["d/two"]


def test_a_missing_output_is_told_with_what_is_there(step, base):
    with pytest.raises(OutputMissing, match='left no "result"') as caught:
        step(make_run(base, "touch {out}/resutl"))
    assert "resutl" in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("path", ["/etc/passwd", "../work/x", "a/../../x", "", "."])
def test_an_output_outside_the_folder_is_refused_before_anything_runs(step, base, path, tmp_path):
    with pytest.raises(OutputEscapes, match=re.escape(f'"{path}"')):
        step(make_run(base, "true", outputs=(path,)))
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../work/x", "sub/../../x"])
def test_a_link_out_of_the_folder_is_refused(step, base, target):
    with pytest.raises(OutputEscapes, match=re.escape(target)):
        step(make_run(base, f"ln -s {target} {{out}}/result"))


def test_a_folder_that_is_a_link_does_not_lead_elsewhere(step, base):
    with pytest.raises(OutputEscapes, match="etc"):
        step(make_run(base, "ln -s /etc {out}/d", outputs=("d/passwd",)))


def test_out_itself_cannot_be_replaced_by_a_link(step, base):
    with pytest.raises(Exception, match="exit status"):
        step(make_run(base, "cd /; rmdir {out} && ln -s /etc {out}", outputs=("passwd",)))


def test_a_pipe_is_refused(step, base):
    with pytest.raises(OutputKind, match="pipe"):
        step(make_run(base, "mkfifo {out}/result"))


def test_a_device_node_cannot_be_made(step, base):
    with pytest.raises(Exception, match="not permitted"):
        step(make_run(base, "mknod {out}/result c 1 3"))


def test_a_link_to_a_device_is_refused(step, base):
    with pytest.raises(OutputEscapes):
        step(make_run(base, "ln -s /dev/zero {out}/result"))


def test_a_socket_is_no_output(step, base):
    script = (
        """use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un("{out}/result")) or die"""
    )
    with pytest.raises((OutputMissing, OutputKind)):
        step(make_run(base, "", argv=("perl", "-MSocket", "-e", script)))


def test_outputs_over_the_limit_are_refused(step, base):
    limits = SandboxLimits(output_bytes=1 << 20)
    with pytest.raises(OutputTooLarge):
        step(make_run(base, "head -c 2M /dev/zero >{out}/result", limits=limits))
    with pytest.raises(OutputTooLarge):
        step(
            make_run(
                base,
                "mkdir {out}/result; for i in 1 2 3 4; do head -c 300K /dev/zero >{out}/result/$i; done",
                limits=limits,
            )
        )


def test_a_hole_of_10_gib_is_refused_at_its_header(step, base):
    began = time.monotonic()
    with pytest.raises(OutputTooLarge, match=str(10 << 30)):
        step(
            make_run(
                base,
                "truncate -s 10G {out}/result",
                limits=SandboxLimits(output_bytes=1 << 20, disk_bytes=20 << 30),
            )
        )
    assert time.monotonic() - began < 10


def test_names_that_are_not_text_are_refused(step, base):
    with pytest.raises(OutputEscapes):
        step(make_run(base, r"mkdir {out}/result; printf x >{out}/result/$(printf '\377')"))


def test_what_lies_beside_an_output_is_not_read_without_end(step, base):
    """Holes cost a step nothing, and their zeros would be sent for hours."""
    limits = SandboxLimits(output_bytes=1 << 20)
    script = "mkdir {out}/d; echo x > {out}/d/x; for n in 1 2 3 4; do truncate -s 7G {out}/d/$n; done"
    began = time.monotonic()
    with pytest.raises(OutputTooLarge, match="beside the outputs"):
        step(make_run(base, script, outputs=("d/x",), limits=limits))
    assert time.monotonic() - began < 30


def test_naming_what_is_there_does_not_read_a_hole(step, base):
    began = time.monotonic()
    with pytest.raises(OutputMissing):
        step(make_run(base, "truncate -s 7G {out}/a; touch {out}/b"))
    assert time.monotonic() - began < 30


def test_entries_are_counted(step, base, monkeypatch):
    monkeypatch.setattr("pipeline.outputs.MOST_ENTRIES", 50)
    with pytest.raises(OutputTooLarge, match="more than 50 entries"):
        step(make_run(base, "mkdir {out}/result; cd {out}/result; touch $(seq 60)"))
