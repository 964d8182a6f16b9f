"""SEV metadata: what is refused, and by which field."""

from __future__ import annotations

import struct
import time

import pytest

from pipeline.measure.ovmf import BadFirmware, read_firmware
from pipeline.measure.snp.guest import make_guest
from pipeline.measure.snp.sections import BadSevMetadata, NoSevMetadata, SectionType, read_sections
from provenance.errors import RvpError
from tests.fakes.ovmf import AMD_SEV, CPUID, KERNEL_HASHES, SEC_MEM, SECRETS, make_ovmf


def _read(data: bytes):
    firmware = read_firmware(data, name="x.fd")
    return read_sections(firmware, below=firmware.gpa)


def test_sections_are_read_in_the_order_of_the_file() -> None:
    found = _read(make_ovmf())
    assert [(one.gpa, one.size_bytes, int(one.type)) for one in found] == list(AMD_SEV)
    assert found[0].type is SectionType.SEC_MEM


def test_firmware_without_metadata_is_told_apart_and_the_hint_names_builds_that_have_it() -> None:
    for data, words in (
        (make_ovmf(None), "the table at its end has none"),
        (bytes(0x2000), "no table at its end"),
    ):
        with pytest.raises(NoSevMetadata, match=words) as caught:
            _read(data)
        assert "OVMF.fd" in caught.value.hint
        assert "OVMF_CODE_4M.fd" in caught.value.hint


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ((0x800000, 0xFF7F1000, SEC_MEM), "size 0xff7f1000.*is behind 0xffff0000"),
        ((0xFFFF0000, 0x1000, SEC_MEM), "is behind 0xffff0000"),
        ((0x800800, 0x1000, SEC_MEM), "multiples of 0x1000"),
        ((0x800000, 0x1800, SEC_MEM), "multiples of 0x1000"),
        ((0x800000, 0, SEC_MEM), "size is zero"),
        ((0x800000, 0x2000, SECRETS), "size of SECRETS must be 0x1000"),
        ((0x800000, 0x2000, CPUID), "size of CPUID must be 0x1000"),
        ((0x800000, 0x2000, KERNEL_HASHES), "size of KERNEL_HASHES must be 0x1000"),
        ((0x800000, 0x1000, 5), "the type is none of 0x1, 0x2, 0x3, 0x4, 0x10"),
        ((0x90D000, 0x4001000, SEC_MEM), "add up to 0x4002000"),
        ((0x90C000, 0x2000, SEC_MEM), "overlap"),
    ],
)
def test_a_section_that_no_guest_can_have_is_refused_with_its_field(
    section: tuple[int, int, int], words: str
) -> None:
    started = time.process_time()
    with pytest.raises(BadSevMetadata, match=words) as caught:
        _read(make_ovmf([(0x90D000 - 0x1000 if "add up" in words else 0x90D000, 0x1000, SECRETS), section]))
    assert caught.value.place == "x.fd"
    assert time.process_time() - started < 1


def _patched(offset: int, value: int) -> bytes:
    data = bytearray(make_ovmf())
    at = data.index(b"ASEV")
    struct.pack_into("<I", data, at + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_patched(0, 0), "00000000, expected 41534556"),
        (_patched(4, 15), "length at .* is 0xf"),
        (_patched(4, 0xFFFFFFFF), "length at .* is 0xffffffff"),
        (_patched(8, 2), "version at .* is 2"),
        (_patched(12, 0), "count at .* is 0"),
        (_patched(12, 0xFFFFFFFF), "count at .* is 4294967295"),
        (_patched(12, 100), "length at"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused_with_its_field(data: bytes, words: str) -> None:
    with pytest.raises(BadSevMetadata, match=words):
        _read(data)


def test_firmware_that_does_not_fill_its_pages_is_refused() -> None:
    with pytest.raises(BadFirmware, match="no multiple of 0x1000"):
        make_guest(read_firmware(bytes(100) + make_ovmf()))


def test_every_truncation_and_every_flipped_byte_of_the_table_is_refused_or_measured_within_bounds() -> None:
    data = make_ovmf(size=0x3000)
    started = time.process_time()
    changed = [data[:length] for length in range(0, len(data), 97)]
    changed += [
        data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(len(data) - 0x900, len(data))
    ]
    refused = 0
    for one in changed:
        try:
            make_guest(read_firmware(one))
        except RvpError:
            refused += 1
    assert refused > 200
    assert time.process_time() - started < 10
