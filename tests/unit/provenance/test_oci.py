"""The OCI image layout: what is written is canonical, what is read is checked and bounded."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.errors import RvpError
from provenance.oci import (
    DigestMismatch,
    Manifest,
    NotALayout,
    blob_of,
    layout_chunks,
    layout_of,
    write_layout,
)
from provenance.oci_reader import ExtraFile, Limits, MissingBlob, read_layout
from provenance.strict import NotReadable
from provenance.ustar import ClimbsOut, NotAnArchive, TooLarge, Truncated, tar_chunks, tar_members

LAYOUT = layout_of(
    [
        Manifest(artifact_type="application/x-a", layers=(blob_of(b"one", "text/plain", title="one"),)),
        Manifest(artifact_type="application/x-b", layers=(blob_of(b"two" * 500, "text/plain"),)),
    ]
)


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("name", ["layout", "layout.tar"])
def test_a_written_layout_reads_back_equal(tmp_path: Path, name: str) -> None:
    write_layout(tmp_path / name, LAYOUT)
    found = read_layout(tmp_path / name)
    assert found.digest == LAYOUT.digest
    assert [m.artifact_type for m in found.manifests] == ["application/x-a", "application/x-b"]
    assert found.manifests[1].layers[0].read(limit_bytes=5000) == b"two" * 500
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writing_over_an_old_layout_replaces_it_whole(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", LAYOUT)
    write_layout(tmp_path / "layout", layout_of(LAYOUT.manifests[:1]))
    assert len(read_layout(tmp_path / "layout").manifests) == 1


def test_order_and_repetition_do_not_change_a_byte() -> None:
    again = layout_of([*reversed(LAYOUT.manifests), *LAYOUT.manifests])
    assert b"".join(layout_chunks(again)) == b"".join(layout_chunks(LAYOUT))


def test_the_archive_is_read_by_tarfile_as_it_was_meant(tmp_path: Path) -> None:
    write_layout(tmp_path / "a.tar", LAYOUT)
    with tarfile.open(tmp_path / "a.tar") as archive:
        members = archive.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.mode, m.type) for m in members} == {(0, 0, 0, 0o644, b"0")}
        assert archive.extractfile("index.json").read() == LAYOUT.index


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_an_archive_of_another_writer_is_read(tmp_path: Path, form: int) -> None:
    write_layout(tmp_path / "layout", LAYOUT)
    with tarfile.open(tmp_path / "b.tar", "w", format=form) as archive:
        archive.add(tmp_path / "layout", arcname=".")
    assert read_layout(tmp_path / "b.tar").digest == LAYOUT.digest


def broken(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", LAYOUT)
    return tmp_path / "layout"


def blob_path(folder: Path) -> Path:
    return folder / "blobs" / "sha256" / LAYOUT.manifests[0].layers[0].digest.hex()


def test_a_flipped_byte_is_a_digest_mismatch_with_both_digests(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    blob_path(folder).write_bytes(b"onf")
    with pytest.raises(DigestMismatch) as caught:
        read_layout(folder)
    assert LAYOUT.manifests[0].layers[0].digest.hex() in caught.value.message
    assert caught.value.exit_code == 10


def test_another_size_is_told_without_hashing(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    blob_path(folder).write_bytes(b"four")
    with pytest.raises(DigestMismatch, match="expected 3 bytes"):
        read_layout(folder)


def test_a_missing_blob_is_told(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    blob_path(folder).unlink()
    with pytest.raises(MissingBlob):
        read_layout(folder)


@pytest.mark.parametrize("name", ["README", "blobs/sha256/" + "0" * 64, "blobs/sha512", "blobs/sha256/UPPER"])
def test_a_file_that_the_index_does_not_reach_is_refused(tmp_path: Path, name: str) -> None:
    folder = broken(tmp_path)
    (folder / name).write_bytes(b"extra")
    with pytest.raises(ExtraFile):
        read_layout(folder)


def test_an_extra_folder_is_refused(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    (folder / "more").mkdir()
    with pytest.raises(ExtraFile):
        read_layout(folder)


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    blob_path(folder).unlink()
    blob_path(folder).symlink_to("/etc/passwd")
    with pytest.raises(ClimbsOut):
        read_layout(folder)


def test_a_pipe_in_a_folder_does_not_hang(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    os.mkfifo(folder / "blobs" / "pipe")
    with pytest.raises(ExtraFile):
        read_layout(folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'),
        ("oci-layout", b"[]"),
        ("index.json", b'{"schemaVersion":2}'),
        ("index.json", b'{"schemaVersion":2,"manifests":[],"manifests":[]}'),
        ("index.json", b"{"),
        ("index.json", b'{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"md5:0","size":1}]}'),
    ],
)
def test_malformed_documents_are_told(tmp_path: Path, name: str, data: bytes) -> None:
    folder = broken(tmp_path)
    (folder / name).write_bytes(data)
    with pytest.raises(NotALayout):
        read_layout(folder)


def test_an_empty_folder_is_not_a_layout(tmp_path: Path) -> None:
    with pytest.raises(NotALayout, match="oci-layout is missing"):
        read_layout(tmp_path)


def test_nothing_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(NotReadable):
        read_layout(tmp_path / "absent")


@pytest.mark.parametrize(
    "limits", [Limits(json_bytes=10), Limits(blob_bytes=1000), Limits(total_bytes=100), Limits(blobs=2)]
)
def test_each_limit_refuses(tmp_path: Path, limits: Limits) -> None:
    write_layout(tmp_path / "a.tar", LAYOUT)
    with pytest.raises(TooLarge):
        read_layout(tmp_path / "a.tar", limits)


@pytest.mark.parametrize("size", [b"\x80" + (10 << 30).to_bytes(11, "big"), b"\x80" + b"\xff" * 11])
def test_a_member_of_10_gb_is_refused_by_its_header(tmp_path: Path, size: bytes) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        stream.write(header(b"blobs/sha256/" + b"a" * 64, size))
        stream.truncate(11 << 30)  # a hole
    with pytest.raises(TooLarge, match="are allowed"):
        read_layout(path)


@pytest.mark.parametrize("name", [b"../evil", b"/etc/passwd", b"blobs/../../evil", b"blobs\\evil"])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(header(name, b"00000000000\0") + bytes(1024))
    with pytest.raises(ClimbsOut):
        read_layout(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"x", b"L", b"S"])
def test_links_devices_and_extensions_are_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(header(b"index.json", b"00000000000\0", kind) + bytes(1024))
    with pytest.raises((ClimbsOut, NotAnArchive)):
        read_layout(tmp_path / "a.tar")


def test_a_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    data = b"".join(tar_chunks([("index.json", 1, (b"x",)), ("index.json", 1, (b"y",))]))
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ExtraFile, match="twice"):
        read_layout(tmp_path / "a.tar")


def test_bytes_behind_the_end_mark_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"".join(layout_chunks(LAYOUT)) + b"hidden")
    with pytest.raises(NotAnArchive, match="behind"):
        read_layout(tmp_path / "a.tar")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=1, max_value=len(b"".join(layout_chunks(LAYOUT))) - 1024))
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    path.write_bytes(b"".join(layout_chunks(LAYOUT))[:cut])
    with pytest.raises((Truncated, NotAnArchive, NotALayout)):
        read_layout(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_never_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(b"".join(layout_chunks(LAYOUT)))
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[at // 8] ^= 1 << at % 8
    path = tmp_path_factory.mktemp("bit") / "a.tar"
    path.write_bytes(whole)
    try:
        found = read_layout(path)
    except RvpError:
        return
    assert [m.digest for m in found.manifests] == [m.digest for m in LAYOUT.manifests]


def test_a_name_of_200_bytes_fits_and_one_of_300_does_not() -> None:
    long = "a/" * 60 + "b" * 80
    data = b"".join(tar_chunks([(long, 0, ())]))
    assert [name for name, _, _ in tar_members(io.BytesIO(data), len(data), "x")] == [long]
    with pytest.raises(ValueError, match="does not fit"):
        b"".join(tar_chunks([("a" * 300, 0, ())]))


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle.tar")
    with pytest.raises(NotReadable, match="not a regular file"):
        read_layout(tmp_path / "bundle.tar")


def test_a_blob_that_changes_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    blob = blob_of(b"as signed", "text/plain")
    write_layout(tmp_path / "l", layout_of([Manifest(artifact_type="application/x", layers=(blob,))]))
    layout = read_layout(tmp_path / "l")
    (tmp_path / "l" / "blobs" / "sha256" / blob.digest.hex()).write_bytes(b"as stolen")
    with pytest.raises(DigestMismatch):
        layout.manifests[0].layers[0].read(limit_bytes=100)


def test_a_manifest_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """A small index could else have one large manifest read for ever."""
    write_layout(tmp_path / "l", layout_of([Manifest(artifact_type="application/x", layers=())]))
    index = tmp_path / "l" / "index.json"
    document = json.loads(index.read_text())
    document["manifests"] *= 2
    index.write_text(json.dumps(document))
    with pytest.raises(NotALayout, match="twice"):
        read_layout(tmp_path / "l")
