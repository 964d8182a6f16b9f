"""Images are the same bytes wherever they are written, and other people's tools read them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.measure import CheckFailed, measure_file, require_passed
from pipeline.measure.image_manifest import ImageDigestMismatch
from pipeline.measure.image_room import BadImage
from pipeline.oci_writer import (
    BaseLayer,
    CannotWriteImage,
    ImageConfig,
    ImageFile,
    file_at,
    files_of_tree,
    write_image,
)
from pipeline.store import FolderStore
from pipeline.tree import read_folder
from provenance.claims import check_claims
from provenance.errors import RvpError

EPOCH = 1700000000
CONFIG = ImageConfig(
    entrypoint=("/usr/bin/tool",),
    environment={"LANG": "C", "A": "1"},
    labels={"org.example": "x"},
    user="1000",
    reference="example/tool:1.0",
)


def held(path: str, data: bytes, *, executable: bool = False) -> ImageFile:
    return ImageFile(path=path, size_bytes=len(data), open=lambda: io.BytesIO(data), executable=executable)


FILES = (
    held("/usr/bin/tool", b"\x7fELF tool", executable=True),
    held("/etc/tool.conf", b"x = 1\n"),
    ImageFile(path="/usr/bin/alias", target="tool"),
    held("/var/empty", b""),
)


def write(output: Path, files: tuple[ImageFile, ...] = FILES) -> dict[str, object]:
    written = write_image(output, files, CONFIG, epoch=EPOCH)
    return {
        "manifest": f"sha256:{written.manifest.hex()}",
        "config": f"sha256:{written.config.hex()}",
        "diff_ids": tuple(f"sha256:{one.hex()}" for one in written.diff_ids),
    }


def test_writing_twice_and_in_another_order_gives_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar", tuple(reversed(FILES)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_the_manifest_digest_is_pinned(tmp_path: Path) -> None:
    """The same on every machine and Python: this number may only change with the format itself."""
    manifest = write(tmp_path / "a.tar")["manifest"]
    assert manifest == PINNED


PINNED = "sha256:7b88df884d4fc81303e3c76b14cb7612f970e49cc066dc273bb082c0bf37aa53"


@pytest.mark.parametrize("name", ["image.tar", "image"])
def test_what_was_written_measures_to_its_digests(tmp_path: Path, name: str) -> None:
    expected = write(tmp_path / name)
    (measurement,) = measure_file(tmp_path / name).measurements
    assert measurement.claims == expected
    require_passed((measurement,))
    check_claims("oci", dict(measurement.claims))


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo on this machine")
@pytest.mark.parametrize(("name", "transport"), [("image.tar", "oci-archive"), ("image", "oci")])
def test_skopeo_reads_the_image_and_sees_the_same_digests(tmp_path: Path, name: str, transport: str) -> None:
    expected = write(tmp_path / name)
    skopeo = ["skopeo", "--insecure-policy"]
    seen = json.loads(
        subprocess.run(
            [*skopeo, "inspect", f"{transport}:{tmp_path / name}"], check=True, capture_output=True
        ).stdout
    )
    assert seen["Digest"] == expected["manifest"]
    assert tuple(seen["Layers"]) == expected["diff_ids"]
    assert seen["Env"] == ["A=1", "LANG=C"]
    subprocess.run(
        [*skopeo, "copy", f"{transport}:{tmp_path / name}", f"docker-archive:{tmp_path / 'saved.tar'}"],
        check=True,
        capture_output=True,
    )
    (measurement,) = measure_file(tmp_path / "saved.tar").measurements
    assert measurement.claims["diff_ids"] == expected["diff_ids"]
    assert "manifest" not in measurement.claims


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo on this machine")
def test_an_image_that_skopeo_compressed_has_the_same_diff_ids(tmp_path: Path) -> None:
    expected = write(tmp_path / "image.tar")
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--dest-compress", f"oci-archive:{tmp_path / 'image.tar'}",
         f"dir:{tmp_path / 'dir'}"],
        check=True, capture_output=True,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "dir/manifest.json").read_bytes())
    layer = (tmp_path / "dir" / manifest["layers"][0]["digest"][7:]).read_bytes()
    if layer[:2] == b"\x1f\x8b":
        layer = gzip.decompress(layer)
    assert (f"sha256:{hashlib.sha256(layer).hexdigest()}",) == expected["diff_ids"]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zstandarded(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("compress", [gzipped, zstandarded])
def test_a_compressed_layer_is_uncompressed_for_its_diff_id(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    expected = write(tmp_path / "image")
    blobs = tmp_path / "image/blobs/sha256"
    name = str(expected["manifest"])[7:]
    manifest = json.loads((blobs / name).read_bytes())
    packed = compress((blobs / manifest["layers"][0]["digest"][7:]).read_bytes())
    digest = hashlib.sha256(packed).hexdigest()
    (blobs / digest).write_bytes(packed)
    manifest["layers"][0] |= {"digest": f"sha256:{digest}", "size": len(packed)}
    raw = json.dumps(manifest).encode()
    other = hashlib.sha256(raw).hexdigest()
    (blobs / other).write_bytes(raw)
    index = json.loads((tmp_path / "image/index.json").read_bytes())
    index["manifests"][0] |= {"digest": f"sha256:{other}", "size": len(raw)}
    (tmp_path / "image/index.json").write_text(json.dumps(index))
    (measurement,) = measure_file(tmp_path / "image").measurements
    require_passed((measurement,))
    assert measurement.claims["diff_ids"] == expected["diff_ids"]
    assert measurement.claims["manifest"] == f"sha256:{other}"


def test_the_layer_has_canonical_members(tmp_path: Path) -> None:
    write(tmp_path / "image")
    (layer,) = [
        path for path in (tmp_path / "image/blobs/sha256").iterdir() if path.read_bytes()[257:262] == b"ustar"
    ]
    with tarfile.open(layer) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [
        "etc", "etc/tool.conf", "usr", "usr/bin", "usr/bin/alias", "usr/bin/tool", "var", "var/empty",
    ]  # fmt: skip
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", EPOCH)}
    assert {m.name: m.mode for m in members}["usr/bin/tool"] == 0o755


def test_long_names_and_trees_are_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    deep = source / ("a" * 120) / ("b" * 120) / ("c" * 120)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"deep")
    (source / "run").write_bytes(b"#!")
    (source / "run").chmod(0o755)
    store = FolderStore(tmp_path / "store")
    files = files_of_tree(read_folder(source, store), store, "/opt")
    written = write_image(tmp_path / "i.tar", files, CONFIG, epoch=EPOCH)
    (measurement,) = measure_file(tmp_path / "i.tar").measurements
    assert measurement.claims["manifest"] == f"sha256:{written.manifest.hex()}"


def test_a_base_layer_lies_below_and_is_checked(tmp_path: Path) -> None:
    data = bytes(10240)
    base = BaseLayer(
        sha256=hashlib.sha256(data).digest(), size_bytes=len(data), open=lambda: io.BytesIO(data)
    )
    written = write_image(tmp_path / "i.tar", FILES, CONFIG, epoch=EPOCH, base=base)
    assert written.diff_ids[0] == base.sha256
    wrong = BaseLayer(sha256=bytes(32), size_bytes=len(data), open=lambda: io.BytesIO(data))
    with pytest.raises(CannotWriteImage):
        write_image(tmp_path / "j.tar", FILES, CONFIG, epoch=EPOCH, base=wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.tar"]


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/", "/a//b", "/usr/bin/tool", "/etc/tool.conf/x"])
def test_a_bad_path_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CannotWriteImage):
        write_image(tmp_path / "i.tar", (*FILES, held(path, b"")), CONFIG, epoch=EPOCH)


def test_a_file_that_changes_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"12345")
    file = file_at("/file", source)
    source.write_bytes(b"123456")
    with pytest.raises(CannotWriteImage, match="changed"):
        write_image(tmp_path / "i.tar", (file,), CONFIG, epoch=EPOCH)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_large_layer_is_streamed(tmp_path: Path) -> None:
    """A hole of 300 MiB costs no memory."""
    source = tmp_path / "big"
    with source.open("wb") as stream:
        stream.truncate(300 << 20)
    tracemalloc.start()
    write_image(tmp_path / "i.tar", (file_at("/big", source),), CONFIG, epoch=EPOCH)
    require_passed(measure_file(tmp_path / "i.tar").measurements)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


def test_a_flipped_byte_in_a_layer_fails_a_check(tmp_path: Path) -> None:
    write(tmp_path / "i.tar")
    data = bytearray((tmp_path / "i.tar").read_bytes())
    data[data.index(b"x = 1\n")] ^= 1
    (tmp_path / "i.tar").write_bytes(data)
    with pytest.raises(CheckFailed, match="blob-digests"):
        require_passed(measure_file(tmp_path / "i.tar").measurements)


def test_damaged_archives_end_in_our_errors(tmp_path: Path) -> None:
    write(tmp_path / "i.tar")
    good = (tmp_path / "i.tar").read_bytes()
    (expected,) = measure_file(tmp_path / "i.tar").measurements
    path = tmp_path / "damaged.tar"
    for at in range(0, len(good), 379):
        data = bytearray(good)
        data[at] ^= 4
        path.write_bytes(data)
        try:
            (measurement,) = measure_file(path).measurements
        except RvpError:
            continue
        failed = any(check.status == "failed" for check in measurement.checks)
        assert failed or measurement.claims == expected.claims
    for size in range(512, len(good) - 10240, 2999):
        path.write_bytes(good[:size])
        with pytest.raises(RvpError):
            measure_file(path)


def test_a_cut_blob_is_a_mismatch(tmp_path: Path) -> None:
    expected = write(tmp_path / "image")
    blob = tmp_path / "image/blobs/sha256" / str(expected["config"])[7:]
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(ImageDigestMismatch) as error:
        measure_file(tmp_path / "image")
    assert error.value.exit_code == 12


def archive_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["../oci-layout", "/oci-layout", "blobs/../../x"])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadImage, match="leads out"):
        measure_file(archive_of(tmp_path / "i.tar", (name, b"{}")))


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    expected = write(tmp_path / "image")
    blob = tmp_path / "image/blobs/sha256" / str(expected["config"])[7:]
    blob.rename(tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(BadImage):
        measure_file(tmp_path / "image")


def test_a_tar_that_is_no_image_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="no container image"):
        measure_file(archive_of(tmp_path / "i.tar", ("hello", b"x")))
