from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent / "debian"))

from archive import make_tar

from pipeline.base import BaseNotOneKind, LockedBase, build_rootfs, lock_base
from pipeline.base_image import ImageAbsent, ImageDiffers, ImageNotPinned, diff_id_digest, pull_image
from pipeline.base_tar import TarMissing, TarNotPinned, TarUnreadable
from pipeline.sandbox import Rootfs
from pipeline.spec import Base
from pipeline.store import FolderStore
from provenance.events import ignore

PLAIN = make_tar({"bin/sh": b"#!"})


def lock(folder: Path, base: Base) -> LockedBase:
    return lock_base("b", base, folder=folder, store=FolderStore(folder / "store"), observer=ignore)


def build(folder: Path, locked: LockedBase, base: Base) -> Rootfs:
    store = FolderStore(folder / "store")
    return build_rootfs(locked, folder=folder, store=store, observer=ignore, base=base)


def names_in(folder: Path, rootfs: Rootfs) -> dict[str, str]:
    with FolderStore(folder / "store").get(rootfs.tar) as stream, tarfile.open(fileobj=stream) as tar:
        return {
            member.name: (tar.extractfile(member) or io.BytesIO()).read().decode()
            if member.isreg() or member.islnk()
            else member.linkname or "/"
            for member in tar
        }


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_tar_has_one_digest_however_it_is_compressed(tmp_path: Path, pack: Any) -> None:
    data = pack(PLAIN)
    (tmp_path / "base.tar").write_bytes(data)
    base = Base(tar="base.tar", sha256=hashlib.sha256(data).hexdigest())
    assert build(tmp_path, lock(tmp_path, base), base).digest == hashlib.sha256(PLAIN).digest()


def test_a_tar_without_sha256_is_refused_and_the_hint_has_it(tmp_path: Path) -> None:
    (tmp_path / "base.tar").write_bytes(PLAIN)
    with pytest.raises(TarNotPinned) as caught:
        lock(tmp_path, Base(tar="base.tar"))
    assert hashlib.sha256(PLAIN).hexdigest() in caught.value.hint


def test_a_tar_that_changed_after_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.tar").write_bytes(PLAIN)
    base = Base(tar="base.tar", sha256=hashlib.sha256(PLAIN).hexdigest())
    locked = lock(tmp_path, base)
    (tmp_path / "base.tar").write_bytes(make_tar({"bin/sh": b"##"}))
    with pytest.raises(TarNotPinned):
        build(tmp_path, locked, base)


def test_a_tar_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(TarMissing):
        lock(tmp_path, Base(tar="base.tar", sha256="0" * 64))


@pytest.mark.parametrize(
    "data",
    [b"text", lzma.compress(PLAIN)[:-20], gzip.compress(PLAIN, mtime=0)[:-20]],
    ids=["text", "xz", "gzip"],
)
def test_what_is_no_tar_or_is_cut_short_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "base.tar").write_bytes(data)
    base = Base(tar="base.tar", sha256=hashlib.sha256(data).hexdigest())
    locked = lock(tmp_path, base)
    with pytest.raises(TarUnreadable):
        build(tmp_path, locked, base)


def test_a_base_of_two_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseNotOneKind):
        lock(tmp_path, Base(tar="a", image="b"))


