"""What the lock pins of a base of Debian packages: plain data, no host name in it."""

from __future__ import annotations

import msgspec


class _Locked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class LockedArchive(_Locked, frozen=True, kw_only=True):
    """The signed Release that listed packages.

    Attributes:
        name: the archive's name in the spec; empty for Debian itself.
        suite: as the spec writes it.
        components: of the suite that were used.
        release: SHA-256 of the signed text, as the file `Release` has it, hex.
        signed_by: fingerprints of the certificates whose signatures were checked.
        codename, origin: what the signed text says of itself.
        date: when it was made, Unix seconds.
        keyring: one SHA-256 over the fingerprints of all certificates of the keyring in use, hex.
    """

    name: str = ""
    suite: str
    components: tuple[str, ...]
    release: str
    signed_by: tuple[str, ...] = ()
    codename: str = ""
    origin: str = ""
    date: int = 0
    keyring: str = ""


class LockedPackage(_Locked, frozen=True, kw_only=True):
    """One package: sha256 in hex, size in bytes; `archive` and `suite` say which Release listed it.

    `path` is where its file lies below the archive's root.
    """

    name: str
    version: str
    architecture: str
    archive: str = ""
    suite: str
    size: int
    sha256: str
    path: str = ""
