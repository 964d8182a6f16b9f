"""Keys in the transit engine of HashiCorp Vault or OpenBao: `hashivault://NAME`.

Where the service is and who asks comes from the variables of their own tools: VAULT_ADDR (BAO_ADDR),
VAULT_TOKEN (BAO_TOKEN, else ~/.vault-token), VAULT_NAMESPACE, VAULT_CACERT; TRANSIT_SECRET_ENGINE_PATH names
the mount, as Sigstore's tools call it. The policy of the token needs `read` on `transit/keys/NAME` and
`update` on `transit/sign/NAME/*`.

The newest version of the key signs, and it is named in the request: the public half and the signature belong
together even when somebody rotates the key in between.

Source: HTTP API of the transit engine, "Read key" and "Sign data".
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from provenance.signers.key_service import (
    CredentialsMissing,
    KeyService,
    ServiceRefused,
    ServiceUriBad,
    text_at,
)
from provenance.signers.remote_key import Scheme, Secret, read_public

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_MOUNT: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*\Z")
_SIGNATURE: Final = re.compile(r"(?:vault|bao):v([0-9]+):([A-Za-z0-9+/=]+)\Z")
_MAX_TOKEN_BYTES: Final = 16 << 10


class VaultKey:
    """A key of the transit engine."""

    def __init__(self, service: KeyService, key: str, *, mount: str = "transit") -> None:
        """Read the newest version of the key.

        Raises:
            Errors of `KeyService.call`. KeyUnsuitable: RVP-6065.
        """
        self._service = service
        self._key = key
        self._mount = mount
        data: Any = service.call(f"v1/{mount}/keys/{key}").get("data")
        data = data if isinstance(data, dict) else {}
        version = data.get("latest_version")
        if not isinstance(version, int):
            raise ServiceRefused("the answer has no data.latest_version", place=self.name)
        self._version = version
        pem = text_at(data, "keys", str(version), "public_key", name=self.name)
        self._public_key = read_public(pem.encode(), name=self.name)

    @property
    def name(self) -> str:
        """The URI."""
        return f"hashivault://{self._key}"

    def public_key(self) -> AnyPublicKey:
        """Give the public half of the version that signs."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign a digest.

        Raises:
            Errors of `KeyService.call`.
        """
        body: dict[str, object] = {
            "input": base64.b64encode(scheme.digest(data)).decode(),
            "prehashed": True,
            "key_version": self._version,
        }
        if scheme is Scheme.RSA_PKCS1_SHA256:
            body["signature_algorithm"] = "pkcs1v15"  # the engine's default is PSS
        else:
            body["marshaling_algorithm"] = "asn1"
        hashed = "sha2-384" if scheme is Scheme.ECDSA_SHA384 else "sha2-256"
        answer = self._service.call(f"v1/{self._mount}/sign/{self._key}/{hashed}", body)
        found = _SIGNATURE.match(text_at(answer, "data", "signature", name=self.name))
        if found is None or int(found[1]) != self._version:
            raise ServiceRefused("the signature is not of the form vault:vN:BASE64", place=self.name)
        try:
            return base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise ServiceRefused("the signature is not base64", place=self.name) from error


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> VaultKey:
    """Open a key of the service that VAULT_ADDR names.

    Raises:
        ServiceUriBad: RVP-6060. CredentialsMissing: RVP-6067. Errors of `KeyService.call`.
    """
    del secret, public_key
    key = location.removeprefix("//")
    name = f"hashivault://{key}"
    if not location.startswith("//") or not _NAME.match(key):
        raise ServiceUriBad("not of the form hashivault://NAME", place=name)
    address = _variable("ADDR")
    if not address:
        raise ServiceUriBad("the address is not known", place=name, hint="set VAULT_ADDR (or BAO_ADDR)")
    mount = os.environ.get("TRANSIT_SECRET_ENGINE_PATH", "transit").strip("/")
    if not _MOUNT.match(mount) or ".." in mount.split("/"):
        raise ServiceUriBad("TRANSIT_SECRET_ENGINE_PATH is not the path of a mount", place=name)
    headers = {"X-Vault-Token": _token(name), "X-Vault-Request": "true"}
    if _variable("NAMESPACE"):
        headers["X-Vault-Namespace"] = _variable("NAMESPACE")
    authority = _variable("CACERT")
    service = KeyService(address, headers=headers, name=name, ca_file=Path(authority) if authority else None)
    return VaultKey(service, key, mount=mount)


def _variable(name: str) -> str:
    return os.environ.get(f"VAULT_{name}") or os.environ.get(f"BAO_{name}") or ""


def _token(name: str) -> str:
    token = _variable("TOKEN")
    if not token:
        try:
            with (Path.home() / ".vault-token").open("rb") as stream:
                token = stream.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError, RuntimeError):
            token = ""
    if not token or not token.isascii() or not token.isprintable():
        raise CredentialsMissing("there is no token", place=name, hint="vault login, or set VAULT_TOKEN")
    return token
