r"""PKCS #11 URIs: which module, which token, which key, and where the PIN comes from.

    pkcs11:token=release;object=owner?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/pin

A PIN never stands in the URI itself (`pin-value`): command lines are seen by every user of a machine.

Source: RFC 7512.

Example:
    >>> uri = parse_uri("token=My%20Token;id=%01%02?module-path=/usr/lib/p11.so")
    >>> uri.token, uri.id, uri.module_path
    ('My Token', b'\x01\x02', '/usr/lib/p11.so')
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from provenance.errors import UsageError

_MAX_CHARACTERS: Final = 4096
# attributes that choose a token and a key, by the names of RFC 7512, section 2.3
_PATH: Final = ("token", "manufacturer", "serial", "model", "object", "id", "type", "slot-id")
_QUERY: Final = ("pin-source", "module-path")
_SAFE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*\Z")


class UriNotUsable(UsageError):
    """A `pkcs11:` URI is not one of RFC 7512, or asks for what rvp does not do.

    Cure: `pkcs11:token=NAME;object=LABEL?module-path=/path/to/module.so`; `id=%01` chooses by id, other
    characters than letters, digits and `-._~` are written `%XX`; the PIN comes from `pin-source=FILE`,
    RVP_PASSPHRASE, --passphrase-fd or a question.
    """

    code = "RVP-6050"


class Pkcs11Uri(msgspec.Struct, frozen=True, kw_only=True):
    """A URI, taken apart. An attribute that is None was not given and matches all."""

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    slot_id: int | None = None
    pin_source: str | None = None
    module_path: str | None = None


def parse_uri(location: str) -> Pkcs11Uri:
    """Take a URI apart; the text after `pkcs11:`.

    Raises:
        UriNotUsable: RVP-6050.
    """
    if len(location) > _MAX_CHARACTERS:
        raise UriNotUsable(f"the URI has {len(location)} characters")
    path, _, query = location.partition("?")
    got = _attributes(path, ";", _PATH) | _attributes(query, "&", _QUERY)
    if got.pop("type", b"private") != b"private":
        raise UriNotUsable("type is not private; signing needs the private key")
    values: dict[str, str | bytes | int] = {}
    for name, value in got.items():
        if name == "id":
            values["id"] = value
            continue
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UriNotUsable(f"{name} is not UTF-8") from error
        if name == "slot-id":
            if not re.fullmatch(r"[0-9]{1,10}", text):
                raise UriNotUsable(f"slot-id is {text!r}, not a number")
            values["slot_id"] = int(text)
        else:
            values[name.replace("-", "_")] = text
    return msgspec.convert(values, Pkcs11Uri)


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in text.split(separator) if text else []:
        name, equals, value = one.partition("=")
        if name == "pin-value":
            raise UriNotUsable(
                "a PIN on the command line is seen by every user of this machine",
                hint="pin-source=FILE, the environment variable RVP_PASSPHRASE, or --passphrase-fd",
            )
        if not equals or name not in known:
            raise UriNotUsable(f"the attribute {name!r} is not one of {', '.join(known)}")
        if name in found:
            raise UriNotUsable(f"the attribute {name} stands there twice")
        if not _SAFE.match(value):
            raise UriNotUsable(f"the value of {name} has a character that must be written %XX")
        found[name] = unquote_to_bytes(value)
    return found
