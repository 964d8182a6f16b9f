"""The keys of a guest's owner: P-384, in a PEM file or elsewhere; the ID key and the author key.

Keys elsewhere are those of `provenance.signers.remote_key`: tokens, key services, commands. Signatures of
key files are deterministic (RFC 6979), so that signing the same block twice gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from provenance.signers.key_file import PassphraseMissing, PassphraseWrong
from provenance.signers.remote_key import (
    KeyUnsuitable,
    RemoteKey,
    Scheme,
    Secret,
    is_remote,
    no_secret,
    open_key,
)
from provenance.strict import read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_MAX_BYTES = 1 << 16


class OwnerKeyFile:
    """A private key that was read from a file."""

    def __init__(self, key: EllipticCurvePrivateKey, name: str) -> None:
        self._key = key
        self._name = name

    @property
    def name(self) -> str:
        """The file's name."""
        return self._name

    def public_key(self) -> EllipticCurvePublicKey:
        """Give the public half."""
        return self._key.public_key()

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign with ECDSA and SHA-384, the only way of an ID block.

        Source: RFC 6979, section 3.2.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        del scheme
        return self._key.sign(data, ECDSA(hashes.SHA384(), deterministic_signing=True))


def open_owner_key(uri: str, *, secret: Secret = no_secret, public_key: bytes | None = None) -> RemoteKey:
    """Open a key that is to sign an ID block, or another key.

    Args:
        uri: the path of a PEM file, `file:PATH`, or the URI of a remote key.
        secret: gives the passphrase or the PIN; called only if the key needs one.
        public_key: PEM; for keys elsewhere, see `open_key`.

    Raises:
        KeyUnsuitable: RVP-6065. NotReadable: RVP-1010. PassphraseWrong: RVP-6004. PassphraseMissing:
        RVP-6005. Errors of remote keys: RVP-605x, RVP-606x.
    """
    if is_remote(uri):
        return open_key(uri, secret=secret, public_key=public_key)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_file(Path(uri.removeprefix("file:")), limit_bytes=_MAX_BYTES)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem
    passphrase = secret() if encrypted else None
    if encrypted and not passphrase:
        raise PassphraseMissing(
            "the key is encrypted", place=uri, hint="set RVP_PASSPHRASE, or give --passphrase-fd"
        )
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted and not isinstance(error, UnsupportedAlgorithm):
            raise PassphraseWrong("the passphrase does not open the key", place=uri) from error
        raise KeyUnsuitable("not a private key in PEM", place=uri) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise KeyUnsuitable("not an elliptic-curve key; ID blocks are signed with P-384", place=uri)
    return OwnerKeyFile(key, uri)
