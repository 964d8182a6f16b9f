"""A look inside two things that differ: every format, with files that other tools made."""

import bz2
import gzip
import io
import json
import lzma
import py_compile
import shutil
import stat
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pipeline.difference import (
    Cause,
    Limits,
    compare_bytes,
    compare_files,
    compare_trees,
    render_text,
    to_json,
)
from pipeline.difference.model import Difference, from_json
from pipeline.store import FolderStore
from pipeline.tree import TreeEntry, make_tree, read_folder

BUILT_IN = Limits(diffoscope_s=0)


def look(left: bytes, right: bytes, name: str = "file") -> Difference:
    found = compare_bytes(left, right, name=name, limits=BUILT_IN)
    assert found is not None
    return found


def only(found: Difference) -> Difference:
    while found.details:
        assert len(found.details) == 1, render_text((found,))
        found = found.details[0]
    return found


def tar(*members: tuple[str, bytes], **attributes: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=attributes.pop("format", tarfile.GNU_FORMAT)) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(
    *members: tuple[str, bytes], date=(2020, 1, 1, 0, 0, 0), method=zipfile.ZIP_DEFLATED, level=6, mode=0o644
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, date)
            info.external_attr = mode << 16
            archive.writestr(info, data, compress_type=method, compresslevel=level)
    return out.getvalue()


# tar


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("key", "left", "right", "where", "cause"),
    [
        ("mtime", 1, 2, "mtime", Cause.TIMESTAMP),
        ("uid", 0, 1000, "uid", Cause.OWNER),
        ("gname", "root", "staff", "group", Cause.OWNER),
        ("mode", 0o644, 0o664, "mode", Cause.MODE),
    ],
)
def test_tar_names_the_attribute_of_the_member(format_, key, left, right, where, cause):
    one = tar(("bin/app", b"x"), **{key: left}, format=format_)
    other = tar(("bin/app", b"x"), **{key: right}, format=format_)
    found = only(look(one, other, "a.tar"))
    assert (found.path, found.where, found.causes) == ("a.tar/bin/app", where, (cause,))


def test_tar_names_missing_and_extra_members():
    found = look(tar(("a", b"1"), ("b", b"2")), tar(("a", b"1"), ("c", b"2")), "a.tar")
    assert [(detail.kind, detail.where) for detail in found.details] == [
        ("missing", "member b"),
        ("extra", "member c"),
    ]


def test_tar_names_another_order_of_members():
    found = only(look(tar(("a", b"1"), ("b", b"2")), tar(("b", b"2"), ("a", b"1")), "a.tar"))
    assert (found.kind, found.left, found.right, found.causes) == ("order", "a", "b", (Cause.FILE_ORDER,))


def test_tar_looks_into_its_members():
    found = only(look(tar(("etc/motd", b"hello\n")), tar(("etc/motd", b"hallo\n")), "a.tar"))
    assert (found.path, found.kind, found.where) == ("a.tar/etc/motd", "text", "line 1")


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_reads_long_names(format_):
    name = "/".join(["folder" * 5] * 10)
    found = only(look(tar((name, b"1"), format=format_), tar((name, b"2"), format=format_), "a.tar"))
    assert found.path == f"a.tar/{name}"


def test_tar_names_links():
    one, other = (tar(("l", b""), type=tarfile.SYMTYPE, linkname=target) for target in ("x", "y"))
    found = only(look(one, other, "a.tar"))
    assert (found.where, found.left, found.right) == ("link", "x", "y")


def test_tar_that_is_cut_becomes_a_comment():
    whole = tar(("a", b"1" * 2000), ("b", b"2" * 2000))
    broken = bytearray(whole)
    broken[2560 + 10] ^= 0xFF  # in the second header
    found = look(whole, bytes(broken), "a.tar")
    assert found.kind == "binary"
    assert any("wrong checksum" in comment for comment in found.comments)


