"""What a file is said to be: by its name where a subject has it, else by its digests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provenance.digest import hash_bytes
from provenance.predicates.constraint import Constraint
from provenance.predicates.core import Core, Layer, MeasurementSet
from provenance.predicates.reference_values import Builder, Measurer, ReferenceValues
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject
from provenance.public_key import KeyType, PublicKey
from verifier.verify.case import Case
from verifier.verify.checks import artifacts
from verifier.verify.result import Artifact
from verifier.verify.statements import Values

ROOT = Path(__file__).resolve().parents[3]
CASE = ROOT / "tests" / "conformance" / "verify" / "two-of-two"


def case(*asked: tuple[str, bytes]) -> Case:
    def digest(data: bytes) -> ArtifactDigest:
        return ArtifactDigest(**hash_bytes(data).as_hex())

    layer = Layer(name="workload", provider="k")
    core = Core(
        product="k",
        subjects=tuple(ArtifactSubject(name=name, digest=digest(name.encode())) for name in ("enclave.so", "host.tar")),
        sets=(MeasurementSet(id="s", tee="sgx", subject="enclave.so", layer=layer, claims={"isvsvn": Constraint(exact=1)}),),
    )  # fmt: skip
    said = ReferenceValues(
        core=core, level="measured", builder=Builder(id="x:y"), measurer=Measurer(name="rvp", version="1")
    )
    agreed = Values(operator="a", key=PublicKey(KeyType.P256, b""), predicate=said, core=b"")
    return Case(
        bundle=None,
        trust=None,
        at=0,
        agreed=(agreed,),
        artifacts=tuple(Artifact(name=name, **hash_bytes(data).as_hex()) for name, data in asked),
    )


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("enclave.so", b"enclave.so", "passed"),
        ("another-name", b"host.tar", "passed"),
        ("enclave.so", b"host.tar", "failed"),  # one agreed artifact in the place of another
        ("enclave.so", b"evil", "failed"),
        ("another-name", b"evil", "failed"),
    ],
)
def test_an_artifact_is_the_one_that_its_name_says(name: str, data: bytes, status: str) -> None:
    assert artifacts(case((name, data))).status == status


def test_one_wrong_file_among_right_ones_fails() -> None:
    assert artifacts(case(("host.tar", b"host.tar"), ("x", b"evil"))).status == "failed"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "folder", "missing", "device"])
def test_what_is_no_file_is_a_usage_error_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    for arguments in ([CASE / "bundle.tar", path], *([[path]] if kind != "folder" else [])):
        command = [
            sys.executable,
            "-m",
            "rvp",
            "verify",
            *map(str, arguments),
            "--policy",
            str(CASE / "policy.toml"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 2, done.stderr
        assert "RVP-1010" in done.stderr
