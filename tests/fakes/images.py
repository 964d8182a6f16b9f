"""Images written member by member: layers that no honest builder writes, in archives that are in order."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import zstandard

Member = tuple[tarfile.TarInfo, bytes]
Image = dict[str, Any]


def file(name: str, data: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def folder(name: str) -> Member:
    return file(name, type=tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    return file(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Member:
    return file(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return stream.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar+gzip": lambda data: gzip.compress(data, mtime=0),
    "tar+zstd": zstandard.compress,
}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def oci_files(
    layers: Sequence[bytes],
    *,
    packing: str = "tar",
    names: Iterable[str] = ("test:1",),
    diff_ids: Sequence[str] | None = None,
    platforms: Sequence[str] = ("amd64",),
) -> dict[str, bytes]:
    """The files of an OCI layout with one image for each platform."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media: str) -> Image:
        blobs[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    listed = []
    for platform in platforms:
        config = {
            "architecture": platform,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or map(digest, layers))},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                blob(PACKERS[packing](one), f"application/vnd.oci.image.layer.v1.{packing}") for one in layers
            ],
        }
        described = blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        described["platform"] = {"os": "linux", "architecture": platform}
        for name in names:
            note = {"org.opencontainers.image.ref.name": name} if len(platforms) == 1 else {}
            listed.append({**described, "annotations": note})
    index = {"schemaVersion": 2, "manifests": listed}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **blobs,
    }


def saved_files(layers: Sequence[bytes]) -> dict[str, bytes]:
    """The files of what `docker save` wrote before engine 25."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [*map(digest, layers)]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    files = {f"{hashlib.sha256(one).hexdigest()}/layer.tar": one for one in layers}
    listed = [{"Config": f"{name}.json", "RepoTags": ["test:1"], "Layers": [*files]}]
    return {f"{name}.json": config, **files, "manifest.json": json.dumps(listed).encode()}


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(layer(*(file(name, data) for name, data in files.items()), form=tarfile.USTAR_FORMAT))
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_image(path: Path, *layers: bytes, **options: Any) -> Path:
    return write_archive(path, oci_files(layers, **options))


# Three layers with everything that changes what a path means.
TRICKY: tuple[bytes, ...] = (
    layer(
        folder("usr"),
        folder("usr/lib"),
        file("usr/lib/a", b"a of the base"),
        file("usr/lib/b", b"b of the base"),
        symlink("lib", "usr/lib"),
        symlink("absolute", "/usr/lib/a"),
        symlink("up", "../../../usr/lib/b"),
        symlink("loop", "loop2"),
        symlink("loop2", "loop"),
        folder("opaque"),
        file("opaque/old", b"old"),
        folder("gone"),
        file("gone/x", b"x"),
        folder("folder"),
        file("folder/inside", b"inside"),
        file("file", b"a file"),
        file("first", b"one content"),
        hard_link("second", "first"),
        file("empty"),
    ),
    layer(
        folder("opaque"),
        file("opaque/.wh..wh..opq"),
        file("opaque/new", b"new"),
        file(".wh.gone"),
        file("folder", b"now a file"),
        folder("file"),
        file("file/inside", b"now a folder"),
        file("usr/lib/b", b"b of the middle"),
        file("twice", b"first"),
        file("twice", b"second"),
        file("first", b"another content"),
    ),
    layer(
        file("./usr/lib/.wh.b"),
        file("/usr/lib/c", b"c of the top"),
        folder("gone"),
        file("gone/y", b"y"),
        file("x" * 90 + "/" + "y" * 200, b"a long name"),
        symlink("chain", "lib/c"),
        hard_link("third", "usr/lib/c"),
    ),
)
EXPECTED: dict[str, bytes | None] = {
    "/usr/lib/a": b"a of the base",
    "/lib/a": b"a of the base",
    "/absolute": b"a of the base",
    "/usr/lib/b": None,
    "/up": None,
    "/usr/lib/c": b"c of the top",
    "/chain": b"c of the top",
    "/third": b"c of the top",
    "/opaque/old": None,
    "/opaque/new": b"new",
    "/gone/x": None,
    "/gone/y": b"y",
    "/folder": b"now a file",
    "/folder/inside": None,
    "/file/inside": b"now a folder",
    "/twice": b"second",
    "/first": b"another content",
    "/second": b"one content",
    "/empty": b"",
    "/" + "x" * 90 + "/" + "y" * 200: b"a long name",
    "/loop": None,
    "/usr/../usr/lib/a": b"a of the base",
    "/lib/../lib/a": b"a of the base",
    "/../../twice": b"second",
}
