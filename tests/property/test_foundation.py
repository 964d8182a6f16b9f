"""Canonical JSON, digests, errors, TOML writing and claims: properties that hold for any input."""

from __future__ import annotations

import hashlib
import io
import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.toml_writer import write_toml
from provenance.canonical import MAX_SAFE_INTEGER, canonical_json
from provenance.claims import CLAIMS, ClaimError, check_claims
from provenance.digest import chunks_of, hash_bytes, hash_stream
from provenance.errors import RvpError, UsageError

TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
PLAIN = st.booleans() | st.integers(-(2**62), 2**62) | TEXT | st.lists(TEXT, max_size=3)
TABLE = st.recursive(
    st.dictionaries(TEXT, PLAIN, max_size=4),
    lambda inner: st.dictionaries(TEXT, inner | PLAIN | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_canonical_json_reads_back_and_is_stable(document: object) -> None:
    written = canonical_json(document)
    assert json.loads(written) == document
    assert canonical_json(json.loads(written)) == written


@given(st.dictionaries(TEXT, st.integers(0, 9), min_size=2))
def test_the_order_of_keys_does_not_matter(document: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(document.items()))) == canonical_json(document)


def test_keys_are_sorted_by_utf_16_units() -> None:
    # RFC 8785, section 3.2.3: an emoji (a surrogate pair) sorts before U+FB33.
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("value", [1.5, b"x", {1: 2}, {"a": 2**53}, "\ud800", object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


@given(TABLE)
def test_toml_reads_back(document: dict[str, object]) -> None:
    assert tomllib.loads(write_toml(document)) == document


@given(st.binary(max_size=5000))
def test_digests_of_a_stream_are_those_of_its_bytes(data: bytes) -> None:
    digests, size_bytes = hash_stream(chunks_of(io.BytesIO(data)))
    assert (digests, size_bytes) == (hash_bytes(data), len(data))
    assert digests.as_hex() == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha384": hashlib.sha384(data).hexdigest(),
    }


@given(st.sampled_from(sorted(CLAIMS)), TEXT, st.integers() | TEXT | st.booleans())
def test_a_claim_is_known_and_has_its_shape_or_is_refused(tee: str, name: str, value: object) -> None:
    if name not in CLAIMS[tee]:
        with pytest.raises(ClaimError):
            check_claims(tee, {name: value})


def test_an_error_code_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="RVP-1000"):
        type("Second", (UsageError,), {"code": "RVP-1000", "__doc__": "x"})
    with pytest.raises(TypeError, match="not of the form"):
        type("Misnamed", (UsageError,), {"code": "1000"})
    assert all(code == error.code for code, error in RvpError.registry.items())
