"""The images of a layout or an archive: manifest, configuration, layers in order; nothing of a layer is read.

Read are OCI image layouts (folder or archive) and the archives of `docker save`. What `docker save` of old
engines wrote has no manifest, so no manifest digest.

Invariants: a blob has the size that its descriptor states; whether it has the digest is a check.
Source: OCI image-spec v1.1; docker's `manifest.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pipeline.measure.image_room import BadImage, Room
from provenance.claims import Check
from provenance.errors import MeasurementMismatch, UsageError
from provenance.strict import convert, parse_json

_MAX_JSON: Final = 4 << 20
_MAX_LAYERS: Final = 512
_MAX_IMAGES: Final = 64
_INDEXES: Final = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_CONFIGS: Final = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
# Engines since 25 write the whole name beside the tag.
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


class ImageDigestMismatch(MeasurementMismatch):
    """A blob of an image is not the one that its digest names, or a layer is not what the image states.

    Cure: the image was damaged or changed; build or fetch it again.
    """

    code = "RVP-5102"


class WhichImage(UsageError):
    """Several images lie in one archive, and it was not said which one is meant; or none is the one named.

    Cure: `--image NAME`, with a name, a platform or the beginning of a digest that the message lists.
    """

    code = "RVP-5050"


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """What names a blob."""

    digest: str
    size: int
    media_type: str = ""
    platform: dict[str, Any] = {}
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[Descriptor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    config: Descriptor
    layers: tuple[Descriptor, ...]


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    architecture: str = ""
    os: str = ""


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer: the blob's name in the room; the digest that the manifest states ("" without one)."""

    name: str
    digest: str = ""


class ImageParts(msgspec.Struct, frozen=True, kw_only=True):
    """One image.

    Attributes:
        name: tag, or platform when it has none.
        platform: `linux/amd64`.
        manifest: digest of the manifest; empty for old `docker save` archives.
        config: digest of the configuration.
        diff_ids: what the configuration states.
        layers: from the base upwards.
        mismatches: failed checks of the blobs read so far.
    """

    name: str
    platform: str
    manifest: str
    config: str
    diff_ids: tuple[str, ...]
    layers: tuple[Layer, ...]
    mismatches: tuple[Check, ...] = ()

    def check_layers(self, stored: Sequence[str], diff_ids: Sequence[str]) -> tuple[Check, ...]:
        """Compare what was computed from all layers with what the image states."""
        failed = list(self.mismatches)
        failed += [
            _mismatch(layer.digest, got)
            for layer, got in zip(self.layers, stored, strict=True)
            if layer.digest not in {"", got}
        ]
        return (_blobs(failed, 2 + len(stored) if self.manifest else 1), _diff_ids(self.diff_ids, diff_ids))


def images_of(room: Room, place: str) -> tuple[ImageParts, ...]:
    """Read which images there are.

    Raises:
        BadImage: RVP-5101. ImageDigestMismatch: RVP-5102, for a blob of another size.
    """
    if room.size_of("oci-layout") is not None:
        found = tuple(_layout(room, place))
    elif room.size_of("manifest.json") is not None:
        found = tuple(_saved(room, place))
    else:
        raise BadImage(
            "neither oci-layout nor manifest.json is in it: this is no container image", place=place
        )
    if not found:
        raise BadImage("the index names no image", place=place)
    return found


def select_image(images: tuple[ImageParts, ...], wanted: str, place: str) -> ImageParts:
    """Choose one image by name, platform, or the beginning of its manifest or configuration digest.

    Raises:
        WhichImage: RVP-5050.
    """
    short = wanted.removeprefix("sha256:")
    found = [
        one
        for one in images
        if not wanted
        or wanted in {one.name, one.platform}
        or any(digest[7:].startswith(short) for digest in (one.manifest, one.config) if len(short) >= 6)
    ]
    if len({one.config for one in found}) == 1:  # one image under several names is one image
        return found[0]
    listed = "; ".join(
        f"{one.name or '(no name)'}, {one.platform}, {one.manifest or one.config}" for one in images
    )
    what = "no image" if not found else f"{len(found)} images"
    said = f' are "{wanted}"' if wanted else " lie in it"
    raise WhichImage(f"{what}{said}: {listed}", place=place, hint="choose one with --image")


def _layout(room: Room, place: str) -> Iterator[ImageParts]:
    marker = _json(room, "oci-layout", place)
    if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
        raise BadImage("oci-layout has not version 1.0.0", place=place)
    index = convert(_json(room, "index.json", place), _Index, name=f"{place}: index.json")
    bad: list[Check] = []
    for described in _manifests(room, index, place, 0, bad):
        checks = [*bad]
        manifest = convert(_blob_json(room, described, place, checks), _Manifest, name=f"{place}: manifest")
        if manifest.config.media_type not in _CONFIGS or described.platform.get("architecture") == "unknown":
            continue  # an artifact or a signature that lies beside the image
        if len(manifest.layers) > _MAX_LAYERS:
            raise BadImage(f"{len(manifest.layers)} layers", place=place)
        config = convert(_blob_json(room, manifest.config, place, checks), _Config, name=f"{place}: config")
        platform = _platform(config, described)
        yield ImageParts(
            name=next(
                (described.annotations[key] for key in _NAMES if described.annotations.get(key)), platform
            ),
            platform=platform,
            manifest=described.digest,
            config=manifest.config.digest,
            diff_ids=config.rootfs.diff_ids,
            layers=tuple(
                Layer(name=_blob_name(one, room, place), digest=one.digest) for one in manifest.layers
            ),
            mismatches=tuple(checks),
        )


def _platform(config: _Config, described: Descriptor) -> str:
    system = described.platform.get("os") or config.os
    machine = described.platform.get("architecture") or config.architecture
    variant = described.platform.get("variant", "")
    return "/".join(str(part) for part in (system, machine, variant) if part)


def _manifests(
    room: Room, index: _Index, place: str, depth: int, checks: list[Check]
) -> Iterator[Descriptor]:
    if len(index.manifests) > _MAX_IMAGES or depth > 2:
        raise BadImage("the index names too many images", place=place)
    for described in index.manifests:
        if described.media_type in _INDEXES:
            nested = convert(_blob_json(room, described, place, checks), _Index, name=f"{place}: index")
            yield from _manifests(room, nested, place, depth + 1, checks)
        else:
            yield described


def _saved(room: Room, place: str) -> Iterator[ImageParts]:
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
        for layer in image.layers:
            if room.size_of(layer) is None:
                raise BadImage(f'"{layer}" is missing', place=place)
        yield ImageParts(
            name=image.repo_tags[0] if image.repo_tags else digest[:12],
            platform="/".join(part for part in (config.os, config.architecture) if part),
            manifest="",
            config=f"sha256:{digest}",
            diff_ids=config.rootfs.diff_ids,
            layers=tuple(Layer(name=layer) for layer in image.layers),
            mismatches=(_mismatch(stated[0], digest),) if stated and stated[0] != digest else (),
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


def _diff_ids(stated: Sequence[str], computed: Sequence[str]) -> Check:
    if tuple(stated) == tuple(computed):
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


def _blob_name(described: Descriptor, room: Room, place: str) -> str:
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


def _blob_json(room: Room, described: Descriptor, place: str, checks: list[Check]) -> Any:
    data = _bytes(room, _blob_name(described, room, place), place)
    got = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if got != described.digest:
        checks.append(_mismatch(described.digest, got))
    return parse_json(data, name=f"{place}: {described.digest}")
