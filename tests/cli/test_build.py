"""`rvp build` and `rvp plan` as a user types them, with local processes instead of containers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from pipeline.build_result import json_schema, read_result
from pipeline.step_failure import StepFailed
from rvp import cli
from tests.fakes.executor import ProcessExecutor
from tests.fakes.project import HEAD, step, write_project
from verifier.cli import terminal

ONE = step("one", "cat {source.app}/a > {out}/one", "source.app")
TWO = step("two", "cat {step.one}/one > {out}/two; echo two >> {out}/two", "step.one")
CLOCK = step("clock", "date +%N > {out}/clock; echo hello")
AFTER = step("after", "cat {step.clock}/clock > {out}/after", "step.clock")


@pytest.fixture
def rvp(tmp_path: Path, monkeypatch, capsys):
    """Run rvp in the project folder; give exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RVP_STORE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, jobs: ProcessExecutor(jobs or 2))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = terminal.run(cli, list(arguments))
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def test_a_build_reproduces_and_shows_steps_values_and_artifacts(rvp, tmp_path):
    write_project(tmp_path, ONE, TWO)
    code, out, err = rvp("build")
    assert code == 0, err
    assert "step.one  ran 0.5 s  ran 0.5 s  ✓ reproduced" in out
    assert "✓ reproduced: demo 1, 2 runs; varied: time" in out
    assert "step.one (run 1 of 2): started" in err
    assert (tmp_path / ".rvp/build/artifacts/two").read_text() == "A\ntwo\n"


def test_json_is_one_document_that_fits_its_schema_and_is_the_result(rvp, tmp_path):
    write_project(tmp_path, ONE, TWO)
    code, out, _ = rvp("build", "--format", "json")
    assert code == 0
    document = json.loads(out)
    jsonschema.validate(document, json_schema())
    assert document == json.loads((tmp_path / ".rvp/build/result.json").read_text())
    result = read_result(tmp_path / ".rvp/build")
    assert result.complete
    assert len(result.recipe) == 64
    assert [artifact.name for artifact in result.artifacts] == ["two"]
    recipe = json.loads((tmp_path / ".rvp/build/recipe/recipe.json").read_text())
    assert recipe["project"] == "demo"


def test_a_second_build_gives_the_same_document_but_for_what_ran(rvp, tmp_path):
    write_project(tmp_path, ONE, TWO)
    first = json.loads(rvp("build", "--format", "json")[1])
    code, out, err = rvp("build", "--format", "json")
    assert code == 0
    assert "4 cached" in err
    second = json.loads(out)
    for document in (first, second):
        for node in document["nodes"]:
            for run in node["runs"]:
                run["status"] = ""
    assert first == second


def test_a_divergence_ends_with_11_and_names_the_step_at_fault_not_the_one_after(rvp, tmp_path):
    write_project(tmp_path, ONE, CLOCK, AFTER)
    code, out, err = rvp("build")
    assert code == 11
    assert "step.clock gave other outputs in run 2 than in run 1, from the same inputs" in err
    assert "step.after" not in err.partition("error")[2]
    assert "✗ diverged (its inputs differ)" in out
    told = (tmp_path / ".rvp/build/difference.txt").read_text()
    assert told.startswith("step.clock: run 2 differs from run 1, from the same inputs\nclock: text differs")
    assert "varied: time" in told
    assert "differ because of their inputs: step.after" in told
    document = json.loads((tmp_path / ".rvp/build/difference.json").read_text())
    assert [fault["node"] for fault in document["faults"]] == ["step.clock"]
    assert read_result(tmp_path / ".rvp/build").verdict == "diverged"


def test_a_divergence_is_still_one_when_everything_is_cached(rvp, tmp_path):
    write_project(tmp_path, CLOCK)
    assert rvp("build")[0] == 11
    assert rvp("build")[0] == 11


def test_one_run_is_called_not_rebuilt(rvp, tmp_path):
    write_project(tmp_path, CLOCK)
    code, out, _ = rvp("build", "--times", "1")
    assert code == 0
    assert "? not rebuilt" in out
    assert "reproduced" not in out


