"""Bases: root filesystems for steps, pinned by content. Debian packages, a container image, or a tar.

`lock_base` pins what the spec asks for; `build_rootfs` makes a root filesystem of what is pinned. The digest
of the root filesystem is a pure function of the lock.

Example of the spec, one of:
    debian = { suites = ["bookworm"], packages = ["gcc", "libc6-dev", "make"] }
    image = "debian:12"
    tar = "base.tar.xz", sha256 = "…"
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.debian.locked import LockedArchive, LockedPackage
from pipeline.debian.mirror import Mirrors, mirrors_from
from pipeline.sandbox import Rootfs
from pipeline.store import Store
from pipeline.tree import Tree
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import SpecError
from provenance.events import Observer

if TYPE_CHECKING:
    from pipeline.engine import Engine
    from pipeline.spec import Base, DebianBase

_RECORD: Final = "rootfs"
_TAR_RECORD: Final = "rootfs-tar"
_ARCHITECTURE: Final = "amd64"
_TOOLS_RECORD: Final = "variation-tools"


class BaseNotOneKind(SpecError):
    """A base is exactly one of Debian packages, a container image, and a tar.

    Cure: keep one of `debian`, `image` and `tar`.
    """

    code = "RVP-1440"


class LockedBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the lock pins of a base; the fields of one of its three kinds are filled.

    Attributes:
        architecture: of a base of packages.
        table: the version of the table that stands in for maintainer scripts.
        image: of a container image: `name@sha256:…`, without a registry's host name, or `oci:PATH@sha256:…`.
        diff_ids: of a container image: its layers, `sha256:…`.
        tar: of a tar: its SHA-256, hex.
        archives: the signed Releases.
        packages: sorted by name and architecture.
        tools: packages for the variations, not in the root filesystem.
    """

    architecture: str = ""
    table: int = 0
    image: str = ""
    diff_ids: tuple[str, ...] = ()
    tar: str = ""
    archives: tuple[LockedArchive, ...] = ()
    packages: tuple[LockedPackage, ...] = ()
    tools: tuple[LockedPackage, ...] = ()


def lock_base(
    name: str,
    base: Base,
    *,
    folder: Path,
    store: Store,
    observer: Observer,
    previous: LockedBase | None = None,
    mirrors: Mirrors | None = None,
    engine: Engine | None = None,
    now: int | None = None,
) -> LockedBase:
    """Pin a base.

    Args:
        name: the base's name in the spec, for errors.
        base: what the spec asks for.
        folder: the folder of the spec.
        store: keeps what was fetched on the way.
        observer: hears of the progress.
        previous: what the lock had before; a Release older than its own is refused.
        mirrors: where to fetch; None: the environment and apt's configuration say it.
        engine: pulls a container image; None: the one that answers.
        now: the time to judge `Valid-Until` at, Unix seconds.

    Raises:
        RvpError: RVP-14xx, each kind as its own class.
    """
    if [base.debian is None, base.image is None, base.tar is None].count(False) != 1:
        raise BaseNotOneKind(f'the base "{name}" must have one of debian, image and tar')
    if base.debian is not None:
        return _lock_debian(
            base.debian, folder, store, observer, previous, mirrors or mirrors_from(os.environ), now
        )
    if base.tar is not None:
        from pipeline.base_tar import lock_tar

        return LockedBase(tar=lock_tar(folder / base.tar, base.sha256))
    return _lock_image(base.image or "", folder, engine)


def _lock_image(reference: str, folder: Path, engine: Engine | None) -> LockedBase:
    from pipeline import base_image

    if base_image.is_layout(reference):
        return LockedBase(image=reference, diff_ids=base_image.lock_layout(reference, folder, _ARCHITECTURE))
    from pipeline.engine import connect

    image, diff_ids = base_image.lock_image(reference, engine or connect())
    return LockedBase(image=image, diff_ids=diff_ids)


def _lock_debian(
    wanted: DebianBase,
    folder: Path,
    store: Store,
    observer: Observer,
    previous: LockedBase | None,
    mirrors: Mirrors,
    now: int | None,
) -> LockedBase:
    from pipeline.debian.packages import lock_packages
    from pipeline.debian.table import TABLE_VERSION

    found = lock_packages(
        wanted,
        folder=folder,
        store=store,
        observer=observer,
        mirrors=mirrors,
        previous=previous.archives if previous else (),
        now=now,
    )
    return LockedBase(
        architecture=wanted.architecture,
        table=TABLE_VERSION,
        archives=found.archives,
        packages=found.packages,
        tools=found.tools,
    )


