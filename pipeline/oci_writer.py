"""Write a container image deterministically: an OCI image layout as a folder or as a tar archive.

The bytes depend on the files, their paths and executable bits, the configuration and the epoch, on nothing
else. Layers are *uncompressed* tars: what a compressor makes of the same bytes differs between its versions,
and the manifest digest, which verifiers pin, would differ with it. A registry may compress on its own; the
configuration digest and the diff ids stay. Members are sorted, owned by 0:0, 0644 or 0755, dated with the
epoch.

An archive also has the `manifest.json` that `docker load` reads; its paths point into the same blobs.

Content is streamed twice (to hash, to write) and never held: a 2 GiB file costs no memory.

Source: OCI image-spec v1.1 (layout, manifest, config, layer); docker's `manifest.json` (docker save).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

import msgspec

from pipeline.store import Store
from pipeline.tree import Tree
from provenance.canonical import canonical_json
from provenance.digest import chunks_of
from provenance.errors import SpecError

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
REF_NAME: Final = "org.opencontainers.image.ref.name"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_BLOCK: Final = 512
_RECORD: Final = 10240

Opener = Callable[[], BinaryIO]


class CannotWriteImage(SpecError):
    """An image cannot be written: a path is not absolute and normalised, stands twice, or its file changed.

    Cure: name files in an image by absolute paths such as /usr/bin/tool, each once.
    """

    code = "RVP-5103"


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or a link in an image.

    Attributes:
        path: absolute, `/usr/bin/tool`.
        size_bytes: of a file.
        open: gives its content; called twice.
        executable: 0755 or 0644.
        target: of a symbolic link; then there is no content.
    """

    path: str
    size_bytes: int = 0
    open: Opener | None = None
    executable: bool = False
    target: str = ""


class BaseLayer(msgspec.Struct, frozen=True, kw_only=True):
    """An uncompressed tar to put below: a root filesystem.

    Attributes:
        sha256: its digest, which is checked while it is copied.
        size_bytes: its size.
        open: gives its content; called once.
    """

    sha256: bytes
    size_bytes: int
    open: Opener


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the image runs."""

    architecture: str = "amd64"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    user: str = ""
    working_directory: str = ""
    annotations: dict[str, str] = {}
    reference: str = ""  # name:tag under which engines load it


class WrittenImage(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: the digests that a verifier pins."""

    manifest: bytes
    config: bytes
    diff_ids: tuple[bytes, ...]


def file_at(path: str, source: Path) -> ImageFile:
    """Put a file of this machine into an image."""
    status = source.stat()
    return ImageFile(
        path=path,
        size_bytes=status.st_size,
        open=lambda: source.open("rb"),
        executable=bool(status.st_mode & 0o111),
    )


def files_of_tree(tree: Tree, store: Store, prefix: str) -> tuple[ImageFile, ...]:
    """Put a tree into an image, below a path."""
    found = []
    for entry in tree.entries:
        path = f"{prefix.rstrip('/')}/{entry.path}"
        if entry.kind == "symlink":
            found.append(ImageFile(path=path, target=entry.target))
        elif entry.kind == "file":
            found.append(
                file_of_store(path, store, entry.sha256, entry.size_bytes, executable=entry.executable)
            )
    return tuple(found)


def file_of_store(path: str, store: Store, sha256: str, size_bytes: int, *, executable: bool) -> ImageFile:
    """Put an object of the store into an image."""
    digest = bytes.fromhex(sha256)
    return ImageFile(path=path, size_bytes=size_bytes, open=lambda: store.get(digest), executable=executable)


class _Blob(msgspec.Struct, frozen=True):
    """A blob to write: its digest and size are known, its bytes come when they are asked for."""

    media_type: str
    sha256: bytes
    size_bytes: int
    chunks: Callable[[], Iterable[bytes]]

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256.hex()}"

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


