"""Open Enclave files that lie: every offset, size and count is bounded before anything is made of it."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import BadElf
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.open_enclave.enclave import lay_out_open_enclave
from pipeline.measure.sgx.open_enclave.link import MissingModule
from pipeline.measure.sgx.open_enclave.properties import BadOpenEnclave
from provenance.errors import UsageError
from tests.fakes.open_enclave_elf import NUMBERS, open_enclave_elf, properties

GOOD = open_enclave_elf(properties(), tdata=b"tls" * 9, tbss=64, plt=((0x30, 8, 1),))
INFO = GOOD.index(properties())


class Changed:
    """The good file with a number changed."""

    def __init__(self, data: bytes = GOOD) -> None:
        self.data = bytearray(data)

    def put(self, at: int, form: str, *values: int) -> Changed:
        struct.pack_into(form, self.data, at, *values)
        return self

    def program(self, index: int, at: int, form: str, value: int) -> Changed:
        return self.put(64 + 56 * index + at, form, value)

    def section(self, name: str, at: int, form: str, value: int) -> Changed:
        sections, (count, names) = (
            struct.unpack_from("<Q", self.data, 40)[0],
            struct.unpack_from("<HH", self.data, 60),
        )
        strings = struct.unpack_from("<Q", self.data, sections + 64 * names + 24)[0]
        for index in range(count):
            row = sections + 64 * index
            start = strings + struct.unpack_from("<I", self.data, row)[0]
            if self.data[start : self.data.index(b"\0", start)] == name.encode():
                return self.put(row + at, form, value)
        raise KeyError(name)

    def symbol(self, index: int, value: int) -> Changed:
        at = struct.unpack_from("<Q", self.data, struct.unpack_from("<Q", self.data, 40)[0] + 64 + 24)[0]
        return self.put(at + 24 * index + 8, "<Q", value)


CASES = {
    ".dynsym has": Changed(GOOD + bytes(24 << 19))
    .section(".dynsym", 24, "<Q", len(GOOD))
    .section(".dynsym", 32, "<Q", 24 << 19),
    "num_heap_pages": Changed().put(INFO + 8, "<Q", (1 << 64) - 2),
    "num_heap_pages: ": Changed().put(INFO + 8, "<Q", 1 << 53),
    "num_stack_pages": Changed().put(INFO + 16, "<Q", (1 << 64) - 2),
    "num_tcs": Changed().put(INFO + 24, "<Q", (1 << 64) - 1),
    "num_tcs: 65535": Changed().put(INFO + 24, "<Q", 0xFFFF),
    "bytes to hash": Changed().put(INFO + 16, "<Q", 1 << 20).put(INFO + 24, "<Q", 4000),
    "the enclave's size": Changed().put(INFO + 8, "<Q", 1 << 34),
    "start_address": Changed().put(INFO + 36, "<I", 2).put(INFO + 88, "<Q", (1 << 64) - 4096),
    "lies inside a page": Changed().put(INFO + 36, "<I", 2).put(INFO + 88, "<Q", 0x1010),
    "type: 3": Changed().put(INFO + 4, "<I", 3),
    "size: properties of 9999": Changed().put(INFO, "<I", 9999),
    "releases before 0.5": Changed().put(INFO, "<I", 1856),
    "no entry point": Changed().put(24, "<Q", 0),
    "e_type": Changed().put(16, "<H", 2),
    "lowest segment": Changed().program(0, 16, "<Q", 0x1000),
    "segments overlap": Changed().program(1, 40, "<Q", 0x40000),
    "p_memsz": Changed().program(2, 40, "<Q", 1 << 50),
    "no permissions": Changed().program(1, 4, "<I", 0),
    "sh_addr: .tdata": Changed().section(".tdata", 16, "<Q", 0x3000),
    "p_filesz": Changed().section(".tdata", 32, "<Q", 1),
    "aligned to": Changed().program(4, 48, "<Q", 1 << 62),
    ".tbss has": Changed().section(".tbss", 32, "<Q", 1 << 60),
    ".tbss has ": Changed().section(".tbss", 48, "<Q", 0),
    "sh_addr: .oeinfo": Changed().section(".oeinfo", 16, "<Q", 1 << 50),
    "not a table": Changed().section(".rela.dyn", 32, "<Q", 25),
    "relocations of type 99": Changed().put(GOOD.index(struct.pack("<QQq", 0x10, 8, 0x1000)) + 8, "<I", 99),
    "r_info: symbol 77": Changed().put(
        GOOD.index(struct.pack("<QQq", 0x10, 8, 0x1000)) + 8, "<Q", 77 << 32 | 18
    ),
    "lies outside the image": Changed().symbol(2, 1 << 63),
    "symbol _reloc_rva": Changed(open_enclave_elf(properties(), symbols=(NUMBERS[0], NUMBERS[2]))),
}


@pytest.mark.parametrize("message", CASES)
def test_it_is_refused_at_once_with_the_field_and_the_place(tmp_path: Path, message: str) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(CASES[message].data)
    before = time.monotonic()
    with pytest.raises(BadOpenEnclave) as caught:
        lay_out(path)
    assert message.strip() in str(caught.value)
    assert str(path) in str(caught.value.place)
    assert time.monotonic() - before < 2


def test_a_damaged_table_is_refused_by_the_reader_of_elf_files(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(Changed().section(".rela.dyn", 24, "<Q", 1 << 40).data)
    with pytest.raises(BadElf):
        lay_out(path)


def test_cut_anywhere_it_is_an_error_of_this_tree(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    for size in [*range(0, 1200, 7), *range(1200, len(GOOD), 97)]:
        path.write_bytes(GOOD[:size])
        with pytest.raises(UsageError):
            lay_out_open_enclave(path, MeasureOptions())


def test_a_flipped_byte_is_another_enclave_or_an_error_of_this_tree(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    sections = struct.unpack_from("<Q", GOOD, 40)[0]
    for at in [*range(0, 0x700, 3), *range(INFO, INFO + 100), *range(sections, len(GOOD), 5)]:
        data = bytearray(GOOD)
        data[at] ^= 0xFF
        path.write_bytes(data)
        try:
            (enclave,) = lay_out_open_enclave(path, MeasureOptions())
        except UsageError:
            continue
        assert sum(1 for _ in enclave.image.parts) < 1 << 16


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(), needed="libmore.so"))
    with pytest.raises(MissingModule, match=r"libmore\.so"):
        lay_out(path)


@pytest.mark.parametrize("name", ["..", "a/..", "."])
def test_a_module_cannot_be_a_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(), needed=name))
    with pytest.raises(BadOpenEnclave, match="names no file"):
        lay_out(path)
