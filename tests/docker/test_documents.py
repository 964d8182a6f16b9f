"""With a real engine, too: `--format json` prints one document, and `rvp schema` knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pipeline.cli.schema import schema_of
from pipeline.engine import Engine
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from tests.conftest import ROOT
from tests.fakes.project import step, write_project

pytestmark = pytest.mark.docker
GOOD, DIVERGING, FAILING = "cat {source.app}/a > {out}/one", "date > {out}/one", "echo no; exit 3"


@pytest.mark.parametrize(
    ("script", "command", "code", "schema"),
    [
        (GOOD, "plan", 0, "plan"),
        (GOOD, "build", 0, "build"),
        (DIVERGING, "build", 11, "build"),
        (FAILING, "build", 5, "error"),
    ],
)
def test_each_outcome_of_a_build_is_one_document(
    script: str,
    command: str,
    code: int,
    schema: str,
    tmp_path: Path,
    base: Rootfs,
    shared_store: FolderStore,
    docker_engine: Engine,
) -> None:
    del docker_engine
    write_project(tmp_path, step("one", script, "source.app"), store=shared_store, rootfs=base)
    done = subprocess.run(
        [sys.executable, "-m", "rvp", "-C", str(tmp_path), command, "--format", "json"],
        cwd=ROOT,
        env={**os.environ, "RVP_STORE": str(shared_store.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == f"rvp/{schema}/v1"
    jsonschema.validate(document, schema_of(schema))
    if code:
        assert "hint: " in done.stderr
