"""Equal inputs have no difference; one flipped byte has one that names its place; nothing ever crashes the look."""

import gzip
import io
import lzma
import tarfile
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.difference import Limits, compare_bytes, render_text, to_json

LIMITS = Limits(diffoscope_s=0, time_s=10, inner_bytes=1 << 20)


def _tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("one", "two"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("one"), data)
        archive.writestr(zipfile.ZipInfo("two"), data)
    return out.getvalue()


def _ar(data: bytes) -> bytes:
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"one/", 0, 0, 0, b"100644", len(data))
    return b"!<arch>\n" + header + data + b"\n" * (len(data) % 2)


def _cpio(data: bytes) -> bytes:
    out = (
        b"070701"
        + b"".join(b"%08X" % n for n in (1, 33188, 0, 0, 1, 0, len(data), 0, 0, 0, 0, 4, 0))
        + b"one\0"
    )
    out += bytes(-len(out) % 4) + data
    return out + bytes(-len(out) % 4)


def _elf(data: bytes) -> bytes:
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += b"".join(
        n.to_bytes(size, "little") for n, size in ((1, 2), (62, 2), (1, 4), (0, 8), (0, 8), (64, 8), (0, 4))
    )
    header += b"".join(n.to_bytes(2, "little") for n in (64, 56, 0, 64, 3, 2))
    names = b"\0.data\0.shstrtab\0"

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        pairs = ((name, 4), (kind, 4), (0, 8), (0, 8), (offset, 8), (size, 8), (0, 4), (0, 4), (1, 8), (0, 8))
        return b"".join(n.to_bytes(width, "little") for n, width in pairs)

    body = 64 + 3 * 64
    table = bytes(64) + section(1, 1, body, len(data)) + section(7, 3, body + len(data), len(names))
    return header + table + data + names


FORMATS = {
    "a.bin": bytes,
    "a.tar": _tar,
    "a.zip": _zip,
    "a.a": _ar,
    "a.cpio": _cpio,
    "a.elf": _elf,
    "a.gz": lambda data: gzip.compress(data, mtime=0),
    "a.xz": lzma.compress,
    "a.tar.gz": lambda data: gzip.compress(_tar(data), mtime=0),
}
MAGICS = (
    b"\x7fELF\2\1\1",
    b"\x7fELF\1\2\1",
    b"!<arch>\n",
    b"!<thin>\n",
    b"PK\3\4",
    b"PK\5\6",
    b"070701",
    b"\x1f\x8b\x08",
    b"\xfd7zXZ\0",
    b"BZh91AY&SY",
    b"\x28\xb5\x2f\xfd",
    b"\x6f\x0d\r\n",
    b"{",
    b"[",
    b"",
)

names = st.sampled_from(sorted(FORMATS))
contents = st.binary(min_size=1, max_size=600)


@given(name=names, data=contents)
@settings(max_examples=60, deadline=None)
def test_equal_inputs_have_no_difference(name, data):
    made = FORMATS[name](data)
    assert compare_bytes(made, bytes(bytearray(made)), name=name, limits=LIMITS) is None


@given(name=names, data=contents, where=st.integers(min_value=0), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_one_flipped_byte_is_named(name, data, where, flip):
    made = FORMATS[name](data)
    changed = bytearray(made)
    changed[where % len(made)] ^= flip
    found = compare_bytes(made, bytes(changed), name=name, limits=LIMITS)
    assert found is not None
    assert any(part.where or part.kind in {"missing", "extra"} for part in found.walk())
    assert render_text((found,)).isascii() or render_text((found,)).replace("\n", "").isprintable()


@given(data=st.binary(min_size=4, max_size=400), where=st.integers(min_value=0), flip=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_the_offset_of_a_flipped_byte_in_bytes_and_sections_is_exact(data, where, flip):
    place = where % len(data)
    changed = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
    found = compare_bytes(b"\0" + data, b"\0" + changed, name="x", limits=LIMITS)
    assert found.offset == place + 1
    found = compare_bytes(_elf(data), _elf(changed), name="x", limits=LIMITS)
    assert [part.offset for part in found.walk() if part.kind == "section"] == [64 + 3 * 64 + place]
    assert f"section .data + {place:#x}" in found.details[0].where


@given(
    magics=st.tuples(st.sampled_from(MAGICS), st.sampled_from(MAGICS))
    | st.sampled_from([(m, m) for m in MAGICS]),
    left=st.binary(max_size=400),
    right=st.binary(max_size=400),
    name=st.sampled_from(["x", "x.pyc", "x.tar.gz", "\x1b]0;x"]),
)
@settings(max_examples=400, deadline=None)
def test_random_bytes_never_raise(magics, left, right, name):
    one, other = magics[0] + left, magics[1] + right
    found = compare_bytes(one, other, name=name, limits=LIMITS)
    assert (found is None) == (one == other)
    if found is not None:
        render_text((found,))
        to_json((found,))


@given(
    name=names,
    data=contents,
    cuts=st.tuples(st.integers(0, 700), st.integers(0, 700)),
    noise=st.binary(max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_cut_and_disturbed_archives_never_raise(name, data, cuts, noise):
    made = FORMATS[name](data)
    start = cuts[0] % len(made)
    broken = made[:start] + noise + made[start + cuts[1] % 50 :]
    found = compare_bytes(made, broken, name=name, limits=LIMITS)
    assert (found is None) == (made == broken)
    assert found is None or not any(
        "failed:" in comment for part in found.walk() for comment in part.comments
    )
