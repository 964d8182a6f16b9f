"""Page lists: what they mean, that any enclave comes back from one, and what is refused with its line."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measure import MeasureOptions, detect, measure_file
from pipeline.measure.sgx.enclave import Enclave, lay_out
from pipeline.measure.sgx.enclave_image import PAGE, Chunks, EnclaveImage, Pages, Part
from pipeline.measure.sgx.gramine.enclave import lay_out_manifest
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.page_list.document import BadPageList
from pipeline.measure.sgx.page_list.reader import read_page_list
from pipeline.measure.sgx.page_list.writer import write_page_list
from provenance.errors import RvpError, UsageError
from provenance.strict import NotWellFormed, UnknownKey, WrongType
from tests.fakes.libpal import libpal, manifest

HEAD = 'schema = "rvp/enclave-pages/v1"\nsize = 0x20000\nssa_frame_size = 1\n'
LIST = (
    HEAD
    + """
[[run]]
address = 0x1000
pages = 2
access = "r-x"
file = "code.bin"
offset = 16
length = 5000
label = "code"

[[run]]
address = 0x3000
pages = 1
access = "tcs"
tcs = { ossa = 0x4000, nssa = 2, entry = 0x1010, gs_base = 0x6000, fs_limit = 0xfff, gs_limit = 0xfff }

[[run]]
address = 0x4000
pages = 2
access = "rw-"
fill = "00"

[[run]]
address = 0x10000
pages = 3
access = "rw-"
measured = false