def test_a_failed_step_ends_with_5_its_log_and_the_command_to_run_again(rvp, tmp_path):
    write_project(tmp_path, step("bad", "echo broken >&2; exit 3"))
    code, _, err = rvp("build")
    assert code == 5
    assert "rvp build bad --debug-shell" in err
    assert ".rvp/logs/step.bad.run1.log" in err
    assert (tmp_path / ".rvp/logs/step.bad.run1.log").read_text() == "broken\n"
    assert not (tmp_path / ".rvp/build").exists()


def test_a_failed_build_leaves_the_last_result_alone(rvp, tmp_path):
    write_project(tmp_path, ONE)
    rvp("build")
    before = (tmp_path / ".rvp/build/result.json").read_bytes()
    write_project(tmp_path, ONE, step("bad", "exit 3"))
    assert rvp("build")[0] == 5
    assert (tmp_path / ".rvp/build/result.json").read_bytes() == before


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ('tee = "verity"\nimage = "step.one:one"', "measuring verity is not known yet; known: "),
        ('tee = "sgx"\nfirmware = "step.one:one"', "measuring sgx from firmware is not known yet"),
    ],
    ids=["another TEE", "another form"],
)
def test_a_measure_that_nobody_can_make_is_told_before_anything_runs(rvp, tmp_path, command, measure, words):
    write_project(tmp_path, ONE, f'\n[[measure]]\nid = "m"\n{measure}\n')
    code, _, err = rvp(command)
    assert code == 3
    assert words in err
    assert "started" not in err


def test_a_part_of_the_graph_is_built_and_cannot_be_signed(rvp, tmp_path):
    write_project(tmp_path, ONE, TWO, CLOCK)
    code, _, err = rvp("build", "two")
    assert code == 0, err
    result = read_result(tmp_path / ".rvp/build")
    assert [node.node for node in result.nodes] == ["step.one", "step.two"]
    assert (result.complete, result.recipe) == (False, "")


def test_an_unknown_step_is_a_usage_error_with_the_nearest(rvp, tmp_path):
    write_project(tmp_path, ONE)
    code, _, err = rvp("build", "onee")
    assert code == 2
    assert 'did you mean "one"?' in err


def test_without_a_lock_the_command_says_rvp_lock(rvp, tmp_path):
    write_project(tmp_path, ONE)
    (tmp_path / "rvp.lock").unlink()
    code, _, err = rvp("build")
    assert code == 3
    assert "rvp lock" in err


def test_a_stale_lock_is_refused(rvp, tmp_path):
    write_project(tmp_path, ONE)
    text = (tmp_path / "rvp.toml").read_text().replace("demo:1", "demo:2")
    (tmp_path / "rvp.toml").write_text(text)
    assert rvp("build")[0] == 3


def test_two_artifacts_of_one_name_are_told_apart(rvp, tmp_path):
    more = "outputs"
    one = step("a", "echo 1 > {out}/a; mkdir {out}/x; echo 1 > {out}/x/file").replace('["a"]', '["x/file"]')
    two = step("b", "mkdir {out}/y; echo 2 > {out}/y/file").replace('["b"]', '["y/file"]')
    assert more in one
    write_project(tmp_path, one, two)
    assert rvp("build")[0] == 0
    names = [artifact.name for artifact in read_result(tmp_path / ".rvp/build").artifacts]
    assert names == ["a/x/file", "b/y/file"]


def test_quiet_says_nothing_on_stderr(rvp, tmp_path):
    write_project(tmp_path, ONE)
    code, _, err = rvp("-q", "build")
    assert (code, err) == (0, "")


def test_progress_json_is_one_event_a_line(rvp, tmp_path):
    write_project(tmp_path, ONE)
    _, _, err = rvp("build", "--progress", "json")
    events = [json.loads(line) for line in err.splitlines()]
    assert {"StepPlanned", "StepStarted", "StepFinished", "RebuildCompared"} <= {e["event"] for e in events}


