"""Keys in AWS KMS: `awskms:///KEY`, KEY being an id, an ARN or `alias/NAME`.

`awskms://HOST/KEY` is a key at another endpoint. Credentials, region, proxy and endpoint are those of
Amazon's own library, botocore: variables, profiles, single sign-on, roles of instances and jobs. The policy
needs `kms:GetPublicKey` and `kms:Sign`.

RSA keys that KMS makes have the public exponent 65537, so they sign no enclaves; the public key that the
service gives decides, for imported keys as well.

Source: API reference of AWS KMS, GetPublicKey and Sign.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from provenance.errors import EnvironmentFailure, UsageError
from provenance.signers.key_service import (
    TIMEOUT_S,
    CredentialsMissing,
    KeyNotFound,
    ServiceDenied,
    ServiceRefused,
    ServiceUnreachable,
    ServiceUriBad,
)
from provenance.signers.remote_key import Scheme, Secret, read_public

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

_URI: Final = re.compile(r"//([A-Za-z0-9.:-]*)/([A-Za-z0-9:/_-]{1,2048})\Z")
_REGION: Final = re.compile(r"arn:[a-z0-9-]+:kms:([a-z0-9-]+):[0-9]+:")
_ALGORITHMS: Final = {
    Scheme.RSA_PKCS1_SHA256: "RSASSA_PKCS1_V1_5_SHA_256",
    Scheme.ECDSA_SHA256: "ECDSA_SHA_256",
    Scheme.ECDSA_SHA384: "ECDSA_SHA_384",
}
_MAX_MESSAGE_BYTES: Final = 4096  # of a message that the service hashes itself
_DENIED: Final = {
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "InvalidClientTokenId",
}


class AwsKey:
    """A key of AWS KMS."""

    def __init__(self, client: Any, key: str, *, name: str) -> None:
        """Read the public half.

        Raises:
            ServiceUnreachable: RVP-6061. ServiceDenied: RVP-6062. KeyNotFound: RVP-6063.
            ServiceRefused: RVP-6064. KeyUnsuitable: RVP-6065. CredentialsMissing: RVP-6067.
        """
        self._client = client
        self._key = key
        self._name = name
        answer = self._ask("get_public_key", KeyId=key)
        der = answer.get("PublicKey")
        if not isinstance(der, bytes):
            raise ServiceRefused("the answer has no PublicKey", place=name)
        self._public_key = read_public(der, name=name)
        # an alias may be moved: the key that was read is the one that signs
        self._arn = str(answer.get("KeyId") or key)

    @property
    def name(self) -> str:
        """The URI."""
        return self._name

    def public_key(self) -> AnyPublicKey:
        """Give the public half."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign; the service hashes what is short, and gets the digest of what is longer.

        Raises:
            As the constructor.
        """
        short = len(data) <= _MAX_MESSAGE_BYTES
        answer = self._ask(
            "sign",
            KeyId=self._arn,
            Message=data if short else scheme.digest(data),
            MessageType="RAW" if short else "DIGEST",
            SigningAlgorithm=_ALGORITHMS[scheme],
        )
        signature = answer.get("Signature")
        if not isinstance(signature, bytes):
            raise ServiceRefused("the answer has no Signature", place=self._name)
        return signature

    def _ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise _ours(error, self._name) from error
        return answer


def _ours(error: Exception, name: str) -> UsageError | EnvironmentFailure:
    if isinstance(error, ClientError):
        found = error.response.get("Error", {})
        code, said = str(found.get("Code", "")), " ".join(str(found.get("Message", "")).split())[:300]
        text = f"{code}: {said}"
        if code in _DENIED:
            return ServiceDenied(text, place=name)
        if code == "NotFoundException":
            return KeyNotFound(text, place=name)
        return ServiceRefused(text, place=name)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return CredentialsMissing(str(error), place=name, hint="aws configure, or the variables AWS_…")
    if isinstance(error, NoRegionError):
        return ServiceUriBad("no region is known", place=name, hint="set AWS_REGION, or give the key's ARN")
    return ServiceUnreachable(f"the service does not answer: {error}", place=name)


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> AwsKey:
    """Open a key with the credentials of Amazon's own tools.

    Raises:
        ServiceUriBad: RVP-6060. As `AwsKey`.
    """
    del secret, public_key
    name = f"awskms:{location}"
    found = _URI.match(location)
    if found is None:
        raise ServiceUriBad("not of the form awskms:///KEY", place=name)
    host, key = found[1], found[2]
    region = _REGION.match(key)
    try:
        client = botocore.session.get_session().create_client(
            "kms",
            region_name=region[1] if region else None,
            endpoint_url=f"https://{host}" if host else None,
            config=Config(
                connect_timeout=10, read_timeout=TIMEOUT_S, retries={"max_attempts": 2, "mode": "standard"}
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise _ours(error, name) from error
    return AwsKey(client, key, name=name)
