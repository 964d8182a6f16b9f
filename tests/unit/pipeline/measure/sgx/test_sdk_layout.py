"""The odd corners of the SDK's loader, one by one: which pages are added, with which flags, and their hash."""

from __future__ import annotations

import resource
import struct
import time
from pathlib import Path

import msgspec
import pytest

from pipeline.measure.sgx.elf import BadElf, Elf
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.enclave_image import EnclaveImage
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import BadSgxMetadata, read_metadata
from tests.fakes.plain_sdk_loader import plain_mrenclaves
from tests.fakes.sdk_files import PAGE, Entry, Record, Segment, sdk_file

TEXT = Segment(address=0x1000, content=b"text" * 3000, flags=5)  # pages 1 to 3
DATA = Segment(address=0x5000, content=b"data" * 100, memory=0x2100, flags=6)  # pages 5 to 7
HEAP = Entry(address=0x9000, attributes=1)
LATE = Entry(address=0x10000, attributes=1)


def image_of(file: bytes) -> EnclaveImage:
    """Lay out the first record, having compared every record with the plain loader."""
    elf = Elf(memoryview(file), name="e.so")
    images = [enclave_image(elf, record) for record in read_metadata(elf)]
    assert [mrenclave(image).hex() for image in images] == plain_mrenclaves(file)
    return images[0]


def pages(file: bytes) -> list[tuple[int, str]]:
    """List page number and flags of every page, in order."""
    return [
        (run.address // PAGE + index, f"{run.flags:x}{'m' if run.is_measured else ''}")
        for run in image_of(file).parts
        for index in range(run.count)
    ]


def test_segments_then_layout() -> None:
    file = sdk_file((TEXT, DATA), (Record(version=(2, 4), size=0x10000, layout=(HEAP,)),))
    assert pages(file) == [
        (1, "205m"),
        (2, "205m"),
        (3, "205m"),
        *((at, "203m") for at in (5, 6, 7)),
        (9, "203"),
    ]


@pytest.mark.parametrize("version", [(1, 3), (1, 4), (2, 4)])
def test_metadata_1_3_adds_a_page_where_sizes_were_rounded_first(version: tuple[int, int]) -> None:
    odd = Segment(
        address=0x1010, content=b"odd", memory=0x1010, flags=5
    )  # to 0x2020; rounded first: to 0x3010
    last = Segment(address=0x5010, memory=0x10, content=b"x", flags=6)  # to 0x5020; rounded first: to 0x6010
    file = sdk_file((odd, last), (Record(version=version, size=0x10000),))
    plain = [(1, "205m"), (2, "205m"), (5, "203m")]
    more = [(1, "205m"), (2, "205m"), (3, "205m"), (5, "203m"), (6, "203m")]
    assert pages(file) == (more if version == (1, 3) else plain)


def test_metadata_1_3_adds_no_page_where_the_next_segment_begins() -> None:
    odd = Segment(address=0x1010, content=b"odd", memory=0x1010, flags=5)
    file = sdk_file(
        (odd, Segment(address=0x3000, content=b"x", flags=6)), (Record(version=(1, 3), size=0x10000),)
    )
    assert pages(file) == [(1, "205m"), (2, "205m"), (3, "203m")]


def test_text_relocations_make_pages_writable() -> None:
    relocations = (
        (0x1FFC, 1),
        (0x2100, 0),
        (0x3000, 8),
        (0x3008, 8),
    )  # over a boundary; none; twice in a page
    file = sdk_file((TEXT, DATA), (Record(version=(2, 4), size=0x10000),), relocations=relocations)
    assert pages(file)[:3] == [(1, "207m"), (2, "207m"), (3, "207m")]
    file = sdk_file((TEXT, DATA), (Record(version=(2, 4), size=0x10000),), relocations=relocations[1:])
    assert pages(file)[:3] == [(1, "205m"), (2, "205m"), (3, "207m")]


def test_text_relocations_leave_zero_pages_alone() -> None:
    text = Segment(address=0x1000, content=b"t" * 100, memory=0x3000, flags=5)
    file = sdk_file(
        (text, DATA), (Record(version=(2, 4), size=0x10000),), relocations=((0x2000, 8), (0x1000, 8))
    )
    assert pages(file)[:3] == [(1, "207m"), (2, "205m"), (3, "205m")]


def test_a_range_moves_every_page_and_takes_its_own_size() -> None:
    record = Record(version=(13, 3), size=0x10000, layout=(HEAP,), elrange=(0x230000, 0x200000, 0x40000 << 3))
    image = image_of(sdk_file((TEXT,), (record,)))
    assert image.size_bytes == 0x200000
    assert [run.address for run in image.parts] == [0x31000, 0x33000, 0x39000]


def test_an_appended_module_is_loaded_after_the_segments(tmp_path: Path) -> None:
    module = sdk_file(
        (Segment(address=0, content=b"fips" * 2000, flags=5), Segment(address=0x3000, memory=9, flags=6))
    )
    records = tuple(
        Record(version=version, size=0x20000, layout=(Entry(address=0x10000),), module=0x8000)
        for version in ((3, 3), (1, 5))
    )
    file = sdk_file((TEXT, DATA), records, module=module)
    assert pages(file)[6:] == [(8, "205m"), (9, "205m"), (11, "203m"), (16, "203m")]
    path = tmp_path / "enclave.signed.so"
    path.write_bytes(file)
    assert [one.base for one in lay_out(path)[0].elves] == [0, 0x8000]


def test_generations_before_2_24_know_no_appended_modules() -> None:
    """What stands where the directory is in later ones is data."""
    record = Record(version=(3, 1), size=0x10000, layout=(HEAP,), patches=((0x10, b"x" * 40),))
    assert pages(sdk_file((TEXT,), (record,), module=b"nobody reads this"))[-1] == (9, "203")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (b"\x7fELX" * 100, "not an ELF file"),
        (sdk_file((TEXT,))[:3000], "field p_offset of program header 0 at"),
        (b"\x7fELF\x01".ljust(100, b"\0"), "32-bit enclave"),
    ],
)
def test_an_appended_module_that_is_none_is_refused(module: bytes, said: str) -> None:
    elf = Elf(
        memoryview(sdk_file((TEXT,), (Record(version=(3, 3), size=0x20000, module=0x8000),), module=module))
    )
    with pytest.raises(BadElf, match=said) as caught:
        enclave_image(elf, read_metadata(elf)[0])
    assert "module at file offset" in caught.value.place


