"""Debian source packages: found through the signed Sources index, unpacked and patched without any tool.

    signed Release ──▶ Sources index ──▶ .dsc and tars by SHA-256 ──▶ a tree

Formats: `3.0 (native)`, `3.0 (quilt)` (upstream tars, `debian/` over them, then the patches of the series,
without fuzz), and `1.0` (with its one diff). The tree is what `dpkg-source -x` gives, without `.pc`.

Source: dpkg-source(1); deb-src-control(5); Debian policy, section 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pipeline.debian import indexes, mirror, patch
from pipeline.debian.packages import DEBIAN_ORIGIN, fetch_index, fetch_release
from pipeline.debian.relations import compare
from pipeline.debian.release import read_keyring
from pipeline.store import Store
from pipeline.tree import Tree, TreeEntry, make_tree
from pipeline.unpack import unpack
from provenance.errors import SpecError
from provenance.events import Observer, Phase

_WANTED: Final = frozenset({"Package", "Version", "Directory", "Checksums-Sha256", "Format"})
_MAX_DIFF_BYTES: Final = 256 << 20
_TAR: Final = re.compile(r"\.(orig|debian)(?:-(?P<part>[A-Za-z0-9-]+))?\.tar\.[a-z0-9]+\Z")


class SourceUnknown(SpecError):
    """No suite has this source package, or not in this version.

    Cure: correct the name or the suite; a version that was replaced is found in a snapshot mirror.
    """

    code = "RVP-1461"


class SourceFormatUnknown(SpecError):
    """A source package is of a format that rvp does not unpack.

    Cure: unpack it with `dpkg-source -x` and use the folder as a source of kind `path`.
    """

    code = "RVP-1462"


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a source package: its name, SHA-256 in hex, and size in bytes."""

    name: str
    sha256: str
    size: int


class SourcePackage(msgspec.Struct, frozen=True, kw_only=True):
    """A source package of a suite; `folder` is where its files lie below the archive's root."""

    name: str
    version: str
    suite: str
    folder: str
    files: tuple[SourceFile, ...]


class FetchedSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source package and the tree that it unpacks to."""

    package: SourcePackage
    tree: Tree


def find_source(
    name: str,
    *,
    suite: str,
    store: Store,
    observer: Observer,
    folder: Path,
    version: str = "",
    keyring: str = "",
    components: Sequence[str] = ("main",),
    mirrors: mirror.Mirrors,
    now: int | None = None,
) -> SourcePackage:
    """Find a source package in the signed index of a suite; the newest version unless one is named.

    Raises:
        SourceUnknown: RVP-1461. SignatureFailure: RVP-1402 to RVP-1404, RVP-1407, RVP-1412.
    """
    origin = "" if keyring else DEBIAN_ORIGIN
    places = mirror.places_of("", suite, origin=origin, mirrors=mirrors)
    base = f"dists/{suite}"
    observer(Phase(what=f"finding the source of {name}"))
    release, place = fetch_release(
        places, base, suite, origin=origin, keyring=read_keyring(keyring, folder), now=now
    )
    found: SourcePackage | None = None
    for component in components:
        index = indexes.index_of(release, component, "source/Sources", suite=suite)
        text = indexes.unpack_index(fetch_index(index, place, base, store, mirrors), index.path)
        for fields in indexes.paragraphs(text, _WANTED):
            if fields.get("Package") != name or (version and fields.get("Version") != version):
                continue
            if found is None or compare(fields["Version"], found.version) > 0:
                found = _source_package(fields, suite, index.path)
    observer(Phase(what=f"finding the source of {name}", done=True))
    if found is None:
        what = f"{name} {version}".strip()
        raise SourceUnknown(f'the suite "{suite}" has no source package "{what}"')
    return found


def pinned_source(name: str, version: str, suite: str, files: Sequence[SourceFile]) -> SourcePackage:
    """Describe a source package that a lock pins: its files lie where Debian's pool has them.

    Example:
        >>> pinned_source("libx", "1", "bookworm", []).folder
        'pool/main/libx/libx'
    """
    letters = name[:4] if name.startswith("lib") else name[:1]
    folder = f"pool/main/{letters}/{name}"
    return SourcePackage(name=name, version=version, suite=suite, folder=folder, files=tuple(files))


def fetch_source(
    package: str | SourcePackage,
    *,
    suite: str = "",
    version: str = "",
    store: Store,
    observer: Observer,
    folder: Path,
    keyring: str = "",
    mirrors: mirror.Mirrors,
    now: int | None = None,
) -> FetchedSource:
    """Fetch, unpack and patch a source package.

    Args:
        package: its name, or what the lock pins of it.
        suite: where to find a package that is named; not needed for a pinned one.
        version: which; empty: the newest.
        store: receives files and content; what it has is not fetched.
        observer: hears of the progress.
        folder: of the spec, for a keyring beside it.
        keyring: file beside the spec; empty: the Debian archive keyring.
        mirrors: where to fetch.
        now: the time to judge `Valid-Until` at, Unix seconds.

    Raises:
        SourceUnknown: RVP-1461. SourceFormatUnknown: RVP-1462. PatchFails: RVP-1460.
        FileGone: RVP-1411. WrongBytes: RVP-1412. MirrorFailed: RVP-1413.
    """
    if isinstance(package, str):
        package = find_source(
            package,
            suite=suite,
            version=version,
            store=store,
            observer=observer,
            folder=folder,
            keyring=keyring,
            mirrors=mirrors,
            now=now,
        )
    origin = "" if keyring else DEBIAN_ORIGIN
    for file in package.files:
        if not store.has(bytes.fromhex(file.sha256)):
            places = mirror.places_of("", package.suite, origin=origin, mirrors=mirrors)
            store.put(
                mirror.fetch_file(
                    places,
                    f"{package.folder}/{file.name}",
                    sha256=bytes.fromhex(file.sha256),
                    size_bytes=file.size,
                    mirrors=mirrors,
                )
            )
    return FetchedSource(package=package, tree=unpack_source(package, store))


def unpack_source(package: SourcePackage, store: Store) -> Tree:
    """Unpack a source package whose files are in the store.

    Raises:
        SourceFormatUnknown: RVP-1462. PatchFails: RVP-1460. BadArchive: RVP-1327.
    """
    control = next((one for one in package.files if one.name.endswith(".dsc")), None)
    kind = _format(_read(control.sha256, store).decode("utf-8", "replace")) if control else ""
    tars = [one for one in package.files if ".tar." in one.name and not one.name.endswith(".asc")]
    if kind not in {"1.0", "3.0 (native)", "3.0 (quilt)"}:
        raise SourceFormatUnknown(
            f'{package.name} {package.version} has the format "{kind}"',
            hint="unpack it with `dpkg-source -x` and use the folder as a source of kind path",
        )
    entries: dict[str, TreeEntry] = {}
    for file in sorted(tars, key=lambda one: (_part(one.name) is not None, one.name)):
        if not file.name.endswith(_debian_suffixes()):
            _lay(entries, _top_removed(_tree_of(file, store)), _part(file.name) or "")
    for file in tars:
        if file.name.endswith(_debian_suffixes()):
            for path in [path for path in entries if path.startswith("debian/")]:
                del entries[path]
            _lay(entries, _tree_of(file, store), "")
    if kind == "3.0 (quilt)":
        _apply_series(entries, store)
    for file in package.files:
        if file.name.endswith(".diff.gz"):
            text = indexes.unpack_index(_read(file.sha256, store), file.name, limit_bytes=_MAX_DIFF_BYTES)
            for change in patch.parse(text, place=file.name):
                _apply(entries, change, store, file.name)
            if rules := entries.get("debian/rules"):
                entries[rules.path] = msgspec.structs.replace(rules, executable=True)
    return make_tree(entries.values())


def _debian_suffixes() -> tuple[str, ...]:
    return tuple(f".debian.tar.{suffix}" for suffix in ("xz", "gz", "bz2", "lzma"))


def _source_package(fields: Mapping[str, str], suite: str, place: str) -> SourcePackage:
    files = []
    for line in fields.get("Checksums-Sha256", "").splitlines():
        parts = line.split()
        if len(parts) == 3:
            if "/" in parts[2]:
                raise indexes.IndexDamaged(f'"{parts[2]}" is no name of a file', place=place)
            files.append(SourceFile(name=parts[2], sha256=parts[0], size=int(parts[1])))
    return SourcePackage(
        name=fields["Package"],
        version=fields["Version"],
        suite=suite,
        folder=fields.get("Directory", ""),
        files=tuple(sorted(files, key=lambda one: one.name)),
    )


def _format(text: str) -> str:
    found = re.search(r"^Format: *(.+?) *$", text, re.MULTILINE)
    return found[1] if found else "1.0"


def _part(name: str) -> str | None:
    """Name the component of `foo_1.orig-part.tar.gz`."""
    found = _TAR.search(name)
    return found["part"] if found else None


def _read(sha256: str, store: Store) -> bytes:
    with store.get(bytes.fromhex(sha256)) as stream:
        return stream.read()


def _tree_of(file: SourceFile, store: Store) -> Tree:
    with store.get(bytes.fromhex(file.sha256)) as stream:
        return unpack(stream, file.name, store)


def _top_removed(tree: Tree) -> Tree:
    """Drop the one folder that everything is in."""
    tops = {entry.path.partition("/")[0] for entry in tree.entries}
    if len(tops) == 1 and all("/" in entry.path or entry.kind == "dir" for entry in tree.entries):
        return tree.under(tops.pop())
    return tree


def _lay(entries: dict[str, TreeEntry], tree: Tree, below: str) -> None:
    for entry in tree.entries:
        path = f"{below}/{entry.path}" if below else entry.path
        if entry.kind != "dir" or path not in entries:
            entries[path] = msgspec.structs.replace(entry, path=path)


def _apply_series(entries: dict[str, TreeEntry], store: Store) -> None:
    series = entries.get("debian/patches/series")
    if series is None:
        return
    for line in _read(series.sha256, store).decode("utf-8", "replace").splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"debian/patches/{words[0]}"
        if place not in entries:
            raise patch.PatchFails(f"the series names {words[0]}, which is not there", place=place)
        for change in patch.parse(_read(entries[place].sha256, store), place=place):
            _apply(entries, change, store, place)


def _apply(entries: dict[str, TreeEntry], change: patch.FilePatch, store: Store, place: str) -> None:
    source = change.new if change.new in entries else change.old
    if source in entries and entries[source].kind != "file":
        raise patch.PatchFails(f'"{source}" is a link', place=place)
    there = entries.get(source)
    if there is None and any(hunk.before for hunk in change.hunks):
        raise patch.PatchFails(f'"{source}" is not there', place=place)
    content = patch.apply(change, _read(there.sha256, store) if there else b"", place=place)
    target = change.new or change.old
    if change.old and change.old != target and change.new and not change.hunks:
        entries.pop(change.old, None)
    if not change.new or (change.hunks and not content):
        entries.pop(target, None)
        return
    digest, size_bytes = store.put([content])
    executable = change.executable if change.executable is not None else bool(there and there.executable)
    for folder in [path for path, entry in entries.items() if entry.kind == "dir"]:
        if target.startswith(folder + "/"):
            del entries[folder]
    entries[target] = TreeEntry(
        path=target, kind="file", executable=executable, sha256=digest.hex(), size_bytes=size_bytes
    )
