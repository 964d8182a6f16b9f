"""Signing enclaves with every kind of key, in one step and in two; showing and verifying what was signed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from rvp import cli
from tests.fakes import key_services as fakes
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.images import file, layer, write_image
from tests.fakes.libpal import libpal, manifest
from tests.fakes.open_enclave_elf import open_enclave_elf, properties
from tests.fakes.sdk_elf import sdk_elf
from tests.fakes.token import PIN, Token
from verifier.cli.terminal import run

CONFIG = 'schema = "rvp/enclave/v1"\nisvprodid = 4\nheap = "64KiB"\n'
ENCLAVE = ["enclave.so", "--config", "enclave.toml", "--date", "2026-02-04"]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SOURCE_DATE_EPOCH", "RVP_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "enclave.so").write_bytes(enclave_elf())
    (tmp_path / "enclave.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def owner() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def put_owner(room: Path, key: rsa.RSAPrivateKey) -> bytes:
    """Write the owner's key and sign with the file; the SIGSTRUCT is what every other way must give."""
    (room / "owner.pem").write_bytes(pem(key))
    (room / "owner.pub").write_text(fakes.public_pem(key))
    assert run(cli, ["sgx", "sign", *ENCLAVE, "--key", "owner.pem", "-o", "owner.sig"]) == 0
    return (room / "owner.sig").read_bytes()


def sign_with(key: str, *more: str) -> int:
    return run(cli, ["sgx", "sign", *ENCLAVE, "--key", key, *more, "-o", "other.sig"])


# ---- keys


def test_an_encrypted_key_file_is_opened_with_its_passphrase(
    room: Path, owner: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = put_owner(room, owner)
    (room / "sealed.pem").write_bytes(pem(owner, b"swordfish"))
    assert sign_with("sealed.pem") == 2
    assert "RVP-6005" in capfd.readouterr().err
    monkeypatch.setenv("RVP_PASSPHRASE", "wrong one")
    assert sign_with("file:sealed.pem") == 2
    said = capfd.readouterr().err
    assert "RVP-6004" in said
    assert "wrong one" not in said
    monkeypatch.setenv("RVP_PASSPHRASE", "swordfish")
    assert not (room / "other.sig").exists()
    assert sign_with("sealed.pem") == 0
    assert (room / "other.sig").read_bytes() == wanted


def test_a_token_signs_the_same_bytes_as_the_key_file(room: Path, token: Token) -> None:
    wanted = put_owner(room, token.keys["owner"])  # type: ignore[arg-type]
    assert sign_with(token.uri("owner")) == 0
    assert (room / "other.sig").read_bytes() == wanted


def test_the_pin_of_a_token_is_taken_from_a_descriptor_and_never_shown(
    room: Path, token: Token, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, token.keys["owner"])  # type: ignore[arg-type]
    for pin, code in ((PIN, 0), ("13579135", 2)):
        reading, writing = os.pipe()
        os.write(writing, f"{pin}\n".encode())
        os.close(writing)
        assert sign_with(token.uri("owner", pin=False), "--passphrase-fd", str(reading)) == code
        os.close(reading)
        said = capfd.readouterr()
        assert pin not in said.out + said.err
    assert sign_with(f"{token.uri('owner', pin=False)}&pin-value={PIN}") == 2
    said = capfd.readouterr()
    assert PIN not in said.out + said.err


@pytest.mark.parametrize(("label", "says"), [("usual", "e = 65537"), ("p256", "EC secp256r1, not RSA")])
def test_a_key_of_a_token_that_sgx_cannot_use_is_refused(
    room: Path, token: Token, capfd: pytest.CaptureFixture[str], label: str, says: str
) -> None:
    assert sign_with(token.uri(label)) == 2
    said = capfd.readouterr().err
    assert says in said
    assert "RVP-5006" in said
    assert "rvp sgx digest" in said
    assert not (room / "other.sig").exists()


def test_vault_signs_the_same_bytes_and_an_ordinary_key_of_it_is_refused(
    room: Path,
    owner: rsa.RSAPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wanted = put_owner(room, owner)
    monkeypatch.setenv("VAULT_TOKEN", "s.test")
    with fakes.serve(fakes.vault(owner)) as address:
        monkeypatch.setenv("VAULT_ADDR", address)
        assert sign_with("hashivault://owner", "--public-key", "owner.pub") == 0
        assert (room / "other.sig").read_bytes() == wanted
    usual = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    with fakes.serve(fakes.vault(usual)) as address:
        monkeypatch.setenv("VAULT_ADDR", address)
        assert sign_with("hashivault://owner") == 2
        assert "e = 65537; SGX needs 3072 bits and e = 3" in capfd.readouterr().err
        assert sign_with("hashivault://owner", "--public-key", "owner.pub") == 2
        assert "RVP-6065" in capfd.readouterr().err


SIGNER = """
import sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
data = sys.stdin.buffer.read()
assert len(data) == 256
sys.stdout.buffer.write(key.sign(data, PKCS1v15(), hashes.SHA256()))
"""


def test_a_command_signs_the_same_bytes(room: Path, owner: rsa.RSAPrivateKey) -> None:
    wanted = put_owner(room, owner)
    (room / "my signer.py").write_text(SIGNER)
    command = f"exec:{shlex.quote(sys.executable)} 'my signer.py' owner.pem"
    assert sign_with(command, "--public-key", "owner.pub") == 0
    assert (room / "other.sig").read_bytes() == wanted


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_is_such_a_command(room: Path, owner: rsa.RSAPrivateKey) -> None:
    wanted = put_owner(room, owner)
    assert sign_with("exec:openssl dgst -sha256 -sign owner.pem", "--public-key", "owner.pub") == 0
    assert (room / "other.sig").read_bytes() == wanted


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("exec:", 2, "no command"),
        ("exec:'open", 2, "quotes"),
        ("exec:/nowhere/signer", 2, "cannot be started"),
        ("exec:false", 4, "exit code 1"),
        ("exec:true", 4, "no signature"),
        ("exec:echo hello", 10, "RVP-6066"),
        ("exec:cat", 10, "RVP-6066"),
        ("exec:echo $HOME; touch made", 10, "RVP-6066"),
    ],
)
def test_a_command_that_does_not_sign_writes_nothing(
    room: Path,
    owner: rsa.RSAPrivateKey,
    capfd: pytest.CaptureFixture[str],
    command: str,
    code: int,
    says: str,
) -> None:
    put_owner(room, owner)
    assert sign_with(command, "--public-key", "owner.pub") == code
    assert says in capfd.readouterr().err
    assert not (room / "other.sig").exists()
    assert not (room / "made").exists()


