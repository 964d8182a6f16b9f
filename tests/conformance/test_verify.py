"""Run every case through the command line, as the README says."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = sorted(path for path in (HERE / "verify").iterdir() if path.is_dir())
EXPECT = {path.name: json.loads((path / "expect.json").read_text()) for path in CASES}


def command(folder: Path, expect: dict, form: str) -> list[str]:
    verifier = os.environ.get("RVP_VERIFIER", f"{sys.executable} -m rvp").split()
    arguments = [*verifier, "verify", expect["bundle"], *expect["artifacts"], "--at", expect["at"]]
    if expect["policy"]:
        arguments += ["--policy", expect["policy"]]
    return [*arguments, "--format", form]


def run(name: str, form: str = "json") -> subprocess.CompletedProcess[str]:
    folder = HERE / "verify" / name
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        command(folder, EXPECT[name], form),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", EXPECT)
def test_case(name: str) -> None:
    expect = EXPECT[name]
    done = run(name)
    assert done.returncode == expect["exit_code"], done.stdout + done.stderr
    if expect["verdict"] is None:
        assert "verdict" not in json.loads(done.stdout or "{}")
        return
    found = json.loads(done.stdout)
    by_status = lambda status: [c["id"] for c in found["checks"] if c["status"] == status]  # noqa: E731
    assert found["verdict"] == expect["verdict"]
    assert by_status("failed") == expect["failing"], done.stdout
    assert by_status("warning") == expect["warnings"], done.stdout


@pytest.mark.parametrize("name", ["two-of-two", "one-signer_fail", "no-policy"])
def test_the_last_line_of_the_text_says_the_verdict(name: str) -> None:
    done = run(name, "text")
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith(EXPECT[name]["verdict"].upper())
    lines = done.stdout.splitlines()
    policy = next(at for at, line in enumerate(lines) if line.startswith("policy"))
    assert policy < next(at for at, line in enumerate(lines) if line[:1] in "✓✗-!" and line)


def test_each_check_has_a_case_that_only_it_catches() -> None:
    from verifier.verify.checks import CHECKS

    alone = {e["failing"][0] for e in EXPECT.values() if len(e["failing"]) == 1}
    told = {e["warnings"][0] for e in EXPECT.values() if len(e["warnings"]) == 1 and not e["failing"]}
    assert {rule.id for rule in CHECKS} == alone | told


def test_a_case_whose_name_ends_in_fail_never_passes() -> None:
    assert all(
        (expect["exit_code"] != 0) == name.endswith("_fail")
        for name, expect in EXPECT.items()
        if name != "no-policy"
    )


def test_the_cases_are_what_the_generator_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(HERE))
    import generate

    monkeypatch.setattr(generate, "HERE", tmp_path)
    monkeypatch.setattr(generate, "CASES", tmp_path / "verify")
    generate.generate()
    for part in ("verify", "keys"):
        made = {path.relative_to(tmp_path) for path in (tmp_path / part).rglob("*") if path.is_file()}
        kept = {path.relative_to(HERE) for path in (HERE / part).rglob("*") if path.is_file()}
        assert made == kept
        _, different, errors = filecmp.cmpfiles(tmp_path, HERE, [str(path) for path in made], shallow=False)
        assert not different + errors
