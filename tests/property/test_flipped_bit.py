"""One flipped bit in a bundle that passes never passes as something else."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.bundle import read_bundle
from provenance.errors import SignatureFailure
from provenance.policy import load_policy
from verifier.verify.verify import verify

CASE = Path(__file__).parents[1] / "conformance" / "verify" / "two-of-two"
AT = 1772323200
DATA = (CASE / "bundle.tar").read_bytes()


@pytest.fixture(scope="module")
def trust():
    return load_policy(CASE / "policy.toml")


def test_the_bundle_passes_untouched(trust) -> None:
    assert verify(read_bundle(CASE / "bundle.tar"), trust, at=AT).verdict == "passed"


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, len(DATA) * 8 - 1))
def test_one_flipped_bit_is_refused_or_changes_nothing(trust, bit: int) -> None:
    changed = bytearray(DATA)
    changed[bit // 8] ^= 1 << bit % 8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.tar"
        path.write_bytes(changed)
        try:
            bundle = read_bundle(path)
        except SignatureFailure:  # exit 10
            return
    # Only the fill characters of a number in an archive's header say nothing.
    assert bundle.digest == read_bundle(CASE / "bundle.tar").digest
    assert bytes(changed[bit // 8 : bit // 8 + 1]).strip(b"\0 ") == b""
