"""The example's enclave works: built with this machine's gcc, entered through the ENCLU trap, its signature good."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from pipeline.measure.sgx.freestanding.config import read_config
from pipeline.measure.sgx.freestanding.pack import measure_packed, pack_enclave
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import sign, to_be_signed
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "keyservice"
MISSING = [tool for tool in ("gcc", "make") if shutil.which(tool) is None] + [
    package for package, file in (("libbearssl-dev", "/usr/include/bearssl.h"),) if not Path(file).exists()
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} on this machine")


def build(source: Path, out: Path) -> None:
    subprocess.run(["make", "-s", "-C", str(source), f"OUT={out}"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build(EXAMPLE / "src", out)
    return out


def test_the_simulated_enclave_makes_a_key_and_signs(built: Path) -> None:
    config = read_config((EXAMPLE / "enclave.toml").read_bytes())
    elf = (built / "enclave.so").read_bytes()
    value = measure_packed(pack_enclave(elf, config))
    key = read_private_key(new_key())
    signed = built / "enclave.signed.so"
    signed.write_bytes(pack_enclave(elf, config, sign(to_be_signed(config.fields(value)), key).raw))
    digest = hashlib.sha256(b"a message").hexdigest()
    done = subprocess.run(
        [built / "keyservice", signed, digest], check=True, capture_output=True, text=True, timeout=60
    )
    answer = dict(line.split() for line in done.stdout.splitlines())
    public = bytes.fromhex(answer["public_key"])
    raw = bytes.fromhex(answer["signature"])
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    point.verify(der, b"a message", ec.ECDSA(hashes.SHA256()))
    assert answer["mrenclave"] == value.hex()
    assert answer["report_data"] == hashlib.sha256(public).hexdigest() + "00" * 32
    assert "SIMULATED" in done.stderr


def test_another_build_path_gives_equal_bytes(built: Path, tmp_path: Path) -> None:
    source = tmp_path / "some where else" / "keyservice"
    shutil.copytree(EXAMPLE / "src", source)
    build(source, tmp_path / "out")
    for name in ("enclave.so", "keyservice"):
        assert (tmp_path / "out" / name).read_bytes() == (built / name).read_bytes()


def test_a_malformed_enclave_file_is_refused_by_the_host(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.so"
    path.write_bytes((built / "enclave.so").read_bytes()[:5000])
    done = subprocess.run(
        [built / "keyservice", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "keyservice:" in done.stderr
