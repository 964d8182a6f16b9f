"""One flipped bit never verifies; whatever is stated reads back."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.digest import hash_bytes
from provenance.errors import RvpError
from provenance.public_key import KeyType
from provenance.signers.key_file import read_signer
from provenance.sigstore_bundle import read_bundle, sign_statement, verify_envelope
from provenance.statement import artifact, make_statement, read_statement

SIGNERS = {}
for key_type in KeyType:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = {
        KeyType.P256: lambda: ec.derive_private_key(0x5EED, ec.SECP256R1()),
        KeyType.P384: lambda: ec.derive_private_key(0x5EED, ec.SECP384R1()),
        KeyType.ED25519: lambda: ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32),
    }[key_type]()
    SIGNERS[key_type] = read_signer(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

STATEMENT = make_statement(
    (artifact("a.bin", hash_bytes(b"a")),), "https://example.com/predicate/v1", {"value": 1}
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(list(KeyType)), st.sampled_from(["payload", "sig"]), st.data())
@settings(deadline=None)
def test_one_flipped_bit_never_verifies(key_type, part, data):
    signer = SIGNERS[key_type]
    document = json.loads(sign_statement(STATEMENT, signer).to_json())
    holder = document["dsseEnvelope"] if part == "payload" else document["dsseEnvelope"]["signatures"][0]
    raw = bytearray(base64.b64decode(holder[part]))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    holder[part] = base64.b64encode(raw).decode()
    with pytest.raises(RvpError):
        verify_envelope(read_bundle(json.dumps(document).encode()), [signer.public_key])


@given(st.data())
@settings(deadline=None)
def test_one_flipped_bit_of_the_file_changes_nothing_that_counts(data):
    signer = SIGNERS[KeyType.P256]
    raw = bytearray(sign_statement(STATEMENT, signer).to_json())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    try:
        verified = verify_envelope(read_bundle(bytes(raw)), [signer.public_key])
    except RvpError:
        return
    assert verified.statement == STATEMENT


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=5))
@settings(deadline=None)
def test_whatever_is_stated_reads_back(predicate):
    made = make_statement((artifact("a", hash_bytes(b"a")),), "https://example.com/p/v1", predicate)
    assert read_statement(made.payload).predicate == predicate


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise_than_it_says(noise):
    with pytest.raises(RvpError):
        read_bundle(noise)
