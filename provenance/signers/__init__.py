"""Signers: one file a scheme, one table from the scheme of a URI to the module that has it.

A signer has a public key and signs bytes. `file:path` and a bare path are key files. Keys that stay elsewhere
(tokens, key services, commands) are those of `remote_key`. A new scheme is one new module with a function
`open_signer(location, *, passphrase)` and one line in the table.

Example:
    >>> open_signer("carrier-pigeon:coop-7")
    Traceback (most recent call last):
    ...
    provenance.signers.SchemeUnknown: carrier-pigeon:coop-7: there is no signer "carrier-pigeon"
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Final, cast

from provenance.dsse import SignsBytes
from provenance.errors import MissingExtra, UsageError
from provenance.signers.remote_key import REMOTE_KEYS, RemoteSigner, open_key, without_secrets

Passphrase = Callable[[], bytes | None]  # asked only when the key needs one

# scheme: (module with `open_signer`, extra that it needs)
SIGNERS: Final[dict[str, tuple[str, str]]] = {
    "file": ("provenance.signers.key_file", ""),
}


class SchemeUnknown(UsageError):
    """A key is named by a URI whose scheme no signer has.

    Cure: give the path of a key file, or `file:PATH`.
    """

    code = "RVP-6006"


def no_passphrase() -> bytes | None:
    """Have no passphrase."""
    return None


def open_signer(uri: str, *, passphrase: Passphrase = no_passphrase) -> SignsBytes:
    """Open the signer that a URI or a path names.

    Args:
        uri: `file:PATH`, a path, or the URI of a remote key. A path with a colon near its start needs
            `file:` or `./`.
        passphrase: gives the passphrase; called only if the key needs one.

    Raises:
        SchemeUnknown: RVP-6006. MissingExtra: RVP-1001. Errors of the signer: RVP-60xx.
    """
    named = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)\Z", uri, flags=re.DOTALL)
    scheme, location = (named[1].lower(), named[2]) if named else ("file", uri)
    if scheme in REMOTE_KEYS:
        return RemoteSigner(open_key(uri, secret=passphrase))
    if scheme not in SIGNERS:
        known = ", ".join((*SIGNERS, *REMOTE_KEYS))
        raise SchemeUnknown(
            f'there is no signer "{scheme}"', place=without_secrets(uri), hint=f"known: {known}, or a path"
        )
    module, extra = SIGNERS[scheme]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'the signer "{scheme}" needs the package {error.name}, which is not installed',
            hint=f"pip install 'reference-value-pipeline[{extra}]'" if extra else "",
        ) from error
    return cast("SignsBytes", found.open_signer(location, passphrase=passphrase))
