"""Bundles: other people's readers take ours, and nothing that was changed verifies."""

import base64
import json

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from provenance.digest import hash_bytes
from provenance.dsse import (
    IN_TOTO,
    EnvelopeMalformed,
    NotVerified,
    PayloadTypeUnexpected,
    pae,
    sign_payload,
)
from provenance.public_key import KeyType
from provenance.signers.key_file import make_key, open_signer
from provenance.sigstore_bundle import (
    BundleMalformed,
    SigstoreBundle,
    read_bundle,
    sign_statement,
    verify_envelope,
)
from provenance.statement import StatementMalformed, artifact, make_statement
from provenance.strict import DuplicateKey, NotWellFormed, UnknownKey

STATEMENT = make_statement(
    (artifact("a.bin", hash_bytes(b"a")),), "https://example.com/predicate/v1", {"value": 1}
)


@pytest.fixture(params=list(KeyType))
def signer(request, tmp_path):
    make_key(tmp_path / "k", request.param)
    return open_signer(str(tmp_path / "k"))


@pytest.fixture
def p256(tmp_path):
    make_key(tmp_path / "p256", KeyType.P256)
    return open_signer(str(tmp_path / "p256"))


def as_document(signer):
    return json.loads(sign_statement(STATEMENT, signer).to_json())


def read(document):
    return read_bundle(json.dumps(document).encode())


def test_what_was_signed_is_verified_and_read(signer):
    bundle = read_bundle(sign_statement(STATEMENT, signer).to_json())
    verified = verify_envelope(bundle, [signer.public_key])
    assert verified.statement == STATEMENT
    assert verified.key == signer.public_key


def test_signing_twice_gives_the_same_file(signer):
    assert sign_statement(STATEMENT, signer).to_json() == sign_statement(STATEMENT, signer).to_json()


def test_sigstore_reads_our_bundle(signer):
    from sigstore_models.bundle.v1 import Bundle

    document = sign_statement(STATEMENT, signer).to_json()
    theirs = Bundle.from_json(document)
    assert theirs.dsse_envelope.payload == STATEMENT.payload
    assert theirs.verification_material.public_key.hint == signer.public_key.hint
    assert theirs.verification_material.tlog_entries == []


def test_securesystemslib_verifies_our_envelope(signer):
    theirs = TheirEnvelope.from_dict(as_document(signer)["dsseEnvelope"])
    key = _their_key(signer)
    assert theirs.pae() == pae(IN_TOTO, STATEMENT.payload)
    assert list(theirs.verify([key], 1)) == [key.keyid]


def test_securesystemslib_refuses_our_envelope_when_changed(signer):
    document = as_document(signer)["dsseEnvelope"]
    document["payload"] = base64.b64encode(STATEMENT.payload.replace(b'"value":1', b'"value":2')).decode()
    with pytest.raises(VerificationError):
        TheirEnvelope.from_dict(document).verify([_their_key(signer)], 1)


def _their_key(signer):
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(signer.public_key.der)
    return SSlibKey.from_crypto(key, keyid=signer.public_key.fingerprint.hex())


def test_another_key_does_not_verify(signer, p256):
    with pytest.raises(NotVerified, match=p256.public_key.fingerprint.hex()[:16]):
        verify_envelope(sign_statement(STATEMENT, signer), [p256.public_key])


def test_no_key_verifies_nothing(p256):
    with pytest.raises(NotVerified, match="none"):
        verify_envelope(sign_statement(STATEMENT, p256), [])


def test_the_right_key_is_found_among_others(signer, p256):
    bundle = sign_statement(STATEMENT, signer)
    assert verify_envelope(bundle, [p256.public_key, signer.public_key]).key == signer.public_key


@pytest.mark.parametrize("hint", ["", "somebody else", "a" * 44])
def test_a_wrong_hint_does_no_harm(p256, hint):
    document = as_document(p256)
    document["verificationMaterial"]["publicKey"]["hint"] = hint
    assert verify_envelope(read(document), [p256.public_key]).statement == STATEMENT


def test_the_hint_of_a_trusted_key_does_not_help(signer, p256):
    document = as_document(signer)
    document["verificationMaterial"]["publicKey"]["hint"] = p256.public_key.hint
    document["dsseEnvelope"]["signatures"][0]["keyid"] = p256.public_key.fingerprint.hex()
    with pytest.raises(NotVerified):
        verify_envelope(read(document), [p256.public_key])