def write_image(
    output: Path,
    files: Sequence[ImageFile],
    config: ImageConfig,
    *,
    epoch: int,
    base: BaseLayer | None = None,
    archive: bool | None = None,
) -> WrittenImage:
    """Write an image whole, or nothing.

    Args:
        output: the archive, or a folder that does not exist yet.
        files: what the image holds, in any order.
        config: how it runs.
        epoch: SOURCE_DATE_EPOCH: creation time, and modification time of everything.
        base: the layer below, if any.
        archive: a tar archive (default when the name ends in .tar) or a folder.

    Raises:
        CannotWriteImage: RVP-5103.

    Cost: two passes over the files, one over the base; constant memory.
    """
    ordered = _ordered(files)
    blobs: list[_Blob] = []
    if base is not None:
        blobs.append(_Blob(LAYER, base.sha256, base.size_bytes, lambda: _closing(base.open())))
    if ordered or base is None:
        blobs.append(_layer(ordered, epoch, with_folders=base is None))
    layers = tuple(blobs)
    described = _config_of(config, layers, epoch)
    manifest = _json_blob(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
            **({"annotations": config.annotations} if config.annotations else {}),
        },
    )
    _, _, tag = config.reference.rpartition(":")
    entry = {
        **manifest.descriptor(),
        "platform": {"architecture": config.architecture, "os": "linux"},
        **({"annotations": {REF_NAME: tag}} if tag else {}),
    }
    index = canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    for_docker = canonical_json(
        [
            {
                "Config": _place(described),
                "RepoTags": [config.reference] if config.reference else None,
                "Layers": [_place(layer) for layer in layers],
            }
        ]
    )
    named = {_place(blob): blob for blob in (*layers, described, manifest)}
    members: list[tuple[str, int, Callable[[], Iterable[bytes]]]] = [
        (name, blob.size_bytes, _checked(blob)) for name, blob in sorted(named.items())
    ]
    for name, data in (("index.json", index), ("manifest.json", for_docker), ("oci-layout", _LAYOUT)):
        members.append((name, len(data), lambda data=data: (data,)))  # type: ignore[misc]  # mypy and defaults
    if archive if archive is not None else output.suffix == ".tar":
        _write_archive(output, members, epoch)
    else:
        _write_folder(output, members)
    return WrittenImage(
        manifest=manifest.sha256, config=described.sha256, diff_ids=tuple(layer.sha256 for layer in layers)
    )


def _ordered(files: Sequence[ImageFile]) -> list[ImageFile]:
    seen: set[str] = set()
    for file in files:
        if (
            not file.path.startswith("/")
            or file.path != str(PurePosixPath(file.path))
            or ".." in file.path.split("/")
            or file.path == "/"
            or "\0" in file.path
        ):
            raise CannotWriteImage(f'"{file.path}" is not an absolute, normalised path')
        if file.path in seen:
            raise CannotWriteImage(f'"{file.path}" stands twice in one image')
        seen.add(file.path)
    for file in files:
        for parent in PurePosixPath(file.path).parents:
            if str(parent) in seen:
                raise CannotWriteImage(f'"{file.path}" lies below "{parent}", which is a file')
    return sorted(files, key=lambda file: file.path)


def _json_blob(media_type: str, document: Any) -> _Blob:
    data = canonical_json(document)
    return _Blob(media_type, hashlib.sha256(data).digest(), len(data), lambda: (data,))