class Layout:
    """An OCI image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs/sha256" / name).write_bytes(data)
        return f"sha256:{name}"

    def image(self, *layers: bytes, diff_ids: list[str] | None = None) -> str:
        diffs = diff_ids or [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = self.blob(json.dumps({"rootfs": {"type": "layers", "diff_ids": diffs}}).encode())
        packed = [{"digest": self.blob(gzip.compress(layer, mtime=0))} for layer in layers]
        manifest = self.blob(json.dumps({"config": {"digest": config}, "layers": packed}).encode())
        platforms = [
            {"digest": manifest, "platform": {"architecture": "amd64", "os": "linux"}},
            {"digest": "sha256:" + "0" * 64, "platform": {"architecture": "arm64", "os": "linux"}},
        ]
        return self.blob(json.dumps({"manifests": platforms}).encode())


LOWER = make_tar(
    {"etc": "dir", "etc/a": b"a", "etc/b": b"b", "opt/x/y": b"y", "bin/one": b"1", "bin/two": "= bin/one"}
)
UPPER = make_tar(
    {"etc/.wh.a": b"", "etc/b": b"B", "opt/x/.wh..wh..opq": b"", "opt/x/z": b"z", "bin/.wh.one": b""}
)
MERGED = {"bin": "/", "bin/two": "1", "etc": "/", "etc/b": "B", "opt": "/", "opt/x": "/", "opt/x/z": "z"}


def test_the_layers_of_an_image_in_a_file_are_laid_over_each_other(tmp_path: Path) -> None:
    base = Base(image=f"oci:image@{Layout(tmp_path / 'image').image(LOWER, UPPER)}")
    assert names_in(tmp_path, build(tmp_path, lock(tmp_path, base), base)) == MERGED


def test_a_layout_in_a_tar_gives_the_same_root_filesystem(tmp_path: Path) -> None:
    digest = Layout(tmp_path / "image").image(LOWER, UPPER)
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(tmp_path / "image", arcname=".")
    folder, archive = Base(image=f"oci:image@{digest}"), Base(image=f"oci:image.tar@{digest}")
    one = build(tmp_path, lock(tmp_path, folder), folder)
    (tmp_path / "store").rename(tmp_path / "old")
    assert build(tmp_path, lock(tmp_path, archive), archive) == one


def test_a_layout_without_a_digest_is_refused(tmp_path: Path) -> None:
    Layout(tmp_path / "image").image(LOWER)
    with pytest.raises(ImageNotPinned):
        lock(tmp_path, Base(image="oci:image"))


def test_a_blob_that_changed_is_refused(tmp_path: Path) -> None:
    digest = Layout(tmp_path / "image").image(LOWER)
    layer = max((tmp_path / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    base = Base(image=f"oci:image@{digest}")
    locked = lock(tmp_path, base)
    layer.write_bytes(layer.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageDiffers):
        build(tmp_path, locked, base)


def test_a_layer_that_is_not_its_diff_id_is_refused(tmp_path: Path) -> None:
    digest = Layout(tmp_path / "image").image(LOWER, diff_ids=["sha256:" + "1" * 64])
    base = Base(image=f"oci:image@{digest}")
    locked = lock(tmp_path, base)
    with pytest.raises(ImageDiffers, match="1111"):
        build(tmp_path, locked, base)


def test_a_missing_blob_is_told(tmp_path: Path) -> None:
    digest = Layout(tmp_path / "image").image(LOWER)
    for path in (tmp_path / "image/blobs/sha256").iterdir():
        if digest.removeprefix("sha256:") != path.name:
            path.unlink()
    with pytest.raises(ImageAbsent):
        lock(tmp_path, Base(image=f"oci:image@{digest}"))


class FakeEngine:
    """Honest in the two calls that a base makes."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.attrs = {"RootFS": {"Layers": list(layers)}, "RepoDigests": ["debian@sha256:" + "2" * 64]}
        self.asked: list[str] = []

    @property
    def client(self) -> Any:
        return self

    @property
    def images(self) -> Any:
        return self

    def speaking(self, what: str) -> Any:
        import contextlib

        return contextlib.nullcontext(what)

    def get(self, reference: str) -> Any:
        self.asked.append(reference)
        return self


def test_a_tag_is_locked_to_a_digest_and_the_host_is_not_in_the_lock(tmp_path: Path) -> None:
    engine: Any = FakeEngine(("sha256:" + "3" * 64,))
    base = Base(image="localhost:5000/debian:12")
    store = FolderStore(tmp_path)
    locked = lock_base("b", base, folder=tmp_path, store=store, observer=ignore, engine=engine)
    assert locked.image == "debian@sha256:" + "2" * 64
    rootfs = build_rootfs(locked, folder=tmp_path, store=store, observer=ignore, engine=engine, base=base)
    assert rootfs.digest == diff_id_digest(("sha256:" + "3" * 64,))
    assert rootfs.image == engine.asked[-1] == "localhost:5000/debian@sha256:" + "2" * 64


def test_a_base_that_is_a_tag_only_is_refused_at_build(tmp_path: Path) -> None:
    del tmp_path
    engine: Any = FakeEngine(())
    with pytest.raises(ImageNotPinned) as caught:
        pull_image("debian:12", (), engine)
    assert caught.value.exit_code == 3


def test_an_engine_that_has_other_layers_under_the_digest_is_not_believed(tmp_path: Path) -> None:
    engine: Any = FakeEngine(("sha256:" + "3" * 64,))
    store = FolderStore(tmp_path)
    base = Base(image="debian:12")
    locked = lock_base("b", base, folder=tmp_path, store=store, observer=ignore, engine=engine)
    other = msgspec.structs.replace(locked, diff_ids=("sha256:" + "4" * 64,))
    with pytest.raises(ImageDiffers):
        build_rootfs(other, folder=tmp_path, store=store, observer=ignore, engine=engine)
