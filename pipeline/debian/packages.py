"""Lock and build a base of Debian packages: signed Release, indexes, resolving, the packages themselves.

    suites ──▶ signed Release ──▶ indexes ──▶ resolved packages (the lock) ──▶ .deb files ──▶ one tar

Every arrow is a digest that the thing to its left has signed or listed.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.debian import apt, indexes, mirror, resolve
from pipeline.debian.locked import LockedArchive, LockedPackage
from pipeline.debian.release import (
    Keyring,
    NotInRelease,
    Release,
    check_release,
    read_keyring,
    verify_release,
)
from pipeline.debian.tools import TOOLS
from pipeline.spec import DebianArchive, DebianBase
from pipeline.store import Store
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import SignatureFailure, SpecError
from provenance.events import Note, Observer, Phase, Transfer

DEBIAN_ORIGIN: Final = "Debian"
# The table merges /usr, so that nothing needs `usrmerge` (and perl) to do it.
IMPLIED: Final = ("usr-is-merged",)
_MAX_RELEASE_BYTES: Final = 16 << 20


class UnknownSuite(SpecError):
    """No mirror has this suite.

    Cure: correct the name; a suite that left the mirrors is found in Debian's snapshot or archive mirrors.
    """

    code = "RVP-1408"


class TableTooNew(SpecError):
    """The lock was made by another version of rvp, which unpacks packages differently.

    Cure: use that version of rvp, or lock again with `rvp lock --upgrade`.
    """

    code = "RVP-1409"


class ResolvedPackages(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock gets: signed Releases, packages of the root filesystem, and tools beside it."""

    archives: tuple[LockedArchive, ...]
    packages: tuple[LockedPackage, ...]
    tools: tuple[LockedPackage, ...]


def lock_packages(
    wanted: DebianBase,
    *,
    folder: Path,
    store: Store,
    observer: Observer,
    mirrors: mirror.Mirrors,
    previous: Sequence[LockedArchive] = (),
    now: int | None = None,
) -> ResolvedPackages:
    """Resolve packages from exactly the suites of the spec.

    Args:
        wanted: the spec.
        folder: of the spec, for keyrings beside it.
        store: keeps indexes, so that a second lock of the same Release fetches none.
        observer: hears of the progress.
        mirrors: where to fetch.
        previous: the archives of the lock before; their Releases must not be newer than the ones found.
        now: the time to judge `Valid-Until` at, Unix seconds.

    Raises:
        SignatureFailure: RVP-1402 to RVP-1405, RVP-1407, RVP-1412.
        SpecError: RVP-1406, RVP-1408, RVP-1421. EnvironmentFailure: RVP-1401, RVP-1410, RVP-1413, RVP-1420.
    """
    suites: list[apt.SuiteFiles] = []
    releases: list[LockedArchive] = []
    packages: list[indexes.Package] = []
    for archive in (_debian(wanted), *wanted.archives):
        keyring = read_keyring(archive.keyring, folder)
        for suite in archive.suites:
            known = _known_date(previous, archive.name, suite)
            got, release = _fetch_suite(
                archive, suite, wanted.architecture, keyring, store, mirrors, observer, now, known
            )
            suites.append(got)
            releases.append(release)
            for path, data in got.indexes.items():
                text = indexes.unpack_index(data, path)
                packages += indexes.parse_packages(text, archive=archive.name, suite=suite, place=path)
    started = time.monotonic()
    observer(Phase(what="resolving packages"))
    chosen = _resolve(suites, packages, wanted.packages, wanted.architecture, mirrors)
    tools = _tools(packages, observer)
    observer(Phase(what="resolving packages", done=True, duration_s=time.monotonic() - started))
    return ResolvedPackages(
        archives=tuple(releases),
        packages=tuple(map(_pinned, chosen)),
        tools=tuple(map(_pinned, tools)),
    )


