"""Keys in Google Cloud KMS: `gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V`.

The credentials are the application default ones of Google's own library, google-auth. The role needs
`cloudkms.cryptoKeyVersions.viewPublicKey` and `.useToSign`. The version is part of the name: what signs is
pinned. (`/versions/V` is taken too, as Sigstore's tools write it.)

RSA keys of this service have the public exponent 65537, so they sign no enclaves; the public key that the
service gives decides.

Source: REST API of Cloud KMS v1, cryptoKeyVersions.getPublicKey and .asymmetricSign.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from provenance.signers.key_service import (
    CredentialsMissing,
    KeyService,
    ServiceRefused,
    ServiceUriBad,
    text_at,
)
from provenance.signers.remote_key import KeyUnsuitable, Scheme, Secret, read_public

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

_ENDPOINT: Final = "https://cloudkms.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/cloudkms"
_PART: Final = r"[A-Za-z0-9_.:-]{1,128}"
_URI: Final = re.compile(
    rf"//(projects/{_PART}/locations/{_PART}/keyRings/{_PART}/cryptoKeys/{_PART})"
    r"/(?:cryptoKeyVersions|versions)/([0-9]{1,9})\Z"
)
_ALGORITHMS: Final = {
    Scheme.RSA_PKCS1_SHA256: re.compile(r"RSA_SIGN_PKCS1_[0-9]+_SHA256\Z"),
    Scheme.ECDSA_SHA256: re.compile(r"EC_SIGN_P256_SHA256\Z"),
    Scheme.ECDSA_SHA384: re.compile(r"EC_SIGN_P384_SHA384\Z"),
}


class GoogleKey:
    """One version of a key."""

    def __init__(self, service: KeyService, path: str) -> None:
        """Read the public half.

        Args:
            service: the endpoint, with a token.
            path: `projects/…/cryptoKeyVersions/V`.

        Raises:
            Errors of `KeyService.call`. KeyUnsuitable: RVP-6065.
        """
        self._service = service
        self._path = path
        answer = service.call(f"v1/{path}/publicKey")
        self._public_key = read_public(text_at(answer, "pem", name=self.name).encode(), name=self.name)
        self._algorithm = text_at(answer, "algorithm", name=self.name)

    @property
    def name(self) -> str:
        """The URI."""
        return f"gcpkms://{self._path}"

    def public_key(self) -> AnyPublicKey:
        """Give the public half."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign a digest.

        Raises:
            KeyUnsuitable: RVP-6065 for a key that signs another way. Errors of `KeyService.call`.
        """
        if not _ALGORITHMS[scheme].match(self._algorithm):
            raise KeyUnsuitable(f"the key signs with {self._algorithm}, not with {scheme}", place=self.name)
        hashed = "sha384" if scheme is Scheme.ECDSA_SHA384 else "sha256"
        answer = self._service.call(
            f"v1/{self._path}:asymmetricSign",
            {"digest": {hashed: base64.b64encode(scheme.digest(data)).decode()}},
        )
        try:
            return base64.b64decode(text_at(answer, "signature", name=self.name), validate=True)
        except binascii.Error as error:
            raise ServiceRefused("the signature is not base64", place=self.name) from error


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> GoogleKey:
    """Open a key with the application default credentials.

    Raises:
        ServiceUriBad: RVP-6060. CredentialsMissing: RVP-6067. Errors of `KeyService.call`.
    """
    del secret, public_key
    name = f"gcpkms:{location}"
    found = _URI.match(location)
    if found is None:
        raise ServiceUriBad(
            "not of the form gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V",
            place=name,
        )
    headers = {"Authorization": f"Bearer {_token(name)}"}
    service = KeyService(_ENDPOINT, headers=headers, name=name)
    return GoogleKey(service, f"{found[1]}/cryptoKeyVersions/{found[2]}")


def _token(name: str) -> str:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials, _project = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(Request())  # type: ignore[no-untyped-call]  # google-auth types it in part
    except (GoogleAuthError, ValueError, OSError) as error:
        raise CredentialsMissing(
            f"Google's library gave no token: {type(error).__name__}",
            place=name,
            hint="gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
        ) from error
    return str(credentials.token)
