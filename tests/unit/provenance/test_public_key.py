"""Public keys: read, named, refused."""

import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from provenance.public_key import (
    KeyNotReadable,
    KeyType,
    KeyTypeUnsupported,
    public_key_of,
    read_public_key,
)
from provenance.signers.key_file import make_key, open_signer


@pytest.mark.parametrize("key_type", list(KeyType))
def test_a_key_is_the_same_from_its_pem(tmp_path, key_type):
    made = make_key(tmp_path / "k", key_type)
    assert read_public_key(made.pem) == made
    assert (tmp_path / "k.pub").read_bytes() == made.pem


def test_the_fingerprint_is_what_openssl_computes(tmp_path):
    made = make_key(tmp_path / "k", KeyType.P256)
    der = subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "k"), "-pubout", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    assert der == made.der


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384])
def test_openssl_verifies_our_ecdsa_signature(tmp_path, key_type):
    make_key(tmp_path / "k", key_type)
    (tmp_path / "data").write_bytes(b"what is signed")
    (tmp_path / "sig").write_bytes(open_signer(str(tmp_path / "k")).sign(b"what is signed"))
    hash_name = "-sha256" if key_type is KeyType.P256 else "-sha384"
    done = subprocess.run(
        ["openssl", "dgst", hash_name, "-verify", "k.pub", "-signature", "sig", "data"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    assert done.stdout == b"Verified OK\n"


def test_a_compressed_point_has_the_same_fingerprint():
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    again = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), compressed)
    assert public_key_of(again).fingerprint == public_key_of(key).fingerprint


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ec.derive_private_key(7, ec.SECP521R1())],
    ids=["rsa", "p521"],
)
def test_other_key_types_are_refused_by_name(key):
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyTypeUnsupported, match=r"RSA|secp521r1"):
        read_public_key(pem)


def test_a_private_key_is_not_taken_for_a_public_one():
    key = ec.derive_private_key(7, ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyNotReadable, match="private key"):
        read_public_key(pem)


@given(st.binary(max_size=200))
def test_noise_is_never_a_key(noise):
    with pytest.raises(KeyNotReadable):
        read_public_key(noise)


def test_two_keys_in_one_file_are_refused():
    pem = public_key_of(ec.derive_private_key(7, ec.SECP256R1()).public_key()).pem
    with pytest.raises(KeyNotReadable, match="exactly one"):
        read_public_key(pem + pem)
