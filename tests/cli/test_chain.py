"""Sign, release, publish, verify: two operators, from two build folders to one verdict."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_key_command import rvp
from tests.fakes.build_folder import ENCLAVE, write_build

AT = "2026-01-10T00:00:00Z"
VALID = ("--at", "2026-01-01T00:00:00Z", "--not-after", "2027-01-01T00:00:00Z")
RELEASE = ("--series", "stable", "--sequence", "7", "--version", "1.2.0", "--yes", *VALID)


def run(folder: Path, *arguments: object, expect: int = 0) -> str:
    done = rvp(*map(str, arguments), cwd=folder)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("chain")
    for name in ("ci", "auditor"):
        write_build(room / name / ".rvp" / "build")
        run(room, "key", "new", f"{name}.key")
        run(room / name, "sign", "--key", f"../{name}.key")
    for name in ("release-a", "release-b"):
        run(room, "key", "new", f"{name}.key")
        run(room / "ci", "release", ".rvp/statements", "--key", f"../{name}.key", *RELEASE)
    run(room / "ci", "publish", "../one.tar")
    shutil.copy(room / "one.tar", room / "both.tar")
    run(room / "auditor", "publish", "../both.tar")
    run(
        room, "policy", "init", "both.tar", "--operator", "ci=ci.key.pub", "--operator", "auditor=auditor.key.pub",
        "--release-signer", "release-a.key.pub", "--release-signer", "release-b.key.pub",
    )  # fmt: skip
    shutil.copy(room / "ci" / ".rvp" / "build" / "artifacts" / ENCLAVE, room / ENCLAVE)
    return room


def judge(room: Path, bundle: str, *artifacts: str, expect: int) -> dict:
    out = run(
        room,
        "verify",
        bundle,
        *artifacts,
        "--policy",
        "policy.toml",
        "--at",
        AT,
        "--format",
        "json",
        expect=expect,
    )
    return json.loads(out)


def test_two_operators_agree_and_the_artifact_is_theirs(room: Path) -> None:
    found = judge(room, "both.tar", ENCLAVE, expect=0)
    assert found["verdict"] == "passed"
    assert found["agreed"]["operators"] == ["auditor", "ci"]
    assert found["agreed"]["sequence"] == 7


def test_one_operator_is_not_enough(room: Path) -> None:
    found = judge(room, "one.tar", expect=13)
    assert [check["id"] for check in found["checks"] if check["status"] == "failed"] == ["agreement"]


def test_another_artifact_is_told(room: Path) -> None:
    (room / "other").mkdir()
    data = bytearray((room / ENCLAVE).read_bytes())
    data[len(data) // 2] ^= 1
    (room / "other" / ENCLAVE).write_bytes(data)
    judge(room, "both.tar", f"other/{ENCLAVE}", expect=12)


def test_a_flipped_byte_is_told(room: Path) -> None:
    data = bytearray((room / "both.tar").read_bytes())
    data[data.index(b"dsseEnvelope") + 100] ^= 1
    (room / "flipped.tar").write_bytes(data)
    judge(room, "flipped.tar", expect=10)


def test_publishing_in_the_other_order_gives_the_same_bytes(room: Path) -> None:
    run(room / "auditor", "publish", "../again.tar")
    run(room / "ci", "publish", "../again.tar")
    assert (room / "again.tar").read_bytes() == (room / "both.tar").read_bytes()


def test_a_folder_has_the_same_digest_as_the_archive(room: Path) -> None:
    run(room / "ci", "publish", "../folder")
    run(room / "auditor", "publish", "../folder")
    assert judge(room, "folder", expect=0)["bundle"] == judge(room, "both.tar", expect=0)["bundle"]
