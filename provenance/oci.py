"""An OCI image layout, read strictly and written deterministically: a folder or an uncompressed tar archive.

What is read: `oci-layout`, `index.json`, and the blobs that the index reaches; nothing else may be there.
Sizes are limited before anything is read, every blob's size and SHA-256 are checked, and nothing is ever
unpacked. What is written depends on the content alone: canonical JSON, sorted names, no times, no owners.

Source: OCI image-spec v1.1, image-layout.md, manifest.md, image-index.md; POSIX.1-1990 ustar.

Example:
    >>> blob = blob_of(b"{}", "application/json")
    >>> layout = layout_of([note := Manifest(artifact_type="application/x-note", layers=(blob,))])
    >>> layout.digest == layout_of([note, note]).digest
    True
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from provenance.canonical import canonical_json
from provenance.digest import CHUNK_BYTES, sha256
from provenance.errors import SignatureFailure, UsageError
from provenance.strict import NotReadable, read_json
from provenance.ustar import ClimbsOut, TooLarge, Truncated, tar_chunks, tar_members

T = TypeVar("T")

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
TITLE: Final = "org.opencontainers.image.title"
_MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'
_BLOB: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})\Z")
_FOLDERS: Final = ("blobs", "blobs/sha256")


class NotALayout(SignatureFailure):
    """A file or folder is not an OCI image layout: a part is missing or malformed.

    Cure: get the bundle again; `rvp publish` writes a folder, or an uncompressed
    archive whose name ends in .tar.
    """

    code = "RVP-6201"


class ExtraFile(SignatureFailure):
    """A layout has a file that its index does not reach: it is covered by no digest.

    Cure: remove it, or get the bundle again from its publisher.
    """

    code = "RVP-6203"


class DigestMismatch(SignatureFailure):
    """A blob is not the one that its descriptor names: another SHA-256 or another size.

    Cure: the blob was damaged or replaced: get the bundle again from its publisher.
    """

    code = "RVP-6204"


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


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A reference to a blob. Unknown members are ignored, as the OCI specification asks."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}

    @property
    def sha256(self) -> bytes:
        """The digest as bytes.

        Raises:
            NotALayout: RVP-6201: it is not `sha256:` and 64 lowercase hex digits.
        """
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.digest):
            raise NotALayout(f"{self.digest!r} is not sha256: and 64 hex digits")
        return bytes.fromhex(self.digest[7:])


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob at hand: its bytes, or the file that has them from `offset` on."""

    media_type: str = ""
    digest: bytes
    size_bytes: int
    annotations: dict[str, str] = {}
    data: bytes | None = None
    path: Path | None = None
    offset: int = 0

    def chunks(self) -> Iterator[bytes]:
        """Stream the content; it is hashed on the way.

        Raises:
            DigestMismatch: RVP-6204, at the end of the stream.
        """
        running = hashlib.sha256()
        for chunk in self._raw():
            running.update(chunk)
            yield chunk
        if running.digest() != self.digest:
            raise DigestMismatch(
                f"expected sha256:{self.digest.hex()}\n     got sha256:{running.hexdigest()}",
                place=f"blobs/sha256/{self.digest.hex()}",
                hint="the blob was damaged or replaced: get it again from its publisher",
            )

    def read(self, *, limit_bytes: int) -> bytes:
        """Return the content whole.

        Raises:
            TooLarge: RVP-6206. DigestMismatch: RVP-6204.
        """
        if self.size_bytes > limit_bytes:
            raise TooLarge(
                f"the blob has {self.size_bytes} bytes, {limit_bytes} are allowed",
                place=f"blobs/sha256/{self.digest.hex()}",
            )
        return b"".join(self.chunks())

    def _raw(self) -> Iterator[bytes]:
        if self.data is not None:
            yield self.data
        elif self.path is not None:
            left = self.size_bytes
            with _open(self.path) as stream:
                stream.seek(self.offset)
                while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                    left -= len(chunk)
                    yield chunk


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact of a layout: its type, annotations and layers."""

    artifact_type: str
    layers: tuple[Blob, ...]
    annotations: dict[str, str] = {}
    digest: bytes = b""  # set by the reader and by `layout_of`


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A whole layout. `digest` is the SHA-256 of `index.json`: it covers everything."""

    manifests: tuple[Manifest, ...]
    index: bytes
    digest: bytes
    blobs: dict[bytes, Blob]


def blob_of(data: bytes, media_type: str, **annotations: str) -> Blob:
    """Make a blob of bytes; the keyword `title` becomes the OCI title annotation."""
    named = {TITLE if key == "title" else key: value for key, value in annotations.items()}
    return Blob(
        media_type=media_type, digest=sha256(data), size_bytes=len(data), annotations=named, data=data
    )


