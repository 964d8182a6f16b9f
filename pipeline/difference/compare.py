r"""Compare two files, two contents, or two trees: what format they have, and the look inside.

One table of formats; a format is one file with `detect` and `compare`, and one line here. What has no format,
or turns out to be broken, is compared as bytes. Nothing is written to disk; hostile input ends in a comment.

Example:
    >>> found = compare_bytes(b"one line\n", b"another line\n", name="a.txt")
    >>> found.kind, found.where
    ('text', 'line 1')
    >>> compare_bytes(b"same", b"same", name="a.txt") is None
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from pipeline.difference import (
    ar_archive,
    binary,
    bytecode,
    compressed,
    cpio_archive,
    diffoscope,
    elf,
    json_document,
    tar_archive,
    text_file,
    zip_archive,
)
from pipeline.difference.content import Content, first_difference
from pipeline.difference.look import Broken, Found, Look, OutOfTime
from pipeline.difference.model import DEFAULT_LABELS, DEFAULT_LIMITS, Cause, Difference, Limits
from pipeline.store import FolderStore, Store
from pipeline.tree import Tree, TreeEntry
from provenance.errors import UsageError

_HEAD_BYTES: Final = 4096
_DIFFOSCOPE_FILES: Final = 3  # of a tree: the first ones tell the story


class CannotCompare(UsageError):
    """A file that is to be compared cannot be read.

    Cure: check the path and the permissions.
    """

    code = "RVP-4051"


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One format: how to tell it, and how to look inside."""

    name: str
    detect: Callable[[bytes, str], bool]
    compare: Callable[[str, Content, Content, Look], Found]


FORMATS: Final = (
    Format(name="elf", detect=elf.detect, compare=elf.compare),
    Format(name="ar", detect=ar_archive.detect, compare=ar_archive.compare),
    Format(name="zip", detect=zip_archive.detect, compare=zip_archive.compare),
    Format(name="cpio", detect=cpio_archive.detect, compare=cpio_archive.compare),
    Format(name="gzip", detect=compressed.detect_gzip, compare=compressed.compare_gzip),
    Format(name="xz", detect=compressed.detect_xz, compare=compressed.compare_xz),
    Format(name="bzip2", detect=compressed.detect_bzip2, compare=compressed.compare_bzip2),
    Format(name="zstd", detect=compressed.detect_zstd, compare=compressed.compare_zstd),
    Format(name="bytecode", detect=bytecode.detect, compare=bytecode.compare),
    Format(name="tar", detect=tar_archive.detect, compare=tar_archive.compare),
    Format(name="json", detect=json_document.detect, compare=json_document.compare),
    Format(name="text", detect=text_file.detect, compare=text_file.compare),
)


def compare_files(
    left: Path,
    right: Path,
    *,
    name: str = "",
    limits: Limits = DEFAULT_LIMITS,
    labels: tuple[str, str] = DEFAULT_LABELS,
) -> Difference | None:
    """Compare two files; None when they are equal.

    Args:
        left: one file.
        right: the other.
        name: what to call them; the left one's name when empty.
        limits: how far to look.
        labels: what the sides are called.

    Raises:
        CannotCompare: RVP-4051.

    Cost: equal files are read once; constant memory, whatever the size.
    """
    name = name or left.name
    try:
        with left.open("rb") as one, right.open("rb") as other:
            found = compare_contents(Content(one), Content(other), name=name, limits=limits, labels=labels)
    except OSError as error:
        raise CannotCompare(
            f"cannot read the file: {error.strerror}", place=str(error.filename or name)
        ) from error
    if found and limits.diffoscope_s > 0:
        return diffoscope.add_report(found, left, right, timeout_s=limits.diffoscope_s)
    return found


def compare_bytes(
    left: bytes,
    right: bytes,
    *,
    name: str,
    limits: Limits = DEFAULT_LIMITS,
    labels: tuple[str, str] = DEFAULT_LABELS,
) -> Difference | None:
    """Compare bytes that are at hand; None when they are equal."""
    return compare_contents(Content(left), Content(right), name=name, limits=limits, labels=labels)


def compare_contents(
    left: Content, right: Content, *, name: str, limits: Limits, labels: tuple[str, str]
) -> Difference | None:
    """Compare two contents; None when they are equal."""
    return _compare(name, left, right, Look(_compare, limits=limits, labels=labels))


def _compare(path: str, left: Content, right: Content, look: Look) -> Difference | None:
    """Compare two contents at the depth where the look is."""
    try:
        if first_difference(left, right, tick=look.tick) is None:
            return None
    except OutOfTime:
        return Difference(path=path, kind="unknown", comments=("the time was over before this was compared",))
    comments: list[str] = []
    for kind in _kinds(path, left, right, look, comments):
        try:
            found = kind.compare(path, left, right, look)
        except (Broken, OutOfTime) as error:
            comments.append(str(error) or "the time limit ended the look here")
        except Exception as error:  # noqa: BLE001  hostile input: a look that fails is a comment, never a crash
            comments.append(f"the look inside this {kind.name} failed: {type(error).__name__}")
        else:
            if found.says_something:
                return _difference(path, kind.name, found, comments)
            comments.append(f"the {kind.name} structure is equal; the bytes differ elsewhere")
    try:
        found = binary.compare(path, left, right, look)
    except OutOfTime:
        found = Found(comments=("the time limit ended the look here",))
    return _difference(path, "binary", found, comments)