def test_tar_trailing_bytes_are_named():
    whole = tar(("a", b"1"))
    found = only(look(whole, whole + bytes(512), "a.tar"))
    assert found.where == "trailing bytes"


# ar, deb


def ar(folder: Path, *members: tuple[str, bytes], flags: str = "rcD") -> bytes:
    folder.mkdir()
    for name, data in members:
        (folder / name).write_bytes(data)
    subprocess.run(["ar", flags, "out.a", *(name for name, _ in members)], cwd=folder, check=True)
    return (folder / "out.a").read_bytes()


def test_ar_looks_into_members_with_long_names(tmp_path):
    name = "a_rather_long_name_of_a_member.txt"
    found = only(
        look(
            ar(tmp_path / "1", ("short.txt", b"same"), (name, b"one\n")),
            ar(tmp_path / "2", ("short.txt", b"same"), (name, b"two\n")),
            "lib.a",
        )
    )
    assert (found.path, found.where) == (f"lib.a/{name}", "line 1")


def test_ar_names_the_time_of_a_member(tmp_path):
    one = ar(tmp_path / "1", ("m", b"x"))
    other = one.replace(b"m/              0           ", b"m/              1700000000  ")
    assert one != other
    found = only(look(one, other, "lib.a"))
    assert (found.path, found.where, found.causes) == ("lib.a/m", "mtime", (Cause.TIMESTAMP,))
    assert found.right == "1700000000 (2023-11-14 22:13:20 UTC)"


def test_deb_is_looked_into_through_all_its_layers(tmp_path):
    packages = [
        ar(
            tmp_path / str(number),
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", gzip.compress(tar(("./control", b"Package: a\n")), mtime=0)),
            (
                "data.tar.xz",
                lzma.compress(tar(("./usr/share/doc/a/date", b"built %d\n" % (1700000000 + number)))),
            ),
        )
        for number in (1, 2)
    ]
    found = only(look(*packages, "a.deb"))
    assert found.path == "a.deb/data.tar.xz/data.tar/./usr/share/doc/a/date"
    assert found.causes == (Cause.TIMESTAMP,)


# zip


def test_zip_names_dates():
    found = only(look(zipped(("a", b"x")), zipped(("a", b"x"), date=(2021, 2, 3, 4, 5, 6)), "a.zip"))
    assert (found.path, found.where, found.right) == ("a.zip/a", "date", "2021-02-03 04:05:06")
    assert found.causes == (Cause.TIMESTAMP,)


def test_zip_names_modes_order_and_members():
    assert only(look(zipped(("a", b"x")), zipped(("a", b"x"), mode=0o600), "a.zip")).where == "mode"
    found = look(zipped(("a", b"x"), ("b", b"y")), zipped(("b", b"y"), ("a", b"x")), "a.zip")
    assert only(found).causes == (Cause.FILE_ORDER,)
    found = look(zipped(("a", b"x"), ("b", b"y")), zipped(("a", b"x")), "a.zip")
    assert (only(found).kind, only(found).where) == ("missing", "member b")


def test_zip_looks_into_packed_members():
    found = only(
        look(zipped(("a.txt", b"hello\n" * 50)), zipped(("a.txt", b"hello\n" * 49 + b"world\n")), "a.zip")
    )
    assert (found.path, found.where) == ("a.zip/a.txt", "line 50")


def test_zip_tells_another_method_from_other_content():
    found = only(look(zipped(("a", b"x" * 99)), zipped(("a", b"x" * 99), method=zipfile.ZIP_STORED), "a.zip"))
    assert (found.where, found.left, found.right) == ("compression", "deflate", "stored")
    found = look(zipped(("a", b"x" * 99)), zipped(("a", b"y" * 99), method=zipfile.ZIP_STORED), "a.zip")
    assert {detail.kind for detail in found.details} == {"attribute", "text"}


def test_zip_tells_another_level():
    data = bytes(range(256)) * 64 + b"abc" * 999
    found = only(look(zipped(("a", data), level=1), zipped(("a", data), level=9), "a.zip"))
    assert Cause.COMPRESSION in found.causes


