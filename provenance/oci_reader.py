"""Read an OCI image layout strictly: a folder or an uncompressed tar archive.

What is read: `oci-layout`, `index.json`, and the blobs that the index reaches; nothing else may be there.
Sizes are limited before anything is read, every blob's size and SHA-256 are checked, and nothing is ever
unpacked. A blob that is read later is hashed again on the way: a file that changed in between is refused.

Source: OCI image-spec v1.1, image-layout.md, manifest.md, image-index.md.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from provenance.digest import sha256
from provenance.errors import SignatureFailure, UsageError
from provenance.oci import (
    INDEX,
    MANIFEST,
    Blob,
    Descriptor,
    DigestMismatch,
    Layout,
    Manifest,
    NotALayout,
    open_regular,
)
from provenance.strict import NotReadable, read_json
from provenance.ustar import ClimbsOut, TooLarge, Truncated, tar_members

T = TypeVar("T")

_BLOB: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})\Z")
_FOLDERS: Final = ("blobs", "blobs/sha256")


class ExtraFile(SignatureFailure):
    """A layout has a file that its index does not reach: it is covered by no digest.

    Cure: remove it, or get the bundle again from its publisher.
    """

    code = "RVP-6203"


class MissingBlob(SignatureFailure):
    """An index or a manifest names a blob that the layout does not have.

    Cure: the copy is incomplete: get the bundle again.
    """

    code = "RVP-6207"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader accepts at most. Units: bytes, except `blobs`."""

    json_bytes: int = 16 << 20
    blob_bytes: int = 4 << 30
    total_bytes: int = 16 << 30
    blobs: int = 20_000


def read_layout(path: Path, limits: Limits | None = None) -> Layout:
    """Read a layout and check all of it.

    Args:
        path: a folder, or an uncompressed tar archive.
        limits: what is accepted at most.

    Raises:
        NotReadable: RVP-1010: nothing is there.
        SignatureFailure: RVP-6201 to RVP-6207.

    Cost: one pass over every blob, constant memory.
    """
    limits = limits or Limits()
    if not os.path.lexists(path):
        raise NotReadable("there is no such file or folder", place=str(path), hint="check the path")
    found = _members_of_folder(path, limits) if path.is_dir() else _members_of_tar(path, limits)
    name = str(path)
    for needed in ("oci-layout", "index.json"):
        if needed not in found:
            raise NotALayout(
                f"{needed} is missing",
                place=name,
                hint="an OCI image layout has oci-layout, index.json, blobs/",
            )
    place = f"{name}/oci-layout"
    marker = _document(_small(found["oci-layout"], 4096, place), _Marker, place, limits)
    if marker.version != "1.0.0":
        raise NotALayout(f"imageLayoutVersion is {marker.version!r}, not 1.0.0", place=place)
    blobs = {}
    for member, blob in found.items():
        if match := _BLOB.match(member):
            digest = bytes.fromhex(match[1])
            blobs[digest] = msgspec.structs.replace(blob, digest=digest)
    index = _small(found["index.json"], limits.json_bytes, f"{name}/index.json")
    return _walk(index, blobs, limits, name)


class _Marker(msgspec.Struct, frozen=True, kw_only=True):
    version: str = msgspec.field(name="imageLayoutVersion")


class _IndexDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX


class _ManifestDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST
    artifact_type: str = ""
    annotations: dict[str, str] = {}


def _walk(index: bytes, blobs: dict[bytes, Blob], limits: Limits, name: str) -> Layout:
    document = _document(index, _IndexDocument, f"{name}/index.json", limits)
    reached: dict[bytes, Blob] = {}
    manifests = []
    seen: set[bytes] = set()
    for described in document.manifests:
        if described.media_type != MANIFEST:
            raise NotALayout(f"{described.media_type!r} is not an image manifest", place=f"{name}/index.json")
        if described.sha256 in seen:  # each entry costs a reading
            raise NotALayout(f"the manifest {described.digest} stands twice", place=f"{name}/index.json")
        seen.add(described.sha256)
        blob = _reach(described, blobs, reached, name)
        place = f"{name}/blobs/sha256/{blob.digest.hex()}"
        manifest = _document(blob.read(limit_bytes=limits.json_bytes), _ManifestDocument, place, limits)
        _reach(manifest.config, blobs, reached, name)
        layers = tuple(_reach(layer, blobs, reached, name) for layer in manifest.layers)
        manifests.append(
            Manifest(
                artifact_type=manifest.artifact_type,
                layers=layers,
                annotations=manifest.annotations,
                digest=blob.digest,
            )
        )
    for digest in blobs:
        if digest not in reached:
            raise ExtraFile(
                f"blobs/sha256/{digest.hex()} is reached by nothing in the index",
                place=name,
                hint="remove it, or get the bundle again from its publisher",
            )
    return Layout(manifests=tuple(manifests), index=index, digest=sha256(index), blobs=reached)