def test_a_module_with_thread_local_storage_is_refused() -> None:
    module = bytearray(sdk_file((TEXT, DATA)))
    struct.pack_into("<I", module, 64 + 56, 7)
    elf = Elf(
        memoryview(
            sdk_file((TEXT,), (Record(version=(3, 3), size=0x20000, module=0x8000),), module=bytes(module))
        )
    )
    with pytest.raises(BadSgxMetadata, match="thread-local storage"):
        enclave_image(elf, read_metadata(elf)[0])


class Lying:
    """A file with one record, one field of which is changed; the record begins with its magic number."""

    def __init__(self, **changes: object) -> None:
        record = msgspec.structs.replace(
            Record(
                version=(13, 3),
                size=0x20000,
                layout=(LATE, Entry(flags=0x100, address=0x11000, content=bytes(72))),
            ),
            **{"elrange": (0x400000, 0x400000, 0x20000), "module": 0x8000, "patches": ((0x1000, b"p"),)}
            | changes,
        )
        self.data = bytearray(sdk_file((TEXT,), (record,), module=sdk_file((TEXT,))))
        self.record = self.data.index(bytes.fromhex("4c0e5d639402a886"))
        self.directories = struct.unpack_from("<8I", self.data, self.record + 0x750)

    def put(self, at: int, form: str, value: int) -> Lying:
        struct.pack_into(form, self.data, self.record + at, value)
        return self

    def row(self, table: int, at: int, form: str, value: int) -> Lying:
        return self.put(self.directories[2 * table] + at, form, value)