# compressed


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", lambda data: gzip.compress(data, mtime=0)),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", lambda data: pytest.importorskip("zstandard").ZstdCompressor().compress(data)),
    ],
)
def test_compressed_payloads_are_looked_into(suffix, pack):
    found = look(pack(b"one\n"), pack(b"two\n"), f"notes.txt{suffix}")
    assert only(found).path == f"notes.txt{suffix}/notes.txt"
    assert (only(found).kind, only(found).where) == ("text", "line 1")


def test_gzip_names_time_and_name_of_its_header(tmp_path):
    found = look(gzip.compress(b"x", mtime=1), gzip.compress(b"x", mtime=2), "a.gz")
    assert (only(found).where, only(found).causes) == ("mtime", (Cause.TIMESTAMP,))
    assert "the payloads are equal: only the header differs" in found.comments
    packed = []
    for name in ("one", "two"):
        out = io.BytesIO()
        with gzip.GzipFile(name, "wb", fileobj=out, mtime=0) as stream:
            stream.write(b"x")
        packed.append(out.getvalue())
    found = only(look(*packed, "a.gz"))
    assert (found.where, found.left, found.right) == ("name", "one", "two")


def test_equal_payloads_name_the_compressor():
    data = bytes(range(256)) * 64 + b"abc" * 999
    found = look(lzma.compress(data, preset=0), lzma.compress(data, preset=9), "a.xz")
    assert found.causes == (Cause.COMPRESSION,)


@pytest.mark.parametrize("offset", [10, 700_000])
def test_payload_over_the_limit_is_compared_as_a_stream(offset):
    one = bytearray(1_000_000)
    other = bytearray(one)
    other[offset] = 1
    limits = Limits(inner_bytes=100_000, diffoscope_s=0)
    found = compare_bytes(
        gzip.compress(one, mtime=0), gzip.compress(other, mtime=0), name="a.gz", limits=limits
    )
    assert only(found).offset == offset
    assert any("larger than 100000 bytes" in comment for part in found.walk() for comment in part.comments)


def test_truncated_gzip_becomes_a_comment():
    whole = gzip.compress(bytes(range(256)) * 100, mtime=0)
    found = look(whole, whole[:-20], "a.gz")
    assert found.kind == "binary"
    assert any("gzip data end too early" in comment for comment in found.comments)


