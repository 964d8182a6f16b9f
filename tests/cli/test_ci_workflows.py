"""The workflow files that people call: pinned, least permissions, and every block of commands is executed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.fakes import ci_host

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github/workflows/rvp.yml"
GITLAB = ROOT / "workflows/gitlab/rvp.yml"
STUB = [str(ROOT / "tests/fakes/rvp_stub.py")]
IMAGE = "python:3.12@sha256:" + "0" * 64


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / arguments[0]
    return subprocess.run(
        [str(program), *arguments[1:]], capture_output=True, text=True, check=False, timeout=120
    )


def steps():
    for name, job in yaml.safe_load(GITHUB.read_text())["jobs"].items():
        for step in job["steps"]:
            yield name, step


# The files


def test_every_action_is_pinned_by_commit_with_its_version_beside():
    lines = [line for line in GITHUB.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_nothing_is_permitted_but_reading_the_source():
    workflow = yaml.safe_load(GITHUB.read_text())
    assert workflow["permissions"] == {}
    assert {tuple(job["permissions"].items()) for job in workflow["jobs"].values()} == {
        (("contents", "read"),)
    }


def test_no_expression_stands_in_a_block_of_commands():
    blocks = [step["run"] for _, step in steps() if "run" in step]
    assert len(blocks) >= 12
    assert not [block for block in blocks if "${{" in block]
    body = yaml.safe_load(GITLAB.read_text().split("\n---\n", 1)[1])
    for job in body.values():
        for block in job.get("script", []) + job.get("before_script", []):
            assert "$[[" not in block


def test_checkouts_leave_no_token_behind():
    for _, step in steps():
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_the_key_is_in_the_signing_job_alone_which_has_no_engine():
    using = {name for name, step in steps() if "secrets." in json.dumps(step)}
    assert using == {"sign"}
    sign = yaml.safe_load(GITHUB.read_text())["jobs"]["sign"]
    assert sign["environment"] == "${{ inputs.environment }}"
    assert not [step for step in sign["steps"] if re.search(r"rvp .*\bbuild\b|docker", step.get("run", ""))]
    body = yaml.safe_load(GITLAB.read_text().split("\n---\n", 1)[1])
    assert [name for name, job in body.items() if "RVP_SIGNING_KEY" in json.dumps(job)] == ["rvp-sign"]
    assert "DOCKER_HOST" not in body["rvp-sign"].get("variables", {})
    assert body["rvp-sign"]["rules"] == [{"if": '$CI_COMMIT_REF_PROTECTED == "true"'}]


def test_zizmor_finds_nothing():
    done = tool("zizmor", "--offline", "--persona", "auditor", "--no-progress", str(GITHUB))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No findings to report" in done.stdout + done.stderr


def test_files_follow_the_hosts_schemas(tmp_path):
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(GITHUB))
    assert done.returncode == 0, done.stdout
    for number, document in enumerate(GITLAB.read_text().split("\n---\n")):
        part = tmp_path / f"{number}.yml"
        part.write_text(document)
        done = tool(
            "check-jsonschema",
            "--builtin-schema",
            "vendor.gitlab-ci",
            "--data-transform",
            "gitlab-ci",
            str(part),
        )
        assert done.returncode == 0, done.stdout


def test_gitlab_inputs_are_not_expanded_again():
    body = yaml.safe_load(GITLAB.read_text().split("\n---\n", 1)[1])
    given = [
        value
        for job in body.values()
        for value in job.get("variables", {}).values()
        if "$[[" in json.dumps(value)
    ]
    assert len(given) == 6
    expanded = [value for value in given if not (isinstance(value, dict) and value["expand"] is False)]
    assert expanded == ["$[[ inputs.before_release ]]"]  # a boolean: GitLab refuses anything else


# The blocks, executed


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    room = tmp_path_factory.mktemp("project")
    folder = room / "project"
    (folder / "sub folder").mkdir(parents=True)
    (folder / "sub folder/rvp.toml").write_text("")
    (folder / "sub folder/policy.toml").write_text("")
    (folder / "requirements.txt").write_text(ci_host.shim_wheel(room))
    return folder


INPUTS = {"folder": "sub folder", "requirements": "requirements.txt"}
BUILDER = "https://example.org/a builder;$(exit 9)"


def github(
    project: Path,
    room: Path,
    *,
    installed: Path | None = None,
    before_release: bool = False,
    **environment: str,
) -> ci_host.GitHub:
    return ci_host.GitHub(
        GITHUB,
        project,
        room / "github",
        environment=ci_host.host_environment(ROOT, sys.executable, STUB)
        | {"RVP_STUB_BUILDER": BUILDER}
        | environment,
        inputs=INPUTS | {"builder-id": BUILDER, "before-release": before_release},
        secrets={"RVP_SIGNING_KEY": "the key"},
        installed=installed,
    )


def gitlab(
    project: Path,
    room: Path,
    *,
    protected: bool = True,
    installed: Path | None = None,
    before_release: bool = False,
    **environment: str,
) -> ci_host.GitLab:
    return ci_host.GitLab(
        GITLAB,
        project,
        room / "gitlab",
        environment=ci_host.host_environment(ROOT, sys.executable, STUB)
        | {"RVP_STUB_BUILDER": BUILDER}
        | environment,
        inputs=INPUTS | {"image": IMAGE, "builder_id": BUILDER, "before_release": before_release},
        key_file="the key\n",
        protected=protected,
        installed=installed,
    )


@pytest.fixture(scope="module")
def github_run(project, tmp_path_factory):
    """The whole workflow, once: the host, and what it hands on."""
    host = github(project, tmp_path_factory.mktemp("run"))
    return host, host.run()


@pytest.fixture(scope="module")
def gitlab_run(project, tmp_path_factory):
    host = gitlab(project, tmp_path_factory.mktemp("run"))
    host.run()
    return host


def test_github_goes_from_source_to_verdict(github_run):
    host, outputs = github_run
    assert {name: job.status for name, job in host.jobs.items()} == dict.fromkeys(
        ("build", "sign", "publish", "verify"), 0
    ), "\n".join(job.log for job in host.jobs.values())
    assert outputs["verdict"] == "passed"
    assert outputs["bundle-path"] == "bundle"
    assert json.loads(outputs["values-json"])[0]["claims"]["mrenclave"] == "ab" * 32
    assert "reproduced keyservice 1&#46;2&#46;0" in host.jobs["build"].summary
    assert (
        "passed&#58;" in host.jobs["verify"].summary or "passed: verification" in host.jobs["verify"].summary
    )
    assert "ab" * 32 in host.jobs["build"].summary


def test_github_key_is_gone_after_signing_and_was_nowhere_else(github_run):
    host, _ = github_run
    sign = host.jobs["sign"]
    used = Path(re.search(r"key was (\S+)", sign.log)[1])
    assert used.parent == sign.temporary
    assert not used.exists()
    others = [env for name, job in host.jobs.items() if name != "sign" for env in job.environments]
    assert not [env for env in others if "the key" in "".join(env.values())]
    holding = [env for env in sign.environments if "the key" in "".join(env.values())]
    assert len(holding) == 1


def test_github_stops_at_a_divergence_and_still_says_so(project, tmp_path, github_run):
    host = github(project, tmp_path, installed=github_run[0].installed, RVP_STUB_BUILD="11")
    outputs = host.run()
    assert list(host.jobs) == ["build"]
    assert host.jobs["build"].status == 11
    assert "diverged" in host.jobs["build"].summary
    assert "enclave&#46;so&#58; elf differs at section &#46;text" in host.jobs["build"].summary
    assert outputs["verdict"] == ""


def test_github_fails_with_the_exit_code_of_the_verdict(project, tmp_path, github_run):
    host = github(project, tmp_path, installed=github_run[0].installed, RVP_STUB_VERIFY="13")
    assert host.run()["verdict"] == "failed"
    assert host.jobs["verify"].status == 13
    assert "quorum" in host.jobs["verify"].summary


def test_an_inconclusive_verdict_ends_well_only_before_the_release(project, tmp_path, github_run, gitlab_run):
    for before_release, status in ((True, 0), (False, 20)):
        more = {"before_release": before_release, "RVP_STUB_VERIFY": "20"}
        host = github(project, tmp_path / f"{status}", installed=github_run[0].installed, **more)
        assert host.run()["verdict"] == "inconclusive"
        assert host.jobs["verify"].status == status
        jobs = gitlab(project, tmp_path / f"{status}", installed=gitlab_run.installed, **more).run()
        assert jobs["rvp-verify"].outputs["RVP_VERDICT"] == "inconclusive"
        assert jobs["rvp-verify"].status == status


def test_gitlab_goes_from_source_to_verdict(gitlab_run):
    jobs = gitlab_run.jobs
    assert {name: job.status for name, job in jobs.items()} == dict.fromkeys(
        ("rvp-build", "rvp-sign", "rvp-publish", "rvp-verify"), 0
    ), "\n".join(job.log for job in jobs.values())
    assert jobs["rvp-verify"].outputs == {
        "RVP_VERDICT": "passed",
        "RVP_EXIT_CODE": "0",
        "RVP_BUNDLE_PATH": "rvp-bundle",
    }
    cases = ET.parse(jobs["rvp-verify"].folder / "rvp-verdict.xml").findall(".//testcase")
    assert [case.get("name") for case in cases] == ["quorum"]


def test_gitlab_removes_the_key(gitlab_run):
    jobs = gitlab_run.jobs
    used = Path(re.search(r"key was (\S+)", jobs["rvp-sign"].log)[1])
    assert not used.exists()
    assert not (jobs["rvp-sign"].temporary / "RVP_SIGNING_KEY").exists()


def test_gitlab_fails_with_the_exit_code_and_keeps_the_reports(project, tmp_path, gitlab_run):
    installed = gitlab_run.installed
    jobs = gitlab(project, tmp_path, installed=installed, RVP_STUB_VERIFY="13").run()
    assert jobs["rvp-verify"].status == 13
    assert jobs["rvp-verify"].outputs["RVP_VERDICT"] == "failed"
    jobs = gitlab(project, tmp_path / "again", installed=installed, RVP_STUB_BUILD="11").run()
    assert list(jobs) == ["rvp-build"]
    report = ET.parse(jobs["rvp-build"].folder / "rvp-build.xml")
    assert [case.get("name") for case in report.findall(".//testcase[failure]")] == ["step.enclave"]


def test_gitlab_signs_on_protected_refs_only(project, tmp_path, gitlab_run):
    host = gitlab(project, tmp_path, protected=False, installed=gitlab_run.installed)
    assert list(host.run()) == ["rvp-build"]


def test_gitlab_refuses_an_image_without_digest(project, tmp_path):
    with pytest.raises(ValueError, match="image"):
        ci_host.GitLab(
            GITLAB, project, tmp_path / "x", environment={}, inputs={"image": "python:3.12"}, key_file=""
        )