def test_a_command_needs_the_public_half(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, owner)
    assert sign_with("exec:cat") == 2
    assert "--public-key" in capfd.readouterr().err


def test_a_command_of_another_key_is_found_out(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, owner)
    (room / "eve.pem").write_bytes(pem(rsa.generate_private_key(public_exponent=3, key_size=3072)))
    (room / "signer.py").write_text(SIGNER)
    command = f"exec:{shlex.quote(sys.executable)} signer.py eve.pem"
    assert sign_with(command, "--public-key", "owner.pub") == 10
    assert "RVP-6066" in capfd.readouterr().err


# ---- one step


def test_pack_signs_at_once_and_gives_what_sign_and_graft_give(room: Path, owner: rsa.RSAPrivateKey) -> None:
    put_owner(room, owner)
    assert run(cli, ["sgx", "pack", *ENCLAVE, "--key", "owner.pem", "-o", "one.so"]) == 0
    graft = ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "--sigstruct", "owner.sig"]
    assert run(cli, [*graft, "-o", "two.so"]) == 0
    assert (room / "one.so").read_bytes() == (room / "two.so").read_bytes()
    assert run(cli, [*graft, "--key", "owner.pem", "-o", "three.so"]) == 2


# ---- two steps


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("form", ["raw", "base64", "hex"])
def test_openssl_signs_offline_and_the_enclave_is_put_together(
    room: Path, owner: rsa.RSAPrivateKey, form: str
) -> None:
    wanted = put_owner(room, owner)
    assert run(cli, ["sgx", "digest", *ENCLAVE, "-o", "owner.tbs"]) == 0
    openssl = ["openssl", "dgst", "-sha256", "-sign", "owner.pem", "-out", "owner.rsa", "owner.tbs"]
    subprocess.run(openssl, check=True)
    raw = (room / "owner.rsa").read_bytes()
    text = {"raw": raw, "base64": base64.encodebytes(raw), "hex": raw.hex().encode()}[form]
    (room / "owner.rsa").write_bytes(text)
    subprocess.run(
        ["openssl", "req", "-x509", "-key", "owner.pem", "-subj", "/CN=owner", "-out", "owner.crt"],
        check=True,
    )
    assemble = ["sgx", "assemble", "owner.tbs", "--signature", "owner.rsa", "--public-key", "owner.crt"]
    assert run(cli, [*assemble, "-o", "other.sig"]) == 0
    assert (room / "other.sig").read_bytes() == wanted
    into = ["--into", "enclave.so", "--config", "enclave.toml", "-o", "signed.so"]
    assert run(cli, [*assemble, *into]) == 0
    assert run(cli, ["sgx", "verify", "signed.so", "--public-key", "owner.crt"]) == 0


