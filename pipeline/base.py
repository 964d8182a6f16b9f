"""A base: the root filesystem that steps run in, and what the lock pins of it.

A base is unpacked from Debian packages, or is a container image by digest, or a tar by its SHA-256.
The lock has no host name: a package is found by its digest, wherever it lies.
"""

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
        release: SHA-256 of the signed Release, hex.
        signed_by: fingerprints of the certificates that signed it.
    """

    name: str = ""
    suite: str
    components: tuple[str, ...]
    release: str
    signed_by: tuple[str, ...] = ()


class LockedPackage(_Locked, frozen=True, kw_only=True):
    """One package: sha256 in hex, size in bytes; `archive` and `suite` say which Release listed it."""

    name: str
    version: str
    architecture: str
    archive: str = ""
    suite: str
    size: int
    sha256: str


class LockedBase(_Locked, frozen=True, kw_only=True):
    """What the lock pins of a base; the fields of one of its three kinds are filled.

    Attributes:
        architecture: of a base of packages.
        archives: the signed Releases.
        packages: sorted by name and architecture.
        image: of a container image: `name@sha256:…`, without a registry's host name.
        tar: of a tar: its SHA-256, hex.
    """

    architecture: str = ""
    image: str = ""
    tar: str = ""
    archives: tuple[LockedArchive, ...] = ()
    packages: tuple[LockedPackage, ...] = ()
