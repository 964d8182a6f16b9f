"""Files that Intel's loader would read otherwise than a careful reader: measured as it does, or refused."""

from __future__ import annotations

import struct
import time

import msgspec
import pytest

from pipeline.measure.sgx.elf import BadElf, Elf
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import BadSgxMetadata, read_metadata
from tests.fakes.plain_sdk_loader import plain_mrenclaves
from tests.fakes.sdk_files import BLOCK, PAGE, Entry, Record, Segment, sdk_file

TEXT = Segment(address=0x1000, content=b"text" * 3000, flags=5)
DATA = Segment(address=0x5000, content=b"data" * 100, flags=6)
RECORD = Record(version=(3, 3), size=0x20000, layout=(Entry(address=0x9000),))
TCS = Entry(address=0x10000, flags=0x100, content=bytes(range(72)))
MAGIC = bytes.fromhex("4c0e5d639402a886")


def measured(file: bytes | bytearray) -> list[str]:
    elf = Elf(memoryview(file), name="e.so")
    return [mrenclave(enclave_image(elf, record)).hex() for record in read_metadata(elf)]


def section_headers(file: bytes | bytearray) -> int:
    return int.from_bytes(file[40:48], "little")


def test_a_tcs_that_is_not_measured_is_added_only() -> None:
    """Else its entry point would seem bound, and is not."""
    loose = msgspec.structs.replace(TCS, attributes=1)
    file = sdk_file((TEXT,), (msgspec.structs.replace(RECORD, layout=(loose,)),))
    other = msgspec.structs.replace(loose, content=bytes(72))
    changed = sdk_file((TEXT,), (msgspec.structs.replace(RECORD, layout=(other,)),))
    assert measured(file) == measured(changed) == plain_mrenclaves(file)


def test_an_empty_segment_inside_a_page_adds_none() -> None:
    empty = Segment(address=0x8010, flags=6)
    file = sdk_file((TEXT, DATA, empty), (RECORD,))
    assert measured(file) == plain_mrenclaves(file) == measured(sdk_file((TEXT, DATA), (RECORD,)))


@pytest.mark.parametrize("flags", [0x3, 0x103, 0x300, 0x1203, 0x100000203, 0x213])
def test_page_flags_that_the_loader_would_change_are_refused(flags: int) -> None:
    layout = (Entry(address=0x9000, flags=flags),)
    file = sdk_file((TEXT,), (msgspec.structs.replace(RECORD, layout=layout),))
    with pytest.raises(BadSgxMetadata, match=f"SECINFO flags {flags:#x}"):
        measured(file)


def patched(offset: int, module: bytes = b"") -> bytes:
    record = msgspec.structs.replace(
        RECORD, patches=((offset, b"patched!"),), module=0x10000 if module else None
    )
    return sdk_file((TEXT,), (record,), module=module)


def test_a_patch_over_the_metadata_is_refused() -> None:
    """The loader patches first and then reads the layout, and SIGSTRUCT, from the patched file."""
    record = patched(0).index(MAGIC)
    for at in (record - 7, record + 0x780, record + BLOCK - 1):
        with pytest.raises(BadSgxMetadata, match=r"patch\[0\] of metadata 3.3 .* into the metadata"):
            measured(patched(at))


def test_a_patch_over_an_appended_module_is_refused() -> None:
    """The loader parses the module's headers after it has patched the file."""
    module = sdk_file((TEXT,))
    at = patched(0x1000, module).rindex(b"\x7fELF")
    with pytest.raises(BadSgxMetadata, match="into the appended module"):
        measured(patched(at + 60, module))


def test_a_record_behind_the_note_is_refused() -> None:
    """The loader follows the magic numbers, and would take it if its version is higher."""
    file = bytearray(sdk_file((TEXT,), (RECORD,)))
    note = file.index(b"sgx_metadata\0") - 12
    size = int.from_bytes(file[note + 41 : note + 45], "little")
    struct.pack_into("<I", file, note + 4, size)
    assert measured(file)
    file[note + 25 + size : note + 25 + size + 8] = MAGIC
    with pytest.raises(BadSgxMetadata, match="field magic_num"):
        measured(file)


def test_a_record_of_no_size_is_refused() -> None:
    file = bytearray(sdk_file((TEXT,), (RECORD,)))
    at = file.index(MAGIC)
    end = at + int.from_bytes(file[at + 16 : at + 20], "little")
    file[end : end + 8] = MAGIC
    with pytest.raises(BadSgxMetadata, match="field size"):
        measured(file)


def with_another_note(kind: int) -> bytearray:
    """Put a section of the same name before the note: the loader takes the first, of whatever type."""
    file = bytearray(sdk_file((TEXT,), (RECORD,)))
    at = section_headers(file)
    note = file[at + 128 : at + 192]
    first = bytearray(note)
    struct.pack_into("<I", first, 4, kind)
    file[at:] = file[at : at + 64] + first + file[at + 64 : at + 192]
    struct.pack_into("<HH", file, 60, 4, 2)
    return file