def test_a_bomb_takes_no_more_memory_than_allowed():
    one, other = gzip.compress(bytes(80 << 20), mtime=0), gzip.compress(bytes(80 << 20) + b"1", mtime=0)
    tracemalloc.start()
    compare_bytes(one, other, name="bomb.gz", limits=Limits(inner_bytes=4 << 20, diffoscope_s=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


# cpio


def newc(*members: tuple[str, bytes], **fields: int) -> bytes:
    """A newc archive by the letter of cpio(5); the reader's own code is not used."""
    out = bytearray()
    for name, data in (*members, ("TRAILER!!!", b"")):
        values = {"ino": 1, "mode": 0o100644, "uid": 0, "gid": 0, "nlink": 1, "mtime": 0} | fields
        numbers = [*values.values(), len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out + bytes(-len(out) % 512))


def test_cpio_names_times_inodes_and_looks_into_members():
    found = look(newc(("init", b"#!/bin/sh\n")), newc(("init", b"#!/bin/sh\n"), mtime=1700000000), "initrd")
    assert found.kind == "cpio"
    assert {(part.where, part.causes) for part in found.details} == {("mtime", (Cause.TIMESTAMP,))}
    found = look(newc(("init", b"1\n")), newc(("init", b"2\n"), ino=7), "initrd")
    assert found.all_causes() == (Cause.INODE,)
    assert any(part.path == "initrd/init" and part.kind == "text" for part in found.walk())


def test_cpio_looks_into_the_archive_that_follows():
    early = newc(("kernel/x86/microcode/x.bin", b"\1\2"))
    one, other = (early + gzip.compress(newc(("init", data)), mtime=0) for data in (b"1\n", b"2\n"))
    assert only(look(one, other, "initrd")).path == "initrd/(what follows)/(payload)/init"


# ELF


def compiled(folder: Path, source: str, *flags: str, name: str = "app") -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / "main.c").write_text(source)
    subprocess.run(["gcc", "-o", name, "main.c", *flags], cwd=folder, check=True)
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("elf")
    source = 'int twice(int x) {{ return x ^ {}; }}\nconst char *when = "built {}";\nint main(void) {{ return twice(2) + !when; }}\n'

    def make(number: int = 2, when: str = "at no time", *flags: str) -> bytes:
        return compiled(folder, source.format(number, when), *flags)

    return make


def test_elf_names_section_and_function(program):
    found = look(program(3), program(5), "app")
    assert found.kind == "elf"
    places = [part.where for part in found.walk() if part.kind == "section"]
    assert any(place.startswith("section .text + ") and ", in twice + " in place for place in places), places


def test_elf_offset_is_that_of_the_first_differing_byte(program):
    one, other = program(3, "", "-Wl,--build-id=none"), program(5, "", "-Wl,--build-id=none")
    expected = next(
        index for index, (left, right) in enumerate(zip(one, other, strict=True)) if left != right
    )
    assert only(look(one, other, "app")).offset == expected


def test_elf_names_strings_and_their_cause(program):
    found = look(program(2, "Nov 23 2026 05:19:22"), program(2, "Nov 24 2026 06:00:00"), "app")
    texts = [part for part in found.walk() if part.kind == "strings"]
    assert any("Nov 23 2026" in part.left and "Nov 24 2026" in part.right for part in texts)
    assert Cause.TIMESTAMP in found.all_causes()


def test_elf_names_the_build_id(program):
    one, other = (program(2, "", f"-Wl,--build-id=0x{digit * 40}") for digit in "12")
    found = only(look(one, other, "app"))
    assert ".note.gnu.build-id" in found.where
    assert (found.left, found.right, found.causes) == ("1" * 40, "2" * 40, (Cause.BUILD_ID,))


def test_elf_names_missing_sections_and_symbols(program):
    found = look(program(), program(2, "at no time", "-s"), "app")
    assert ("missing", "section .symtab") in [(part.kind, part.where) for part in found.details]
    assert any(part.kind == "symbols" for part in found.details)


def test_elf_looks_into_compressed_debug_sections(tmp_path):
    flags = ("-g", "-gz=zlib", "-Wl,--build-id=none", "-Wl,--compress-debug-sections=zlib")
    padding = "".join(f"int variable_number_{number};\n" for number in range(400))
    one = compiled(tmp_path, padding + "int alpha; int main(void) { return 0; }", *flags)
    other = compiled(tmp_path, padding + "int gamma; int main(void) { return 0; }", *flags)
    found = look(one, other, "app")
    assert any("(unpacked)" in part.path for part in found.walk()), render_text((found,))


def test_elf_that_differs_outside_of_sections_says_so(program):
    one = program()
    found = only(look(one, one + b"tail", "app"))
    assert "after the last section" in found.where


def test_elf_without_section_headers_names_the_segment(program):
    images = []
    for number in (3, 5):
        image = bytearray(program(number, "", "-Wl,--build-id=none"))
        image[40:48] = bytes(8)  # e_shoff
        image[58:64] = bytes(6)  # e_shentsize, e_shnum, e_shstrndx
        images.append(bytes(image))
    found = look(*images, "app")
    assert any(part.kind == "segment" and "(load)" in part.where for part in found.walk())


# text, JSON, bytecode, bytes


def test_text_shows_a_unified_diff_with_the_labels():
    lines = [f"line {number}\n" for number in range(1, 101)]
    other = [*lines[:49], "changed\n", *lines[50:]]
    found = compare_bytes(
        "".join(lines).encode(),
        "".join(other).encode(),
        name="a.txt",
        labels=("published", "rebuilt"),
        limits=BUILT_IN,
    )
    assert found.where == "line 50"
    assert found.text.splitlines()[:3] == ["--- published", "+++ rebuilt", "@@ -48,5 +48,5 @@"]
    assert "-line 50" in found.text
    assert "+changed" in found.text


@pytest.mark.parametrize(
    ("left", "right", "cause"),
    [
        ("on Mon Nov 23 05:19:22 UTC 2026\n", "on Tue Nov 24 07:00:01 UTC 2026\n", Cause.TIMESTAMP),
        ("at 2026-11-23T05:19:22Z\n", "at 2026-11-24T05:19:22+01:00\n", Cause.TIMESTAMP),
        ("epoch=1700000000\n", "epoch=1800000000\n", Cause.TIMESTAMP),
        ("in /build/one/src\n", "in /build/second/src\n", Cause.BUILD_PATH),
        ("b\na\n", "a\nb\n", Cause.FILE_ORDER),
        ("/tmp/ccAbCdEf.o\n", "/tmp/ccXyZaBc.o\n", Cause.TEMPORARY_NAME),
        (
            "id 123e4567-e89b-12d3-a456-426614174000\n",
            "id 00000000-e89b-12d3-a456-426614174000\n",
            Cause.RANDOM,
        ),
        ("Linux 6.1.0-18-amd64\n", "Linux 2.6.40-18-amd64\n", Cause.KERNEL_RELEASE),
        ("a\r\nb\r\n", "a\nb\n", Cause.LINE_ENDINGS),
    ],
)
def test_obvious_causes_are_named(left, right, cause):
    assert look(left.encode(), right.encode(), "a.txt").causes == (cause,)


@pytest.mark.parametrize(
    ("left", "right"),
    [("x = 1\n", "x = 2\n"), ("version 1.2.3\n", "version 1.2.4\n"), ("at 05:19:22 a\n", "at 06:19:22 b\n")],
)
def test_no_cause_is_guessed(left, right):
    assert look(left.encode(), right.encode(), "a.txt").causes == ()


def test_a_large_text_names_its_first_differing_line():
    lines = [b"line %d\n" % number for number in range(1000)]
    other = [*lines[:700], b"built 2026-11-23\n", *lines[701:]]
    lines[700] = b"built 2026-11-24\n"
    limits = Limits(text_bytes=1000, diffoscope_s=0)
    found = compare_bytes(b"".join(lines), b"".join(other), name="a.log", limits=limits)
    assert (found.kind, found.where, found.left, found.right, found.causes) == (
        "text",
        "line 701",
        "built 2026-11-24",
        "built 2026-11-23",
        (Cause.TIMESTAMP,),
    )


def test_text_names_a_missing_last_newline():
    assert "no newline at the end" in look(b"a\nb\n", b"a\nb", "a.txt").text


def test_json_names_the_path_of_a_value():
    one = {"a": [{"built": "2026-11-23"}], "b": 1}
    other = {"a": [{"built": "2026-11-24"}], "b": 1}
    found = only(look(json.dumps(one).encode(), json.dumps(other).encode(), "a.json"))
    assert (found.where, found.left, found.causes) == ("$.a[0].built", '"2026-11-23"', (Cause.TIMESTAMP,))


def test_json_tells_another_writing():
    found = look(b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}', "a.json")
    assert found.comments == ("the same values with keys in another order",)
    assert found.causes == (Cause.FILE_ORDER,)


def test_bytecode_names_its_header(tmp_path):
    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    py_compile.compile(
        str(source), str(tmp_path / "a.pyc"), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
    )
    one = (tmp_path / "a.pyc").read_bytes()
    other = one[:8] + b"\0\0\0\1" + one[12:]
    found = only(look(one, other, "a.pyc"))
    assert (found.where, found.causes) == ("mtime", (Cause.TIMESTAMP,))
    assert only(look(one, one[:-1] + b"?", "a.pyc")).offset == len(one) - 1


def test_bytes_are_counted_in_ranges():
    one, other = bytearray(3 << 20), bytearray(3 << 20)
    other[5] = other[6] = 1
    other[(1 << 20) + 3 : (2 << 20) + 7] = b"\1" * ((1 << 20) + 4)
    found = look(bytes(one), bytes(other))
    assert (found.kind, found.offset, found.where) == ("binary", 5, "offset 0x5")
    assert f"{2 + (1 << 20) + 4} bytes differ in 2 ranges: 0x5-0x6, 0x100003-0x200006" in found.comments


def test_a_prefix_says_which_side_ends():
    found = look(b"\0\1\2", b"\0\1\2\3")
    assert (found.offset, found.right) == (3, "0x00000000: 00010203 |....|")
    assert "equal up to the end of run 1" in found.comments


def test_sides_of_different_formats_are_named():
    found = look(gzip.compress(b"x"), tar(("a", b"x")), "file")
    assert "run 1 is gzip, run 2 is tar" in found.comments


# limits


def test_depth_is_bounded():
    one, other = b"one\n", b"two\n"
    for _ in range(5):
        one, other = gzip.compress(one, mtime=0), gzip.compress(other, mtime=0)
    found = compare_bytes(one, other, name="x", limits=Limits(depth=3, diffoscope_s=0))
    assert "not looked into: 3 containers deep" in only(found).comments


def test_time_is_bounded():
    found = compare_bytes(b"1" * 99, b"2" * 99, name="x", limits=Limits(time_s=-1, diffoscope_s=0))
    assert found.comments == ("the time was over before this was compared",)


def test_members_are_bounded():
    one = tar(*((f"f{number}", b"") for number in range(30)))
    other = tar(*((f"f{number}", b"1") for number in range(30)))
    found = compare_bytes(one, other, name="x", limits=Limits(details=5, diffoscope_s=0))
    assert "25 more members differ" in found.comments
    found = compare_bytes(one, other, name="x", limits=Limits(members=5, diffoscope_s=0))
    assert "more than 5 members" in found.comments


def test_large_files_take_no_memory(tmp_path):
    for name, last in (("one", b"\0"), ("other", b"\1")):
        with (tmp_path / name).open("wb") as stream:
            stream.seek((256 << 20) - 1)
            stream.write(last)
    tracemalloc.start()
    found = compare_files(tmp_path / "one", tmp_path / "other", limits=BUILT_IN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.offset == (256 << 20) - 1
    assert peak < 20 << 20


# trees, files, rendering


def folder_tree(folder: Path, store: FolderStore, files: dict[str, bytes], executable: str = "") -> object:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o755 if name == executable else 0o644)
    return read_folder(folder, store)


def test_trees_name_missing_extra_and_changed_paths(tmp_path):
    store = FolderStore(tmp_path / "store")
    one = folder_tree(tmp_path / "1", store, {"gone": b"1", "same": b"s", "sub/changed": b"a\n"})
    other = folder_tree(tmp_path / "2", store, {"new": b"1", "same": b"s", "sub/changed": b"b\n"})
    found = compare_trees(one, other, store, limits=BUILT_IN)
    assert [(part.path, part.kind) for part in found] == [
        ("gone", "missing"),
        ("new", "extra"),
        ("sub/changed", "text"),
    ]


def test_trees_name_executable_bit_and_links(tmp_path):
    store = FolderStore(tmp_path / "store")
    one = folder_tree(tmp_path / "1", store, {"x": b"1"}, executable="x")
    other = folder_tree(tmp_path / "2", store, {"x": b"1"})
    found = only(compare_trees(one, other, store, limits=BUILT_IN)[0])
    assert (found.where, found.left, found.right) == ("executable bit", "executable", "not executable")
    one, other = (make_tree([TreeEntry(path="l", kind="symlink", target=target)]) for target in ("a", "b"))
    found = only(compare_trees(one, other, store, limits=BUILT_IN)[0])
    assert (found.where, found.left, found.right) == ("link target", "a", "b")


def test_equal_trees_have_no_difference(tmp_path):
    store = FolderStore(tmp_path / "store")
    tree = folder_tree(tmp_path / "1", store, {"x": b"1"})
    assert compare_trees(tree, tree, store) == ()


def test_a_file_that_is_not_there_is_an_error_with_its_place(tmp_path):
    from pipeline.difference.compare import CannotCompare

    with pytest.raises(CannotCompare) as caught:
        compare_files(tmp_path / "none", tmp_path / "none")
    assert caught.value.place.endswith("none")


def test_text_shows_labels_causes_and_no_control_characters():
    found = look(
        tar(("evil\x1b[2J\u202e", b"1700000000\n")), tar(("evil\x1b[2J\u202e", b"1800000000\n")), "a.tar"
    )
    text = render_text((found,), labels=("published", "rebuilt"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J\\u202e" in text
    assert "likely cause: timestamp" in text.splitlines()[1]


def test_text_uses_the_labels():
    found = look(b"\0one", b"\0two")
    text = render_text((found,), labels=("published", "rebuilt"))
    assert "  published  0x00000000: 006f6e65 |.one|" in text.splitlines()
    assert "  rebuilt    0x00000000: 0074776f |.two|" in text.splitlines()


def test_text_is_bounded():
    found = look(tar(*((f"{n}", b"") for n in range(90))), tar(*((f"{n}", b"1") for n in range(90))), "a.tar")
    assert render_text((found,), max_lines=10).splitlines()[-1].endswith("(the JSON report has them all)")


def test_json_report_reads_back():
    found = look(tar(("a", b"1\n")), tar(("a", b"2\n")), "a.tar")
    data = to_json((found,), labels=("published", "rebuilt"))
    report = from_json(data)
    assert report.differences == (found,)
    assert report.labels == ("published", "rebuilt")
    assert to_json(report.differences, labels=report.labels) == data


# diffoscope


def fake_diffoscope(folder: Path, script: str, monkeypatch) -> None:
    folder.mkdir()
    program = folder / "diffoscope"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def two_files(tmp_path):
    (tmp_path / "one").write_bytes(b"\0one")
    (tmp_path / "two").write_bytes(b"\0two")
    return tmp_path / "one", tmp_path / "two"


def test_diffoscope_report_is_attached(tmp_path, two_files, monkeypatch):
    fake_diffoscope(tmp_path / "bin", 'for last; do :; done; echo "report on $last"; exit 1\n', monkeypatch)
    assert compare_files(*two_files).text == f"report on {two_files[1]}"


@pytest.mark.skipif(shutil.which("diffoscope") is None, reason="diffoscope is not installed")
def test_what_the_real_diffoscope_reports_is_attached(tmp_path):
    for name, word in (("one", b"first\n"), ("other", b"second\n")):
        (tmp_path / name).write_bytes(gzip.compress(word, mtime=0))
    found = compare_files(tmp_path / "one", tmp_path / "other")
    assert "-first" in found.text
    assert "+second" in found.text


def test_diffoscope_that_hangs_or_fails_is_a_comment(tmp_path, two_files, monkeypatch):
    fake_diffoscope(tmp_path / "bin", "sleep 60 & wait\n", monkeypatch)
    found = compare_files(*two_files, limits=Limits(diffoscope_s=0.2))
    assert found.comments[-1] == "diffoscope did not end within 0.2 s"
    (tmp_path / "bin/diffoscope").write_text("#!/bin/sh\nexit 2\n")
    assert compare_files(*two_files).comments[-1] == "diffoscope ended with status 2"


def test_diffoscope_that_is_absent_is_a_note_with_its_package(two_files, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "diffoscope-minimal" in compare_files(*two_files).comments[-1]
