"""What the owner of an enclave types, and what every rebuilder types after."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pipeline.measure import measure_file
from rvp import cli
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.libpal import libpal, manifest
from tests.fakes.sdk_elf import sdk_elf
from verifier.cli.terminal import run


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (tmp_path / "enclave.so").write_bytes(enclave_elf())
    (tmp_path / "enclave.toml").write_text('schema = "rvp/enclave/v1"\nisvprodid = 4\nheap = "64KiB"\n')
    return tmp_path


SIGN = ["sgx", "sign", "enclave.so", "--config", "enclave.toml", "--key", "owner.pem", "-o", "owner.sig"]
PACK = ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "--sigstruct", "owner.sig", "-o"]


def test_key_sign_pack_measure(room: Path) -> None:
    assert run(cli, ["sgx", "key", "new", "owner.pem"]) == 0
    assert stat.S_IMODE((room / "owner.pem").stat().st_mode) == 0o600
    assert run(cli, [*SIGN, "--date", "2026-02-04"]) == 0
    assert run(cli, [*PACK, "a.so"]) == 0
    assert run(cli, [*PACK, "b.so"]) == 0
    assert (room / "a.so").read_bytes() == (room / "b.so").read_bytes()
    assert run(cli, ["measure", "a.so"]) == 0
    first = (room / "owner.sig").read_bytes()
    assert run(cli, [*SIGN, "--date", "2026-02-04"]) == 0
    assert (room / "owner.sig").read_bytes() == first


def test_a_new_key_overwrites_neither_itself_nor_another(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["sgx", "key", "new", "owner.pub"]) == 2
    assert "owner.pem" in capfd.readouterr().err
    (room / "owner.pub").write_text("of somebody else")
    assert run(cli, ["sgx", "key", "new", "owner.pem"]) == 2
    assert "owner.pub exists" in capfd.readouterr().err
    assert not (room / "owner.pem").exists()
    assert (room / "owner.pub").read_text() == "of somebody else"


def test_an_sdk_enclave_is_signed_packed_and_measured_with_its_xml(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (room / "sdk.so").write_bytes(sdk_elf())
    (room / "c.xml").write_text("<EnclaveConfiguration><TCSNum>3</TCSNum></EnclaveConfiguration>")
    common = ["sdk.so", "--config", "c.xml"]
    run(cli, ["sgx", "key", "new", "owner.pem"])
    sign = ["sgx", "sign", *common, "--key", "owner.pem", "--date", "2026-02-04", "-o", "owner.sig"]
    assert run(cli, sign) == 0
    assert run(cli, ["sgx", "pack", *common, "--sigstruct", "owner.sig", "-o", "signed.so"]) == 0
    capfd.readouterr()
    assert run(cli, ["measure", *common]) == 0
    before = capfd.readouterr().out
    assert run(cli, ["measure", "signed.so"]) == 0
    after = capfd.readouterr().out
    (value,) = [line.split()[1] for line in before.splitlines() if "  mrenclave  " in line]
    assert value in after
    assert "sdk-generation-proven" in before
    assert run(cli, ["measure", *common, "--generation", "2.25"]) == 0
    assert "linked with SDK 2.26.100" in capfd.readouterr().out
    assert run(cli, ["measure", "sdk.so"]) == 2
    (room / "c.xml").write_text("<EnclaveConfiguration><TCSNum>none</TCSNum></EnclaveConfiguration>")
    assert run(cli, ["measure", *common]) == 3
    assert "c.xml:1" in capfd.readouterr().err


def test_a_date_is_asked_for_or_taken_from_the_environment(
    room: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(cli, ["sgx", "key", "new", "owner.pem"])
    assert run(cli, SIGN) == 2
    assert "SOURCE_DATE_EPOCH" in capfd.readouterr().err
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert run(cli, SIGN) == 0
    assert (room / "owner.sig").read_bytes()[20:24].hex() == "14112320"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_signs_elsewhere_and_gives_the_same_bytes(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(cli, ["sgx", "key", "new", "owner.pem"])
    run(cli, [*SIGN, "--date", "2026-02-04"])
    common = ["enclave.so", "--config", "enclave.toml", "--date", "2026-02-04", "-o", "owner.tbs"]
    capfd.readouterr()
    assert run(cli, ["sgx", "digest", *common]) == 0
    assert "mrenclave" in capfd.readouterr().out
    assert len((room / "owner.tbs").read_bytes()) == 256
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", "owner.pem", "-out", "owner.rsa", "owner.tbs"], check=True
    )
    assemble = ["sgx", "assemble", "owner.tbs", "--signature", "owner.rsa", "--public-key", "owner.pub"]
    assert run(cli, [*assemble, "-o", "other.sig"]) == 0
    assert (room / "other.sig").read_bytes() == (room / "owner.sig").read_bytes()


def test_a_signature_of_another_key_is_not_assembled(room: Path) -> None:
    for name in ("owner", "eve"):
        run(cli, ["sgx", "key", "new", f"{name}.pem"])
    run(cli, ["sgx", "digest", "enclave.so", "--config", "enclave.toml", "--date", "2026-02-04", "-o", "t"])
    (room / "rsa").write_bytes(bytes(384))
    assert (
        run(cli, ["sgx", "assemble", "t", "--signature", "rsa", "--public-key", "eve.pub", "-o", "x"]) == 10
    )
    assert not (room / "x").exists()


def test_a_key_is_never_overwritten(room: Path) -> None:
    assert run(cli, ["sgx", "key", "new", "owner.pem"]) == 0
    before = (room / "owner.pem").read_bytes()
    assert run(cli, ["sgx", "key", "new", "owner.pem"]) == 2
    assert (room / "owner.pem").read_bytes() == before


def test_the_signature_of_another_enclave_is_exit_12_and_writes_nothing(room: Path) -> None:
    run(cli, ["sgx", "key", "new", "owner.pem"])
    run(cli, [*SIGN, "--date", "2026-02-04"])
    (room / "enclave.so").write_bytes(enclave_elf(seed=b"eve!"))
    assert run(cli, [*PACK, "a.so"]) == 12
    assert not (room / "a.so").exists()


def test_sgxs_measures_to_the_same_value(room: Path) -> None:
    run(cli, ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "-o", "a.so"])
    assert run(cli, ["sgx", "to-sgxs", "a.so", "-o", "a.sgxs"]) == 0
    one, other = (
        measure_file(room / name).measurements[0].claims["mrenclave"] for name in ("a.so", "a.sgxs")
    )
    assert one == other


def test_a_key_that_sgx_cannot_use_is_refused(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    (room / "owner.pem").write_bytes(pem)
    assert run(cli, [*SIGN, "--date", "2026-02-04"]) == 2
    assert "e = 65537" in capfd.readouterr().err


def test_a_gramine_manifest_is_signed_and_measured_with_its_libpal(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (room / "app.manifest.sgx").write_bytes(manifest(debug=True))
    run(cli, ["sgx", "key", "new", "owner.pem"])
    measure = ["measure", "sgx", "app.manifest.sgx"]
    assert run(cli, measure) == 2
    assert "--libpal" in capfd.readouterr().err
    (room / "pal.so").write_bytes(libpal())
    sign = ["sgx", "sign", "app.manifest.sgx", "--libpal", "pal.so", "--key", "owner.pem", "-o", "app.sig"]
    assert run(cli, [*sign, "--date", "2026-02-04"]) == 0
    assert run(cli, [*measure, "--libpal", "pal.so"]) == 0
    output = capfd.readouterr().out
    assert "sgx.debug: the host reads and changes the memory" in output
    assert run(cli, [*measure, "--libpal", "pal.so", "--generation", "1.4"]) == 12
    assert (
        run(cli, ["measure", "sgx", "owner.pem", "--manifest", "app.manifest.sgx", "--libpal", "pal.so"])
        == 12
    )


def test_an_enclave_is_written_as_a_page_list_and_measured_again(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(cli, ["sgx", "key", "new", "owner.pem"])
    run(cli, [*SIGN, "--date", "2026-02-04"])
    run(cli, [*PACK, "signed.so"])
    capfd.readouterr()
    assert run(cli, ["sgx", "pages", "signed.so", "-o", "list.toml"]) == 0
    assert {path.name for path in room.glob("list.*")} == {"list.toml", "list.pages", "list.sig"}
    values = [measure_file(room / name).measurements[0].claims for name in ("signed.so", "list.toml")]
    assert values[0] == values[1]
    (room / "list.pages").write_bytes((room / "list.pages").read_bytes()[:-1])
    assert run(cli, ["measure", "list.toml"]) == 2
    assert "list.toml:" in capfd.readouterr().err


def test_a_stream_that_is_not_canonical_says_so(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (room / "app.manifest.sgx").write_bytes(manifest())
    (room / "libpal.so").write_bytes(libpal())
    assert run(cli, ["sgx", "to-sgxs", "app.manifest.sgx", "-o", "app.sgxs"]) == 0
    said = capfd.readouterr().err
    assert "not canonical: Gramine 1.9 does not add its pages from the lowest up" in said
    assert "rvp sgx pages app.manifest.sgx -o list.toml" in said
    assert run(cli, ["measure", "app.sgxs"]) == 2
    said = capfd.readouterr().err
    assert "RVP-5003" in said
    assert "rvp sgx pages" in said
    assert run(cli, ["sgx", "pages", "app.manifest.sgx", "-o", "list.toml"]) == 0
    value = measure_file(room / "app.manifest.sgx").measurements[0].claims["mrenclave"]
    assert hashlib.sha256((room / "app.sgxs").read_bytes()).hexdigest() == value
    assert measure_file(room / "list.toml").measurements[0].claims["mrenclave"] == value
    run(cli, ["sgx", "key", "new", "owner.pem"])
    run(cli, [*SIGN, "--date", "2026-02-04"])
    run(cli, [*PACK, "signed.so"])
    capfd.readouterr()
    assert run(cli, ["sgx", "to-sgxs", "signed.so", "-o", "signed.sgxs"]) == 0
    assert "not canonical" not in capfd.readouterr().err


def test_a_configuration_beside_a_signed_enclave_is_compared_and_never_ignored(
    room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(cli, ["sgx", "key", "new", "owner.pem"])
    run(cli, [*SIGN, "--date", "2026-02-04"])
    run(cli, [*PACK, "signed.so"])
    assert run(cli, ["measure", "signed.so", "--config", "enclave.toml"]) == 0
    assert "config-gives-this-enclave" in capfd.readouterr().out
    (room / "enclave.toml").write_text('schema = "rvp/enclave/v1"\nisvprodid = 4\nheap = "128KiB"\n')
    assert run(cli, ["measure", "signed.so", "--config", "enclave.toml"]) == 12
    said = capfd.readouterr().out
    assert "expected  heap 0x20000 bytes" in said
    assert "got       heap 0x10000 bytes" in said
    run(cli, ["sgx", "to-sgxs", "signed.so", "-o", "e.sgxs"])
    capfd.readouterr()
    assert run(cli, ["measure", "e.sgxs", "--config", "enclave.toml"]) == 2
    said = capfd.readouterr().err
    assert "--config: Intel SGX enclave (SGXS stream) has no use for it" in said
    assert "RVP-5014" in said
    assert run(cli, ["sgx", "to-sgxs", "signed.so", "--libpal", "owner.sig", "-o", "x.sgxs"]) == 2
    assert run(cli, ["explain", "signed.so", "e.sgxs", "--config", "enclave.toml"]) == 2
    assert "--config is of no use" in capfd.readouterr().err