def fetch_packages(
    packages: Sequence[LockedPackage],
    archives: Sequence[LockedArchive],
    *,
    store: Store,
    observer: Observer,
    mirrors: mirror.Mirrors,
) -> None:
    """Bring the package files into the store; those that are there are not fetched.

    Raises:
        FileGone: RVP-1411. WrongBytes: RVP-1412. MirrorFailed: RVP-1413. NoMirror: RVP-1410.
    """
    missing = [package for package in packages if not store.has(bytes.fromhex(package.sha256))]
    if not missing:
        return
    origins = {archive.name: archive.origin for archive in archives}
    places: dict[tuple[str, str], tuple[str, ...]] = {}
    for package in missing:
        key = (package.archive, package.suite)
        if key not in places:
            places[key] = _places(*key, origins.get(package.archive, ""), mirrors)
    total, done = sum(package.size for package in missing), 0
    observer(Transfer(what="packages", done_bytes=0, total_bytes=total))
    with concurrent.futures.ThreadPoolExecutor(mirror.CONNECTIONS) as pool:
        waiting = {
            pool.submit(_fetch_one, package, places[package.archive, package.suite], store, mirrors): package
            for package in missing
        }
        try:
            for finished in concurrent.futures.as_completed(waiting):
                finished.result()
                done += waiting[finished].size
                observer(Transfer(what="packages", done_bytes=done, total_bytes=total))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def rootfs_key(packages: Sequence[LockedPackage], table: int) -> bytes:
    """Name a root filesystem by everything that it is a function of."""
    return sha256(
        canonical_json(
            {
                "kind": "debian-rootfs",
                "table": table,
                "packages": sorted([one.name, one.architecture, one.sha256] for one in packages),
            }
        )
    )


def build_tar(
    packages: Sequence[LockedPackage], *, table: int, store: Store, observer: Observer
) -> tuple[bytes, int]:
    """Unpack packages that are in the store into one canonical tar in the store.

    Returns:
        The SHA-256 of the tar, which is its name in the store, and its size in bytes.

    Raises:
        TableTooNew: RVP-1409. NotADeb: RVP-1430. FilesOverlap: RVP-1431. NotUnpackable: RVP-1432.
    """
    from pipeline.debian.rootfs import assemble
    from pipeline.debian.table import TABLE_VERSION, finish

    if table != TABLE_VERSION:
        raise TableTooNew(
            f"the lock has version {table} of the table, this rvp has {TABLE_VERSION}",
            hint="lock again with `rvp lock --upgrade`",
        )
    started = time.monotonic()
    observer(Phase(what=f"unpacking {len(packages)} packages"))
    result: list[tuple[bytes, int]] = []

    def opener(digest: str) -> Any:
        return lambda: store.get(bytes.fromhex(digest))

    assemble(
        [(f"{one.name}_{one.architecture}", opener(one.sha256)) for one in packages],
        finish,
        lambda chunks: result.append(store.put(chunks)),
    )
    seconds = time.monotonic() - started
    observer(Phase(what=f"unpacking {len(packages)} packages", done=True, duration_s=seconds))
    return result[0]


def _debian(wanted: DebianBase) -> DebianArchive:
    """See Debian itself as one more archive, without a name."""
    return DebianArchive(
        name="",
        suites=wanted.suites,
        components=wanted.components,
        keyring=wanted.keyring,
        origin="" if wanted.keyring else DEBIAN_ORIGIN,
    )


def _known_date(previous: Sequence[LockedArchive], archive: str, suite: str) -> int | None:
    for release in previous:
        if (release.name, release.suite) == (archive, suite):
            return release.date
    return None


def _places(archive: str, suite: str, origin: str, mirrors: mirror.Mirrors) -> tuple[str, ...]:
    try:
        return mirror.places_of(archive, suite, origin=origin, mirrors=mirrors)
    except mirror.NoMirror:
        if mirrors.folders:
            return ()
        raise


def _fetch_suite(
    archive: DebianArchive,
    suite: str,
    architecture: str,
    keyring: Keyring,
    store: Store,
    mirrors: mirror.Mirrors,
    observer: Observer,
    now: int | None,
    known_date: int | None,
) -> tuple[apt.SuiteFiles, LockedArchive]:
    places = mirror.places_of(archive.name, suite, origin=archive.origin, mirrors=mirrors)
    folder = suite.rstrip("/") if suite.endswith("/") else f"dists/{suite}"
    release, place = fetch_release(
        places, folder, suite, origin=archive.origin, keyring=keyring, now=now, known_date=known_date
    )
    if release.valid_until is not None and now is None:
        observer(Note(text=f"the date until which {suite} is valid was not judged", level="warning"))
    files: dict[str, bytes] = {}
    for component in ("",) if suite.endswith("/") else archive.components:
        index = indexes.index_of(release, component, f"binary-{architecture}/Packages", suite=suite)
        files[index.path] = fetch_index(index, place, folder, store, mirrors)
    missing = set(archive.components) - set(release.components)
    if missing and release.components:
        raise NotInRelease(f'the suite "{suite}" has no component "{min(missing)}"')
    return (
        apt.SuiteFiles(
            archive=archive.name,
            suite=suite,
            release=release,
            components=archive.components,
            indexes=files,
        ),
        LockedArchive(
            name=archive.name,
            suite=suite,
            codename=release.codename,
            origin=release.origin,
            components=archive.components,
            date=release.date,
            release=release.digest.hex(),
            signed_by=release.signed_by,
            keyring=sha256("\n".join(keyring.fingerprints).encode()).hex(),
        ),
    )


