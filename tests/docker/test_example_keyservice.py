"""The example, whole: rebuilt hermetically, its owner's published signature fits, its image runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.measure.sgx.sigstruct import Sigstruct
from tests.conftest import ROOT
from tests.docker.conftest import CACHE

pytestmark = [pytest.mark.docker, pytest.mark.network]
EXAMPLE = ROOT / "examples" / "keyservice"


def test_the_example_rebuilds_to_what_its_owner_signed(docker_engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "keyservice"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".rvp"))
    store = CACHE / "example-store"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "rvp",
            "-C",
            str(folder),
            "build",
            "--store",
            str(store),
            "--progress",
            "plain",
        ],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    result = json.loads((folder / ".rvp/build/result.json").read_bytes())
    assert result["verdict"] == "reproduced"
    signed = Sigstruct((EXAMPLE / "keyservice.sig").read_bytes())
    enclave = (folder / ".rvp/build/artifacts/enclave.signed.so").read_bytes()
    assert signed.raw in enclave
    assert enclave == (EXAMPLE / "published" / "enclave.signed.so").read_bytes()
    with (folder / ".rvp/build/artifacts/keyservice.tar").open("rb") as stream:
        (image,) = docker_engine.client.images.load(stream)
    try:
        out = docker_engine.client.containers.run(image.id, remove=True, network_mode="none").decode()
    finally:
        docker_engine.client.images.remove(image.id, force=True)
    assert f"mrenclave    {signed.mrenclave.hex()}" in out
