"""What the example publishes fits together, whatever this machine has."""

from __future__ import annotations

from pipeline.measure import measure_file, require_passed
from pipeline.measure.sgx.freestanding.config import read_config
from pipeline.measure.sgx.owner_key import read_public_key
from pipeline.measure.sgx.sigstruct import Sigstruct, to_be_signed
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "keyservice"


def test_the_owners_signature_states_the_examples_configuration() -> None:
    signed = Sigstruct((EXAMPLE / "keyservice.sig").read_bytes())
    config = read_config((EXAMPLE / "enclave.toml").read_bytes())
    assert to_be_signed(config.fields(signed.mrenclave, date=(2026, 2, 4))) == signed.to_be_signed
    require_passed(measure_file(EXAMPLE / "keyservice.sig").measurements)


def test_the_published_key_is_the_signers() -> None:
    key = read_public_key((EXAMPLE / "keyservice.pub").read_bytes())
    raw = Sigstruct((EXAMPLE / "keyservice.sig").read_bytes()).raw
    assert key.public_numbers().n.to_bytes(384, "little") == raw[128:512]


def test_the_readme_shows_the_signed_values() -> None:
    signed = Sigstruct((EXAMPLE / "keyservice.sig").read_bytes())
    text = (EXAMPLE / "README.md").read_text()
    assert signed.mrenclave.hex() in text
    assert signed.mrsigner.hex() in text


def test_no_private_key_lies_in_the_example() -> None:
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and ".rvp" not in path.parts:
            assert b"PRIVATE KEY" not in path.read_bytes(), path