def test_a_plan_tells_the_reason_and_then_that_all_is_cached(rvp, tmp_path):
    write_project(tmp_path, ONE, TWO)
    code, out, err = rvp("plan")
    assert code == 0, err
    assert "never built" in out
    assert "2 to run, 2 depend on what others give, 0 cached" in out
    rvp("build")
    assert "0 to run, 0 depend on what others give, 4 cached" in rvp("plan")[1]
    (tmp_path / "src/a").write_text("other\n")
    out = rvp("plan")[1]
    assert "input source.app changed: 1 file (a)" in out


def test_a_plan_draws_and_prints_json(rvp, tmp_path):
    write_project(tmp_path, ONE)
    assert rvp("plan", "--graph", "mermaid")[1].startswith("flowchart LR\n")
    assert rvp("plan", "--graph", "svg")[1].startswith("<svg ")
    document = json.loads(rvp("plan", "--format", "json")[1])
    assert document["schema"] == "rvp/plan/v1"


def test_a_disk_that_is_full_is_told_and_the_old_result_stays(rvp, tmp_path, monkeypatch):
    write_project(tmp_path, ONE)
    rvp("build")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.build._copy_out", full)
    code, _, err = rvp("build")
    assert code == 4
    assert "RVP-2103" in err
    assert (tmp_path / ".rvp/build/result.json").exists()
    assert not (tmp_path / ".rvp/build.new").exists()


def test_the_store_can_lie_elsewhere(rvp, tmp_path):
    from pipeline.store import FolderStore

    other = FolderStore(tmp_path / "elsewhere")
    write_project(tmp_path / "p", ONE, store=other)
    assert rvp("-C", str(tmp_path / "p"), "build", "--store", str(other.folder))[0] == 0
    assert not (tmp_path / "p/.rvp/store").exists()
    assert HEAD


ESCAPES = ("\x1b", "\x9b", "\u202e", "\r")


def test_names_and_contents_that_a_step_chose_do_not_steer_the_terminal(rvp, tmp_path):
    script = r"""mkdir {out}/d; printf "\\033]0;owned\\a%s\\302\\2332J" $RVP_RUN > "$(printf "{out}/d/\\033[2Jx\\342\\200\\256")" """
    write_project(tmp_path, step("d", script))
    code, out, err = rvp("build")
    assert code == 11, err
    assert "\\x1b[2Jx" in err
    assert not any(escape in out + err for escape in ESCAPES)
    assert json.loads(rvp("build", "--format", "json")[1])["verdict"] == "diverged"


def test_last_lines_of_a_failed_step_are_shown_not_obeyed(rvp, tmp_path, monkeypatch):
    class Failing(ProcessExecutor):
        def execute(self, run, store, observer, *, log_file):
            raise StepFailed(f"{run.node}: exit status 1\n  | \x1b[2J\x1b]52;c;aGk=\x07\r\tgone\x9b2J")

    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, jobs: Failing(jobs or 2))
    write_project(tmp_path, ONE)
    code, _, err = rvp("build")
    assert code == 5
    assert "\\x1b[2J\\x1b]52;c;aGk=\\x07\\r" in err
    assert not any(escape in err for escape in ESCAPES)


def test_an_input_that_no_step_gives_is_exit_3(rvp, tmp_path):
    more = '[[pack]]\nid = "p"\nkind = "oci"\noutput = "i.tar"\nfiles = { "/x" = "step.one:gone" }\n'
    write_project(tmp_path, ONE, more)
    code, _, err = rvp("build")
    assert code == 3
    assert 'pack.p takes "step.one:gone", but step.one has no "gone"' in err
    assert "error[RVP-2204]" in err


def test_results_that_came_with_a_repository_are_not_believed(rvp, tmp_path):
    write_project(tmp_path, ONE)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "rvp.toml", "rvp.lock", "src"], cwd=tmp_path, check=True)
    assert rvp("build")[0] == 0
    subprocess.run(["git", "add", "-f", ".rvp/store/records"], cwd=tmp_path, check=True)
    code, _, err = rvp("build")
    assert code == 3
    assert "error[RVP-1332]" in err