[[run]]
address = 0x12f00
chunks = 1
hex = "c0ffee"
"""
)
CODE = bytes(range(256)) * 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code.bin").write_bytes(CODE)
    (tmp_path / "enclave.toml").write_text(LIST)
    return tmp_path


def _plain() -> str:
    """Hash the stream of LIST, written out by hand."""
    stream = struct.pack("<8sIQ44x", b"ECREATE", 1, 0x20000)

    def page(address: int, flags: int, content: bytes | None) -> bytes:
        record = struct.pack("<8sQQ40x", b"EADD", address, flags)
        for at in range(0, PAGE, 256) if content is not None else ():
            record += chunk(address + at, (content or b"").ljust(PAGE, b"\0")[at : at + 256])
        return record

    def chunk(address: int, content: bytes) -> bytes:
        return struct.pack("<8sQ48x", b"EEXTEND", address) + content.ljust(256, b"\0")

    stream += page(0x1000, 0x205, CODE[16:4112]) + page(0x2000, 0x205, CODE[4112:5016])
    tcs = bytearray(72)
    struct.pack_into("<Q", tcs, 16, 0x4000)
    struct.pack_into("<I", tcs, 28, 2)
    struct.pack_into("<Q", tcs, 32, 0x1010)
    struct.pack_into("<Q", tcs, 56, 0x6000)
    struct.pack_into("<II", tcs, 64, 0xFFF, 0xFFF)
    stream += page(0x3000, 0x100, bytes(tcs))
    stream += page(0x4000, 0x203, b"") + page(0x5000, 0x203, b"")
    stream += b"".join(page(at, 0x203, None) for at in (0x10000, 0x11000, 0x12000))
    return hashlib.sha256(stream + chunk(0x12F00, b"\xc0\xff\xee")).hexdigest()


def test_a_list_is_hashed_as_it_says(folder: Path) -> None:
    path = folder / "enclave.toml"
    assert detect(path).name == "page-list"
    measurement = measure_file(path).measurements[0]
    assert measurement.claims["mrenclave"] == _plain()


def test_order_is_part_of_the_value() -> None:
    runs = [f'[[run]]\naddress = {at:#x}\npages = 1\naccess = "r--"\nfill = "00"\n' for at in (0, 0x1000)]
    values = [
        mrenclave(read_page_list((HEAD + "".join(order)).encode()).image) for order in (runs, runs[::-1])
    ]
    assert values[0] != values[1]


contents = st.one_of(
    st.just(b""),
    st.binary(min_size=1, max_size=4).map(lambda some: (some * PAGE)[:PAGE]),
    st.sampled_from([b"\xab" * 8, bytes(range(64)), bytes(range(128))]).map(
        lambda some: some * (PAGE // len(some))
    ),
    st.binary(min_size=8, max_size=60).map(lambda some: some.ljust(2 * PAGE, b"\1")),
    st.binary(min_size=64, max_size=80).map(lambda some: some.ljust(PAGE, b"\0")),
)


@st.composite
def images(draw: st.DrawFn) -> EnclaveImage:
    parts: list[Part] = []
    address = 0
    for _ in range(draw(st.integers(1, 6))):
        content = draw(contents)
        count = len(content) // PAGE if len(content) > PAGE else draw(st.integers(1, 3))
        flags = draw(st.sampled_from([0x200, 0x201, 0x203, 0x205, 0x207, 0x100, 0x603]))
        label = draw(st.sampled_from(["", "heap", 'a "quoted" \\ label', "größer"]))
        parts.append(Pages(address=address, count=count, flags=flags, content=content, label=label))
        if not content and draw(st.booleans()):
            first = draw(st.integers(0, 14))
            some = draw(st.binary(min_size=1, max_size=400))
            size = -(-len(some) // 256) * 256
            parts.append(Chunks(address=address + first * 256, content=some.ljust(size, b"\2")))
        address += (count + draw(st.integers(0, 2))) * PAGE
    return EnclaveImage(size_bytes=1 << 20, ssa_frame_size=draw(st.integers(1, 9)), parts=tuple(parts))


@settings(max_examples=60, deadline=None)
@given(image=images())
def test_any_enclave_comes_back_from_its_list(image: EnclaveImage) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "list.toml"
        write_page_list(Enclave(layout="test", image=image), path)
        back = lay_out(path)[0].image
        assert mrenclave(back) == mrenclave(image)
        labels = {part.label for part in image.parts}
        assert {part.label for part in back.parts} <= labels


def test_a_gramine_enclave_comes_back_and_equal_enclaves_give_equal_bytes(tmp_path: Path) -> None:
    enclave = lay_out_manifest(manifest(), memoryview(libpal()))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written = write_page_list(enclave, tmp_path / name / "list.toml")
        assert [path.name for path in written] == ["list.toml", "list.pages"]
        assert mrenclave(lay_out(written[0])[0].image) == mrenclave(enclave.image)
    for name in ("list.toml", "list.pages"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "list.toml").read_text()
    assert "tcs = { ossa = " in text
    assert 'label = "stack 1"' in text


def test_a_signed_sdk_enclave_keeps_its_signature(vectors: Path, tmp_path: Path) -> None:
    source = vectors / "sgx/mini/keysvc.signed.so"
    written = write_page_list(lay_out(source)[0], tmp_path / "keysvc.toml")
    assert [path.suffix for path in written] == [".toml", ".pages", ".sig"]
    before, after = (measure_file(path).measurements[0] for path in (source, written[0]))
    assert before.claims == after.claims
    assert all(check.status == "passed" for check in after.checks)


def test_a_changed_content_is_noticed_by_its_digest(folder: Path) -> None:
    write_page_list(lay_out(folder / "enclave.toml")[0], folder / "again.toml")
    contents = folder / "again.pages"
    data = bytearray(contents.read_bytes())
    data[100] ^= 1
    contents.write_bytes(data)
    with pytest.raises(BadPageList, match="sha256"):
        lay_out(folder / "again.toml")


def run(text: str) -> str:
    return HEAD + "[[run]]\n" + text + "\n"


REFUSED = {
    "an enclave of three pages": (HEAD.replace("0x20000", "0x3000"), "power of two"),
    "an address inside a page": (run('address = 0x10\npages = 1\naccess = "r--"\nfill = "00"'), "inside a page"),
    "pages beyond the end": (run('address = 0x1f000\npages = 2\naccess = "r--"\nfill = "00"'), "beyond the enclave"),
    "pages without end": (run('address = 0\npages = 0xfffffffffffff\naccess = "r--"\nfill = "00"'), "beyond"),
    "more than can be hashed": (
        run('address = 0\npages = 0x10000000\naccess = "r--"\nfill = "00"').replace("0x20000", "0x10000000000"),
        "bytes to hash",
    ),
    "pages twice": (
        run('address = 0x1000\npages = 3\naccess = "r--"\nfill = "00"')
        + '[[run]]\naddress = 0x2000\npages = 1\naccess = "r--"\nfill = "00"',
        "added before",
    ),
    "pages over later ones": (
        run('address = 0x2000\npages = 3\naccess = "r--"\nfill = "00"')
        + '[[run]]\naddress = 0x1000\npages = 2\naccess = "r--"\nfill = "00"',
        "added before",
    ),
    "no content": (run('address = 0\npages = 1\naccess = "r--"'), "no content"),
    "two contents": (run('address = 0\npages = 1\naccess = "r--"\nfill = "00"\nhex = "00"'), "fill and hex"),
    "content that is not measured": (
        run('address = 0\npages = 1\naccess = "r--"\nfill = "00"\nmeasured = false'),
        "not measured, no content",
    ),
    "neither pages nor chunks": (run('address = 0\naccess = "r--"\nfill = "00"'), "pages or chunks"),
    "an access that is none": (run('address = 0\npages = 1\naccess = "xwr"\nfill = "00"'), "permissions"),
    "an access in short": (run('address = 0\npages = 1\naccess = "r"\nfill = "00"'), "permissions"),
    "flags that no CPU hashes": (run('address = 0\npages = 1\nflags = 0x20b\nfill = "00"'), "SECINFO"),
    "a TCS of two pages": (
        run('address = 0\npages = 2\naccess = "tcs"\ntcs = {ossa=0,nssa=1,entry=0,fs_limit=0,gs_limit=0}'),
        "one page",
    ),
    "a fill of three bytes": (run('address = 0\npages = 1\naccess = "r--"\nfill = "000000"'), "do not fill"),
    "half a byte": (run('address = 0\npages = 1\naccess = "r--"\nhex = "0"'), "hex digits"),
    "too much content": (
        run(f'address = 0\npages = 1\naccess = "r--"\nhex = "{"00" * 4097}"'),
        "0x1001 bytes for 0x1000",
    ),
    "chunks of no page": (run('address = 0\nchunks = 1\nhex = "00"'), "in no page"),
    "chunks of a measured page": (
        run('address = 0\npages = 1\naccess = "r--"\nfill = "00"') + '[[run]]\naddress = 0\nchunks = 1\nfill = "00"',
        "in no page",
    ),
    "chunks twice": (
        run('address = 0\npages = 1\naccess = "r--"\nmeasured = false')
        + '[[run]]\naddress = 0\nchunks = 2\nfill = "00"\n' * 2,
        "measured before",
    ),
    "chunks over a page's end": (
        run('address = 0\npages = 2\naccess = "r--"\nmeasured = false')
        + '[[run]]\naddress = 0xf00\nchunks = 2\nfill = "00"',
        "in one page",
    ),
    "an offset without a file": (run('address = 0\npages = 1\naccess = "r--"\nfill = "00"\noffset = 1'), "without file"),
    "a label that moves the cursor": (run('address = 0\npages = 1\naccess = "r--"\nfill = "00"\nlabel = "\\u001b["'), "label"),
    "a file that is not there": (run('address = 0\npages = 1\naccess = "r--"\nfile = "none"'), "no such file"),
    "a file above": (run('address = 0\npages = 1\naccess = "r--"\nfile = "../code.bin"'), "beside the list"),
    "a file of the system": (run('address = 0\npages = 1\naccess = "r--"\nfile = "/etc/passwd"'), "beside the list"),
    "a link that leads out": (run('address = 0\npages = 1\naccess = "r--"\nfile = "link"'), "leads out"),
    "a folder": (run('address = 0\npages = 1\naccess = "r--"\nfile = "."'), "no such file"),
    "a part behind the end": (run('address = 0\npages = 1\naccess = "r--"\nfile = "code.bin"\noffset = 7000'), "the file has"),
    "another content": (
        run(f'address = 0\npages = 1\naccess = "r--"\nfile = "code.bin"\nsha256 = "{"0" * 64}"'),
        "the content has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_list_that_is_no_enclave_is_refused_with_its_line(what: str, folder: Path) -> None:
    text, named = REFUSED[what]
    (folder / "link").symlink_to("/etc/passwd")
    start = time.monotonic()
    with pytest.raises(BadPageList, match=named) as caught:
        read_page_list(text.encode(), folder=folder, name="list.toml")
    assert caught.value.place.startswith("list.toml:")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (run("address = -1\npages = 1"), WrongType),
        (run("address = 0x1000\npage = 1"), UnknownKey),
        (HEAD.replace("v1", "v2"), WrongType),
        (HEAD.replace("ssa_frame_size = 1", "ssa_frame_size = 0"), WrongType),
        (HEAD + "run = 1", WrongType),
        (HEAD + "x = [" * 3000, NotWellFormed),
    ],
)
def test_keys_and_types_are_strict(text: str, kind: type[RvpError]) -> None:
    with pytest.raises(kind):
        read_page_list(text.encode())


def test_cut_and_flipped_lists_give_only_our_errors(folder: Path) -> None:
    text = LIST.encode()
    refused = 0
    for at in range(0, len(text), 3):
        for broken in (text[:at], text[:at] + bytes([text[at] ^ 0x15]) + text[at + 1 :]):
            try:
                read_page_list(broken, folder=folder)
            except UsageError:
                refused += 1
    assert refused > 100


def test_an_enclave_with_flags_that_a_list_cannot_say_is_refused(tmp_path: Path) -> None:
    image = EnclaveImage(
        size_bytes=1 << 14, ssa_frame_size=1, parts=(Pages(address=0, count=1, flags=0x20B),)
    )
    with pytest.raises(BadPageList, match="0x20b"):
        write_page_list(Enclave(layout="test", image=image), tmp_path / "list.toml")
    assert list(tmp_path.iterdir()) == []


def test_options_give_the_signature_precedence(folder: Path) -> None:
    (folder / "enclave.sig").write_bytes(b"not one")
    assert lay_out(folder / "enclave.toml", MeasureOptions(sigstruct=bytes(1808)))[0].sigstruct is None
    assert lay_out(folder / "enclave.toml", MeasureOptions(companions=False))[0].sigstruct is None
