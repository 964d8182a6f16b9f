"""Files given in the place of others: the message says what was given, and what is wanted."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from rvp import cli
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.libpal import manifest
from tests.fakes.sdk_elf import sdk_elf
from verifier.cli.terminal import run

SIGN = ["--key", "owner.pem", "--date", "2026-02-04", "-o", "x.sig"]
ASSEMBLE = ["--public-key", "owner.pub", "-o", "x.sig"]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """Write an enclave, its configuration, its owner's key; what is to be signed, and a SIGSTRUCT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (tmp_path / "enclave.so").write_bytes(enclave_elf())
    (tmp_path / "sdk.so").write_bytes(sdk_elf())
    (tmp_path / "enclave.toml").write_text('schema = "rvp/enclave/v1"\nisvprodid = 4\nheap = "64KiB"\n')
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "folder").mkdir()
    common = ["enclave.so", "--config", "enclave.toml"]
    assert run(cli, ["sgx", "key", "new", "owner.pem"]) == 0
    dated = ["--date", "2026-02-04", "-o"]
    assert run(cli, ["sgx", "sign", *common, "--key", "owner.pem", *dated, "owner.sig"]) == 0
    assert run(cli, ["sgx", "digest", *common, *dated, "owner.tbs"]) == 0
    assert run(cli, ["sgx", "pack", *common, "--sigstruct", "owner.sig", "-o", "signed.so"]) == 0
    capfd.readouterr()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["sign", "enclave.toml", "--config", "enclave.so", *SIGN], 2, "no configuration: an ELF file"),
        (["sign", "enclave.so", "--config", "owner.pem", *SIGN], 2, "no configuration: a private key"),
        (
            ["sign", "sdk.so", "--config", "enclave.toml", *SIGN],
            3,
            "(enclave.toml); an enclave that is linked",
        ),
        (["sign", "sdk.so", *SIGN], 2, "give --config Enclave.config.xml"),
        (["sign", "notes.txt", "--config", "enclave.toml", *SIGN], 2, "for signing: a text file"),
        (["sign", "owner.sig", "--config", "enclave.toml", *SIGN], 2, "for signing: a SIGSTRUCT"),
        (["sign", "folder", "--config", "enclave.toml", *SIGN], 2, "cannot read the file: Is a directory"),
        (
            ["sign", "enclave.so", "--config", "enclave.toml", "--key", "owner.pub", *SIGN[2:]],
            2,
            "this is a public key",
        ),
        (
            ["sign", "enclave.so", "--config", "enclave.toml", "--key", "hsm:owner", *SIGN[2:]],
            2,
            "pkcs11:, hashivault:",
        ),
        (
            ["sign", "enclave.so", "--config", "enclave.toml", *SIGN[:3], "4.2.2026", *SIGN[4:]],
            2,
            "--date 4.2.2026: expected a day, as 2026-02-04",
        ),
        (
            ["pack", "enclave.so", "--config", "enclave.toml", "--sigstruct", "owner.tbs", "-o", "x.so"],
            2,
            "the 256 bytes that are to be signed",
        ),
        (
            ["pack", "enclave.so", "--config", "enclave.toml", "--sigstruct", "notes.txt", "-o", "x.so"],
            2,
            "a SIGSTRUCT has 1808; this is a text file",
        ),
        (["assemble", "notes.txt", "--signature", "owner.tbs", *ASSEMBLE], 2, "owner.tbs: error"),
        (["assemble", "owner.sig", "--signature", "sig", *ASSEMBLE], 2, "owner.sig: error"),
        (
            ["assemble", "owner.tbs", "--signature", "sig", "--public-key", "owner.pem", "-o", "x.sig"],
            2,
            "openssl pkey",
        ),
        (["show", "sdk.so"], 10, "rvp sgx digest"),
        (["to-sgxs", "signed.so", "-o", "none/x.sgxs"], 4, "none/x.sgxs: error"),
        (["pages", "owner.sig", "-o", "x.toml"], 2, "rvp sgx show"),
    ],
)
def test_a_file_in_the_place_of_another_is_named(
    typed: list[str], code: int, said: str, room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (room / "sig").write_bytes(bytes(383) + b"\1")
    assert run(cli, ["sgx", *typed]) == code
    assert said in capfd.readouterr().err
    assert not list(room.glob("x.*"))


def test_a_signed_enclave_stands_for_its_sigstruct(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pack = ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "--sigstruct", "signed.so", "-o", "x.so"]
    assert run(cli, pack) == 0
    assert "signed enclave" in capfd.readouterr().err
    assert (room / "x.so").read_bytes() == (room / "signed.so").read_bytes()
    assert run(cli, ["sgx", "verify", "x.so", "--sigstruct", "signed.so"]) == 0
    assert run(cli, ["measure", "x.so", "--sigstruct", "signed.so"]) == 0


def test_no_sigstruct_is_written_of_an_enclave_that_has_none(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(cli, ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "-o", "plain.so"])
    assert "enclave, not signed" in capfd.readouterr().err
    assert run(cli, ["sgx", "to-sgxs", "plain.so", "--write-sigstruct", "x.sig", "-o", "x.sgxs"]) == 10
    assert "not signed" in capfd.readouterr().err
    assert not list(room.glob("x.*"))


def test_what_was_signed_and_packed_is_one_document(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["enclave.so", "--config", "enclave.toml", "--format", "json"]
    assert run(cli, ["sgx", "sign", *common, *SIGN]) == 0
    signed = json.loads(capfd.readouterr().out)
    assert run(cli, ["sgx", "pack", *common, "--sigstruct", "x.sig", "-o", "x.so"]) == 0
    packed = json.loads(capfd.readouterr().out)
    assert {**signed, "file": "x.so"} == packed
    assert run(cli, ["sgx", "show", "x.so", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == packed
    assert run(cli, ["sgx", "pack", *common, "-o", "plain.so"]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert (plain["mrenclave"], plain["mrsigner"], plain["checks"]) == (packed["mrenclave"], "", [])


def test_an_enclave_in_an_image_is_shown_and_verified_but_not_signed(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (room / "image.tar").write_bytes(docker_archive({"opt/signed.so": (room / "signed.so").read_bytes()}))
    assert run(cli, ["sgx", "show", "image.tar!/opt/signed.so"]) == 0
    assert run(cli, ["sgx", "verify", "image.tar!/opt/signed.so", "--public-key", "owner.pub"]) == 0
    assert run(cli, ["sgx", "sign", "image.tar!/opt/signed.so", "--config", "enclave.toml", *SIGN]) == 2
    assert "not signed inside an image" in capfd.readouterr().err
    assert run(cli, ["measure", "image.tar!opt/signed.so"]) == 2
    assert "begins with a slash: 'image.tar!/opt/signed.so'" in capfd.readouterr().err


@pytest.mark.parametrize("group", [[], ["sgx"], ["sgx", "key"]])
def test_a_group_without_a_command_prints_its_help(
    group: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, group) == 2
    said = capfd.readouterr().err
    assert said.startswith("Usage: rvp")
    assert "error[" not in said


def test_a_check_that_is_spelt_nearly_so_is_proposed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["explain", "mrenclave-equal-sigstruct"]) == 2
    assert "rvp explain mrenclave-equals-sigstruct" in capfd.readouterr().err


def test_an_enclave_is_no_libpal(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (room / "app.manifest.sgx").write_bytes(manifest())
    assert run(cli, ["measure", "app.manifest.sgx", "--libpal", "sdk.so"]) == 2
    assert "sdk.so: error[RVP-5042]" in capfd.readouterr().err


def docker_archive(files: dict[str, bytes]) -> bytes:
    """Write an image of one layer, as `docker save` does."""
    layer = _tar(files)
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["a:b"], "Layers": ["l/layer.tar"]}]).encode()
    return _tar({name: config, "l/layer.tar": layer, "manifest.json": manifest})


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
