"""Two small continuous-integration hosts that run our workflow files as they stand.

They know what the files use and refuse the rest: an action, an expression or a key that is not known here is an
error, so a workflow cannot grow past its test. Each job has its own checkout; only what a job keeps reaches
another. rvp is installed by the first job, and taken from `installed` when another run has done so: installing
takes seconds, and its block is the same everywhere.
"""

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
_WRITTEN = {True: "true", False: "false", None: ""}
_INPUT = re.compile(r"\$\[\[\s*inputs\.(\w+)\s*\]\]")


@dataclass
class JobRun:
    """What one job did."""

    status: int = 0
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    blocks: int = 0
    folder: Path = Path()
    temporary: Path = Path()
    environments: list[dict[str, str]] = field(default_factory=list)


def shim_wheel(folder: Path) -> str:
    """Write a wheel whose `rvp` calls RVP_TEST_PROGRAM; return its line for a requirements file."""
    path = folder / "rvp_shim-1-py3-none-any.whl"
    module = (
        "import os, sys\n"
        "def main():\n"
        "    os.execv(os.environ['RVP_TEST_PYTHON'], "
        "[os.environ['RVP_TEST_PYTHON'], *os.environ['RVP_TEST_PROGRAM'].split('\\n'), *sys.argv[1:]])\n"
    )
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("rvp_shim.py", module)
        wheel.writestr("rvp_shim-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: rvp-shim\nVersion: 1\n")
        wheel.writestr(
            "rvp_shim-1.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("rvp_shim-1.dist-info/entry_points.txt", "[console_scripts]\nrvp = rvp_shim:main\n")
        wheel.writestr("rvp_shim-1.dist-info/RECORD", "")
    return f"{path} --hash=sha256:{sha256(path.read_bytes()).hexdigest()}\n"


class _Host:
    def __init__(self, project: Path, room: Path, environment: Mapping[str, str]) -> None:
        self.project = project
        self.room = room
        self.environment = dict(environment)
        self.jobs: dict[str, JobRun] = {}

    def _start(self, name: str) -> JobRun:
        job = JobRun(folder=self.room / name / "work", temporary=self.room / name / "temporary")
        shutil.copytree(self.project, job.folder, symlinks=True)
        job.temporary.mkdir()
        self.jobs[name] = job
        return job

    def _run(self, job: JobRun, command: list[str], environment: dict[str, str]) -> None:
        job.environments.append(environment)
        done = subprocess.run(
            command,
            cwd=job.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        job.log += done.stdout
        job.blocks += 1
        job.status = done.returncode


class GitHub(_Host):
    """Runs a reusable workflow."""

    def __init__(
        self,
        workflow: Path,
        project: Path,
        room: Path,
        *,
        environment: Mapping[str, str],
        inputs: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        installed: Path | None = None,
    ) -> None:
        super().__init__(project, room, environment)
        self.workflow = yaml.safe_load(workflow.read_text())
        self.call = self.workflow[True]["workflow_call"]  # YAML 1.1 reads "on" as true
        self.inputs = {name: one["default"] for name, one in self.call["inputs"].items()} | dict(inputs or {})
        self.secrets = dict(secrets or {})
        self.artifacts = room / "artifacts"
        self.installed = installed

    def run(self) -> dict[str, str]:
        """Run the jobs in the order of their needs; return the workflow's outputs."""
        for name, job in self.workflow["jobs"].items():
            needed = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            if all(need in self.jobs and self.jobs[need].status == 0 for need in needed):
                self._job(name, job)
        outputs = {}
        for name, one in self.call["outputs"].items():
            _, job, _, key = _EXPRESSION.fullmatch(one["value"])[1].split(".")
            declared = self.workflow["jobs"][job]["outputs"][key]
            step_key = _EXPRESSION.fullmatch(declared)[1].split(".")[-1]
            outputs[name] = self.jobs[job].outputs.get(step_key, "") if job in self.jobs else ""
        return outputs

    def _job(self, name: str, job: dict) -> None:
        state = self._start(name)
        scope = {"runner.temp": str(state.temporary)}
        scope |= {f"inputs.{key}": _WRITTEN.get(value, value) for key, value in self.inputs.items()}
        scope |= {f"secrets.{key}": value for key, value in self.secrets.items()}
        summary, output, path = (state.temporary / word for word in ("summary.md", "output", "path"))
        for file in (summary, output, path):
            file.touch()
        for step in job["steps"]:
            if "uses" in step:
                self._action(state, step, scope)
                continue
            environment = dict(self.environment)
            environment |= self.workflow.get("env", {})
            for level in (job.get("env", {}), step.get("env", {})):
                environment |= {key: self._value(value, scope) for key, value in level.items()}
            environment |= {
                "RUNNER_TEMP": str(state.temporary),
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_PATH": str(path),
            }
            added = path.read_text().split()
            environment["PATH"] = ":".join([*reversed(added), self.environment["PATH"]])
            if step["name"] == "Install rvp" and self.installed:
                path.write_text(f"{self.installed}/bin\n")
                continue
            assert self.workflow["defaults"]["run"]["shell"] == "bash"
            script = state.temporary / f"step{state.blocks}.sh"
            script.write_text(step["run"])
            self._run(state, ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)], environment)
            if step["name"] == "Install rvp":
                self.installed = state.temporary / "rvp"
            if state.status:
                break
        state.summary = summary.read_text()
        state.outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())

    def _value(self, value: str, scope: dict[str, str]) -> str:
        return _EXPRESSION.sub(lambda match: scope[match[1]], str(value))

    def _action(self, state: JobRun, step: dict, scope: dict[str, str]) -> None:
        given = {key: self._value(value, scope) for key, value in step.get("with", {}).items()}
        match step["uses"].partition("@")[0]:
            case "actions/checkout" | "actions/setup-python":
                pass
            case "actions/upload-artifact":
                kept = Path(given["path"])
                assert kept.exists(), f"nothing to keep at {kept}"
                target = self.artifacts / given["name"]
                target.mkdir(parents=True)
                if kept.is_dir():
                    shutil.copytree(kept, target, dirs_exist_ok=True)
                else:
                    shutil.copy(kept, target)
            case "actions/download-artifact":
                pattern = given.get("name") or given["pattern"]
                found = sorted(self.artifacts.glob(pattern))
                assert found, f"no artifact {pattern}"
                for artifact in found:
                    shutil.copytree(artifact, given["path"], dirs_exist_ok=True)
            case other:
                raise AssertionError(f"this host has no action {other}")