def _kinds(path: str, left: Content, right: Content, look: Look, comments: list[str]) -> Iterator[Format]:
    """Yield the formats that both sides have, and say when the sides have different ones."""
    heads = left.read(0, _HEAD_BYTES), right.read(0, _HEAD_BYTES)
    if look.depth >= look.limits.depth:
        comments.append(f"not looked into: {look.limits.depth} containers deep")
        return
    names = []
    for head, label in zip(heads, look.labels, strict=True):
        known = [kind.name for kind in FORMATS if kind.detect(head, path)]
        names.append(f"{label} is {known[0] if known else 'of no known format' if head else 'empty'}")
    for kind in FORMATS:
        if kind.detect(heads[0], path) and kind.detect(heads[1], path):
            yield kind
    if names[0].removeprefix(look.labels[0]) != names[1].removeprefix(look.labels[1]):
        comments.append(", ".join(names))


def _difference(path: str, kind: str, found: Found, comments: list[str]) -> Difference:
    return Difference(
        path=path,
        kind=kind,
        where=found.where,
        left=found.left,
        right=found.right,
        offset=found.offset,
        causes=found.causes,
        comments=(*comments, *found.comments),
        text=found.text,
        details=found.details,
    )


def compare_trees(
    left: Tree,
    right: Tree,
    store: Store,
    *,
    right_store: Store | None = None,
    limits: Limits = DEFAULT_LIMITS,
    labels: tuple[str, str] = DEFAULT_LABELS,
) -> tuple[Difference, ...]:
    """Compare two trees path by path; empty when they are equal.

    Args:
        left: one tree.
        right: the other.
        store: holds the content of the left tree, and of the right one unless `right_store` is given.
        right_store: holds the content of the right tree.
        limits: how far to look, for the whole tree.
        labels: what the sides are called.

    Raises:
        ObjectMissing: RVP-2101.
    """
    look = Look(_compare, limits=limits, labels=labels)
    stores = store, right_store or store
    ones = {entry.path: entry for entry in left.entries}
    others = {entry.path: entry for entry in right.entries}
    found: list[Difference] = []
    attached = 0
    for path in sorted(ones.keys() | others.keys()):
        one, other = ones.get(path), others.get(path)
        if one == other:
            continue
        difference = _compare_entries(path, one, other, stores, look)
        paths = [_path_in(place, entry) for place, entry in zip(stores, (one, other), strict=True)]
        if paths[0] and paths[1] and limits.diffoscope_s > 0 and attached < _DIFFOSCOPE_FILES:
            attached += 1
            difference = diffoscope.add_report(difference, paths[0], paths[1], timeout_s=limits.diffoscope_s)
        found.append(difference)
    return tuple(found)


def _compare_entries(
    path: str, one: TreeEntry | None, other: TreeEntry | None, stores: tuple[Store, Store], look: Look
) -> Difference:
    if one is None or other is None:
        return Difference(
            path=path,
            kind="missing" if other is None else "extra",
            left=_described(one),
            right=_described(other),
        )
    details: list[Difference] = []
    if one.kind != other.kind:
        details.append(Difference(path=path, kind="attribute", where="type", left=one.kind, right=other.kind))
    if one.target != other.target:
        details.append(
            Difference(path=path, kind="attribute", where="link target", left=one.target, right=other.target)
        )
    if one.executable != other.executable:
        words = ["executable" if entry.executable else "not executable" for entry in (one, other)]
        details.append(
            Difference(
                path=path,
                kind="attribute",
                where="executable bit",
                left=words[0],
                right=words[1],
                causes=(Cause.MODE,),
            )
        )
    inside = None
    if one.kind == other.kind == "file" and one.sha256 != other.sha256:
        with (
            stores[0].get(bytes.fromhex(one.sha256)) as first,
            stores[1].get(bytes.fromhex(other.sha256)) as second,
        ):
            inside = look.inside(path, Content(first), Content(second))
    if inside and not details:
        return inside
    if inside:
        details.append(inside)
    return Difference(path=path, kind="entry", details=tuple(details))


def _described(entry: TreeEntry | None) -> str:
    if entry is None:
        return "not there"
    return f"{entry.kind}, {entry.size_bytes} bytes" if entry.kind == "file" else entry.kind


def _path_in(store: Store, entry: TreeEntry | None) -> Path | None:
    """Return where an entry's content lies as a file, when it does."""
    if entry is None or entry.kind != "file" or not isinstance(store, FolderStore):
        return None
    return store.path_of(bytes.fromhex(entry.sha256))
