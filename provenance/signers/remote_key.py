"""Keys that stay where they are: in a token, in a key service, behind a command.

A remote key gives its public half and signs bytes in a named scheme. It knows nothing of what the bytes mean:
the same key signs statements (P-256, P-384) or enclaves (RSA). A new kind of key is one new module with a
function `open_key(location, *, secret, public_key)` and one line in the table.

Whatever signed, the signature is verified with the public key before anybody uses it.

Example:
    >>> is_remote("pkcs11:token=release;object=owner"), is_remote("owner.pem")
    (True, False)
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from provenance.errors import MissingExtra, SignatureFailure, UsageError
from provenance.public_key import KeyType, PublicKey, public_key_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    AnyPublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey

Secret: TypeAlias = Callable[[], bytes | None]  # gives a PIN or a passphrase; called only when one is needed

# scheme of the URI: (module with `open_key`, extra that it needs)
REMOTE_KEYS: Final[dict[str, tuple[str, str]]] = {
    "pkcs11": ("provenance.signers.pkcs11", "hsm"),
    "hashivault": ("provenance.signers.vault", ""),
    "azurekms": ("provenance.signers.azure_key_vault", "azure"),
    "awskms": ("provenance.signers.aws_kms", "aws"),
    "gcpkms": ("provenance.signers.google_kms", "gcp"),
    "exec": ("provenance.signers.command", ""),
}


class KeyUnsuitable(UsageError):
    """A remote key is of another type than what it is to sign with.

    Statements are signed with P-256 or P-384, enclaves with RSA-3072 and the public exponent 3.
    Cure: name a key of that type; the message says what the key is.
    """

    code = "RVP-6065"


class RemoteSignatureWrong(SignatureFailure):
    """What a token, a service or a command gave back is not a signature of its public key over these bytes.

    Nothing was written. Cure: check that the public key belongs to the key that signs, and that the device
    signs with PKCS #1 v1.5 and SHA-256 (RSA) or gives back the ECDSA signature of these very bytes.
    """

    code = "RVP-6066"


class Scheme(StrEnum):
    """How bytes are signed. RSA signatures are big-endian numbers, ECDSA signatures are DER (r, s).

    Source: RFC 8017, section 8.2; SEC 1, section 4.1.3.
    """

    RSA_PKCS1_SHA256 = "rsa-pkcs1v15-sha256"
    ECDSA_SHA256 = "ecdsa-sha256"
    ECDSA_SHA384 = "ecdsa-sha384"

    def digest(self, data: bytes) -> bytes:
        """Hash what is to be signed, for devices that take the digest."""
        import hashlib

        return hashlib.new("sha384" if self is Scheme.ECDSA_SHA384 else "sha256", data).digest()


class RemoteKey(Protocol):
    """A private key elsewhere."""

    @property
    def name(self) -> str:
        """What to call it in messages; never a secret."""
        ...

    def public_key(self) -> AnyPublicKey:
        """Give the public half."""
        ...

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign bytes (not their digest)."""
        ...


def is_remote(uri: str) -> bool:
    """Tell whether a URI names a remote key; anything else is a path or a scheme of other signers."""
    return uri.partition(":")[0].lower() in REMOTE_KEYS and ":" in uri


def no_secret() -> bytes | None:
    """Have no PIN and no passphrase."""
    return None


def open_key(uri: str, *, secret: Secret = no_secret, public_key: bytes | None = None) -> RemoteKey:
    """Open the remote key that a URI names.

    Args:
        uri: `pkcs11:…`, `hashivault://…`, `azurekms://…`, `awskms://…`, `gcpkms://…`, `exec:COMMAND`.
        secret: gives the PIN of a token; called only if the token wants one and the URI names no source.
        public_key: the public half in PEM; needed by `exec:`, compared by the others where it is given.

    Raises:
        MissingExtra: RVP-1001. KeyUnsuitable: RVP-6065. Errors of the kind of key: RVP-605x, RVP-606x.
    """
    scheme, _, location = uri.partition(":")
    if scheme.lower() not in REMOTE_KEYS:
        raise KeyUnsuitable(f'there is no remote key "{scheme}"', hint=f"known: {', '.join(REMOTE_KEYS)}")
    module, extra = REMOTE_KEYS[scheme.lower()]
    try:
        found = importlib.import_module(module)
        key = cast("RemoteKey", found.open_key(location, secret=secret, public_key=public_key))
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'keys of the kind "{scheme}" need the package {error.name}, which is not installed',
            hint=f"pip install 'reference-value-pipeline[{extra}]'" if extra else "",
        ) from error
    if public_key is not None and public_der(read_public(public_key)) != public_der(key.public_key()):
        raise KeyUnsuitable("the public key that was given is not that of this key", place=key.name)
    return key