XML = b"<EnclaveConfiguration><ProdID>4</ProdID><TCSNum>3</TCSNum></EnclaveConfiguration>"
CONF = b"Debug=0\nNumHeapPages=9\nNumStackPages=2\nNumTCS=2\nProductID=4\nSecurityVersion=1\n"


def offline(room: Path, key: rsa.RSAPrivateKey, enclave: list[str], into: list[str]) -> None:
    """Digest, a signature made elsewhere, assemble."""
    (room / "owner.pem").write_bytes(pem(key))
    (room / "owner.pub").write_text(fakes.public_pem(key))
    assert run(cli, ["sgx", "digest", *enclave, "--date", "2026-02-04", "-o", "owner.tbs"]) == 0
    tbs = (room / "owner.tbs").read_bytes()
    (room / "owner.rsa").write_bytes(key.sign(tbs, PKCS1v15(), hashes.SHA256()))
    assemble = ["sgx", "assemble", "owner.tbs", "--signature", "owner.rsa", "--public-key", "owner.pub"]
    assert run(cli, [*assemble, "--into", *into]) == 0


@pytest.mark.parametrize(
    ("elf", "name", "config", "title"),
    [
        (sdk_elf(), "Enclave.config.xml", XML, "SDK layout"),
        (open_enclave_elf(properties()), "enclave.conf", CONF, "Open Enclave"),
    ],
    ids=["SDK and XML", "Open Enclave and .conf"],
)
def test_an_enclave_is_signed_offline_put_together_and_verified(
    room: Path,
    owner: rsa.RSAPrivateKey,
    capfd: pytest.CaptureFixture[str],
    elf: bytes,
    name: str,
    config: bytes,
    title: str,
) -> None:
    (room / "e.so").write_bytes(elf)
    (room / name).write_bytes(config)
    enclave = ["e.so", "--config", name]
    offline(room, owner, enclave, [*enclave, "-o", "signed.so"])
    capfd.readouterr()
    assert run(cli, ["sgx", "verify", "signed.so", "--config", name, "--public-key", "owner.pub"]) == 0
    said = capfd.readouterr().out
    assert title in said
    assert "isvprodid        4" in said
    assert run(cli, ["sgx", "sign", *enclave, "--date", "2026-02-04", "--key", "owner.pem", "-o", "s"]) == 0
    assert (room / "s").read_bytes() in (room / "signed.so").read_bytes()


