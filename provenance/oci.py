"""An OCI image layout, written deterministically: a folder or an uncompressed tar archive.

What is written depends on the content alone: canonical JSON, sorted names, no times, no owners.

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
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from provenance.canonical import canonical_json
from provenance.digest import CHUNK_BYTES, sha256
from provenance.errors import MachineRefused, SignatureFailure
from provenance.strict import NotReadable
from provenance.ustar import TooLarge, tar_chunks

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
TITLE: Final = "org.opencontainers.image.title"
_MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'


class NotALayout(SignatureFailure):
    """A file or folder is not an OCI image layout: a part is missing or malformed.

    Cure: get the bundle again; `rvp publish` writes a folder, or an uncompressed
    archive whose name ends in .tar.
    """

    code = "RVP-6201"


class DigestMismatch(SignatureFailure):
    """A blob is not the one that its descriptor names: another SHA-256 or another size.

    Cure: the blob was damaged or replaced: get the bundle again from its publisher.
    """

    code = "RVP-6204"


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
        for chunk in self.raw():
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

    def raw(self) -> Iterator[bytes]:
        """Stream the content unchecked."""
        if self.data is not None:
            yield self.data
        elif self.path is not None:
            left = self.size_bytes
            with open_regular(self.path) as stream:
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


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; a pipe or a device, which could be without end, is refused and not waited for.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotReadable(f"cannot read the file: {error.strerror}", place=str(path)) from error
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise NotReadable("not a regular file", place=str(path), hint="give a file or a folder")
    return stream


# ---- writing ---------------------------------------------------------------------------------------


def write_layout(path: Path, layout: Layout) -> None:
    """Write a layout, whole or not at all: an archive when the name ends in `.tar`, else a folder.

    What stood at the path is replaced when the new one is complete.

    Raises:
        MachineRefused: RVP-1004: the place cannot be written.
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
        raise MachineRefused(f"cannot write: {error.strerror}", place=str(path)) from error
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