def _config_of(config: ImageConfig, layers: tuple[_Blob, ...], epoch: int) -> _Blob:
    created = dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "Env": [f"{key}={value}" for key, value in sorted(config.environment.items())],
        "Labels": dict(config.labels),
        "User": config.user,
        "WorkingDir": config.working_directory,
    }
    return _json_blob(
        CONFIG,
        {
            "architecture": config.architecture,
            "os": "linux",
            "created": created,
            "config": {key: value for key, value in run.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": created, "created_by": "rvp"} for _ in layers],
        },
    )


def _place(blob: _Blob) -> str:
    return f"blobs/sha256/{blob.sha256.hex()}"


def _layer(files: list[ImageFile], epoch: int, *, with_folders: bool) -> _Blob:
    """Hash the layer once; it is made again when it is written.

    Folders are members only where nothing lies below: over a base, an entry for `/bin` would replace the
    link that /bin is there.
    """

    def chunks() -> Iterator[bytes]:
        return _tar(files, epoch, with_folders=with_folders)

    hashing, size = hashlib.sha256(), 0
    for chunk in chunks():
        hashing.update(chunk)
        size += len(chunk)
    return _Blob(LAYER, hashing.digest(), size, chunks)


def _tar(files: list[ImageFile], epoch: int, *, with_folders: bool) -> Iterator[bytes]:
    total = 0
    made: set[str] = set()
    for file in files:
        if with_folders:
            for parent in reversed(PurePosixPath(file.path).parents):
                name = str(parent).lstrip("/")
                if name and name not in made:
                    made.add(name)
                    header = tar_header(f"{name}/", 0, 0o755, epoch, kind=tarfile.DIRTYPE)
                    total += len(header)
                    yield header
        if file.target:
            header = tar_header(
                file.path.lstrip("/"), 0, 0o777, epoch, kind=tarfile.SYMTYPE, target=file.target
            )
        else:
            mode = 0o755 if file.executable else 0o644
            header = tar_header(file.path.lstrip("/"), file.size_bytes, mode, epoch)
        yield header
        total += len(header)
        if file.open is not None and not file.target:
            for chunk in _exactly(file.open(), file.size_bytes, file.path):
                yield chunk
                total += len(chunk)
    yield bytes(_padding(total, 2 * _BLOCK))


def _padding(total: int, least: int) -> int:
    return least + -(total + least) % _RECORD


def _exactly(stream: BinaryIO, size_bytes: int, name: str) -> Iterator[bytes]:
    got = 0
    for chunk in _closing(stream):
        got += len(chunk)
        if got > size_bytes:
            break
        yield chunk
    if got != size_bytes:
        raise CannotWriteImage(f'"{name}" has other than {size_bytes} bytes now: it changed')
    if got % _BLOCK:
        yield bytes(-got % _BLOCK)


def _closing(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        yield from chunks_of(stream)


def _checked(blob: _Blob) -> Callable[[], Iterator[bytes]]:
    """Stream a blob and make sure that it is the one that was announced."""

    def chunks() -> Iterator[bytes]:
        hashing, size = hashlib.sha256(), 0
        for chunk in blob.chunks():
            hashing.update(chunk)
            size += len(chunk)
            if size > blob.size_bytes:
                break
            yield chunk
        if size != blob.size_bytes or hashing.digest() != blob.sha256:
            raise CannotWriteImage(f"{blob.digest} changed while it was written")

    return chunks


def tar_header(
    name: str, size_bytes: int, mode: int, epoch: int, *, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> bytes:
    """Write the header of a member: ustar, with a pax record only where ustar cannot say it."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size_bytes, mode, epoch
    member.type, member.linkname = kind, target
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _write_archive(
    output: Path, members: list[tuple[str, int, Callable[[], Iterable[bytes]]]], epoch: int
) -> None:
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as stream:
            for folder in ("blobs/", "blobs/sha256/"):
                stream.write(tar_header(folder, 0, 0o755, epoch, kind=tarfile.DIRTYPE))
            for name, size, chunks in members:
                stream.write(tar_header(name, size, 0o644, epoch))
                for chunk in chunks():
                    stream.write(chunk)
                stream.write(bytes(-size % _BLOCK))
            stream.write(bytes(_padding(stream.tell(), 2 * _BLOCK)))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _write_folder(output: Path, members: list[tuple[str, int, Callable[[], Iterable[bytes]]]]) -> None:
    if output.exists():
        raise CannotWriteImage("the folder exists already", place=str(output), hint="remove it first")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        (temporary / "blobs" / "sha256").mkdir(parents=True)
        for name, _, chunks in members:
            with (temporary / name).open("xb") as stream:
                for chunk in chunks():
                    stream.write(chunk)
        temporary.replace(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