class GitLab(_Host):
    """Runs a component."""

    def __init__(
        self,
        component: Path,
        project: Path,
        room: Path,
        *,
        environment: Mapping[str, str],
        inputs: Mapping[str, str],
        key_file: str,
        protected: bool = True,
        installed: Path | None = None,
    ) -> None:
        super().__init__(project, room, environment)
        head, body = component.read_text().split("\n---\n", 1)
        self.spec = yaml.safe_load(head)["spec"]["inputs"]
        values = {name: one.get("default") for name, one in self.spec.items()} | dict(inputs)
        for name, one in self.spec.items():
            if "regex" in one and not re.search(one["regex"], values[name] or ""):
                raise ValueError(f"the input {name} is {values[name]!r}, not {one['regex']}")
        self.pipeline = yaml.safe_load(
            _INPUT.sub(lambda match: _WRITTEN.get(values[match[1]], values[match[1]]), body)
        )
        self.key_file = key_file
        self.protected = protected
        self.installed = installed

    def run(self) -> dict[str, JobRun]:
        """Run the jobs in the order of their needs."""
        for name, job in self.pipeline.items():
            if name.startswith("."):
                continue
            base = self.pipeline[job["extends"]]
            whole = base | job | {"variables": base["variables"] | job.get("variables", {})}
            needs = [need["job"] for need in whole.get("needs", [])]
            if any(need not in self.jobs or self.jobs[need].status for need in needs):
                continue
            for rule in whole.get("rules", []):
                assert rule == {"if": '$CI_COMMIT_REF_PROTECTED == "true"'}
            if "rules" not in whole or self.protected:
                self._job(name, whole, needs)
        return self.jobs

    def _job(self, name: str, job: dict, needs: list[str]) -> None:
        state = self._start(name)
        for need in needs:
            for path in self.pipeline[need]["artifacts"]["paths"]:
                kept = self.jobs[need].folder / path
                assert kept.exists(), f"{need} did not keep {path}"
                if kept.is_dir():
                    shutil.copytree(kept, state.folder / path, dirs_exist_ok=True)
                else:
                    shutil.copy(kept, state.folder / path)
        environment = dict(self.environment) | {"CI_PROJECT_DIR": str(state.folder)}
        for key, value in job["variables"].items():
            environment[key] = value["value"] if isinstance(value, dict) else value
        if self.protected:
            key = state.temporary / "RVP_SIGNING_KEY"
            key.write_text(self.key_file)
            environment["RVP_SIGNING_KEY"] = str(key)
        environment["TMPDIR"] = str(state.temporary)
        before = "\n".join(job["before_script"])
        if self.installed:
            before = f'export PATH="{self.installed}/bin:$PATH"'
        script = state.temporary / "job.sh"
        script.write_text("set -e\n" + before + "\n" + "\n".join(job["script"]))
        self._run(state, ["sh", str(script)], environment)
        state.blocks = len(job["script"]) + len(job["before_script"])
        if self.installed is None:
            self.installed = state.folder / ".rvp-venv"
        dotenv = job["artifacts"].get("reports", {}).get("dotenv")
        if dotenv and (state.folder / dotenv).exists():
            lines = (state.folder / dotenv).read_text().splitlines()
            state.outputs = dict(line.split("=", 1) for line in lines)


def host_environment(root: Path, python: str, program: list[str]) -> dict[str, str]:
    """Return the environment that jobs start with: nothing of ours but what the shim needs."""
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "DOCKER_HOST") if key in os.environ}
    return kept | {
        "PATH": f"{Path(python).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(root),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "RVP_TEST_PYTHON": python,
        "RVP_TEST_PROGRAM": "\n".join(program),
    }
