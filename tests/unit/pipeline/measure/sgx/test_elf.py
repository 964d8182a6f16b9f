"""The ELF reader: what lies is named with its field and its place; what is huge is refused, not read."""

from __future__ import annotations

import resource
import struct
import time

import pytest

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.sgx.elf import BadElf, Elf, ThirtyTwoBitEnclave
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.sdk_files import Record, Segment, sdk_file

WHOLE = enclave_elf()
PHOFF, SHOFF = struct.unpack_from("<QQ", WHOLE, 32)
HUGE = 1 << 63


def changed(at: int, form: str, value: int) -> Elf:
    data = bytearray(WHOLE)
    struct.pack_into(form, data, at, value)
    return Elf(memoryview(data), name="e.so")


@pytest.mark.parametrize(
    ("at", "form", "value", "said"),
    [
        (5, "<B", 2, "field e_ident of the ELF header at file offset 0x0:"),
        (18, "<H", 183, "field e_machine of the ELF header at file offset 0x12: 183, expected 62"),
        (32, "<Q", HUGE, "field e_phoff of the ELF header at file offset 0x20:"),
        (40, "<Q", HUGE, "field e_shoff of the ELF header at file offset 0x28:"),
        (54, "<H", 55, "field e_phentsize of the ELF header at file offset 0x36: 55, expected 56"),
        (56, "<H", 1171, "field e_phnum of the ELF header at file offset 0x38: 1171, at most 1170"),
        (58, "<H", 63, "field e_shentsize of the ELF header at file offset 0x3a: 63, expected 64"),
        (62, "<H", 5, "field e_shstrndx of the ELF header at file offset 0x3e: 5, there are 5 sections"),
        (PHOFF + 56 + 8, "<Q", HUGE, "field p_offset of program header 1 at file offset 0x80:"),
        (PHOFF + 56 + 16, "<Q", HUGE, "field p_vaddr of program header 1 at file offset 0x88:"),
        (PHOFF + 56 + 40, "<Q", 3, "field p_filesz of program header 1 at file offset 0x98:"),
        (SHOFF + 3 * 64 + 32, "<Q", HUGE, f"field sh_size of section 3 at file offset {SHOFF + 224:#x}:"),
        (SHOFF + 3 * 64 + 24, "<Q", HUGE, f"field sh_offset of section 3 at file offset {SHOFF + 216:#x}:"),
        (SHOFF + 64 + 40, "<I", 9, f"field sh_link of section 1 at file offset {SHOFF + 104:#x}: 9, there"),
        (
            SHOFF + 2 * 64 + 4,
            "<I",
            11,
            f"field sh_type of section 2 at file offset {SHOFF + 132:#x}: a second",
        ),
    ],
)
def test_a_field_that_lies_is_named_with_its_place(at: int, form: str, value: int, said: str) -> None:
    with pytest.raises(BadElf) as caught:
        changed(at, form, value)
    assert said in caught.value.message
    assert caught.value.place == "e.so"


def test_a_file_that_is_cut_anywhere_is_refused() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(BadElf):
            Elf(memoryview(WHOLE[:size]))


def test_a_32_bit_enclave_is_called_one(tmp_path) -> None:
    file = bytearray(sdk_file((Segment(address=0, content=b"x"),), (Record(version=(1, 4), size=0x2000),)))
    file[4] = 1
    path = tmp_path / "enclave32.signed.so"
    path.write_bytes(file)
    with pytest.raises(ThirtyTwoBitEnclave, match="32-bit enclave") as caught:
        measure_file(path, options=MeasureOptions())
    assert "x86-64" in caught.value.hint
    assert (caught.value.code, caught.value.exit_code) == ("RVP-5020", 2)


def test_65535_sections_with_the_names_of_a_large_table_take_little(tmp_path) -> None:
    """Names are cut at 256 bytes; all sections share one table of names."""
    sections = 65535
    at = 64 + sections * 64
    row = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at, 1 << 20, 0, 0, 1, 0)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, sections, 1
    )
    data = header + row * sections + b"n" * (1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    assert Elf(memoryview(data)).symbol("g_global_data") is None
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10, "KiB"


def test_more_symbols_than_are_read_are_refused() -> None:
    symbols = (1 << 22) + 1
    data = bytearray(WHOLE) + bytes(24 * symbols)
    struct.pack_into("<QQ", data, SHOFF + 64 + 24, len(WHOLE), 24 * symbols)
    with pytest.raises(BadElf, match=r"field sh_size of section 1 .*: 4194305 symbols"):
        Elf(memoryview(data))


def test_a_dynamic_section_without_end_is_refused() -> None:
    entries = struct.pack("<QQ", 1, 1) * ((1 << 16) + 1)
    data = bytearray(WHOLE) + entries
    struct.pack_into("<IIQQQQQQ", data, PHOFF, 2, 6, len(WHOLE), 0, 0, len(entries), len(entries), 8)
    with pytest.raises(BadElf, match=r"field p_filesz of program header 0 .*: 65537 entries"):
        _ = Elf(memoryview(data)).dynamic
