"""A small build folder as `rvp build` leaves it: recipe, one measured enclave, result. No engine is needed."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from pipeline import recipe
from pipeline.base import LockedArchive, LockedBase, LockedPackage
from pipeline.build_result import Artifact, BuildResult, MeasurementResult, NodeResult, RunResult
from pipeline.lock import Lock, write_toml_lock
from pipeline.measure.formats import measure_file
from pipeline.recipe import Recipe, RecipeFile, RecipeSource
from pipeline.sandbox import NotExercised
from pipeline.store import FolderStore
from provenance.claims import Tool
from provenance.digest import hash_bytes, sha256

SPEC = b"""\
schema = "rvp/spec/v1"
[project]
name = "keyservice"
version = "1.2.0"
[base.toolchain]
debian = { suites = ["bookworm"], packages = ["gcc"] }
[source.app]
path = "src"
[[step]]
id = "enclave"
base = "toolchain"
needs = ["source.app"]
run = ["make"]
outputs = ["enclave.sgxs"]
[[measure]]
id = "enclave"
tee = "sgx"
image = "step.enclave:enclave.sgxs"
"""
ENCLAVE = "enclave.sgxs"


def sgxs_enclave(content: bytes = b"code") -> bytes:
    """Write an SGXS stream of one measured page."""
    page = content.ljust(4096, b"\0")
    stream = b"ECREATE\0" + struct.pack("<IQ", 1, 1 << 16) + bytes(44)
    stream += b"EADD\0\0\0\0" + struct.pack("<QQ", 0, 0x205) + bytes(40)
    for offset in range(0, 4096, 256):
        stream += b"EEXTEND\0" + struct.pack("<Q", offset) + bytes(48) + page[offset : offset + 256]
    return stream


def write_build(
    folder: Path,
    *,
    content: bytes = b"code",
    dirty: bool = False,
    more_spec: bytes = b"",
    sigstruct: bytes = b"",
    **changes,
) -> BuildResult:
    """Write a build folder; `changes` replace fields of the result."""
    store = FolderStore(folder.with_name(f"{folder.name}-store"))
    if sigstruct:
        more_spec += b'sigstruct = "signatures/enclave.sig"\n'
    (folder / "artifacts").mkdir(parents=True)
    (folder / "measurement-logs").mkdir()
    data = sgxs_enclave(content)
    (folder / "artifacts" / ENCLAVE).write_bytes(data)
    measured = measure_file(folder / "artifacts" / ENCLAVE)
    (folder / "measurement-logs" / "enclave.json").write_bytes(msgspec.json.encode(measured.logs[0]))
    files = _files(store, sigstruct)
    made = Recipe(
        spec_bytes=SPEC + more_spec,
        lock_bytes=write_toml_lock(
            msgspec.structs.replace(_lock(), files={file.path: file.sha256 for file in files})
        ),
        source_date_epoch=1700000000,
        repository="https://example.org/keyservice.git",
        files=files,
        sources=(
            RecipeSource(
                name="app",
                kind="path",
                tree="77" * 32,
                repository="https://example.org/keyservice.git",
                ref="refs/tags/v1.2.0",
                commit="c" * 40,
                dirty=dirty,
            ),
        ),
    )
    recipe.write(made, folder / "recipe", store)
    result = BuildResult(
        tool=Tool(name="rvp", version="0.1.0"),
        project="keyservice",
        version="1.2.0",
        recipe=made.digest.hex(),
        epoch=1700000000,
        times=2,
        vary=("time", "hostname"),
        verdict="reproduced",
        nodes=(_node("step.enclave"),),
        measurements=(
            MeasurementResult(
                node="measure.enclave",
                layer="workload",
                measurements=measured.measurements,
                logs=("measurement-logs/enclave.json",),
            ),
        ),
        artifacts=(
            Artifact(
                name=ENCLAVE,
                path=f"artifacts/{ENCLAVE}",
                node="step.enclave",
                size_bytes=len(data),
                digest=hash_bytes(data).as_hex(),
            ),
        ),
    )
    result = msgspec.structs.replace(result, **changes)
    write_result(folder, result)
    return result


def _files(store: FolderStore, sigstruct: bytes) -> tuple[RecipeFile, ...]:
    if not sigstruct:
        return ()
    digest, size_bytes = store.put([sigstruct])
    return (RecipeFile(path="signatures/enclave.sig", sha256=digest.hex(), size=size_bytes),)


def write_result(folder: Path, result: BuildResult) -> None:
    """Write `result.json`."""
    (folder / "result.json").write_bytes(msgspec.json.encode(result))


def _node(name: str) -> NodeResult:
    runs = (
        RunResult(run=1, status="ran", key="aa" * 32, inputs={}, outputs="bb" * 32, log_sha256="cc" * 32),
        RunResult(
            run=2,
            status="ran",
            key="ab" * 32,
            inputs={},
            outputs="bb" * 32,
            log_sha256="cd" * 32,
            exercised=("hostname",),
            not_exercised=(NotExercised(variation="time", reason="the compiler is static"),),
        ),
    )
    return NodeResult(node=name, verdict="reproduced", inputs_agree=True, runs=runs)


def _lock() -> Lock:
    package = LockedPackage(
        name="gcc",
        version="4:12.2.0-3",
        architecture="amd64",
        suite="bookworm",
        size=1,
        sha256=sha256(b"gcc").hex(),
    )
    archive = LockedArchive(suite="bookworm", components=("main",), release="dd" * 32)
    base = LockedBase(architecture="amd64", archives=(archive,), packages=(package,))
    return Lock(base={"toolchain": base, "second": base})