def layout_of(manifests: Iterable[Manifest]) -> Layout:
    """Put artifacts together in their one order: by type, annotations and digest; equal ones once."""
    blobs: dict[bytes, Blob] = {}
    found: dict[bytes, tuple[Manifest, dict[str, object]]] = {}
    empty = blob_of(b"{}", EMPTY)
    for manifest in manifests:
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": manifest.artifact_type,
            "config": _describe(empty),
            "layers": [_describe(layer) for layer in manifest.layers],
            **({"annotations": manifest.annotations} if manifest.annotations else {}),
        }
        blob = blob_of(canonical_json(document), MANIFEST)
        for part in (*manifest.layers, empty, blob):
            blobs.setdefault(part.digest, part)
        described = _describe(blob) | {"artifactType": manifest.artifact_type}
        if manifest.annotations:
            described["annotations"] = manifest.annotations
        found[blob.digest] = (msgspec.structs.replace(manifest, digest=blob.digest), described)
    ordered = sorted(
        found.values(),
        key=lambda pair: (pair[0].artifact_type, canonical_json(pair[0].annotations), pair[0].digest),
    )
    index = canonical_json(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [described for _, described in ordered]}
    )
    return Layout(
        manifests=tuple(manifest for manifest, _ in ordered), index=index, digest=sha256(index), blobs=blobs
    )


def _describe(blob: Blob) -> dict[str, object]:
    described: dict[str, object] = {
        "mediaType": blob.media_type,
        "digest": f"sha256:{blob.digest.hex()}",
        "size": blob.size_bytes,
    }
    return described | ({"annotations": blob.annotations} if blob.annotations else {})


# ---- reading ---------------------------------------------------------------------------------------


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
    for described in document.manifests:
        if described.media_type != MANIFEST:
            raise NotALayout(f"{described.media_type!r} is not an image manifest", place=f"{name}/index.json")
        blob = _reach(described, blobs, reached, limits, name)
        place = f"{name}/blobs/sha256/{blob.digest.hex()}"
        manifest = _document(blob.read(limit_bytes=limits.json_bytes), _ManifestDocument, place, limits)
        _reach(manifest.config, blobs, reached, limits, name)
        layers = tuple(_reach(layer, blobs, reached, limits, name) for layer in manifest.layers)
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


def _reach(
    described: Descriptor, blobs: dict[bytes, Blob], reached: dict[bytes, Blob], limits: Limits, name: str
) -> Blob:
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
    del limits
    return msgspec.structs.replace(blob, media_type=described.media_type, annotations=described.annotations)


def _small(blob: Blob, limit_bytes: int, place: str) -> bytes:
    if blob.size_bytes > limit_bytes:
        raise TooLarge(f"the file has {blob.size_bytes} bytes, {limit_bytes} are allowed", place=place)
    return b"".join(blob._raw())  # noqa: SLF001  its digest is not known yet: nothing names it


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise NotReadable(f"cannot read the file: {error.strerror}", place=str(path)) from error


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
                raise ClimbsOut(f"{member} is a link", place=str(path), hint="do not use this bundle")
            if full.is_dir():
                if member not in _FOLDERS:
                    raise ExtraFile(f"{member} does not belong to an OCI image layout", place=str(path))
                continue
            if not full.is_file():
                raise ExtraFile(f"{member} is not a regular file", place=str(path))
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
    with _open(path) as stream:
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


# ---- writing ---------------------------------------------------------------------------------------


def write_layout(path: Path, layout: Layout) -> None:
    """Write a layout, whole or not at all: an archive when the name ends in `.tar`, else a folder.

    What stood at the path is replaced when the new one is complete.

    Raises:
        NotReadable: RVP-1010: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            with temporary.open("xb") as stream:
                for chunk in layout_chunks(layout):
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            return
        _write_folder(temporary, layout)
        if path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise NotReadable(
            f"cannot write: {error.strerror}", place=str(path), hint="check the folder"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_folder(folder: Path, layout: Layout) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for member, _, chunks in _files(layout):
        with (folder / member).open("xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())


def layout_chunks(layout: Layout) -> Iterator[bytes]:
    """Write a layout as an uncompressed tar archive, piece by piece. Cost: constant memory."""
    yield from tar_chunks(_files(layout))


def _files(layout: Layout) -> Iterator[tuple[str, int, Iterable[bytes]]]:
    yield "oci-layout", len(_MARKER), (_MARKER,)
    yield "index.json", len(layout.index), (layout.index,)
    for digest in sorted(layout.blobs):
        blob = layout.blobs[digest]
        yield f"blobs/sha256/{digest.hex()}", blob.size_bytes, blob.chunks()