@pytest.mark.parametrize("kind", [0, 1, 8])
def test_two_notes_are_refused(kind: int) -> None:
    with pytest.raises(BadSgxMetadata, match=r"2 sections \.note\.sgxmeta"):
        measured(with_another_note(kind))


def test_a_note_without_a_type_is_no_note() -> None:
    file = bytearray(sdk_file((TEXT,), (RECORD,)))
    struct.pack_into("<IIQQQQ", file, section_headers(file) + 128, 1, 0, 0, 0, 1 << 62, 100)
    with pytest.raises(BadSgxMetadata, match="has no section"):
        measured(file)


@pytest.mark.parametrize("cut", [1, 12])
def test_section_names_that_leave_their_table_are_refused(cut: int) -> None:
    """The loader reads on behind the table."""
    file = bytearray(sdk_file((TEXT,), (RECORD,)))
    at = section_headers(file) + 64 + 32
    struct.pack_into("<Q", file, at, int.from_bytes(file[at : at + 8], "little") - cut)
    with pytest.raises(BadElf, match="field sh_name of section"):
        Elf(memoryview(file))


RELOCATED = sdk_file((TEXT, DATA), (RECORD,), relocations=((0x1FFC, 1), (0x2100, 8)))


def test_a_dynamic_section_without_an_end_is_refused() -> None:
    """The loader reads on to DT_NULL, and may find DT_TEXTREL there."""
    file = bytearray(RELOCATED)
    header = 64 + 2 * 56
    assert file[header] == 2
    struct.pack_into("<Q", file, header + 32, 16 * 2)
    with pytest.raises(BadElf, match="without a DT_NULL"):
        measured(file)


@pytest.mark.parametrize(("moved", "refused"), [(0, False), (24, True)])
def test_relocations_lie_where_their_section_says(moved: int, refused: bool) -> None:  # noqa: FBT001
    """The loader finds the table by its section, others by the program headers."""
    elf = Elf(memoryview(RELOCATED))
    address = elf.dynamic[7]
    file = bytearray(RELOCATED)
    at = section_headers(file)
    file[at : at + 64] = struct.pack(
        "<IIQQQQIIQQ", 0, 4, 2, address, elf.file_offset(address, 24) + moved, 24, 0, 0, 8, 24
    )
    if not refused:
        assert measured(file) == plain_mrenclaves(RELOCATED)
        return
    with pytest.raises(BadSgxMetadata, match="the relocation table at address"):
        measured(file)


def test_a_part_of_a_relocation_is_refused() -> None:
    file = bytearray(RELOCATED)
    at = Elf(memoryview(RELOCATED)).segments[2].offset
    assert struct.unpack_from("<QQ", file, at + 16)[0] == 8
    struct.pack_into("<Q", file, at + 24, 25)
    with pytest.raises(BadSgxMetadata, match="the relocation table at address"):
        measured(file)


def test_many_relocations_and_many_segments_take_little_time() -> None:
    code = tuple(Segment(address=(2 * n + 1) * PAGE, content=b"x", flags=5) for n in range(1000))
    data = Segment(address=2001 * PAGE, content=b"d", flags=6)
    records = tuple(Record(version=version, size=1 << 24) for version in ((3, 3), (1, 5)))
    relocations = ((999 * PAGE, 8), *((2000 * PAGE + 8, 8) for _ in range(200_000)))
    file = sdk_file((*code, data), records, relocations=relocations)
    elf = Elf(memoryview(file))
    start = time.monotonic()
    images = [enclave_image(elf, record) for record in read_metadata(elf)]
    assert time.monotonic() - start < 3
    assert [run.address // PAGE for run in images[0].parts if run.flags == 0x207] == [999]


def test_many_patches_and_many_segments_take_little_time() -> None:
    """Every segment maps the same page, which every patch touches; or each its own."""
    patches = tuple((0x20000 + 2 * n, b"p") for n in range(1500))
    patches += tuple((0x21000 + PAGE * n, b"q") for n in range(1500))
    code = tuple(Segment(address=(n + 4000) * PAGE, content=b"x", flags=5) for n in range(1000))
    body = Segment(address=0, content=bytes(2000 * PAGE), flags=6)
    file = bytearray(sdk_file((body, *code), (Record(version=(3, 3), size=1 << 25, patches=patches),)))
    for n in range(1000):
        struct.pack_into("<Q", file, 64 + 56 * (n + 1) + 8, 0x20000)
    start = time.monotonic()
    values = measured(file)
    assert time.monotonic() - start < 4
    assert values == plain_mrenclaves(bytes(file))
