"""The key of an enclave's owner: RSA-3072 with the public exponent 3, as PEM."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipeline.measure.sgx.sigstruct import EXPONENT, KEY_BITS, BadEnclaveKey

_MAX_BYTES: Final = 1 << 16
_HINT: Final = "`rvp sgx key new` makes one; so does `openssl genrsa -3 3072`"


def new_key() -> bytes:
    """Make a key; return it as PKCS #8 PEM without a passphrase."""
    key = rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: rsa.RSAPublicKey) -> bytes:
    """Write the public half as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_private_key(pem: bytes, *, name: str = "") -> rsa.RSAPrivateKey:
    """Read a private key.

    Raises:
        BadEnclaveKey: RVP-5006.
    """
    try:
        key = serialization.load_pem_private_key(pem[:_MAX_BYTES], None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadEnclaveKey(
            "not a private key in PEM without a passphrase", place=name, hint=_HINT
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadEnclaveKey("not an RSA key", place=name, hint=_HINT)
    _check(key.public_key(), name)
    return key


def read_public_key(pem: bytes, *, name: str = "") -> rsa.RSAPublicKey:
    """Read a public key.

    Raises:
        BadEnclaveKey: RVP-5006.
    """
    try:
        key = serialization.load_pem_public_key(pem[:_MAX_BYTES])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadEnclaveKey("not a public key in PEM", place=name, hint=_HINT) from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadEnclaveKey("not an RSA key", place=name, hint=_HINT)
    _check(key, name)
    return key


def _check(key: rsa.RSAPublicKey, name: str) -> None:
    exponent = key.public_numbers().e
    if key.key_size != KEY_BITS or exponent != EXPONENT:
        raise BadEnclaveKey(f"RSA with {key.key_size} bits and e = {exponent}", place=name, hint=_HINT)
