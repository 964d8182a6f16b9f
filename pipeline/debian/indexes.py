"""Packages indexes: what a suite has, as the signed Release lists it.

Invariant: an index is parsed only after its SHA-256 and size were found to be the ones in the Release.

Source: Debian policy, chapter 5 (control fields); Debian repository format, "Packages" indices.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from pipeline.debian.release import NotInRelease, Release, ReleaseNotSigned
from provenance.errors import SignatureFailure

MAX_INDEX_BYTES: Final = 1 << 30
_WANTED: Final = frozenset(
    {
        "Package",
        "Version",
        "Architecture",
        "Essential",
        "Priority",
        "Multi-Arch",
        "Depends",
        "Pre-Depends",
        "Provides",
        "Conflicts",
        "Breaks",
        "Filename",
        "Size",
        "SHA256",
    }
)
_SUFFIXES: Final = (".xz", ".gz", ".bz2", "")


class IndexDamaged(SignatureFailure):
    """An index cannot be unpacked or parsed although its digest is right, or is larger than allowed.

    Cure: report it to whoever runs the archive.
    """

    code = "RVP-1407"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One binary package of an index. Relations are the text of the field.

    Attributes:
        archive: the archive's name in the spec; empty for Debian itself.
        suite: the suite as the spec writes it.
        path: where the file lies below the archive's root (`Filename`).
    """

    name: str
    version: str
    architecture: str
    archive: str
    suite: str
    path: str
    size_bytes: int
    sha256: bytes
    essential: bool = False
    priority: str = ""
    multi_arch: str = ""
    depends: str = ""
    pre_depends: str = ""
    provides: str = ""
    conflicts: str = ""
    breaks: str = ""


class IndexFile(msgspec.Struct, frozen=True):
    """Where an index lies below the suite's folder, and what it must be."""

    path: str
    fetch_path: str
    sha256: bytes
    size_bytes: int


def index_of(release: Release, component: str, kind: str, *, suite: str) -> IndexFile:
    """Choose the smallest form of an index that a Release lists.

    Args:
        release: whose signature was checked.
        component: `main`, for example; empty for an archive without components.
        kind: `binary-amd64/Packages` or `source/Sources`.
        suite: for the error alone.

    Raises:
        NotInRelease: RVP-1406.
    """
    stem = f"{component}/{kind}" if component else kind.rpartition("/")[2]
    for suffix in _SUFFIXES:
        entry = release.files.get(stem + suffix)
        if entry is None:
            continue
        path = stem + suffix
        folder = path.rpartition("/")[0]
        by_hash = f"{folder}/by-hash/SHA256/{entry.sha256.hex()}".lstrip("/")
        return IndexFile(path, by_hash if release.by_hash else path, entry.sha256, entry.size_bytes)
    raise NotInRelease(
        f'the suite "{suite}" lists no {stem}',
        hint=f"it has the components {' '.join(release.components)} "
        f"and the architectures {' '.join(release.architectures)}",
    )


def unpack_index(data: bytes, path: str, *, limit_bytes: int = MAX_INDEX_BYTES) -> bytes:
    """Decompress an index by the name it has in the Release.

    Raises:
        IndexDamaged: RVP-1407.
    """
    try:
        if path.endswith(".xz"):
            reader = lzma.LZMADecompressor()
            plain = reader.decompress(data, limit_bytes + 1)
        elif path.endswith(".gz"):
            plain = zlib.decompressobj(31).decompress(data, limit_bytes + 1)
        elif path.endswith(".bz2"):
            plain = bz2.BZ2Decompressor().decompress(data, limit_bytes + 1)
        else:
            plain = data
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise IndexDamaged(f"the index cannot be unpacked: {error}", place=path) from error
    if len(plain) > limit_bytes:
        raise IndexDamaged(f"the index has more than {limit_bytes} bytes", place=path)
    return plain


def parse_packages(text: bytes, *, archive: str = "", suite: str = "", place: str = "") -> Iterator[Package]:
    """Parse a Packages index, one paragraph at a time.

    Raises:
        IndexDamaged: RVP-1407 for a paragraph without name, version, file name, size or SHA-256.

    Cost: about a second for the 60,000 packages of a Debian release.
    """
    for fields in paragraphs(text, _WANTED):
        try:
            yield Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                archive=archive,
                suite=suite,
                path=_safe_path(fields["Filename"], place),
                size_bytes=int(fields["Size"]),
                sha256=bytes.fromhex(fields["SHA256"]),
                essential=fields.get("Essential") == "yes",
                priority=fields.get("Priority", ""),
                multi_arch=fields.get("Multi-Arch", ""),
                depends=fields.get("Depends", ""),
                pre_depends=fields.get("Pre-Depends", ""),
                provides=fields.get("Provides", ""),
                conflicts=fields.get("Conflicts", ""),
                breaks=fields.get("Breaks", ""),
            )
        except (KeyError, ValueError) as error:
            name = fields.get("Package", "?")
            raise IndexDamaged(
                f'the paragraph of "{name}" is not complete: {error!s}', place=place
            ) from error


def paragraphs(text: bytes, wanted: frozenset[str]) -> Iterator[dict[str, str]]:
    """Split control data into paragraphs, keeping the wanted fields; continuation lines stay lines."""
    start, end = 0, len(text)
    while start < end:
        stop = text.find(b"\n\n", start)
        stop = end if stop < 0 else stop
        fields: dict[str, str] = {}
        key = ""
        for line in text[start:stop].decode("utf-8", "replace").split("\n"):
            if line[:1] in {" ", "\t"}:
                if key:
                    fields[key] += "\n" + line.strip()
                continue
            name, _, value = line.partition(":")
            key = name if name in wanted else ""
            if key:
                fields[key] = value.strip()
        if fields:
            yield fields
        start = stop + 2
        while text.startswith(b"\n", start):
            start += 1


def _safe_path(path: str, place: str) -> str:
    path = path.removeprefix("./")
    if path.startswith("/") or ".." in path.split("/") or not re.fullmatch(r"[\x21-\x7e]+", path):
        raise ReleaseNotSigned(f'the index names the path "{path}", which climbs out', place=place)
    return path
