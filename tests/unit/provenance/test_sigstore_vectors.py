"""Bundles that other people made: read, refused, verified as the Sigstore project says."""

import base64
import json

import pytest
from cryptography import x509

from provenance.dsse import NotVerified, verify_signature
from provenance.errors import RvpError
from provenance.public_key import KeyTypeUnsupported, load_public_key, public_key_of
from provenance.sigstore_bundle import BundleMalformed, read_bundle
from provenance.statement import read_statement

pytestmark = pytest.mark.vectors


@pytest.fixture(scope="module")
def cases(vectors):
    found = sorted((vectors / "sigstore" / "conformance").glob("*/bundle.sigstore.json"))
    assert len(found) > 30
    return found


def test_every_bundle_is_read_or_refused_in_our_words(cases):
    kinds = {"read": 0, "refused": 0}
    for path in cases:
        try:
            read_bundle(path.read_bytes(), name=str(path))
            kinds["read"] += 1
        except RvpError:
            kinds["refused"] += 1
    assert kinds["read"] >= 5
    assert kinds["refused"] >= 20  # most sign an artifact's digest, not a statement


def test_a_bundle_over_a_digest_is_refused_as_such(vectors):
    path = vectors / "sigstore" / "conformance" / "managed-key-happy-path" / "bundle.sigstore.json"
    with pytest.raises(BundleMalformed, match="not a statement"):
        read_bundle(path.read_bytes())


@pytest.mark.parametrize(
    ("case", "good"), [("managed-key-happy-path", True), ("managed-key-wrong-key_fail", False)]
)
def test_signatures_with_managed_keys_are_judged_as_they_should(vectors, case, good):
    folder = vectors / "sigstore" / "conformance"
    document = json.loads((folder / case / "bundle.sigstore.json").read_bytes())
    signature = base64.b64decode(document["messageSignature"]["signature"])
    try:
        key = load_public_key(folder / case / "key.pub")
    except RvpError:
        assert not good
        return
    assert key.verifies(signature, (folder / "a.txt").read_bytes()) is good


def test_statements_of_keyless_signers_verify_under_the_key_of_their_certificate(cases):
    judged = {True: set(), False: set()}
    for path in cases:
        try:
            bundle = read_bundle(path.read_bytes())
        except RvpError:
            continue
        if bundle.certificate is None:
            continue
        try:
            key = public_key_of(x509.load_der_x509_certificate(bundle.certificate).public_key())
            verify_signature(bundle.envelope, [key])
            read_statement(bundle.envelope.payload)
        except KeyTypeUnsupported:
            continue
        except NotVerified:
            judged[False].add(path.parent.name)
        else:
            judged[True].add(path.parent.name)
    assert "happy-path-intoto-in-dsse-v3" in judged[True]
    assert {"dsse-invalid-sig_fail", "rekor2-dsse-invalid-sig_fail"} <= judged[False]
