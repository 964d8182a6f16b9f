"""The file that is found in an image is the one that a container of it would see."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.measure import image_layer
from pipeline.measure.image_files import ImageFiles, NotInImage, open_image_files
from pipeline.measure.image_manifest import ImageDigestMismatch, WhichImage
from pipeline.measure.image_room import BadImage
from provenance.errors import RvpError, UsageError
from tests.fakes.images import (
    EXPECTED,
    PACKERS,
    TRICKY,
    digest,
    file,
    folder,
    hard_link,
    layer,
    oci_files,
    saved_files,
    symlink,
    write_archive,
    write_folder,
    write_image,
)


def content(files: ImageFiles, path: str) -> bytes | None:
    try:
        found = files.find(path)
    except UsageError:
        return None
    return files.read(found)


@pytest.mark.parametrize("packing", PACKERS)
def test_files_of_layers_that_hide_replace_and_link(tmp_path: Path, packing: str) -> None:
    path = write_image(tmp_path / "i.tar", *TRICKY, packing=packing)
    with open_image_files(path) as files:
        assert {name: content(files, name) for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_folder(path, oci_files(TRICKY)),
        lambda path: write_archive(path, saved_files(TRICKY)),
    ],
    ids=["folder", "docker-save"],
)
def test_every_kind_of_image_is_read(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    with open_image_files(write(tmp_path / "image")) as files:
        assert {name: content(files, name) for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path: Path, form: int) -> None:
    name = "d" * 99 + "/" + "e" * 99
    data = layer(file(name, b"deep"), symlink("s", name if form != tarfile.USTAR_FORMAT else "x"), form=form)
    with open_image_files(write_image(tmp_path / "i.tar", data)) as files:
        assert content(files, "/" + name) == b"deep"
        assert form == tarfile.USTAR_FORMAT or content(files, "/s") == b"deep"


def test_taken_files_are_whole(tmp_path: Path) -> None:
    big = bytes(range(256)) * 20000
    data = layer(file("a", b"small"), file("b", big), hard_link("c", "b"), file("d", b"after"))
    path = write_image(tmp_path / "i.tar", data, packing="tar+gzip")
    with open_image_files(path) as files:
        files.take({tmp_path / name: files.find(f"/{name}") for name in "dcba"})
    assert [(tmp_path / name).read_bytes() for name in "abcd"] == [b"small", big, big, b"after"]


def test_a_whiteout_does_not_hide_its_own_layer(tmp_path: Path) -> None:
    below = layer(folder("d"), file("d/old", b"old"))
    above = layer(
        folder("d"), file("d/new", b"new"), file(".wh.d"), file("d/.wh..wh..opq"), file("d/more", b"m")
    )
    with open_image_files(write_image(tmp_path / "i.tar", below, above)) as files:
        assert [content(files, f"/d/{name}") for name in ("old", "new", "more")] == [None, b"new", b"m"]


def test_a_member_below_a_link_of_its_own_layer_lies_where_the_link_leads(tmp_path: Path) -> None:
    data = layer(folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", b"x"))
    with open_image_files(write_image(tmp_path / "i.tar", data)) as files:
        assert content(files, "/usr/lib/x") == b"x"


def test_a_member_below_a_link_of_a_lower_layer_is_refused_when_it_is_looked_up(tmp_path: Path) -> None:
    below = layer(folder("usr"), file("usr/y", b"y"), symlink("lib", "usr"))
    above = layer(file("lib/x", b"x"))
    with open_image_files(write_image(tmp_path / "i.tar", below, above)) as files:
        assert content(files, "/usr/y") == b"y"
        with pytest.raises(BadImage, match="different places"):
            files.find("/lib/x")


def test_what_is_not_there_is_named_with_what_is_near(tmp_path: Path) -> None:
    with open_image_files(write_image(tmp_path / "i.tar", layer(file("opt/enclave.so", b"x")))) as files:
        with pytest.raises(NotInImage) as error:
            files.find("/opt/enclaves.so")
        assert "enclave.so" in error.value.hint
        with pytest.raises(NotInImage, match="a folder"):
            files.find("/opt")
        with pytest.raises(NotInImage, match="a folder"):
            files.find("/")


def test_several_images_are_listed_and_chosen_by_platform(tmp_path: Path) -> None:
    files = oci_files([layer(file("x", b"x"))], platforms=("amd64", "arm64"))
    path = write_archive(tmp_path / "i.tar", files)
    with pytest.raises(WhichImage, match=r"linux/amd64.*linux/arm64"), open_image_files(path):
        pass
    with open_image_files(path, image="linux/arm64") as found:
        assert found.image.platform == "linux/arm64"
        chosen = found.image.manifest
    with open_image_files(path, image=chosen[:20]) as found:
        assert found.image.manifest == chosen
    with (
        pytest.raises(WhichImage, match='no image are "linux/riscv"'),
        open_image_files(path, image="linux/riscv"),
    ):
        pass


def test_one_image_under_two_names_needs_no_choice(tmp_path: Path) -> None:
    files = oci_files([layer(file("x", b"x"))], names=("a:1", "b:1"))
    with open_image_files(write_archive(tmp_path / "i.tar", files)) as found:
        assert content(found, "/x") == b"x"


HOSTILE: dict[str, bytes] = {
    "climbs": layer(file("../x", b"x")),
    "climbs in the middle": layer(file("a/../../x", b"x")),
    "whiteout of the parent": layer(file("a/.wh...", b"")),
    "whiteout of itself": layer(file("a/.wh..", b"")),
    "whiteout of nothing": layer(file("a/.wh.", b"")),
    "root is a file": layer(file("./", b"x")),
    "hard link out": layer(hard_link("x", "../../etc/passwd")),
    "hard link to nothing": layer(hard_link("x", "y")),
    "hard link to a folder": layer(folder("y"), hard_link("x", "y")),
    "hard link to itself": layer(file("x", b"x"), hard_link("x", "x")),
    "below a file": layer(file("a", b"x"), file("a/b", b"x")),
    "below a loop": layer(symlink("a", "b"), symlink("b", "a"), file("a/x", b"x")),
    "too deep": layer(file("a/" * 300 + "x", b"x")),
    "long name": layer(file("a" * 5000, b"x")),
    "long target": layer(symlink("a", "b" * 5000)),
    "zeros in between": layer(file("a", b"x"))[:1024] + bytes(512) + layer(file("b", b"x")),
    "cut in a header": layer(file("a", b"x"))[:300],
    "cut in a file": layer(file("a", bytes(5000)))[:2048],
    "not a tar": b"\x01" * 1024,
    "huge pax header": layer(file("a", b"x", pax_headers={"path": "b" * (2 << 20)})),
    "headers in a row": b"".join(
        layer(file("a", pax_headers={"GNU.sparse.x": "1", "comment": "c"}))[:1024] for _ in range(100)
    )
    + layer(file("a", b"x")),
    "size that is no number": layer(file("a", b"x", pax_headers={"size": "-5"})),
    "unknown type": layer(file("a", type=b"Z")),
    "link with content": layer(file("a", type=tarfile.SYMTYPE, linkname="b", size=512)) + bytes(512),
}


@pytest.mark.parametrize("packing", ["tar", "tar+gzip"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused(tmp_path: Path, name: str, packing: str) -> None:
    path = write_image(tmp_path / "i.tar", layer(file("base", b"x")), HOSTILE[name], packing=packing)
    with pytest.raises(BadImage), open_image_files(path):
        pass


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    many = [symlink(f"l{number}", f"l{number + 1}") for number in range(50)]
    wide = [symlink(f"w{number}", f"w{number + 1}/" * 100) for number in range(30)]
    data = layer(symlink("a", "b"), symlink("b", "a"), symlink("self", "self/x"), *many, *wide, folder("w30"))
    with open_image_files(write_image(tmp_path / "i.tar", data)) as files:
        for path in ("/a", "/self", "/l0"):
            with pytest.raises(BadImage, match="links"):
                files.find(path)
        with pytest.raises(UsageError):
            files.find("/w0/x")


def test_sparse_files_are_refused_when_they_are_asked_for(tmp_path: Path) -> None:
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": "9",
    }
    data = layer(file("GNUSparseFile.0/sparse", b"1\n0\n1\n", pax_headers=pax), file("after", b"after"))
    old = layer(file("old", b"", type=b"S"), file("after", b"after"), form=tarfile.GNU_FORMAT)
    for number, one in enumerate((data, old)):
        with open_image_files(write_image(tmp_path / f"{number}.tar", one)) as files:
            assert content(files, "/after") == b"after"
            with pytest.raises(NotInImage, match="sparse"):
                files.find("/sparse" if number == 0 else "/old")


@pytest.mark.parametrize("packing", PACKERS)
def test_a_layer_with_another_digest_is_not_believed(tmp_path: Path, packing: str) -> None:
    files = oci_files([layer(file("a", b"honest" * 100)), layer(file("b", b"x"))], packing=packing)
    for name in [one for one in files if one.startswith("blobs") and b"rootfs" not in files[one]]:
        if files[name].startswith(b"{"):
            continue
        for at in (0, len(files[name]) // 2, len(files[name]) - 1):
            damaged = bytearray(files[name])
            damaged[at] ^= 1
            path = write_archive(tmp_path / "i.tar", {**files, name: bytes(damaged)})
            with pytest.raises(ImageDigestMismatch) as error, open_image_files(path):
                pass
            assert error.value.exit_code == 12


def test_a_diff_id_of_another_layer_is_not_believed(tmp_path: Path) -> None:
    data = layer(file("a", b"x"))
    path = write_image(tmp_path / "i.tar", data, diff_ids=[digest(b"other")])
    with pytest.raises(ImageDigestMismatch), open_image_files(path):
        pass


def test_an_archive_that_changes_after_it_was_indexed_is_not_believed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.tar", layer(file("a", b"honest")))
    with open_image_files(path) as files:
        found = files.find("/a")
        path.write_bytes(path.read_bytes().replace(b"honest", b"forged"))
        with pytest.raises(ImageDigestMismatch):
            files.read(found)


def test_an_image_that_is_cut_anywhere_is_refused_in_our_words(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "i.tar", *TRICKY[:2], packing="tar+gzip").read_bytes()
    for at in range(0, len(whole.rstrip(b"\0")), 509):
        (tmp_path / "cut.tar").write_bytes(whole[:at])
        with pytest.raises(RvpError), open_image_files(tmp_path / "cut.tar"):
            pass


@pytest.mark.parametrize("packing", ["tar+gzip", "tar+zstd"])
def test_a_bomb_is_refused(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_layer, "_FREE", 1 << 20)
    path = write_image(tmp_path / "i.tar", layer(file("zeros", bytes(20 << 20))), packing=packing)
    with pytest.raises(BadImage, match="bomb"), open_image_files(path):
        pass


def test_a_layer_that_needs_a_huge_window_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True),
    ).compressobj()
    data = layer(file("a", bytes(1 << 20)))
    monkeypatch.setitem(PACKERS, "window", lambda one: packer.compress(one) + packer.flush())
    with (
        pytest.raises(BadImage, match="zstd"),
        open_image_files(write_image(tmp_path / "i.tar", data, packing="window")),
    ):
        pass


@pytest.mark.parametrize("packing", ["tar", "tar+gzip"])
def test_an_image_with_one_flipped_bit_is_refused_or_means_the_same(tmp_path: Path, packing: str) -> None:
    files = {"/a": b"a" * 700, "/d/b": b"b"}
    data = layer(file("a", files["/a"]), folder("d"), file("d/b", files["/d/b"]))
    whole = write_image(tmp_path / "i.tar", data, packing=packing).read_bytes()
    for at in range(0, len(whole.rstrip(b"\0")), 101):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        (tmp_path / "f.tar").write_bytes(flipped)
        try:
            with open_image_files(tmp_path / "f.tar") as found:
                assert {name: content(found, name) for name in files} == files
        except RvpError:
            continue


def test_images_of_new_engines_are_chosen_by_their_whole_name(tmp_path: Path) -> None:
    made = {name: oci_files([layer(file("x", name.encode()))]) for name in ("a", "b")}
    listed = []
    for name, files in made.items():
        (described,) = json.loads(files["index.json"])["manifests"]
        notes = {"io.containerd.image.name": f"example/{name}:1", "org.opencontainers.image.ref.name": "1"}
        listed.append({**described, "annotations": notes})
    index = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    path = write_archive(tmp_path / "i.tar", {**made["a"], **made["b"], "index.json": index})
    with open_image_files(path, image="example/b:1") as files_of_b:
        assert content(files_of_b, "/x") == b"b"