def read_public(pem: bytes, *, name: str = "") -> AnyPublicKey:
    """Read an RSA or elliptic-curve public key, PEM or DER, or take it out of a certificate.

    Raises:
        KeyUnsuitable: RVP-6065.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            key: object = x509.load_pem_x509_certificate(pem).public_key()
        elif b"-----BEGIN " in pem:
            key = load_pem_public_key(pem)
        else:
            key = load_der_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnsuitable(
            "not a public key or a certificate (PEM, or a public key in DER)", place=name
        ) from error
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise KeyUnsuitable("neither an RSA nor an elliptic-curve key", place=name)
    return key


def public_der(key: AnyPublicKey) -> bytes:
    """Write a public key as DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def describe(key: AnyPublicKey) -> str:
    """Say what a public key is: `RSA-3072, e = 3`, `EC secp256r1`."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey):
        return f"RSA-{key.key_size}, e = {key.public_numbers().e}"
    return f"EC {key.curve.name}"


def check_scheme(key: AnyPublicKey, scheme: Scheme, *, name: str) -> None:
    """Check that a key can sign in a scheme.

    Raises:
        KeyUnsuitable: RVP-6065.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    wants_curve = scheme is not Scheme.RSA_PKCS1_SHA256
    if isinstance(key, EllipticCurvePublicKey) is not wants_curve:
        raise KeyUnsuitable(f"the key is {describe(key)}; it cannot sign with {scheme}", place=name)


def verifies(key: AnyPublicKey, signature: bytes, data: bytes, scheme: Scheme) -> bool:
    """Tell whether a signature is this key's over the data.

    Source: RFC 8017, section 8.2.2; SEC 1, section 4.1.4.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        if isinstance(key, RSAPublicKey):
            if scheme is not Scheme.RSA_PKCS1_SHA256:
                return False
            key.verify(signature, data, PKCS1v15(), hashes.SHA256())
        else:
            if scheme is Scheme.RSA_PKCS1_SHA256:
                return False
            key.verify(
                signature,
                data,
                ECDSA(hashes.SHA384() if scheme is Scheme.ECDSA_SHA384 else hashes.SHA256()),
            )
    except InvalidSignature:
        return False
    return True


def sign_and_verify(key: RemoteKey, data: bytes, scheme: Scheme) -> bytes:
    """Sign, and verify what came back.

    Raises:
        KeyUnsuitable: RVP-6065. RemoteSignatureWrong: RVP-6066. Errors of the key.
    """
    public = key.public_key()
    check_scheme(public, scheme, name=key.name)
    signature = key.sign(data, scheme)
    if not verifies(public, signature, data, scheme):
        raise RemoteSignatureWrong(
            f"{len(signature)} bytes came back that are not a signature ({scheme}) of this key",
            place=key.name,
        )
    return signature


class RemoteSigner:
    """Signs statements with a remote key on P-256 or P-384."""

    def __init__(self, key: RemoteKey) -> None:
        """Take the key.

        Raises:
            KeyTypeUnsupported: RVP-6002.
        """
        self._key = key
        self._public_key = public_key_of(key.public_key(), name=key.name)

    def __repr__(self) -> str:
        return f"RemoteSigner({self._key.name})"

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what this signs."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """Sign bytes; DER (r, s)."""
        p384 = self._public_key.type is KeyType.P384
        return sign_and_verify(self._key, data, Scheme.ECDSA_SHA384 if p384 else Scheme.ECDSA_SHA256)


_SECRETS: Final = re.compile(r"(?i)(pin-value=)[^;&?]*")


def without_secrets(uri: str) -> str:
    """Write a URI for a message: a PIN that somebody put into it does not show.

    Example:
        >>> without_secrets("pkcs11:token=a?pin-value=1234")
        'pkcs11:token=a?pin-value=…'
    """
    return _SECRETS.sub(r"\1…", uri)
