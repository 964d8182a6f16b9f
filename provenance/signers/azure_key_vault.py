"""Keys in Azure Key Vault or Managed HSM: `azurekms://VAULT/NAME/VERSION`.

VAULT is a vault's name (`release`) or its host (`release.vault.azure.net`, `release.managedhsm.azure.net`);
without VERSION the current one is taken. The credentials are those of Azure's own library, azure-identity:
environment, workload identity, managed identity, Azure CLI. The role needs `get` and `sign` on keys.

An RSA key with the public exponent 3, as SGX needs, is made with `publicExponent: 3` when the key is created.

Source: REST API of Key Vault keys 7.4, "Get Key" and "Sign"; RFC 7518, section 6.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Final

from provenance.signers.key_service import (
    CredentialsMissing,
    KeyService,
    ServiceRefused,
    ServiceUriBad,
    text_at,
)
from provenance.signers.remote_key import KeyUnsuitable, Scheme, Secret

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

_API: Final = "api-version=7.4"
_URI: Final = re.compile(r"//([A-Za-z0-9.-]{1,253})/([A-Za-z0-9-]{1,127})(?:/([A-Za-z0-9]{1,64}))?\Z")
# hosts that a token of Azure may be shown to: the public cloud and the national ones
_HOSTS: Final = re.compile(
    r"[A-Za-z0-9-]+\.((?:vault|managedhsm)\.(?:azure\.net|azure\.cn|usgovcloudapi\.net|microsoftazure\.de))\Z"
)
_ALGORITHMS: Final = {
    Scheme.RSA_PKCS1_SHA256: "RS256",
    Scheme.ECDSA_SHA256: "ES256",
    Scheme.ECDSA_SHA384: "ES384",
}


class AzureKey:
    """A key of a vault."""

    def __init__(self, service: KeyService, key: str, version: str = "", *, name: str) -> None:
        """Read the public half.

        Raises:
            Errors of `KeyService.call`. KeyUnsuitable: RVP-6065.
        """
        self._service = service
        self._name = name
        jwk: Any = service.call("/".join(("keys", key, *([version] if version else []))) + f"?{_API}").get(
            "key"
        )
        jwk = jwk if isinstance(jwk, dict) else {}
        self._public_key = _public_key(jwk, name)
        # the version stands in the key's own identifier: the one that was read is the one that signs
        found = re.search(
            r"/keys/([A-Za-z0-9-]{1,127})/([A-Za-z0-9]{1,64})\Z", text_at(jwk, "kid", name=name)
        )
        if found is None or found[1].lower() != key.lower() or (version and found[2] != version):
            raise ServiceRefused("the answer is about another key", place=name)
        self._path = f"keys/{key}/{found[2]}"

    @property
    def name(self) -> str:
        """The URI."""
        return self._name

    def public_key(self) -> AnyPublicKey:
        """Give the public half of the version that signs."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign a digest.

        Raises:
            Errors of `KeyService.call`.
        """
        body = {
            "alg": _ALGORITHMS[scheme],
            "value": base64.urlsafe_b64encode(scheme.digest(data)).rstrip(b"=").decode(),
        }
        answer = self._service.call(f"{self._path}/sign?{_API}", body)
        signature = _bytes(answer, "value", self._name)
        if scheme is Scheme.RSA_PKCS1_SHA256:
            return signature
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        half = len(signature) // 2
        return encode_dss_signature(
            int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        )


def _bytes(document: dict[str, Any], key: str, name: str) -> bytes:
    text = text_at(document, key, name=name)
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise ServiceRefused(f"{key} is not base64url", place=name) from error


def _public_key(jwk: dict[str, Any], name: str) -> AnyPublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    kind = text_at(jwk, "kty", name=name).removesuffix("-HSM")
    curves: dict[object, type[ec.SECP256R1 | ec.SECP384R1]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}

    def number(key: str) -> int:
        return int.from_bytes(_bytes(jwk, key, name), "big")

    try:
        if kind == "RSA":
            return RSAPublicNumbers(number("e"), number("n")).public_key()
        if kind == "EC" and jwk.get("crv") in curves:
            curve = curves[jwk["crv"]]()
            return ec.EllipticCurvePublicNumbers(number("x"), number("y"), curve).public_key()
    except ValueError as error:
        raise ServiceRefused(f"the public key is not one: {error}", place=name) from error
    raise KeyUnsuitable(f"the key is of the type {kind} {jwk.get('crv', '')}".rstrip(), place=name)


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> AzureKey:
    """Open a key with the credentials of Azure's own tools.

    Raises:
        ServiceUriBad: RVP-6060. CredentialsMissing: RVP-6067. Errors of `KeyService.call`.
    """
    del secret, public_key
    name = f"azurekms:{location}"
    found = _URI.match(location)
    if found is None:
        raise ServiceUriBad("not of the form azurekms://VAULT/NAME/VERSION", place=name)
    host = found[1] if "." in found[1] else f"{found[1]}.vault.azure.net"
    domain = _HOSTS.match(host.lower())
    if domain is None:
        raise ServiceUriBad(f"{host} is not a host of Azure Key Vault", place=name)
    token = _token(domain[1], name)
    service = KeyService(f"https://{host}", headers={"Authorization": f"Bearer {token}"}, name=name)
    return AzureKey(service, found[2], found[3] or "", name=name)


def _token(domain: str, name: str) -> str:
    from azure.core.exceptions import AzureError, ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    try:
        return str(DefaultAzureCredential().get_token(f"https://{domain}/.default").token)
    except ClientAuthenticationError as error:
        raise CredentialsMissing(
            "Azure's library found no credentials", place=name, hint="az login, or the variables AZURE_…"
        ) from error
    except (AzureError, ValueError) as error:
        raise CredentialsMissing(
            f"Azure's library gave no token: {type(error).__name__}", place=name
        ) from error
