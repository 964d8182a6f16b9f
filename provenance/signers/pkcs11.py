"""Keys in a PKCS #11 token: an HSM, a smart card, a USB token, SoftHSM.

`open_key` loads the vendor's module, finds the one token and the one private key that the URI names, logs in,
and reads the public half. The private key never leaves the token.

The PIN comes from `pin-source` of the URI, else from where every passphrase comes from; a token with a keypad
asks by itself. It is never on the command line, never printed, and given to the module alone.

Source: PKCS #11 v2.40, RFC 7512. Library: python-pkcs11 (MIT licence, typed; PyKCS11 is under the GPL).

    pkcs11:token=release;object=owner?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/pin
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass, TokenFlag
from pkcs11.exceptions import (
    AttributeSensitive,
    AttributeTypeInvalid,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
)
from pkcs11.types import PROTECTED_AUTH

from provenance.errors import EnvironmentFailure, UsageError
from provenance.signers.pkcs11_uri import Pkcs11Uri, UriNotUsable, parse_uri
from provenance.signers.remote_key import KeyUnsuitable, Scheme, Secret
from provenance.strict import read_file

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

MODULE_VARIABLE: Final = "PKCS11_MODULE_PATH"  # what OpenSC's and Sigstore's tools read as well
_MAX_PIN_BYTES: Final = 4096
# DigestInfo of SHA-256, for tokens that pad but do not hash (RFC 8017, section 9.2, note 1)
_DIGEST_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")

Result = TypeVar("Result")


class ModuleNotUsable(EnvironmentFailure):
    """The module of a PKCS #11 token is not named, not there, or does not load.

    Cure: `module-path=` in the URI, or the environment variable PKCS11_MODULE_PATH, names the vendor's shared
    library; SoftHSM's is /usr/lib/softhsm/libsofthsm2.so.
    """

    code = "RVP-6051"


class TokenNotFound(UsageError):
    """No token is what the URI says, or several are.

    Cure: `pkcs11-tool --list-token-slots` shows what is there; `token=` and `serial=` choose one.
    """

    code = "RVP-6052"


class PinRefused(UsageError):
    """A token wants a PIN and got none, a wrong one, or is locked after too many wrong ones.

    Cure: `pin-source=FILE` in the URI, RVP_PASSPHRASE, --passphrase-fd, or a question on a terminal. rvp
    tries a PIN once. A locked token is opened by its security officer.
    """

    code = "RVP-6053"


class KeyNotOnToken(UsageError):
    """The token has no private key of this label and id, or several.

    Cure: `pkcs11-tool --list-objects --login` shows them; `object=` and `id=` choose one.
    """

    code = "RVP-6054"


class TokenRefused(EnvironmentFailure):
    """A token did not do what it was asked: it was pulled out, it cannot sign this way, or it has a fault.

    Cure: the message has the token's own words; try the vendor's tool, then again.
    """

    code = "RVP-6055"


def _asked(name: str, act: Callable[[], Result]) -> Result:
    """Let a token do something; its errors become ours."""
    try:
        return act()
    except PinLocked as error:
        raise PinRefused("the token is locked after too many wrong PINs", place=name) from error
    except (PinIncorrect, PinInvalid, PinLenRange) as error:
        raise PinRefused("the PIN is wrong", place=name) from error
    except PKCS11Error as error:
        raise TokenRefused(f"the token says {type(error).__name__} {error}".rstrip(), place=name) from error


class Pkcs11Key:
    """A private key in a token. It logs in for each signature and out again."""

    def __init__(self, uri: Pkcs11Uri, token: pkcs11.Token, *, name: str, pin: str | None) -> None:
        """Log in once, to read the public half.

        Raises:
            PinRefused: RVP-6053. KeyNotOnToken: RVP-6054. TokenRefused: RVP-6055. KeyUnsuitable: RVP-6065.
        """
        self._uri = uri
        self._token = token
        self._name = name
        self._pin = pin
        with self._session() as session:
            key = _private_key(uri, session, name)
            self._name = f"{name};object={_label(key)}"
            self._public_key = _public_key(session, key, self._name)

    def __repr__(self) -> str:
        return f"Pkcs11Key({self._name})"

    @property
    def name(self) -> str:
        """Token and label; no secret."""
        return self._name

    def public_key(self) -> AnyPublicKey:
        """Give the public half, as the token has it."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Sign in the token; it hashes by itself where it can.

        Raises:
            As the constructor.
        """
        to_sign, mechanism = scheme.digest(data), Mechanism.ECDSA
        if scheme is Scheme.RSA_PKCS1_SHA256:
            if self._can(Mechanism.SHA256_RSA_PKCS):
                to_sign, mechanism = data, Mechanism.SHA256_RSA_PKCS
            else:
                to_sign, mechanism = _DIGEST_INFO + to_sign, Mechanism.RSA_PKCS
        with self._session() as session:
            key = _private_key(self._uri, session, self._name)
            again = {"pin": self._pin} if self._pin and _always_asks(key) else {}
            raw: bytes = _asked(self._name, lambda: key.sign(to_sign, mechanism=mechanism, **again))
        if scheme is Scheme.RSA_PKCS1_SHA256:
            return raw
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def _session(self) -> pkcs11.Session:
        pin = PROTECTED_AUTH if self._pin == _KEYPAD else self._pin
        return _asked(self._name, lambda: self._token.open(user_pin=pin))

    def _can(self, mechanism: Mechanism) -> bool:
        return mechanism in _asked(self._name, self._token.slot.get_mechanisms)


def _always_asks(key: Any) -> bool:
    """Tell whether a key wants its PIN for each signature (a PIV card's signature key does)."""
    try:
        return bool(key[Attribute.ALWAYS_AUTHENTICATE])
    except PKCS11Error:
        return False


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> Pkcs11Key:
    """Find the key that the URI names, read its public half.

    Args:
        location: the URI without `pkcs11:`.
        secret: gives the PIN where the URI names no source.
        public_key: not needed: the token has it.

    Raises:
        UriNotUsable: RVP-6050. ModuleNotUsable: RVP-6051. TokenNotFound: RVP-6052. PinRefused: RVP-6053.
        KeyNotOnToken: RVP-6054. TokenRefused: RVP-6055. KeyUnsuitable: RVP-6065.
    """
    del public_key
    uri = parse_uri(location)
    if uri.object is None and uri.id is None:
        raise UriNotUsable("the URI names no key", hint="object=LABEL or id=%01")
    token = _token(uri, _module(uri))
    name = f"pkcs11:token={token.label}"
    return Pkcs11Key(uri, token, name=name, pin=_pin(uri, token, secret, name))


_KEYPAD: Final = ""  # the token has a keypad: nobody but it sees the PIN


def _module(uri: Pkcs11Uri) -> Any:
    path = uri.module_path or os.environ.get(MODULE_VARIABLE, "")
    if not path:
        raise ModuleNotUsable("no module is named", place="pkcs11:")
    if not Path(path).is_absolute():
        raise ModuleNotUsable("the path of the module is not absolute", place=path)
    if not Path(path).is_file():
        raise ModuleNotUsable("there is no such module", place=path)
    try:
        return pkcs11.lib(path)
    except (PKCS11Error, RuntimeError, OSError) as error:
        raise ModuleNotUsable(f"the module does not load: {error}", place=path) from error


def _token(uri: Pkcs11Uri, module: Any) -> pkcs11.Token:
    slots = _asked("pkcs11:", lambda: module.get_slots(token_present=True))
    seen: list[str] = []
    found: list[pkcs11.Token] = []
    for slot in slots:
        if uri.slot_id is not None and slot.slot_id != uri.slot_id:
            continue
        try:
            token = slot.get_token()
        except PKCS11Error:
            continue  # a reader whose card does not answer is not the one that was named
        if not TokenFlag.TOKEN_INITIALIZED & token.flags:
            continue
        seen.append(token.label)
        wanted = (
            (uri.token, token.label),
            (uri.manufacturer, token.manufacturer_id),
            (uri.model, token.model),
            (uri.serial, token.serial.decode("ascii", "replace").strip("\0 ")),
        )
        if all(one is None or one == has for one, has in wanted):
            found.append(token)
    if len(found) != 1:
        what = "no token is" if not found else f"{len(found)} tokens are"
        raise TokenNotFound(
            f"{what} what the URI says", place="pkcs11:", hint=f"there are: {', '.join(seen) or 'none'}"
        )
    return found[0]


def _pin(uri: Pkcs11Uri, token: pkcs11.Token, secret: Secret, name: str) -> str | None:
    """Get the PIN; None for a token that wants none, "" for one with a keypad."""
    if not TokenFlag.LOGIN_REQUIRED & token.flags:
        return None
    if uri.pin_source is not None:
        source = uri.pin_source.removeprefix("file:").removeprefix("//")
        if source.startswith("|"):
            raise UriNotUsable("pin-source runs no programs", hint="pin-source=/path/to/file")
        got: bytes | None = read_file(Path(source), limit_bytes=_MAX_PIN_BYTES)
    elif TokenFlag.PROTECTED_AUTHENTICATION_PATH & token.flags:
        return _KEYPAD
    else:
        got = secret()
    pin = (got or b"").removesuffix(b"\n").removesuffix(b"\r")
    if not pin:
        raise PinRefused("the token wants a PIN and none was given", place=name)
    try:
        return pin.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PinRefused("the PIN is not UTF-8 text", place=name) from error


def _private_key(uri: Pkcs11Uri, session: pkcs11.Session, name: str) -> Any:
    wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.object is not None:
        wanted[Attribute.LABEL] = uri.object
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    found: list[Any] = _asked(name, lambda: list(session.get_objects(wanted)))
    if len(found) != 1:
        every: list[Any] = _asked(
            name, lambda: list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        )
        labels = ", ".join(sorted(_label(one) for one in every)) or "none"
        what = "no private key is" if not found else f"{len(found)} private keys are"
        raise KeyNotOnToken(f"{what} what the URI says", place=name, hint=f"there are: {labels}")
    return found[0]


def _label(found: Any) -> str:
    try:
        return str(found[Attribute.LABEL])
    except PKCS11Error:
        return ""


def _public_key(session: pkcs11.Session, key: Any, name: str) -> AnyPublicKey:
    """Read the public half: of the private key's own attributes, the public key, or the certificate."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    beside = _beside(session, key, name)
    for one in (key, *beside):
        try:
            modulus, exponent = one[Attribute.MODULUS], one[Attribute.PUBLIC_EXPONENT]
        except (AttributeTypeInvalid, AttributeSensitive):
            continue
        except PKCS11Error:
            continue  # some modules have an error of their own for an attribute that a key has not
        if modulus and exponent:
            numbers = RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
            try:
                return numbers.public_key()
            except ValueError as error:
                raise KeyUnsuitable(f"the token's RSA key is not one: {error}", place=name) from error
    for one in beside:
        found = _curve_key(one)
        if found is not None:
            return found
    raise KeyUnsuitable(
        "the token gives neither the public key nor a certificate of this key",
        place=name,
        hint="write the public key to the token with the same id",
    )


def _beside(session: pkcs11.Session, key: Any, name: str) -> list[Any]:
    """Find the public keys and certificates with the same id; for a key without an id, the same label."""
    same: dict[Attribute, Any] = {Attribute.LABEL: _label(key)}
    with contextlib.suppress(PKCS11Error):
        if key[Attribute.ID]:
            same = {Attribute.ID: key[Attribute.ID]}
    made: list[Any] = []
    for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.CERTIFICATE):
        wanted = {Attribute.CLASS: kind, **same}
        made += _asked(name, lambda wanted=wanted: list(session.get_objects(wanted)))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return made


def _curve_key(found: Any) -> AnyPublicKey | None:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        if isinstance(found, pkcs11.Certificate):
            key: Any = x509.load_der_x509_certificate(found[Attribute.VALUE]).public_key()
        else:
            from pkcs11.util.ec import encode_ec_public_key

            key = load_der_public_key(encode_ec_public_key(found))
    except (PKCS11Error, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey | RSAPublicKey) else None
