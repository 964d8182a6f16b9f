"""What the variations of time and locale need, taken from packages beside the root filesystem.

libfaketime is preloaded by a step that runs under another time; LOCPATH names a compiled locale. Both are
pinned in the lock, neither is in the root filesystem: a step that is not varied cannot see them.
Debian's `locales-all` has the locales compiled, so nothing is run to make them.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pipeline.debian.deb import Deb, open_deb
from pipeline.store import Store
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.digest import chunks_of

if TYPE_CHECKING:
    from pipeline.debian.locked import LockedPackage

TOOLS: Final = ("libfaketime", "locales-all")
# Locales that differ from C.UTF-8, and from each other, in collation, numbers and letter case.
LOCALES: Final = ("fr_CH.utf8", "tr_TR.utf8")
_LOCALE_FOLDER: Final = "usr/lib/locale/"


def read_tools(tools: Sequence[LockedPackage], store: Store) -> Tree:
    """Take `libfaketime.so.1` and `locale/NAME/…` out of packages that are in the store.

    Raises:
        NotADeb: RVP-1430.
    """
    entries: list[TreeEntry] = []
    for package in tools:
        place = f"{package.name}_{package.version}"
        with store.get(bytes.fromhex(package.sha256)) as stream, open_deb(stream, place=place) as deb:
            entries += _read(deb, store)
    return make_tree(entries)


def _read(deb: Deb, store: Store) -> list[TreeEntry]:
    """Read a package twice: locales share files through links, which come after what they lead to."""
    wanted: dict[str, list[str]] = {}
    with deb.data() as data:
        for member in data:
            path = posixpath.normpath(member.name).lstrip("/")
            name = _name_of(path)
            if name and not member.isdir():
                wanted.setdefault(_goal(path, member), []).append(name)
    entries: list[TreeEntry] = []
    with deb.data() as data:
        for member in data:
            names = wanted.get(posixpath.normpath(member.name).lstrip("/"), [])
            content = data.extractfile(member) if names and member.isreg() else None
            if content:
                digest, size_bytes = store.put(chunks_of(cast("BinaryIO", content)))
                entries += [
                    TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size_bytes)
                    for name in names
                ]
    return entries


def _goal(path: str, member: tarfile.TarInfo) -> str:
    """Say which file of the package has the content of a path."""
    if member.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
    return posixpath.normpath(member.linkname).lstrip("/") if member.islnk() else path


def _name_of(path: str) -> str:
    """Say where a file of a package goes; empty for one that is not wanted."""
    if path.endswith("/faketime/libfaketime.so.1"):
        return "libfaketime.so.1"
    name = path.removeprefix(_LOCALE_FOLDER)
    if path.startswith(_LOCALE_FOLDER) and name.split("/")[0] in LOCALES:
        return f"locale/{name}"
    return ""
