"""Key files: a private key in PEM (PKCS#8), with a passphrase or without, readable by its owner alone.

ECDSA signatures are deterministic (RFC 6979), so signing the same statement twice gives the same bytes.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "ci.key"
    ...     made = make_key(path, KeyType.P256)
    ...     signer = open_signer(str(path))
    ...     signer.public_key == made, made.verifies(signer.sign(b"hello"), b"hello")
    (True, True)
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any, Final

from provenance.errors import EnvironmentFailure, UsageError
from provenance.public_key import (
    MAX_KEY_BYTES,
    KeyNotReadable,
    KeyType,
    PublicKey,
    hash_of,
    public_key_of,
)
from provenance.signers import Passphrase, no_passphrase
from provenance.strict import NotReadable

PRIVATE_MODE: Final = 0o600
PUBLIC_SUFFIX: Final = ".pub"


class KeyTooOpen(UsageError):
    """A private key can be read or written by others than its owner; who has read it could sign with it.

    Cure: `chmod 600 FILE` if nobody else can have read it; else make a new key and drop this one everywhere.
    """

    code = "RVP-6003"


class PassphraseWrong(UsageError):
    """The passphrase does not open the key.

    Cure: try again; a passphrase from a file has no newline at its end (one is removed).
    """

    code = "RVP-6004"


class PassphraseMissing(UsageError):
    """The key is encrypted and no passphrase was given.

    Cure: run on a terminal to be asked, set RVP_PASSPHRASE, or give `--passphrase-fd N`.
    """

    code = "RVP-6005"


class KeyExists(UsageError):
    """A file is in the way of a new key; keys are never overwritten.

    Cure: choose another path, or move the old key away if nothing trusts it any more.
    """

    code = "RVP-6007"


class KeyNotWritable(EnvironmentFailure):
    """A new key cannot be written where it was asked for.

    Cure: check the folder and its permissions.
    """

    code = "RVP-6008"


class KeyFileSigner:
    """Signs with a private key that was read from a file."""

    def __init__(self, key: Any, public_key: PublicKey) -> None:
        self._key = key
        self._public_key = public_key

    def __repr__(self) -> str:
        return f"KeyFileSigner({self._public_key.type.value}, {self._public_key.fingerprint.hex()})"

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what this signs."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """Sign bytes: DER (r, s) for ECDSA, 64 bytes for Ed25519.

        Source: RFC 6979, section 3.2; RFC 8032, section 5.1.6.
        """
        if self._public_key.type is KeyType.ED25519:
            return bytes(self._key.sign(data))
        from cryptography.hazmat.primitives.asymmetric import ec

        scheme = ec.ECDSA(hash_of(self._public_key.type), deterministic_signing=True)
        return bytes(self._key.sign(data, scheme))


def open_signer(location: str, *, passphrase: Passphrase = no_passphrase) -> KeyFileSigner:
    """Open a key file for signing.

    Args:
        location: the path of a PEM file with one private key.
        passphrase: gives the passphrase; called only if the key is encrypted.

    Raises:
        NotReadable: RVP-1010. KeyNotReadable: RVP-6001. KeyTypeUnsupported: RVP-6002.
        KeyTooOpen: RVP-6003. PassphraseWrong: RVP-6004. PassphraseMissing: RVP-6005.
    """
    data = _read_private(Path(location))
    return read_signer(data, passphrase=passphrase, name=location)


def read_signer(data: bytes, *, passphrase: Passphrase = no_passphrase, name: str = "") -> KeyFileSigner:
    """Read a private key from PEM.

    Raises:
        KeyNotReadable: RVP-6001. KeyTypeUnsupported: RVP-6002.
        PassphraseWrong: RVP-6004. PassphraseMissing: RVP-6005.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"-----BEGIN PUBLIC KEY-----" in data and b"PRIVATE KEY-----" not in data:
        raise KeyNotReadable(
            "this is a public key; signing needs the private one",
            place=name,
            hint="`rvp key new PATH` wrote two files: PATH is the private one, PATH.pub the public one",
        )
    if data.count(b"PRIVATE KEY-----") != 2:
        raise KeyNotReadable('expected exactly one PEM block "PRIVATE KEY"', place=name)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data or b"Proc-Type: 4,ENCRYPTED" in data
    secret = passphrase() if encrypted else None
    if encrypted and not secret:
        raise PassphraseMissing(
            "the key is encrypted", place=name, hint="set RVP_PASSPHRASE, or give --passphrase-fd"
        )
    try:
        key = load_pem_private_key(data, password=secret)
    except UnsupportedAlgorithm as error:
        raise KeyNotReadable(f"the key is not usable: {error}", place=name) from error
    except (ValueError, TypeError) as error:
        if encrypted:
            raise PassphraseWrong("the passphrase does not open the key", place=name) from error
        raise KeyNotReadable("not a private key in PEM", place=name) from error
    return KeyFileSigner(key, public_key_of(key.public_key(), name=name))


def make_key(path: Path, key_type: KeyType, *, passphrase: bytes | None = None) -> PublicKey:
    """Make a key: the private one at `path` (mode 0600), the public one beside it with `.pub`.

    Args:
        path: where the private key goes; nothing is overwritten.
        key_type: P-256, P-384 or Ed25519.
        passphrase: encrypts the private key (PKCS#8); None leaves it plain.

    Raises:
        KeyExists: RVP-6007. KeyNotWritable: RVP-6008.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    for taken in (path, public_path):
        if taken.exists() or taken.is_symlink():
            raise KeyExists("there is a file already", place=str(taken), hint="keys are never overwritten")
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    match key_type:
        case KeyType.P256:
            key = ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            key = ec.generate_private_key(ec.SECP384R1())
        case KeyType.ED25519:
            key = ed25519.Ed25519PrivateKey.generate()
    sealed: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    public_key = public_key_of(key.public_key())
    _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed), PRIVATE_MODE)
    try:
        _write_new(public_path, public_key.pem, 0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return public_key


def _read_private(path: Path) -> bytes:
    """Read a private key after looking at who else can: the very file that was opened is looked at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            mode = os.fstat(stream.fileno())
            if not stat.S_ISREG(mode.st_mode):
                raise KeyNotReadable("not a regular file", place=str(path))
            data = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise NotReadable(
            f"cannot read the key: {error.strerror}", place=str(path), hint="`rvp key new PATH` makes one"
        ) from error
    if len(data) > MAX_KEY_BYTES:
        raise KeyNotReadable(f"larger than {MAX_KEY_BYTES} bytes: not a key", place=str(path))
    if b"PRIVATE KEY-----" in data and mode.st_mode & 0o077:
        raise KeyTooOpen(
            f"the mode is {stat.S_IMODE(mode.st_mode):04o}: others can read or change this private key",
            place=str(path),
            hint=f"chmod 600 {path}",
        )
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise KeyExists("there is a file already", place=str(path)) from error
    except OSError as error:
        raise KeyNotWritable(f"cannot write the key: {error.strerror}", place=str(path)) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise KeyNotWritable(f"cannot write the key: {error.strerror}", place=str(path)) from error