def test_a_gramine_manifest_is_signed_offline_and_verified(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    (room / "app.manifest.sgx").write_bytes(manifest())
    (room / "pal.so").write_bytes(libpal())
    enclave = ["app.manifest.sgx", "--libpal", "pal.so"]
    offline(room, owner, enclave, [*enclave, "-o", "app.sig"])
    assert len((room / "app.sig").read_bytes()) == 1808  # what is signed lies beside the manifest
    capfd.readouterr()
    assert run(cli, ["sgx", "verify", *enclave, "--public-key", "owner.pub"]) == 0
    assert "Gramine" in capfd.readouterr().out
    (room / "app.manifest.sgx").write_bytes(manifest(max_threads=3))
    assert run(cli, ["sgx", "verify", *enclave, "--public-key", "owner.pub"]) == 12


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_device_that_takes_the_hash_gives_the_same_sigstruct(room: Path, owner: rsa.RSAPrivateKey) -> None:
    wanted = put_owner(room, owner)
    assert run(cli, ["sgx", "digest", *ENCLAVE, "-o", "owner.tbs"]) == 0
    assert run(cli, ["sgx", "digest", *ENCLAVE, "--hash-only", "-o", "owner.hash"]) == 0
    assert (room / "owner.hash").read_bytes() == hashlib.sha256((room / "owner.tbs").read_bytes()).digest()
    subprocess.run(
        [
            *["openssl", "pkeyutl", "-sign", "-inkey", "owner.pem", "-pkeyopt", "digest:sha256"],
            "-in",
            "owner.hash",
            "-out",
            "rsa",
        ],
        check=True,
    )
    assemble = ["sgx", "assemble", "owner.tbs", "--signature", "rsa", "--public-key", "owner.pub"]
    assert run(cli, [*assemble, "-o", "other.sig"]) == 0
    assert (room / "other.sig").read_bytes() == wanted


def test_a_signature_for_another_enclave_or_configuration_is_not_put_in(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    signed = put_owner(room, owner)
    (room / "tbs").write_bytes(signed[:128] + signed[900:1028])
    (room / "rsa").write_bytes(signed[516:900][::-1])
    assemble = ["sgx", "assemble", "tbs", "--signature", "rsa", "--public-key", "owner.pub"]
    into = ["--into", "enclave.so", "--config", "enclave.toml", "-o", "signed.so"]
    (room / "enclave.toml").write_text(CONFIG + "isvsvn = 9\n")
    assert run(cli, [*assemble, *into]) == 12
    assert "isvsvn: signed 0, configured 9" in capfd.readouterr().err
    (room / "enclave.toml").write_text(CONFIG)
    (room / "enclave.so").write_bytes(enclave_elf(seed=b"eve!"))
    assert run(cli, [*assemble, *into]) == 12
    assert not (room / "signed.so").exists()
    assert run(cli, [*assemble, "--config", "enclave.toml", "-o", "x"]) == 2  # --config belongs to --into
    (room / "rsa").write_bytes(signed[516:900])
    assert run(cli, [*assemble, "-o", "x"]) == 10
    assert "little-endian" in capfd.readouterr().err
    assert not (room / "x").exists()


def test_who_signs_offline_reads_every_field_and_what_changed(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, owner)
    capfd.readouterr()
    (room / "enclave.toml").write_text(CONFIG + "isvsvn = 2\ndebug = true\n")
    assert run(cli, ["sgx", "digest", *ENCLAVE, "--previous", "owner.sig", "-o", "tbs"]) == 0
    said = capfd.readouterr().out
    assert "the host chooses DEBUG" in said
    assert "a debug launch: the host may choose it" in said
    assert "changed since owner.sig\n  attributemask.flags\n" in said
    assert "  isvsvn\n    old  0\n    new  2\n" in said
    assert hashlib.sha256((room / "tbs").read_bytes()).hexdigest() in said
    digest = ["sgx", "digest", *ENCLAVE, "--previous", "owner.sig", "-o", "tbs", "--format", "json"]
    assert run(cli, digest) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "rvp/to-be-signed/v1"
    assert [one["name"] for one in document["changes"]] == ["attributemask.flags", "isvsvn"]
    assert document["sha256"] == hashlib.sha256((room / "tbs").read_bytes()).hexdigest()
    (room / "enclave.toml").write_text(CONFIG)
    assert run(cli, ["sgx", "digest", *ENCLAVE, "--previous", "owner.sig", "-o", "tbs"]) == 0
    assert "nothing changed since owner.sig" in capfd.readouterr().out


def test_two_people_get_the_same_bytes_to_sign(room: Path) -> None:
    for name in ("a.tbs", "b.tbs"):
        assert run(cli, ["sgx", "digest", *ENCLAVE, "-o", name]) == 0
    assert (room / "a.tbs").read_bytes() == (room / "b.tbs").read_bytes()


# ---- show and verify


@pytest.mark.parametrize("command", [["sgx", "show"], ["show"]])
def test_a_sigstruct_is_shown_field_by_field(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    signed = put_owner(room, owner)
    capfd.readouterr()
    assert run(cli, [*command, "owner.sig"]) == 0
    said = capfd.readouterr().out
    assert f"mrsigner {hashlib.sha256(signed[128:512]).hexdigest()}" in said
    assert "2026-02-04" in said
    assert run(cli, [*command, "owner.sig", "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    fields = {one["name"]: one for one in document["fields"]}
    assert document["schema"] == "rvp/sigstruct/v1"
    assert fields["isvprodid"]["words"] == "4"
    assert fields["modulus"]["value"] == signed[128:512].hex()
    assert {one["status"] for one in document["checks"]} == {"passed"}
    (room / "owner.tbs").write_bytes(signed[:128] + signed[900:1028])
    assert run(cli, [*command, "owner.tbs"]) == 0
    said = capfd.readouterr().out
    assert "no signature yet" in said
    assert "modulus" not in said


def test_the_sigstruct_of_a_signed_enclave_is_shown(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    signed = put_owner(room, owner)
    run(cli, ["sgx", "pack", *ENCLAVE, "--key", "owner.pem", "-o", "signed.so"])
    run(cli, ["sgx", "to-sgxs", "signed.so", "--write-sigstruct", "e.sig", "-o", "e.sgxs"])
    for name in ("signed.so", "e.sgxs"):
        capfd.readouterr()
        assert run(cli, ["sgx", "show", name, "--format", "json"]) == 0
        assert json.loads(capfd.readouterr().out)["mrenclave"] == signed[960:992].hex()
    run(cli, ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "-o", "unsigned.so"])
    assert run(cli, ["sgx", "show", "unsigned.so"]) == 10
    assert run(cli, ["sgx", "show", "nowhere"]) == 2


def test_verify_tells_a_broken_signature_from_a_disagreement(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    signed = put_owner(room, owner)
    run(cli, ["sgx", "pack", *ENCLAVE, "--key", "owner.pem", "-o", "signed.so"])
    mrsigner = hashlib.sha256(signed[128:512]).hexdigest()
    verify = ["sgx", "verify", "signed.so"]
    assert run(cli, verify) == 0
    assert run(cli, [*verify, "--config", "enclave.toml", "--mrsigner", mrsigner]) == 0
    assert run(cli, [*verify, "--public-key", "owner.pub"]) == 0
    assert run(cli, [*verify, "--mrsigner", "00" * 32]) == 12
    assert run(cli, [*verify, "--mrsigner", "00"]) == 2
    assert run(cli, [*verify, "--mrsigner", mrsigner, "--public-key", "owner.pub"]) == 2
    (room / "later.toml").write_text(CONFIG + "isvsvn = 1\n")
    capfd.readouterr()
    assert run(cli, [*verify, "--config", "later.toml"]) == 12
    said = capfd.readouterr().out
    assert "expected  isvsvn 1" in said
    assert "got       isvsvn 0" in said
    whole = (room / "signed.so").read_bytes()
    at = whole.index(signed)
    for place, code in ((at + 600, 10), (at + 1029, 10), (at + 1100, 10), (0x1000, 12)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (room / "changed.so").write_bytes(changed)
        assert run(cli, ["sgx", "verify", "changed.so"]) == code, place
        assert run(cli, ["measure", "changed.so"]) == code, place


def test_verify_compares_an_enclave_with_a_sigstruct_beside_it(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, owner)
    run(cli, ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "-o", "unsigned.so"])
    assert run(cli, ["sgx", "verify", "unsigned.so"]) == 10
    assert "not signed" in capfd.readouterr().err
    assert run(cli, ["sgx", "verify", "unsigned.so", "--sigstruct", "owner.sig"]) == 0
    for more in ([], ["--sigstruct", "owner.sig"]):
        assert run(cli, ["sgx", "verify", "owner.sig", *more]) == 2, "MRENCLAVE was not computed"
    capfd.readouterr()
    assert run(cli, ["sgx", "verify", "unsigned.so", "--sigstruct", "owner.sig", "--format", "json"]) == 0
    (measurement,) = json.loads(capfd.readouterr().out)["measurements"]
    assert {one["id"] for one in measurement["checks"]} >= {"mrenclave-equals-sigstruct", "mrsigner", "q1q2"}


def test_an_enclave_of_the_linker_is_verified_with_its_configuration(
    room: Path, owner: rsa.RSAPrivateKey
) -> None:
    put_owner(room, owner)
    verify = ["sgx", "verify", "enclave.so", "--config", "enclave.toml", "--sigstruct", "owner.sig"]
    assert run(cli, verify) == 0
    (room / "enclave.toml").write_text(CONFIG.replace("64KiB", "128KiB"))
    assert run(cli, verify) == 12


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("name", ["c01_default", "c04_dyn_both", "c09_kss"])
def test_two_steps_give_the_file_that_intels_signer_wrote(room: Path, vectors: Path, name: str) -> None:
    oracle = vectors / "sgx" / "oracle"
    css = (oracle / f"{name}.css").read_bytes()
    bcd = css[20:24][::-1].hex()
    enclave = [str(oracle / "basic.so"), "--config", str(oracle / f"{name}.xml")]
    date = ["--date", f"{bcd[:4]}-{bcd[4:6]}-{bcd[6:]}"]
    key = oracle / "key.pem"
    assert run(cli, ["sgx", "sign", *enclave, *date, "--key", str(key), "-o", "one.css"]) == 0
    assert (room / "one.css").read_bytes() == css
    assert run(cli, ["sgx", "digest", *enclave, *date, "-o", "tbs"]) == 0
    assert (room / "tbs").read_bytes() == css[:128] + css[900:1028]
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, "-out", "rsa", "tbs"], check=True)
    with (room / "key.pub").open("wb") as public:
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout"], check=True, stdout=public)
    assemble = ["sgx", "assemble", "tbs", "--signature", "rsa", "--public-key", "key.pub"]
    into = ["--into", enclave[0], *enclave[1:], "-o", "two.so"]
    assert run(cli, [*assemble, *into]) == 0
    assert (room / "two.so").read_bytes() == (oracle / f"{name}.signed.so").read_bytes()
    assert run(cli, ["sgx", "verify", "two.so", *enclave[1:], "--public-key", "key.pub"]) == 0


def test_verify_does_not_take_one_of_several_enclaves_for_all(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    put_owner(room, owner)
    run(cli, ["sgx", "pack", "enclave.so", "--config", "enclave.toml", "-o", "unsigned.so"])
    good = (room / "unsigned.so").read_bytes()
    bad = bytearray(good)
    bad[0x1000] ^= 1
    write_image(room / "image.tar", layer(file("a.so", good), file("b.so", bytes(bad))))
    capfd.readouterr()
    verify = ["sgx", "verify", "--sigstruct", "owner.sig"]
    assert run(cli, [*verify, "image.tar!/a.so"]) == 0
    assert run(cli, [*verify, "image.tar!/b.so"]) == 12
    assert run(cli, [*verify, "image.tar"]) == 2


def test_what_a_layout_warns_of_is_said_before_it_is_signed(
    room: Path, owner: rsa.RSAPrivateKey, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SIGSTRUCT cannot say that the release was guessed."""
    put_owner(room, owner)
    symbols = ("_enclave_rva", "_reloc_rva", "_reloc_size", "_tbss_size", "_tbss_align")
    (room / "oe").write_bytes(open_enclave_elf(properties(1920), module_info=0, symbols=symbols))
    (room / "oe.conf").write_text("NumTCS=1\n")
    enclave = ["oe", "--config", "oe.conf", "--date", "2026-02-04"]
    for command in (["digest"], ["sign", "--key", "owner.pem"], ["pack", "--key", "owner.pem"]):
        capfd.readouterr()
        assert run(cli, ["sgx", *command, *enclave, "-o", "out"]) == 0
        assert "open-enclave-release: expected a file that tells its release" in capfd.readouterr().err
        assert run(cli, ["sgx", *command, *enclave, "--generation", "0.6", "-o", "out"]) == 0
        assert "open-enclave-release" not in capfd.readouterr().err


def test_a_new_key_takes_the_place_of_nothing(room: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (room / "mine.pub").write_text("of another key")
    assert run(cli, ["sgx", "key", "new", "mine.pem"]) == 2
    assert run(cli, ["sgx", "key", "new", "yours.pub"]) == 2, "the public half would lie over it"
    assert (room / "mine.pub").read_text() == "of another key"
    assert not (room / "mine.pem").exists()
    assert not (room / "yours.pub").exists()