def build_rootfs(
    locked: LockedBase,
    *,
    folder: Path,
    store: Store,
    observer: Observer,
    mirrors: Mirrors | None = None,
    engine: Engine | None = None,
    base: Base | None = None,
) -> Rootfs:
    """Make the root filesystem of a pinned base, or find it in the store.

    Args:
        locked: what the lock pins.
        folder: the folder of the spec.
        store: has packages and root filesystems that were made before.
        observer: hears of the progress.
        mirrors: where to fetch packages; None: the environment and apt's configuration say it.
        engine: pulls a container image; None: the one that answers.
        base: what the spec says: the path of a tar, the registry of an image.

    Raises:
        RvpError: RVP-14xx, each kind as its own class.

    Cost: nothing but a look-up when the store has it.
    """
    if locked.packages:
        return _build_debian(locked, store, observer, mirrors or mirrors_from(os.environ))
    if locked.tar:
        return _build_tar(locked.tar, folder, store, base)
    if locked.image:
        return _build_image(locked, folder, store, engine, base)
    raise BaseNotOneKind("the lock pins neither packages nor an image nor a tar of this base")


def _build_tar(pinned: str, folder: Path, store: Store, base: Base | None) -> Rootfs:
    from pipeline.base_tar import TarNotPinned, lock_tar, unpack_tar

    key = bytes.fromhex(pinned)
    kept = store.recorded(_TAR_RECORD, key)
    if kept is None or not store.has(kept):
        if base is None or base.tar is None:
            raise TarNotPinned(f"nothing says where the tar with sha256 {pinned} is")
        lock_tar(folder / base.tar, pinned)
        kept = store.record(_TAR_RECORD, key, unpack_tar(folder / base.tar, store))
    return Rootfs(digest=kept, tar=kept)


def _build_image(
    locked: LockedBase, folder: Path, store: Store, engine: Engine | None, base: Base | None
) -> Rootfs:
    from pipeline import base_image

    if not base_image.is_layout(locked.image):
        from pipeline.engine import connect

        pulled = base_image.pull_image(
            locked.image,
            locked.diff_ids,
            engine or connect(),
            reference=(base.image or "") if base else "",
        )
        return Rootfs(digest=base_image.diff_id_digest(locked.diff_ids), image=pulled)
    key = sha256(canonical_json(["oci", *locked.diff_ids]))
    kept = store.recorded(_TAR_RECORD, key)
    if kept is None or not store.has(kept):
        digest = base_image.flatten_layout(locked.image, folder, _ARCHITECTURE, locked.diff_ids, store)
        kept = store.record(_TAR_RECORD, key, digest)
    return Rootfs(digest=kept, tar=kept)


def _build_debian(locked: LockedBase, store: Store, observer: Observer, mirrors: Mirrors) -> Rootfs:
    from pipeline.debian.packages import build_tar, rootfs_key

    key = rootfs_key(locked.packages, locked.table)
    kept = store.recorded(_RECORD, key)
    if kept is None or not store.has(_digest_of(kept)):
        _fetch(locked, locked.packages, store, observer, mirrors)
        digest, size_bytes = build_tar(locked.packages, table=locked.table, store=store, observer=observer)
        record = canonical_json({"tar": digest.hex(), "size_bytes": size_bytes})
        kept = store.record(_RECORD, key, record)
    digest = _digest_of(kept)
    return Rootfs(digest=digest, tar=digest, variation_tools=_tools(locked, store, observer, mirrors))


def _tools(locked: LockedBase, store: Store, observer: Observer, mirrors: Mirrors) -> Tree:
    """Find the tree of the variation tools in the store, or make it."""
    from pipeline.debian.tools import LOCALES, read_tools

    if not locked.tools:
        return Tree()
    key = sha256(canonical_json([*LOCALES, *(one.sha256 for one in locked.tools)]))
    kept = store.recorded(_TOOLS_RECORD, key)
    if kept is not None:
        tree = msgspec.json.decode(kept, type=Tree)
        if all(store.has(bytes.fromhex(entry.sha256)) for entry in tree.entries):
            return tree
    _fetch(locked, locked.tools, store, observer, mirrors)
    tree = read_tools(locked.tools, store)
    store.record(_TOOLS_RECORD, key, tree.to_json())
    return tree


def _fetch(
    locked: LockedBase,
    packages: tuple[LockedPackage, ...],
    store: Store,
    observer: Observer,
    mirrors: Mirrors,
) -> None:
    from pipeline.debian.packages import fetch_packages

    fetch_packages(packages, locked.archives, store=store, observer=observer, mirrors=mirrors)


def _digest_of(record: bytes) -> bytes:
    return bytes.fromhex(msgspec.json.decode(record)["tar"])
