"""Measure a container image: manifest, configuration, diff ids; every digest in it is checked.

Read are OCI image layouts (folder or archive) and the archives of `docker save`. Nothing is unpacked. The
diff ids are computed from the layers (uncompressed), and compared with those that the configuration states.

Units: digests are SHA-256 of bytes as stored (manifest, config), of the uncompressed tar (diff ids).
Source: OCI image-spec v1.1; docker's `manifest.json`.
Cost: one pass over every blob; constant memory.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.measure.image_room import BadImage, Room, open_room
from pipeline.measure.measured import Measured, MeasureOptions
from provenance.claims import Check, ClaimValue, Measurement, Subject
from provenance.digest import CHUNK_BYTES, sha256_file
from provenance.errors import MeasurementMismatch
from provenance.strict import convert, parse_json

_MAX_JSON: Final = 4 << 20
_MAX_LAYER: Final = 64 << 30  # uncompressed
_MAX_LAYERS: Final = 512
_MAX_IMAGES: Final = 64
_ZSTD_SLICE: Final = 2048
_INDEXES: Final = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_CONFIGS: Final = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


class ImageDigestMismatch(MeasurementMismatch):
    """A blob of an image is not the one that its digest names, or a layer is not what the image states.

    Cure: the image was damaged or changed; build or fetch it again.
    """

    code = "RVP-5102"


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: dict[str, Any] = {}
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_Descriptor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor
    layers: tuple[_Descriptor, ...]


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class _Found(msgspec.Struct, frozen=True):
    """An image: its name among several, and what was computed."""

    name: str
    manifest: str
    config: str
    diff_ids: tuple[str, ...]
    checks: tuple[Check, ...]


def measure_image(path: Path, options: MeasureOptions) -> Measured:
    """Measure every image of a layout or an archive.

    Raises:
        BadImage: RVP-5101. ImageDigestMismatch: RVP-5102, for a blob of another size.
    """
    name = options.name or path.name
    with open_room(path) as room:
        if room.size_of("oci-layout") is not None:
            found = [*_layout(room, str(path))]
        elif room.size_of("manifest.json") is not None:
            found = [*_saved(room, str(path))]
        else:
            raise BadImage(
                "neither oci-layout nor manifest.json is in it: this is no container image", place=str(path)
            )
    if not found:
        raise BadImage("the index names no image", place=str(path))
    measurements = []
    for one in found:
        digest = one.manifest or one.config
        subject = Subject(
            name=name if len(found) == 1 else f"{name} ({one.name})",
            digest={"sha256": digest.removeprefix("sha256:") if path.is_dir() else sha256_file(path).hex()},
        )
        claims: dict[str, ClaimValue] = {"config": one.config, "diff_ids": one.diff_ids}
        if one.manifest:
            claims = {"manifest": one.manifest, **claims}
        measurements.append(Measurement(tee="oci", subject=subject, claims=claims, checks=one.checks))
    return Measured(measurements=tuple(measurements))


def _layout(room: Room, place: str) -> Iterator[_Found]:
    marker = _json(room, "oci-layout", place)
    if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
        raise BadImage("oci-layout has not version 1.0.0", place=place)
    index = convert(_json(room, "index.json", place), _Index, name=f"{place}: index.json")
    bad: list[Check] = []
    for described in _manifests(room, index, place, 0, bad):
        checks = [*bad]
        manifest = convert(_blob_json(room, described, place, checks), _Manifest, name=f"{place}: manifest")
        if manifest.config.media_type not in _CONFIGS:
            continue  # an artifact or a signature that lies beside the image
        if len(manifest.layers) > _MAX_LAYERS:
            raise BadImage(f"{len(manifest.layers)} layers", place=place)
        config = convert(_blob_json(room, manifest.config, place, checks), _Config, name=f"{place}: config")
        diff_ids = []
        for layer in manifest.layers:
            stored, plain = _hash_layer(room, _place(layer, room, place), place)
            if stored != layer.digest:
                checks.append(_mismatch(layer.digest, stored))
            diff_ids.append(plain)
        platform = described.platform.get("architecture", "")
        yield _Found(
            described.annotations.get("org.opencontainers.image.ref.name", "") or str(platform),
            described.digest,
            manifest.config.digest,
            tuple(diff_ids),
            (_blobs(checks, len(manifest.layers) + 2), _diff_ids(config, diff_ids)),
        )


def _manifests(
    room: Room, index: _Index, place: str, depth: int, checks: list[Check]
) -> Iterator[_Descriptor]:
    if len(index.manifests) > _MAX_IMAGES or depth > 2:
        raise BadImage("the index names too many images", place=place)
    for described in index.manifests:
        if described.media_type in _INDEXES:
            nested = convert(_blob_json(room, described, place, checks), _Index, name=f"{place}: index")
            yield from _manifests(room, nested, place, depth + 1, checks)
        else:
            yield described


def _saved(room: Room, place: str) -> Iterator[_Found]:
    """Read what `docker save` wrote: it has no manifest, so no manifest digest."""
    images = convert(_json(room, "manifest.json", place), tuple[_Saved, ...], name=f"{place}: manifest.json")
    if len(images) > _MAX_IMAGES:
        raise BadImage(f"{len(images)} images", place=place)
    for image in images:
        if len(image.layers) > _MAX_LAYERS:
            raise BadImage(f"{len(image.layers)} layers", place=place)
        raw = _bytes(room, image.config, place)
        config = convert(parse_json(raw, name=f"{place}: {image.config}"), _Config, name=f"{place}: config")
        digest = hashlib.sha256(raw).hexdigest()
        stated = re.search(r"[0-9a-f]{64}", image.config)
        checks = [_mismatch(stated[0], digest)] if stated and stated[0] != digest else []
        diff_ids = [_hash_layer(room, layer, place)[1] for layer in image.layers]
        yield _Found(
            image.repo_tags[0] if image.repo_tags else digest[:12],
            "",
            f"sha256:{digest}",
            tuple(diff_ids),
            (_blobs(checks, 1), _diff_ids(config, diff_ids)),
        )


def _mismatch(expected: str, got: str) -> Check:
    return Check(
        id="blob-digests",
        status="failed",
        expected=expected,
        got=got,
        hint="the image was damaged or changed: build or fetch it again",
        code=ImageDigestMismatch.code,
    )


def _blobs(failed: list[Check], count: int) -> Check:
    if failed:
        return failed[0]
    return Check(
        id="blob-digests",
        status="passed",
        expected="every blob is what its digest names",
        got=f"{count} blobs",
    )


def _diff_ids(config: _Config, computed: list[str]) -> Check:
    stated = config.rootfs.diff_ids
    if stated == tuple(computed):
        return Check(
            id="diff-ids", status="passed", expected="those of the configuration", got=f"{len(stated)} layers"
        )
    return Check(
        id="diff-ids",
        status="failed",
        expected=", ".join(stated) or "no layers",
        got=", ".join(computed) or "no layers",
        source="rootfs.diff_ids of the configuration",
        code=ImageDigestMismatch.code,
    )


def _place(described: _Descriptor, room: Room, place: str) -> str:
    if not _DIGEST.match(described.digest):
        raise BadImage(f"{described.digest!r} is not sha256: and 64 hex digits", place=place)
    name = f"blobs/sha256/{described.digest[7:]}"
    size = room.size_of(name)
    if size is None:
        raise BadImage(f"the blob {described.digest} is missing", place=place)
    if size != described.size:
        raise ImageDigestMismatch(
            f"the blob {described.digest} has {size} bytes, expected {described.size}", place=place
        )
    return name


def _bytes(room: Room, name: str, place: str) -> bytes:
    size = room.size_of(name)
    if size is None or size > _MAX_JSON:
        raise BadImage(f'"{name}" is missing' if size is None else f'"{name}" has {size} bytes', place=place)
    return b"".join(room.chunks(name))


def _json(room: Room, name: str, place: str) -> Any:
    return parse_json(_bytes(room, name, place), name=f"{place}: {name}")


def _blob_json(room: Room, described: _Descriptor, place: str, checks: list[Check]) -> Any:
    data = _bytes(room, _place(described, room, place), place)
    got = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if got != described.digest:
        checks.append(_mismatch(described.digest, got))
    return parse_json(data, name=f"{place}: {described.digest}")


def _hash_layer(room: Room, name: str, place: str) -> tuple[str, str]:
    """Hash a layer as stored and uncompressed, in one pass."""
    stored, plain, size = hashlib.sha256(), hashlib.sha256(), 0
    expand: Callable[[bytes], Iterator[bytes]] | None = None
    for number, chunk in enumerate(room.chunks(name)):
        stored.update(chunk)
        if number == 0:
            expand = _expander(chunk, place)
        for piece in expand(chunk) if expand else ():
            plain.update(piece)
            size += len(piece)
            if size > _MAX_LAYER:
                raise BadImage(f"a layer of more than {_MAX_LAYER} bytes", place=place)
    stored_digest = f"sha256:{stored.hexdigest()}"
    return stored_digest, f"sha256:{plain.hexdigest()}" if expand else stored_digest


def _expander(start: bytes, place: str) -> Callable[[bytes], Iterator[bytes]] | None:
    """Choose how to uncompress a layer, from its first bytes (media types lie, engines look as well).

    Returns:
        What uncompresses chunk by chunk; None for a layer that is not compressed.
    """
    if start[:2] == b"\x1f\x8b":
        return _gunzip(place)
    if start[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        reader = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)

        def unzstd(chunk: bytes) -> Iterator[bytes]:
            try:
                for at in range(0, len(chunk), _ZSTD_SLICE):  # a small slice cannot expand to much
                    yield reader.decompress(chunk[at : at + _ZSTD_SLICE])
            except zstandard.ZstdError as error:
                raise BadImage(f"a layer is not zstd: {error}", place=place) from error

        return unzstd
    return None


def _gunzip(place: str) -> Callable[[bytes], Iterator[bytes]]:
    reader = zlib.decompressobj(wbits=31)

    def gunzip(chunk: bytes) -> Iterator[bytes]:
        nonlocal reader
        more = False  # output may wait inside although the input is used up
        while chunk or more:
            if reader.eof:
                reader = zlib.decompressobj(wbits=31)
            try:
                piece = reader.decompress(chunk, CHUNK_BYTES)
            except zlib.error as error:
                raise BadImage(f"a layer is not gzip: {error}", place=place) from error
            yield piece
            more = len(piece) == CHUNK_BYTES and not reader.eof
            chunk = reader.unconsumed_tail or reader.unused_data

    return gunzip
