"""A public key: its type, its bytes, its fingerprint, and whether it verifies a signature.

Three types: P-256 with SHA-256 (the one that every tool of the field verifies), P-384 with SHA-384, Ed25519.
The bytes are the DER SubjectPublicKeyInfo; the fingerprint is their SHA-256, so that one key has one
name whatever file it came from.

Example:
    >>> pem = b'''-----BEGIN PUBLIC KEY-----
    ... MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
    ... -----END PUBLIC KEY-----'''
    >>> key = read_public_key(pem)
    >>> key.type.value, key.fingerprint.hex()[:16]
    ('ed25519', 'a1e9156054e04fac')
"""

from __future__ import annotations

import base64
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from provenance.digest import sha256
from provenance.errors import UsageError
from provenance.strict import read_file

MAX_KEY_BYTES: Final = 64 << 10


class KeyNotReadable(UsageError):
    """A file is not a key that rvp reads: PEM, "PUBLIC KEY" (SPKI) or "PRIVATE KEY" (PKCS#8).

    Cure: `rvp key new` makes one; `openssl pkey` converts other forms.
    """

    code = "RVP-6001"


class KeyTypeUnsupported(UsageError):
    """The key is of a type that rvp does not sign or verify with.

    Cure: use P-256 (verified everywhere), P-384 or Ed25519.
    """

    code = "RVP-6002"


class KeyType(StrEnum):
    """What kind of key it is, and with it the one way in which it signs."""

    P256 = "p256"
    P384 = "p384"
    ED25519 = "ed25519"


# What a key's user should know, for the types that not every tool verifies.
LIMITS: Final = {
    KeyType.P384: "P-384: other Sigstore tools refuse its SHA-384 signatures on statements (npm's verifier "
    "fails, sigstore-python hashes with SHA-256 only); rvp, securesystemslib and OpenSSL verify them. "
    "P-256 works everywhere.",
    KeyType.ED25519: "Ed25519: a Rekor v2 log takes no such signature on a statement; without a log it "
    "works. P-256 works everywhere.",
}


class PublicKey(msgspec.Struct, frozen=True):
    """A public key.

    Attributes:
        type: P-256, P-384 or Ed25519.
        der: the DER SubjectPublicKeyInfo, in its one encoding (uncompressed point, named curve).
    """

    type: KeyType
    der: bytes

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the DER SubjectPublicKeyInfo: the name of the key."""
        return sha256(self.der)

    @property
    def hint(self) -> str:
        """The fingerprint as a Sigstore bundle has it: base64."""
        return base64.b64encode(self.fingerprint).decode("ascii")

    @property
    def pem(self) -> bytes:
        """The key as a PEM file."""
        text = base64.b64encode(self.der).decode("ascii")
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]).encode(
            "ascii"
        )

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether a signature is this key's signature of the data.

        Args:
            signature: DER (r, s) for ECDSA, 64 bytes for Ed25519.
            data: the bytes that were signed, not their hash.

        Source: SEC 1, section 4.1.4; RFC 8032, section 5.1.7.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        key = load_der_public_key(self.der)
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, data)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, data, ec.ECDSA(hash_of(self.type)))
            else:
                return False
        except InvalidSignature:
            return False
        return True


def hash_of(key_type: KeyType) -> Any:
    """Return the hash that a curve signs with: SHA-256 for P-256, SHA-384 for P-384."""
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA384() if key_type is KeyType.P384 else hashes.SHA256()


def public_key_of(key: Any, *, name: str = "") -> PublicKey:
    """Turn a key object of `cryptography` into ours.

    Raises:
        KeyTypeUnsupported: RVP-6002.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, ed25519.Ed25519PublicKey):
        found = KeyType.ED25519
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        found = KeyType.P256
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        found = KeyType.P384
    else:
        what = type(key).__name__.removeprefix("_").removesuffix("PublicKey")
        curve = f" on {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else ""
        raise KeyTypeUnsupported(
            f"the key is {what}{curve}, not P-256, P-384 or Ed25519",
            place=name,
            hint="`rvp key new` makes one",
        )
    return PublicKey(found, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def read_public_key(data: bytes, *, name: str = "") -> PublicKey:
    """Read a public key from PEM.

    Args:
        data: the file; one "PUBLIC KEY" block.
        name: what to call it in an error, usually its path.

    Raises:
        KeyNotReadable: RVP-6001. KeyTypeUnsupported: RVP-6002.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in data:
        raise KeyNotReadable(
            "this is a private key; a public key is wanted here",
            place=name,
            hint="`rvp key new` writes the public key beside it, with .pub; keep the private one to yourself",
        )
    if data.count(b"-----BEGIN ") != 1:
        raise KeyNotReadable('expected exactly one PEM block "PUBLIC KEY"', place=name)
    try:
        key = load_pem_public_key(data)
    except UnsupportedAlgorithm as error:
        raise KeyTypeUnsupported(f"the key is not usable: {error}", place=name) from error
    except (ValueError, TypeError) as error:
        raise KeyNotReadable("not a public key in PEM", place=name) from error
    return public_key_of(key, name=name)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises:
        NotReadable: RVP-1010. KeyNotReadable: RVP-6001. KeyTypeUnsupported: RVP-6002.
    """
    return read_public_key(read_file(path, limit_bytes=MAX_KEY_BYTES), name=str(path))