def _document(data: bytes, type_: type[T], place: str, limits: Limits) -> T:
    try:
        return read_json(data, type_, name=place, limit_bytes=limits.json_bytes)
    except UsageError as error:
        raise NotALayout(error.message, place=place) from error


def _reach(described: Descriptor, blobs: dict[bytes, Blob], reached: dict[bytes, Blob], name: str) -> Blob:
    digest = described.sha256
    blob = blobs.get(digest)
    if blob is None:
        raise MissingBlob(
            f"the blob sha256:{digest.hex()} is missing", place=name, hint="get the bundle again"
        )
    if blob.size_bytes != described.size:
        raise DigestMismatch(
            f"expected {described.size} bytes\n     got {blob.size_bytes} bytes",
            place=f"{name}/blobs/sha256/{digest.hex()}",
            hint="the blob was damaged or replaced: get the bundle again from its publisher",
        )
    if digest not in reached:
        for _ in blob.chunks():
            pass
        reached[digest] = blob
    return msgspec.structs.replace(blob, media_type=described.media_type, annotations=described.annotations)


def _small(blob: Blob, limit_bytes: int, place: str) -> bytes:
    if blob.size_bytes > limit_bytes:
        raise TooLarge(f"the file has {blob.size_bytes} bytes, {limit_bytes} are allowed", place=place)
    return b"".join(blob.raw())  # its digest is not known yet: nothing names it


class _Budget:
    """Counts members and bytes, and refuses before reading."""

    def __init__(self, limits: Limits, name: str) -> None:
        self.limits, self.name = limits, name
        self.members = self.total_bytes = 0

    def spend(self, member: str, size_bytes: int) -> None:
        self.members += 1
        self.total_bytes += size_bytes
        allowed = self.limits.blob_bytes if _BLOB.match(member) else self.limits.json_bytes
        for what, got, limit in (
            ("bytes", size_bytes, allowed),
            ("bytes in all", self.total_bytes, self.limits.total_bytes),
            ("files", self.members, self.limits.blobs),
        ):
            if got > limit:
                raise TooLarge(
                    f"{member} has {got} bytes, {limit} are allowed"
                    if what == "bytes"
                    else f"{got} {what}, {limit} are allowed",
                    place=self.name,
                    hint="no honest bundle is that large; nothing of it was read",
                )


def _members_of_folder(path: Path, limits: Limits) -> dict[str, Blob]:
    found: dict[str, Blob] = {}
    budget = _Budget(limits, str(path))
    for folder, folders, files in os.walk(path, followlinks=False):
        for entry in sorted(folders + files):
            full = Path(folder, entry)
            member = full.relative_to(path).as_posix()
            if full.is_symlink():
                raise ClimbsOut(f"{member!r} is a link", place=str(path), hint="do not use this bundle")
            if full.is_dir():
                if member not in _FOLDERS:
                    raise ExtraFile(f"{member!r} does not belong to an OCI image layout", place=str(path))
                continue
            if not full.is_file():
                raise ExtraFile(f"{member!r} is not a regular file", place=str(path))
            _check_member(member, str(path))
            size_bytes = full.stat().st_size
            budget.spend(member, size_bytes)
            found[member] = Blob(digest=b"", size_bytes=size_bytes, path=full)
    return found


def _check_member(member: str, name: str) -> None:
    if member.startswith("/") or "\\" in member or ".." in member.split("/"):
        raise ClimbsOut(
            f"the member {member!r} leads out of the layout", place=name, hint="do not use this bundle"
        )
    if member not in {"oci-layout", "index.json"} and not _BLOB.match(member):
        raise ExtraFile(
            f"{member!r} does not belong to an OCI image layout",
            place=name,
            hint="remove it, or get the bundle again from its publisher",
        )


def _members_of_tar(path: Path, limits: Limits) -> dict[str, Blob]:
    found: dict[str, Blob] = {}
    name = str(path)
    budget = _Budget(limits, name)
    with open_regular(path) as stream:
        end = os.fstat(stream.fileno()).st_size
        for member, size_bytes, offset in tar_members(stream, end, name):
            _check_member(member, name)
            if member in found:
                raise ExtraFile(f"{member} stands twice in the archive", place=name)
            budget.spend(member, size_bytes)
            if offset + size_bytes > end:
                raise Truncated(
                    f"{member} should have {size_bytes} bytes, the archive ends after {max(end - offset, 0)}",
                    place=name,
                    hint="get the archive again and compare its size",
                )
            found[member] = Blob(digest=b"", size_bytes=size_bytes, path=path, offset=offset)
    return found