def fetch_release(
    places: tuple[str, ...],
    folder: str,
    suite: str,
    *,
    origin: str,
    keyring: Keyring,
    now: int | None = None,
    known_date: int | None = None,
) -> tuple[Release, str]:
    """Fetch and check the Release of a suite.

    Returns:
        The Release, and the address that gave it.

    Raises:
        UnknownSuite: RVP-1408. SignatureFailure: RVP-1402 to RVP-1405.
    """
    settings = mirror.Mirrors()

    def fetch(place: str, name: str) -> bytes | None:
        path = f"{folder}/{name}"
        try:
            return b"".join(
                mirror.fetch_file(
                    (place,), path, sha256=None, size_bytes=_MAX_RELEASE_BYTES, mirrors=settings
                )
            )
        except mirror.FileGone:
            return None

    problem: Exception | None = None
    for place in places:
        name = f"{folder}/InRelease"
        try:
            if (data := fetch(place, "InRelease")) is not None:
                release = verify_release(data, keyring, place=name)
            elif (data := fetch(place, "Release")) is not None:
                name = f"{folder}/Release"
                signature = fetch(place, "Release.gpg") or b""
                release = verify_release(data, keyring, signature=signature, place=name)
            else:
                continue
            check_release(release, suite=suite, origin=origin, now=now, known_date=known_date, place=name)
        except (mirror.MirrorFailed, SignatureFailure) as error:
            problem = problem or error
            continue
        return release, place
    if problem is not None:
        raise problem
    raise UnknownSuite(
        f'no mirror has the suite "{suite}"',
        hint="correct its name, or name a mirror that has it with RVP_DEBIAN_MIRROR",
    )


def fetch_index(
    index: indexes.IndexFile, place: str, folder: str, store: Store, mirrors: mirror.Mirrors
) -> bytes:
    """Fetch an index that a checked Release lists; the store keeps it.

    Raises:
        FileGone: RVP-1411. WrongBytes: RVP-1412. MirrorFailed: RVP-1413.
    """
    if not store.has(index.sha256):
        online = msgspec.structs.replace(mirrors, folders=())
        paths = dict.fromkeys((index.fetch_path, index.path))
        for number, path in enumerate(paths, start=1):
            try:
                store.put(
                    mirror.fetch_file(
                        (place,),
                        f"{folder}/{path}",
                        sha256=index.sha256,
                        size_bytes=index.size_bytes,
                        mirrors=online,
                    )
                )
                break
            except mirror.FileGone:
                if number == len(paths):
                    raise
    with store.get(index.sha256) as stream:
        return stream.read()


def _resolve(
    suites: Sequence[apt.SuiteFiles],
    packages: Sequence[indexes.Package],
    wanted: Sequence[str],
    architecture: str,
    mirrors: mirror.Mirrors,
) -> tuple[indexes.Package, ...]:
    essential = sorted({one.name for one in packages if one.essential})
    implied = [name for name in IMPLIED if any(one.name == name for one in packages)]
    names = list(dict.fromkeys((*essential, *implied, *wanted)))
    if mirrors.apt and mirror.has_apt():
        return resolve.find(packages, apt.resolve_with_apt(suites, names, architecture=architecture))
    pins = {(one.archive, one.suite): one.release.pin for one in suites}
    return resolve.resolve(packages, names, architecture=architecture, pins=pins)


def _tools(packages: Sequence[indexes.Package], observer: Observer) -> tuple[indexes.Package, ...]:
    """Pin what the variations of time and locale need, beside the root filesystem."""
    found = []
    for name in TOOLS:
        newest = resolve.newest(packages, name)
        if newest is None:
            observer(Note(text=f'no suite has "{name}": its variation will not be exercised'))
        else:
            found.append(newest)
    return tuple(found)


def _pinned(package: indexes.Package) -> LockedPackage:
    return LockedPackage(
        archive=package.archive,
        suite=package.suite,
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        size=package.size_bytes,
        sha256=package.sha256.hex(),
        path=package.path,
    )


def _fetch_one(
    package: LockedPackage, places: tuple[str, ...], store: Store, mirrors: mirror.Mirrors
) -> None:
    store.put(
        mirror.fetch_file(
            places,
            package.path,
            sha256=bytes.fromhex(package.sha256),
            size_bytes=package.size,
            mirrors=mirrors,
        )
    )
