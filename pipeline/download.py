"""One file from the network, streamed into the store, its size bounded and its digest checked.

https and file alone; a redirect to anything else is refused. Proxies and certificates come from the
environment, as everywhere.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from pipeline.store import Store
from provenance.digest import CHUNK_BYTES
from provenance.errors import EnvironmentFailure, SpecError
from provenance.events import Observer, Transfer

LIMIT_BYTES: Final = 16 << 30
_TIMEOUT_S: Final = 60.0


class DownloadFailed(EnvironmentFailure):
    """A file could not be downloaded.

    Cure: check the address and the network; a proxy is taken from https_proxy.
    """

    code = "RVP-1324"


class WrongDigest(SpecError):
    """What was downloaded is not what the spec or the lock pins.

    Cure: find out why it changed before you pin the new one: a release that is replaced under the same
    name is a warning sign.
    """

    code = "RVP-1325"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme != "https":
            raise DownloadFailed(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    address: str, store: Store, observer: Observer, *, sha256: str = "", limit_bytes: int = LIMIT_BYTES
) -> tuple[bytes, int]:
    """Download a file into the store.

    Args:
        address: https:// or file://.
        store: receives the file.
        observer: hears of the bytes.
        sha256: what it must be, hex; empty when nobody knows yet.
        limit_bytes: the largest file to accept.

    Returns:
        Its SHA-256 and its size in bytes.

    Raises:
        DownloadFailed: RVP-1324. WrongDigest: RVP-1325. ObjectTooLarge: RVP-2102.
    """
    opener = urllib.request.build_opener(_HttpsOnly())
    if urlsplit(address).scheme not in {"https", "file"}:
        raise DownloadFailed(f'"{address}" is neither https:// nor file://')
    try:
        with opener.open(address, timeout=_TIMEOUT_S) as answer:
            digest, size_bytes = store.put(_told(answer, address, observer), limit_bytes=limit_bytes)
    except urllib.error.HTTPError as error:
        raise DownloadFailed(f"{address}: {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise DownloadFailed(f"{address}: {getattr(error, 'reason', error)}") from error
    if sha256 and digest.hex() != sha256:
        raise WrongDigest(
            f"{address} has another SHA-256\n  expected {sha256}\n  got      {digest.hex()}",
            hint="find out why it changed before you pin the new one",
        )
    return digest, size_bytes


def _told(answer: BinaryIO, address: str, observer: Observer) -> Iterator[bytes]:
    length = getattr(answer, "headers", {}).get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    done = 0
    while chunk := answer.read(CHUNK_BYTES):
        done += len(chunk)
        observer(Transfer(what=address, done_bytes=done, total_bytes=total))
        yield chunk
    if total is not None and done != total:
        raise DownloadFailed(f"{address}: the connection ended after {done} of {total} bytes")
