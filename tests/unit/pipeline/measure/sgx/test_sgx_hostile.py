"""Metadata that lies: every count and offset is bounded before anything is hashed or read."""

from __future__ import annotations

import struct
import time

import pytest

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import measure_packed, pack_enclave
from pipeline.measure.sgx.sdk.metadata import DIRECTORIES_AT, BadSgxMetadata, metadata_block
from pipeline.measure.sgx.sgxs import BadSgxs
from provenance.errors import UsageError
from tests.fakes.enclave_elf import enclave_elf

CONFIG = EnclaveConfig(threads=2, stack="16KiB", heap="64KiB")


class Enclave:
    """A packed enclave whose metadata can be changed."""

    def __init__(self) -> None:
        self.data = bytearray(pack_enclave(enclave_elf(), CONFIG))
        block = metadata_block(Elf(memoryview(self.data)))
        assert block is not None
        self.record = block[0]
        self.patches, _, self.layout, _ = struct.unpack_from("<IIII", self.data, self.record + DIRECTORIES_AT)

    def put(self, at: int, form: str, value: int) -> Enclave:
        struct.pack_into(form, self.data, self.record + at, value)
        return self

    def entry(self, index: int, at: int, form: str, value: int) -> Enclave:
        return self.put(self.layout + 32 * index + at, form, value)


HEAP, STACK, GROUP = 0, 2, 8
CASES = {
    "a heap beyond the enclave": Enclave().entry(HEAP, 4, "<I", 0xFFFFFFFF),
    "an enclave that grows with it": Enclave().entry(STACK, 4, "<I", 0xFFFFFFFF).put(40, "<Q", 1 << 48),
    "a group that repeats for ever": Enclave().entry(GROUP, 4, "<I", 0xFFFFFFFF),
    "a group of more than stand before": Enclave().entry(GROUP, 2, "<H", 99),
    "a step out of the address space": Enclave().entry(GROUP, 8, "<Q", 1 << 63),
    "pages over pages": Enclave().entry(STACK, 8, "<Q", 0x1000),
    "an address inside a page": Enclave().entry(HEAP, 8, "<Q", 0x4010),
    "a size that is no power of two": Enclave().put(40, "<Q", 0x123000),
    "no SSA frame": Enclave().put(24, "<I", 0),
    "a record beyond its note": Enclave().put(16, "<I", 0x7FFFFFFF),
    "an unknown version": Enclave().put(8, "<Q", 7 << 32),
    "a layout beyond the record": Enclave().put(DIRECTORIES_AT + 8, "<I", 0xFFFFFF00),
    "a layout that is cut": Enclave().put(DIRECTORIES_AT + 12, "<I", 33),
    "a patch from beyond the record": Enclave().put(Enclave().patches + 8, "<I", 0xFFFFFFF0),
    "an extension of another kind": Enclave()
    .put(DIRECTORIES_AT + 24, "<I", 16)
    .put(DIRECTORIES_AT + 28, "<I", 16),
}


@pytest.mark.parametrize("what", CASES)
def test_lying_metadata_is_refused_at_once(what: str) -> None:
    start = time.monotonic()
    with pytest.raises(BadSgxMetadata):
        measure_packed(bytes(CASES[what].data))
    assert time.monotonic() - start < 5


def test_a_patch_outside_the_file_is_refused() -> None:
    with pytest.raises(BadSgxMetadata, match=r"field patch\[0\]\.dst at file offset 0x"):
        measure_packed(bytes(Enclave().put(Enclave().patches, "<Q", 1 << 60).data))


def test_a_patched_view_is_restored() -> None:
    data = bytes(Enclave().data)
    assert measure_packed(data) == measure_packed(data)


def test_the_file_on_disk_is_never_written(tmp_path) -> None:
    path = tmp_path / "e.so"
    path.write_bytes(Enclave().data)
    path.chmod(0o444)
    measure_file(path)
    assert path.read_bytes() == bytes(Enclave().data)


@pytest.mark.parametrize("at", [4, 18, 32, 40, 42, 54, 56, 58, 60, 62])
@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_a_broken_elf_header_is_our_error_or_harmless(tmp_path, at: int, value: int) -> None:
    data = bytearray(Enclave().data)
    data[at] = data[at + 1] = value
    path = tmp_path / "e.so"
    path.write_bytes(data)
    try:
        measured = measure_file(path, options=MeasureOptions(with_log=False))
    except UsageError:
        return
    assert measured.measurements[0].claims["mrenclave"]


STREAM_HEAD = struct.pack("<8sIQ44x", b"ECREATE\0", 1, 0x4000)
PAGE = struct.pack("<8sQQ40x", b"EADD\0\0\0\0", 0, 0x201)
CHUNK = struct.pack("<8sQ48x", b"EEXTEND\0", 0) + bytes(256)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"UNSIZED\0" + STREAM_HEAD[8:], "no size yet"),
        (STREAM_HEAD[:40], "40 bytes"),
        (struct.pack("<8sIQ44x", b"ECREATE\0", 1, 0x4001), "ECREATE has size"),
        (STREAM_HEAD + STREAM_HEAD, "where a page should begin"),
        (STREAM_HEAD + CHUNK, "where a page should begin"),
        (STREAM_HEAD + PAGE + PAGE, "a page at 0x0 after"),
        (STREAM_HEAD + struct.pack("<8sQQ40x", b"EADD\0\0\0\0", 0x4000, 0x201), "a page at 0x4000"),
        (STREAM_HEAD + struct.pack("<8sQQ40x", b"EADD\0\0\0\0", 0x10, 0x201), "a page at 0x10"),
        (STREAM_HEAD + struct.pack("<8sQQ40x", b"EADD\0\0\0\0", 0, 0x103), "the CPU hashes 0x100"),
        (STREAM_HEAD + PAGE + CHUNK + CHUNK, "not once in the page"),
        (STREAM_HEAD + PAGE + CHUNK[:-1], "ends inside a chunk"),
        (STREAM_HEAD + PAGE[:-1], "ends inside a record"),
        (STREAM_HEAD + PAGE[:-1] + b"x", "reserved bytes"),
    ],
)
def test_a_stream_that_is_not_canonical_is_refused(tmp_path, stream: bytes, said: str) -> None:
    path = tmp_path / "e.sgxs"
    path.write_bytes(stream)
    with pytest.raises(BadSgxs, match=said):
        measure_file(path)


def test_unmeasured_chunks_are_loaded_but_not_hashed(tmp_path) -> None:
    import hashlib

    loaded = b"UNMEASRD" + struct.pack("<Q48x", 256) + b"u" * 256
    path = tmp_path / "e.sgxs"
    path.write_bytes(STREAM_HEAD + PAGE + CHUNK + loaded)
    (measurement,) = measure_file(path).measurements
    assert measurement.claims["mrenclave"] == hashlib.sha256(STREAM_HEAD + PAGE + CHUNK).hexdigest()