FIELDS = {
    "version": Lying().put(12, "<I", 7),
    "size": Lying().put(16, "<I", 0x7FFFFFFF),
    "ssa_frame_size": Lying().put(24, "<I", 0),
    "enclave_size": Lying().put(40, "<Q", 0x21000),
    "dirs[0].size": Lying().put(0x754, "<I", 33),
    "dirs[0].offset": Lying().put(0x750, "<I", 0xFFFFFFE0),
    "dirs[1].size": Lying().put(0x75C, "<I", 32 * 4097),
    "dirs[1].offset": Lying().put(0x758, "<I", 0xFFFFFFE0),
    "dirs[2].size": Lying().put(0x764, "<I", 23),
    "dirs[2].offset": Lying().put(0x760, "<I", 0xFFFFFFE0),
    "dirs[3].size": Lying().put(0x76C, "<I", 15),
    "dirs[3].offset": Lying().put(0x768, "<I", 0xFFFFFFE0),
    "patch[0].dst": Lying().row(0, 0, "<Q", 1 << 63),
    "patch[0].src": Lying().row(0, 8, "<I", 0xFFFFFFFF),
    "patch[0].size": Lying().row(0, 12, "<I", 0xFFFFFFFF),
    "layout[1].content_offset": Lying().row(1, 32 + 20, "<I", 0xFFFFFFFF),
    "layout[1].content_size": Lying(layout=(LATE, Entry(content=bytes(5000)))).row(1, 32 + 4, "<I", 1),
    "layout[0].entry_count": Lying().row(1, 0, "<H", 0x1009),
    "layout[2].entry_count": Lying(layout=(LATE, Entry(repeat=(1, 0, 0)), Entry(repeat=(2, 1, 0x1000)))),
    "elrange_size": Lying().row(2, 16, "<Q", 0x21000),
    "elrange_start_address": Lying().row(2, 8, "<Q", 0x401000),
    "enclave_image_address": Lying().row(2, 0, "<Q", 0x401000),
    "extend_table[0].entry_id": Lying().row(3, 0, "<I", 0x1003),
    "extend_table[0].size": Lying().row(3, 4, "<I", 31),
    "extend_table[0].offset": Lying().row(3, 8, "<I", 0xFFFFFFFF),
    "file_offset": Lying().put(Lying().directories[6] - 32, "<Q", 1 << 63),
    "mem_offset": Lying().put(Lying().directories[6] - 24, "<Q", 0x8001),
}


def test_the_file_before_a_field_is_changed_is_good() -> None:
    image_of(bytes(Lying().data))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_lies_is_named_with_its_place(field: str) -> None:
    elf = Elf(memoryview(FIELDS[field].data), name="e.so")
    with pytest.raises(BadSgxMetadata) as caught:
        read_metadata(elf)
    name, at, _ = caught.value.message.removeprefix("field ").partition(" at file offset 0x")
    assert (name, at) == (field, " at file offset 0x")
    assert caught.value.place == "e.so"


def test_a_record_that_is_cut_anywhere_is_refused() -> None:
    good = Lying()
    elf = Elf(memoryview(good.data))
    size = read_metadata(elf)[0].size_bytes
    for cut in range(1, size):
        elf = Elf(memoryview(good.put(16, "<I", cut).data))
        try:
            enclave_image(elf, read_metadata(elf)[0])
        except (BadSgxMetadata, BadElf):
            continue
        raise AssertionError(f"a record of {cut} bytes was read")


def test_a_relocation_outside_the_segments_is_refused() -> None:
    file = sdk_file((TEXT, DATA), (Record(version=(2, 4), size=0x10000),), relocations=((1 << 62, 8),))
    elf = Elf(memoryview(file))
    with pytest.raises(BadSgxMetadata, match="field r_offset of relocation 0 at file offset 0x"):
        enclave_image(elf, read_metadata(elf)[0])


@pytest.mark.parametrize(
    ("times", "step"), [(200_000, 0), (200_000, 8), (3, 0x1008), (17, PAGE), (1, 1 << 63)]
)
def test_a_group_that_cannot_fit_is_refused_before_it_is_repeated(times: int, step: int) -> None:
    layout = (HEAP, Entry(ident=9, repeat=(1, times, step)))
    elf = Elf(memoryview(sdk_file((TEXT,), (Record(version=(2, 4), size=0x10000, layout=layout),))))
    start = time.monotonic()
    with pytest.raises(
        BadSgxMetadata, match=f"layout entry 1 repeats entries {times} times in steps of {step:#x}"
    ):
        enclave_image(elf, read_metadata(elf)[0])
    assert time.monotonic() - start < 0.5


def test_many_threads_take_no_memory() -> None:
    """A page of content for each of 200 000 repetitions would be 800 MB."""
    threads = (
        Entry(address=0x9000, flags=0x100, content=bytes(72)),
        Entry(ident=9, repeat=(1, 200_000, PAGE)),
    )
    elf = Elf(memoryview(sdk_file((TEXT,), (Record(version=(2, 4), size=1 << 30, layout=threads),))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    image = enclave_image(elf, read_metadata(elf)[0])
    assert sum(run.count for run in image.parts) == 3 + 200_001
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "KiB"
    assert time.monotonic() - start < 20
