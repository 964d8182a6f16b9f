"""Talk to a key service over HTTPS: one request with a JSON document, one JSON answer.

Only the endpoint that was configured is talked to: redirects are refused, certificates are verified (a
CA file can be named), every request has a time limit and every answer a size limit. Plain HTTP is for this
machine
alone (`127.0.0.1`, `::1`, `localhost`): a service under test. Tokens stand in headers and are never printed.

Two or three requests are all that signing needs, so the standard library is enough; what is hard, the
credentials of a cloud, is left to the cloud's own library (extras `aws`, `azure`, `gcp`).
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from provenance.errors import EnvironmentFailure, UsageError

TIMEOUT_S: Final = 30.0
_MAX_ANSWER_BYTES: Final = 1 << 20
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class ServiceUriBad(UsageError):
    """A URI of a key service lacks a part, or the service's address is not one that rvp talks to.

    Cure: `hashivault://NAME`, `azurekms://VAULT/NAME/VERSION`, `awskms:///KEY`, `gcpkms://projects/…`;
    docs/reference/keys.md has each in full. Addresses begin with https://.
    """

    code = "RVP-6060"


class ServiceUnreachable(EnvironmentFailure):
    """A key service does not answer, or is not who it should be: no connection, time over, certificate wrong.

    Cure: check the address and the network; a private CA is named by the service's own variable
    (VAULT_CACERT, AWS_CA_BUNDLE) or SSL_CERT_FILE.
    """

    code = "RVP-6061"


class ServiceDenied(EnvironmentFailure):
    """A key service knows who asks and refuses, or does not know who asks.

    Cure: log in again, or let the service's administrator permit reading the public key and signing.
    """

    code = "RVP-6062"


class KeyNotFound(UsageError):
    """A key service has no key of this name or version.

    Cure: check name, version, region and mount path of the key.
    """

    code = "RVP-6063"


class ServiceRefused(EnvironmentFailure):
    """A key service answered with an error, or with something that is not its documented answer.

    Cure: the message has the service's own words.
    """

    code = "RVP-6064"


class CredentialsMissing(UsageError):
    """There are no credentials for a key service where its own tools keep them.

    Cure: log in with the service's tool, or set its variables (VAULT_TOKEN; AWS_…; AZURE_…;
    GOOGLE_APPLICATION_CREDENTIALS).
    """

    code = "RVP-6067"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class KeyService:
    """One endpoint."""

    def __init__(
        self,
        base: str,
        *,
        headers: Mapping[str, str],
        name: str,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ServiceUriBad: RVP-6060 for an address that is neither https nor this machine.
            ServiceUnreachable: RVP-6061 when the CA file cannot be read.
        """
        place = urlsplit(base)
        if place.username or place.password or not place.hostname:
            raise ServiceUriBad("the address of the service has no host, or a user in it", place=name)
        if place.scheme != "https" and not (place.scheme == "http" and place.hostname in _LOOPBACK):
            raise ServiceUriBad(
                f"{place.scheme}://{place.hostname} is not https",
                place=name,
                hint="plain http is for a service on this machine",
            )
        self._base = base.rstrip("/")
        self._headers = dict(headers)
        self._name = name
        self._timeout_s = timeout_s
        try:
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise ServiceUnreachable(f"the CA file cannot be read: {error}", place=str(ca_file)) from error
        handlers: list[urllib.request.BaseHandler] = [
            _NoRedirect(),
            urllib.request.HTTPSHandler(context=context),
        ]
        if place.hostname in _LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def call(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Send one request: GET, or POST when there is a body; return the answer's JSON object.

        Raises:
            ServiceUnreachable: RVP-6061. ServiceDenied: RVP-6062. KeyNotFound: RVP-6063.
            ServiceRefused: RVP-6064.
        """
        request = urllib.request.Request(  # noqa: S310  the scheme was checked when the service was made
            f"{self._base}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": "application/json", **self._headers},
            method="GET" if body is None else "POST",
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                data: bytes = answer.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (urllib.error.URLError, TimeoutError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServiceUnreachable(
                f"{urlsplit(self._base).netloc} does not answer: {reason}", place=self._name
            ) from error
        if len(data) > _MAX_ANSWER_BYTES:
            raise ServiceRefused(f"the answer has more than {_MAX_ANSWER_BYTES} bytes", place=self._name)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ServiceRefused("the answer is not JSON", place=self._name) from error
        if not isinstance(document, dict):
            raise ServiceRefused("the answer is not a JSON object", place=self._name)
        return document

    def _refusal(self, error: urllib.error.HTTPError) -> UsageError | EnvironmentFailure:
        try:
            said = _words(error.read(4096))
        except (OSError, HTTPException):
            said = ""
        text = f"HTTP {error.code}{': ' + said if said else ''}"
        if error.code in {401, 403}:
            return ServiceDenied(text, place=self._name)
        if error.code == 404:
            return KeyNotFound(text, place=self._name)
        return ServiceRefused(text, place=self._name)


def _words(data: bytes) -> str:
    """Find the service's own words in an error: `errors`, `error.message`, `message`.

    Example:
        >>> _words(b'{"errors": ["permission denied"]}'), _words(b'{"error": {"message": "no"}}')
        ('permission denied', 'no')
    """
    try:
        found: Any = json.loads(data)
        if isinstance(found, dict):
            found = found.get("errors") or found.get("error") or found.get("message") or ""
        if isinstance(found, dict):
            found = found.get("message", "")
        if isinstance(found, list):
            found = "; ".join(str(one) for one in found)
    except (ValueError, RecursionError):
        found = ""
    return " ".join(str(found).split())[:300]


def text_at(document: Mapping[str, Any], *path: str, name: str) -> str:
    """Take a string out of an answer.

    Raises:
        ServiceRefused: RVP-6064 when it is not there.
    """
    found: Any = document
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, str) or not found:
        raise ServiceRefused(f"the answer has no {'.'.join(path)}", place=name)
    return found
