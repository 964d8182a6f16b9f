"""A base that is a container image, pinned by digest.

From a registry (`debian:12`): the engine pulls it; the lock has the digest of its manifest and its layers'
diff ids, and the root filesystem's digest is over the list of these diff ids, which the engine must repeat.
From a file (`oci:path@sha256:…`, an OCI image layout, folder or tar): the layers are laid over each other
into one canonical tar, without an engine.

Source: OCI image specification 1.1: image layout, manifest, config, layer (whiteouts).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import posixpath
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from pipeline.base_tar import decompressed
from pipeline.debian.rootfs import Image, Node, NotUnpackable
from pipeline.store import Store
from pipeline.tar_header import BoundedHeader
from provenance.canonical import canonical_json
from provenance.digest import CHUNK_BYTES, chunks_of, sha256
from provenance.errors import RvpError, SignatureFailure, SpecError
from provenance.strict import parse_json

if TYPE_CHECKING:
    from pipeline.engine import Engine

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_MANIFEST_BYTES: Final = 8 << 20
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class ImageNotPinned(SpecError):
    """A base names an image by a tag only, so that another image could come tomorrow.

    Cure: run `rvp lock`, which pins the digest; for a file write `oci:PATH@sha256:…`.
    """

    code = "RVP-1441"


class ImageAbsent(SpecError):
    """The image of a base cannot be found: not in the engine, not in its registry, not in the file.

    Cure: check the name and the digest; an image of a registry needs an engine that reaches it.
    """

    code = "RVP-1442"


class ImageDiffers(SignatureFailure):
    """The bytes of an image are not the ones that the lock pins.

    Cure: check where the image came from; `rvp lock --upgrade` pins another one.
    """

    code = "RVP-1443"


def is_layout(reference: str) -> bool:
    """Tell whether a reference is a file: `oci:PATH@sha256:…`."""
    return reference.startswith("oci:")


def split_reference(reference: str) -> tuple[str, str]:
    """Split a reference into what it names and its digest (`sha256:…`); the digest may be empty.

    Raises:
        ImageNotPinned: RVP-1441 for a digest of another form.

    Example:
        >>> split_reference("registry.example/a:1@sha256:" + "0" * 64)[0]
        'registry.example/a:1'
    """
    name, _, digest = reference.partition("@")
    if digest and not _DIGEST.match(digest):
        raise ImageNotPinned(f'"{digest}" is no digest of the form sha256:<64 hex digits>', place=reference)
    return name, digest


def without_host(name: str) -> str:
    """Drop a registry's host, and the tag, from an image's name.

    Example:
        >>> without_host("registry.example:5000/team/a:1"), without_host("debian:12")
        ('team/a', 'debian')
    """
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        name = rest
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def diff_id_digest(diff_ids: tuple[str, ...]) -> bytes:
    """Digest the list of layers: the digest of the root filesystem of an image."""
    return sha256(canonical_json(list(diff_ids)))


def lock_image(reference: str, engine: Engine) -> tuple[str, tuple[str, ...]]:
    """Resolve an image through the engine.

    Returns:
        `name@sha256:…` without a host, and the diff ids of its layers.

    Raises:
        ImageAbsent: RVP-1442. EngineRefused, EngineGone: RVP-20xx.
    """
    name, digest = split_reference(reference)
    pullable = f"{_untagged(name)}@{digest}" if digest else name
    attributes = _pull(pullable, engine)
    if not digest:
        known = [
            one for one in attributes.get("RepoDigests") or () if one.partition("@")[0] == _untagged(name)
        ]
        digest = (known or attributes.get("RepoDigests") or ["@"])[0].partition("@")[2]
    if not digest:
        raise ImageAbsent(
            f'the image "{name}" has no digest: it was not pulled from a registry',
            hint="push it to a registry, or save it as an OCI layout and name it oci:PATH@sha256:…",
        )
    return f"{without_host(name)}@{digest}", _diff_ids(attributes)


def pull_image(pinned: str, diff_ids: tuple[str, ...], engine: Engine, *, reference: str = "") -> str:
    """Have the engine pull a pinned image; return the reference to run.

    Args:
        pinned: `name@sha256:…` of the lock.
        diff_ids: of the lock.
        engine: that runs it.
        reference: what the spec says, for the registry's host.

    Raises:
        ImageNotPinned: RVP-1441. ImageAbsent: RVP-1442. ImageDiffers: RVP-1443.
    """
    name, digest = split_reference(pinned)
    if not digest:
        raise ImageNotPinned(
            f'the base "{pinned}" is a tag only', hint="run `rvp lock`, which pins the digest"
        )
    pullable = f"{_untagged(reference.partition('@')[0]) if reference else name}@{digest}"
    found = _diff_ids(_pull(pullable, engine))
    if found != diff_ids:
        raise ImageDiffers(
            f"{pullable}: expected the layers {' '.join(diff_ids)}, the engine has {' '.join(found)}"
        )
    return pullable


def _untagged(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def _pull(reference: str, engine: Engine) -> dict[str, Any]:
    """Find an image in the engine, or pull it; return its attributes."""
    import docker.errors

    with engine.speaking(f"pull {reference}"):
        try:
            return dict(engine.client.images.get(reference).attrs)
        except docker.errors.ImageNotFound:
            pass
        try:
            repository, at, digest = reference.partition("@")
            if at:
                return dict(engine.client.images.pull(repository, tag=digest).attrs)
            return dict(engine.client.images.pull(reference).attrs)
        except (docker.errors.NotFound, docker.errors.APIError) as error:
            raise ImageAbsent(
                f'the engine cannot get the image "{reference}": {error.explanation or error}',
                hint="check the name, and that the engine reaches the registry",
            ) from error


def _diff_ids(attributes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(attributes.get("RootFS", {}).get("Layers") or ())


def lock_layout(reference: str, folder: Path, architecture: str) -> tuple[str, ...]:
    """Read the diff ids of an image in a layout.

    Raises:
        ImageNotPinned: RVP-1441. ImageAbsent: RVP-1442. ImageDiffers: RVP-1443.
    """
    with _layout(reference, folder) as (layout, digest):
        _, diff_ids = layout.layers(digest, architecture)
    return diff_ids


def flatten_layout(
    reference: str, folder: Path, architecture: str, diff_ids: tuple[str, ...], store: Store
) -> bytes:
    """Lay the layers of an image over each other into one canonical tar in the store.

    Returns:
        The SHA-256 of the tar.

    Raises:
        ImageNotPinned: RVP-1441. ImageAbsent: RVP-1442. ImageDiffers: RVP-1443. NotUnpackable: RVP-1432.
    """
    with _layout(reference, folder) as (layout, digest), tempfile.TemporaryFile() as spool:
        layers, found = layout.layers(digest, architecture)
        if found != diff_ids:
            raise ImageDiffers(f"{reference}: its layers are not the locked ones")
        image = Image(spool, aliases={})
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            with layout.blob(layer) as blob, decompressed(blob, place=layer) as plain:
                watched = _Hashing(plain)
                _add_layer(image, watched, place=layer)
                watched.drain()
            if watched.digest != diff_id:
                raise ImageDiffers(f"layer {layer}: expected diff id {diff_id}, got {watched.digest}")
        return store.put(image.tar())[0]


@contextlib.contextmanager
def _layout(reference: str, folder: Path) -> Iterator[tuple[_Layout, str]]:
    name, digest = split_reference(reference)
    path = folder / name.removeprefix("oci:")
    if not digest:
        raise ImageNotPinned(f'"{reference}" has no digest', hint="write oci:PATH@sha256:…")
    if not path.exists():
        raise ImageAbsent("the OCI layout is not there", place=str(path))
    with contextlib.ExitStack() as stack:
        try:
            archive = (
                stack.enter_context(tarfile.open(path, tarinfo=BoundedHeader)) if path.is_file() else None
            )
            yield _Layout(path, archive), digest
        except tarfile.TarError as error:
            raise ImageAbsent(f"the OCI layout cannot be read: {error}", place=str(path)) from error


class _Layout:
    """An OCI image layout, folder or tar; every blob is checked against its digest before it is used."""

    def __init__(self, path: Path, archive: tarfile.TarFile | None) -> None:
        self._path, self._archive = path, archive
        self._checked: set[str] = set()

    @contextlib.contextmanager
    def blob(self, digest: str) -> Iterator[BinaryIO]:
        if not _DIGEST.match(digest):
            raise ImageDiffers(f'"{digest}" is no digest', place=str(self._path))
        if digest not in self._checked:
            with self._open(digest) as stream:
                hashing = hashlib.sha256()
                for chunk in chunks_of(stream):
                    hashing.update(chunk)
            if f"sha256:{hashing.hexdigest()}" != digest:
                raise ImageDiffers(
                    f"expected blob {digest}, got sha256:{hashing.hexdigest()}", place=str(self._path)
                )
            self._checked.add(digest)
        with self._open(digest) as stream:
            yield stream

    @contextlib.contextmanager
    def _open(self, digest: str) -> Iterator[BinaryIO]:
        name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
        stream: IO[bytes] | None = None
        if self._archive is None:
            with contextlib.suppress(OSError):
                stream = (self._path / name).open("rb")
        else:
            for choice in (name, f"./{name}"):
                with contextlib.suppress(KeyError):
                    stream = self._archive.extractfile(choice)
        if stream is None:
            raise ImageAbsent(f"the layout has no blob {digest}", place=str(self._path))
        with stream:
            yield cast("BinaryIO", stream)

    def layers(self, digest: str, architecture: str) -> tuple[list[str], tuple[str, ...]]:
        """Follow index, manifest and config to the layers and their diff ids."""
        document = self._json(digest)
        for _ in range(4):
            if document.get("mediaType") not in _INDEXES and "manifests" not in document:
                break
            document = self._json(_choose(document, architecture, digest))
        try:
            layers = [str(layer["digest"]) for layer in document["layers"]]
            diff_ids = tuple(
                str(one) for one in self._json(document["config"]["digest"])["rootfs"]["diff_ids"]
            )
        except (KeyError, TypeError) as error:
            raise ImageAbsent(f"{digest} is no image manifest: {error}", place=str(self._path)) from error
        if len(layers) != len(diff_ids):
            raise ImageDiffers(f"{len(layers)} layers, but {len(diff_ids)} diff ids", place=str(self._path))
        return layers, diff_ids

    def _json(self, digest: str) -> dict[str, Any]:
        with self.blob(digest) as stream:
            data = stream.read(_MAX_MANIFEST_BYTES + 1)
        found = parse_json(data, name=digest, limit_bytes=_MAX_MANIFEST_BYTES)
        if not isinstance(found, dict):
            raise ImageAbsent(f"{digest} is no JSON object", place=str(self._path))
        return found


def _choose(index: dict[str, Any], architecture: str, digest: str) -> str:
    fitting = [
        str(one["digest"])
        for one in index.get("manifests", ())
        if one.get("platform", {}).get("architecture", architecture) == architecture
    ]
    if len(fitting) != 1:
        raise ImageAbsent(f"{digest} has {len(fitting)} images for {architecture}", hint="name one manifest")
    return fitting[0]


class _Hashing(io.RawIOBase):
    """A stream that remembers the digest of what was read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hashing = stream, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._hashing.update(data)
        buffer[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        while self.read(CHUNK_BYTES):
            pass

    @property
    def digest(self) -> str:
        return f"sha256:{self._hashing.hexdigest()}"


def _add_layer(image: Image, stream: _Hashing, *, place: str) -> None:
    """Lay one layer over what is there; whiteouts remove."""
    added: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20, tarinfo=BoundedHeader) as tar:
            for member in tar:
                path = posixpath.normpath(member.name).lstrip("/")
                if path == ".":
                    continue
                if path.startswith("../"):
                    raise NotUnpackable(f'"{member.name}" climbs out', place=place)
                folder, _, name = path.rpartition("/")
                if name == ".wh..wh..opq":
                    _remove(image, folder, added, keep_folder=True)
                elif name.startswith(".wh."):
                    _remove(image, posixpath.join(folder, name.removeprefix(".wh.")), added)
                else:
                    added.add(path)
                    _add_member(image, tar, member, path, added)
    except RvpError:
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ImageAbsent(f"the layer {place} is no tar: {error}") from error


