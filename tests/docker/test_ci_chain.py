"""The reusable workflow's own blocks with the real rvp and a real engine: from a repository to a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from tests.fakes import ci_host
from tests.fakes.project import HEAD, step, write_project

ENGINE = ("DOCKER_HOST", "RVP_ENGINE_FOLDER")  # where the tests have their engine

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
IMAGE = """
[[pack]]
id = "image"
kind = "oci"
output = "demo.tar"
files = { "/usr/share/demo" = "step.one:one" }

[[measure]]
id = "image"
tee = "oci"
image = "pack.image:demo.tar"
"""
POLICY = """\
schema = "rvp/policy/v1"

[product]
name = "demo"

[source]
repository = "https://example.org/demo.git"
refs = ["refs/heads/main"]

[quorum]
n = 1

[[operator]]
name = "ci"
key = "ci.key.pub"
builder_id = "https://example.org/ci"
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, base: Rootfs, shared_store: FolderStore) -> tuple[Path, str]:
    """A repository with a project, a policy and pinned requirements; and the CI's key."""
    folder = tmp_path / "project"
    one = step("one", "cat {source.app}/a > {out}/one", "source.app", more=IMAGE)
    write_project(folder, one, head=HEAD, store=shared_store, rootfs=base)
    subprocess.run(
        [sys.executable, "-m", "rvp", "key", "new", str(tmp_path / "ci.key")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (folder / "ci.key.pub").write_bytes((tmp_path / "ci.key.pub").read_bytes())
    (folder / "policy.toml").write_text(POLICY)
    (folder / "rvp-requirements.txt").write_text(ci_host.shim_wheel(tmp_path))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "remote", "add", "origin", "https://example.org/demo.git")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder, (tmp_path / "ci.key").read_text()


def test_the_blocks_of_the_workflow_lead_from_a_repository_to_a_verdict(
    project, tmp_path, docker_engine: Engine, shared_store: FolderStore
):
    del docker_engine
    folder, key = project
    host = ci_host.GitHub(
        ROOT / ".github/workflows/rvp.yml",
        folder,
        tmp_path / "github",
        environment={
            **ci_host.host_environment(ROOT, sys.executable, ["-m", "rvp"]),
            "RVP_STORE": str(shared_store.folder),
            **{name: os.environ[name] for name in ENGINE if name in os.environ},
        },
        inputs={"builder-id": "https://example.org/ci", "before-release": True},
        secrets={"RVP_SIGNING_KEY": key.rstrip("\n")},
    )
    outputs = host.run()
    assert host.jobs["build"].status == 0, host.jobs["build"].log
    assert "reproduced demo" in host.jobs["build"].summary
    (values,) = json.loads(outputs["values-json"])
    assert values["tee"] == "oci"
    assert values["claims"]["manifest"].startswith("sha256:")
    assert host.jobs["sign"].status == 0, host.jobs["sign"].log
    assert host.jobs["publish"].status == 0, host.jobs["publish"].log
    assert host.jobs["verify"].status == 0, host.jobs["verify"].log + host.jobs["verify"].summary
    assert outputs["verdict"] == "inconclusive", host.jobs["verify"].summary
    assert "freshness" in host.jobs["verify"].summary
