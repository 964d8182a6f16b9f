"""The key of an enclave's owner: RSA-3072, e = 3; in a PEM file, or elsewhere.

A key file may be encrypted (PKCS #8, or OpenSSL's older form). Keys elsewhere are those of
`provenance.signers.remote_key`: tokens, key services, commands; what their public half says decides whether
they can sign enclaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from pipeline.measure.file_kind import seen
from pipeline.measure.sgx.sigstruct import EXPONENT, KEY_BITS, BadEnclaveKey
from provenance.signers.key_file import PassphraseMissing, PassphraseWrong
from provenance.signers.remote_key import (
    REMOTE_KEYS,
    KeyUnsuitable,
    RemoteKey,
    Scheme,
    Secret,
    describe,
    is_remote,
    no_secret,
    open_key,
    read_public,
    without_secrets,
)
from provenance.strict import read_file

_MAX_BYTES: Final = 1 << 16
_HINT: Final = "`rvp sgx key new` makes one; so does `openssl genrsa -3 3072`"
_ELSEWHERE: Final = (
    "what can hold one: a key file, a PKCS #11 token, Azure Key Vault (publicExponent 3), "
    "Vault or OpenBao (imported), or a signature made offline: rvp sgx digest, rvp sgx assemble"
)


class OwnerKeyFile:
    """A private key that was read from a file."""

    def __init__(self, key: rsa.RSAPrivateKey, name: str) -> None:
        self._key = key
        self._name = name

    @property
    def name(self) -> str:
        """The file's name."""
        return self._name

    def public_key(self) -> rsa.RSAPublicKey:
        """Give the public half."""
        return self._key.public_key()

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign with PKCS #1 v1.5 and SHA-256, the only way of an enclave's owner."""
        del scheme
        return self._key.sign(data, PKCS1v15(), hashes.SHA256())


def open_owner_key(uri: str, *, secret: Secret = no_secret, public_key: bytes | None = None) -> RemoteKey:
    """Open the key that is to sign an enclave.

    Args:
        uri: the path of a PEM file, `file:PATH`, or the URI of a remote key.
        secret: gives the passphrase or the PIN; called only if the key needs one.
        public_key: PEM; needed by `exec:`, compared with the key's own elsewhere.

    Raises:
        BadEnclaveKey: RVP-5006. NotReadable: RVP-1010. PassphraseWrong: RVP-6004.
        PassphraseMissing: RVP-6005. Errors of remote keys: RVP-605x, RVP-606x.
    """
    if is_remote(uri):
        key = open_key(uri, secret=secret, public_key=public_key)
        check_enclave_key(key, hint=_ELSEWHERE)
        return key
    path = Path(uri.removeprefix("file:"))
    scheme, colon, _ = uri.partition(":")
    if colon and scheme != "file" and not path.exists():
        raise BadEnclaveKey(
            f"neither a file nor a kind of key that is known: {scheme}:",
            place=without_secrets(uri),
            hint=f"the path of a PEM file, {', '.join(f'{one}:' for one in REMOTE_KEYS)}",
        )
    pem = read_file(path, limit_bytes=_MAX_BYTES)
    found = read_private_key(pem, secret=secret, name=without_secrets(uri))
    if public_key is not None and read_public_key(public_key).public_numbers() != (
        found.public_key().public_numbers()
    ):
        raise BadEnclaveKey("the public key that was given is not that of this key", place=uri)
    return OwnerKeyFile(found, uri)


def check_enclave_key(key: RemoteKey, *, hint: str = _HINT) -> rsa.RSAPublicKey:
    """Check that a key can sign enclaves; return its public half.

    Raises:
        BadEnclaveKey: RVP-5006.
    """
    public = key.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise BadEnclaveKey(f"the key is {describe(public)}, not RSA", place=key.name, hint=hint)
    _check(public, key.name, hint)
    return public


def new_key() -> bytes:
    """Make a key; return it as PKCS #8 PEM without a passphrase."""
    key = rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: rsa.RSAPublicKey) -> bytes:
    """Write the public half as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_private_key(pem: bytes, *, secret: Secret = no_secret, name: str = "") -> rsa.RSAPrivateKey:
    """Read a private key.

    Args:
        pem: PKCS #8 or PKCS #1, encrypted or not.
        secret: gives the passphrase; called only if the key is encrypted.
        name: what to call it in an error, usually its path.

    Raises:
        BadEnclaveKey: RVP-5006. PassphraseWrong: RVP-6004. PassphraseMissing: RVP-6005.
    """
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem
    passphrase = secret() if encrypted else None
    if encrypted and not passphrase:
        raise PassphraseMissing(
            "the key is encrypted", place=name, hint="set RVP_PASSPHRASE, or give --passphrase-fd"
        )
    try:
        key = serialization.load_pem_private_key(pem[:_MAX_BYTES], passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted and not isinstance(error, UnsupportedAlgorithm):
            raise PassphraseWrong("the passphrase does not open the key", place=name) from error
        raise BadEnclaveKey(
            f"not a private key in PEM; this is {seen(pem, len(pem)).what}", place=name, hint=_HINT
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadEnclaveKey("not an RSA key", place=name, hint=_HINT)
    _check(key.public_key(), name, _HINT)
    return key


def read_public_key(pem: bytes, *, name: str = "") -> rsa.RSAPublicKey:
    """Read a public key, or take it out of a certificate.

    Raises:
        BadEnclaveKey: RVP-5006.
    """
    try:
        key = read_public(pem[:_MAX_BYTES], name=name)
    except KeyUnsuitable as error:
        if b"PRIVATE KEY-----" in pem:
            raise BadEnclaveKey(
                "this is a private key, its public half is wanted",
                place=name,
                hint="openssl pkey -in PRIVATE -pubout -out PUBLIC",
            ) from error
        raise BadEnclaveKey(error.message, place=name, hint=_HINT) from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadEnclaveKey("not an RSA key", place=name, hint=_HINT)
    _check(key, name, _HINT)
    return key


def _check(key: rsa.RSAPublicKey, name: str, hint: str) -> None:
    exponent = key.public_numbers().e
    if key.key_size != KEY_BITS or exponent != EXPONENT:
        raise BadEnclaveKey(
            f"RSA with {key.key_size} bits and e = {exponent}; SGX needs {KEY_BITS} bits and e = {EXPONENT}",
            place=name,
            hint=hint,
        )