def _remove(image: Image, path: str, added: set[str], *, keep_folder: bool = False) -> None:
    for one in [
        one for one in image.nodes if one.startswith(path + "/") or (one == path and not keep_folder)
    ]:
        if one not in added:
            del image.nodes[one]


def _add_member(
    image: Image, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, added: set[str]
) -> None:
    node = Node(
        path=path,
        kind="dir",
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
    )
    there = image.nodes.get(path)
    if member.isdir():
        image.nodes[path] = node
        return
    if member.issym():
        node.kind, node.target, node.mode = "symlink", member.linkname, 0o777
    elif member.islnk():
        goal = image.nodes.get(posixpath.normpath(member.linkname).lstrip("/"))
        if goal is None or goal.kind != "file":
            raise NotUnpackable(f'"/{path}" is a hard link to "{member.linkname}", which is not there')
        node.kind, node.offset, node.size_bytes = "file", goal.offset, goal.size_bytes
        node.mode, node.uid, node.gid, node.mtime = goal.mode, goal.uid, goal.gid, goal.mtime
    elif member.isreg():
        content = tar.extractfile(member)
        node.kind, node.size_bytes = "file", member.size
        node.offset = image.keep(chunks_of(cast("BinaryIO", content)) if content else [])
    else:
        return  # a device node of /dev: the engine makes its own
    if there is not None and there.kind == "dir":
        _remove(image, path, added)
    image.nodes[path] = node