def test_another_payload_type_is_refused_though_signed(p256):
    envelope = sign_payload(STATEMENT.payload, p256, payload_type="application/json")
    with pytest.raises(PayloadTypeUnexpected, match="application/json"):
        verify_envelope(SigstoreBundle(envelope=envelope), [p256.public_key])


def test_a_payload_type_that_was_changed_is_refused(p256):
    envelope = sign_payload(STATEMENT.payload, p256, payload_type="application/json")
    document = SigstoreBundle(envelope=envelope).to_json().replace(b"application/json", IN_TOTO.encode())
    with pytest.raises(NotVerified):
        verify_envelope(read_bundle(document), [p256.public_key])


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_signature(p256, count):
    document = as_document(p256)
    document["dsseEnvelope"]["signatures"] *= count
    with pytest.raises(EnvelopeMalformed, match=f"{count} signatures"):
        read(document)


def test_a_payload_written_again_is_refused(p256):
    document = as_document(p256)
    again = json.dumps(json.loads(STATEMENT.payload)).encode()
    assert json.loads(again) == json.loads(STATEMENT.payload)
    document["dsseEnvelope"]["payload"] = base64.b64encode(again).decode()
    with pytest.raises(NotVerified):
        verify_envelope(read(document), [p256.public_key])


def test_a_signed_payload_with_a_key_that_stands_twice_is_refused(p256):
    payload = STATEMENT.payload.replace(b'"value":1', b'"value":1,"value":2')
    with pytest.raises(DuplicateKey):
        verify_envelope(SigstoreBundle(envelope=sign_payload(payload, p256)), [p256.public_key])


def test_a_signed_payload_that_is_no_statement_is_refused(p256):
    with pytest.raises(StatementMalformed):
        verify_envelope(SigstoreBundle(envelope=sign_payload(b"{}", p256)), [p256.public_key])


def test_the_signature_is_checked_before_the_payload_is_parsed(p256, signer):
    bundle = SigstoreBundle(envelope=sign_payload(b"not json at all", signer))
    with pytest.raises(NotVerified):
        verify_envelope(bundle, [p256.public_key])


def test_missing_log_entries_are_refused_as_sigstore_does(p256):
    document = as_document(p256)
    del document["verificationMaterial"]["tlogEntries"]
    with pytest.raises(BundleMalformed, match="tlogEntries"):
        read(document)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.pop("mediaType"), BundleMalformed),
        (
            lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
            BundleMalformed,
        ),
        (lambda d: d.update(messageSignature={}), BundleMalformed),
        (lambda d: d["verificationMaterial"].pop("publicKey"), BundleMalformed),
        (lambda d: d["verificationMaterial"].update(certificate={"rawBytes": "AAAA"}), BundleMalformed),
        (lambda d: d["verificationMaterial"].update(tlogEntries=[{}] * 33), BundleMalformed),
        (lambda d: d["verificationMaterial"].update(colour="red"), UnknownKey),
        (lambda d: d.update(colour="red"), UnknownKey),
        (lambda d: d["dsseEnvelope"].update(payload="not base64!"), EnvelopeMalformed),
        (lambda d: d["dsseEnvelope"].update(payload="QR=="), EnvelopeMalformed),
        (lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="A" * 40_000), EnvelopeMalformed),
    ],
)
def test_a_bundle_that_is_not_one_is_refused(p256, change, error):
    document = as_document(p256)
    change(document)
    with pytest.raises(error):
        read(document)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\x00\xff"])
def test_noise_is_refused(data):
    with pytest.raises((NotWellFormed, BundleMalformed)):
        read_bundle(data)


def test_a_key_that_stands_twice_in_the_bundle_is_refused(p256):
    data = sign_statement(STATEMENT, p256).to_json()
    with pytest.raises(DuplicateKey):
        read_bundle(data.replace(b'{"dsseEnvelope"', b'{"mediaType":"x","dsseEnvelope"', 1))


def test_a_keyless_bundle_is_read_but_no_key_verifies_it(p256):
    document = as_document(p256)
    del document["verificationMaterial"]["publicKey"]
    document["verificationMaterial"]["certificate"] = {"rawBytes": "AAAA"}
    bundle = read(document)
    assert bundle.certificate == b"\0\0\0"
    with pytest.raises(NotVerified, match="certificate"):
        verify_envelope(bundle, [p256.public_key])
