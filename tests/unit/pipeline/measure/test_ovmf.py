"""The table of GUIDs at the end of OVMF."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from pipeline.measure import ovmf
from pipeline.measure.ovmf import BadFirmware, is_firmware_file, read_firmware
from tests.fakes.ovmf import make_ovmf

GUID = "12345678-9abc-def0-1234-56789abcdef0"


def test_the_entries_are_read_backwards_with_their_places() -> None:
    data = make_ovmf(more=((GUID, b"hello"),))
    found = read_firmware(data, name="x.fd")
    assert found.has_table
    assert found.gpa == 0x100000000 - len(data)
    assert [one.guid for one in found.entries] == [
        GUID, ovmf.SEV_HASH_TABLE, ovmf.SEV_ES_RESET, ovmf.SEV_METADATA,
    ]  # fmt: skip
    entry = found.entry(GUID)
    assert entry is not None
    assert data[entry.offset : entry.offset + 5] == entry.data == b"hello"
    assert found.number(ovmf.SEV_ES_RESET) == 0x80B004
    offset = found.metadata_offset(ovmf.SEV_METADATA)
    assert offset is not None
    assert data[offset : offset + 4] == b"ASEV"


def test_firmware_without_the_table_has_no_entries() -> None:
    found = read_firmware(b"\x90" * 8192)
    assert not found.has_table
    assert found.entries == ()
    assert found.number(ovmf.SEV_ES_RESET) is None
    assert found.metadata_offset(ovmf.SEV_METADATA) is None


def _with_footer(length: int, before: bytes = b"") -> bytes:
    return bytes(256) + before + struct.pack("<H", length) + uuid.UUID(ovmf.FOOTER).bytes_le + bytes(32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (_with_footer(0), "says that the table has 0 bytes"),
        (_with_footer(17), "says that the table has 17 bytes"),
        (_with_footer(0xFFFF), "says that the table has 65535 bytes"),
        (_with_footer(18 + 5), "5 bytes at"),
        (_with_footer(36, struct.pack("<H", 17) + bytes(16)), "says that it has 17 bytes"),
        (_with_footer(36, struct.pack("<H", 19) + bytes(16)), "says that it has 19 bytes"),
        (_with_footer(54, (struct.pack("<H", 18) + bytes(16)) * 2), "stands twice"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused_with_its_field(data: bytes, words: str) -> None:
    with pytest.raises(BadFirmware, match=words) as caught:
        read_firmware(data, name="x.fd")
    assert caught.value.place == "x.fd"


def test_an_offset_outside_the_file_is_refused() -> None:
    for back in (0, 0x10001, 0xFFFFFFFF):
        data = make_ovmf(None, more=((ovmf.TDX_METADATA, struct.pack("<I", back)),))
        with pytest.raises(BadFirmware, match="TDX metadata offset"):
            read_firmware(data).metadata_offset(ovmf.TDX_METADATA)


def test_an_entry_too_short_for_its_number_is_refused() -> None:
    data = make_ovmf(None, more=((ovmf.TDX_METADATA, b"abc"),))
    with pytest.raises(BadFirmware, match="3 bytes, at least 4"):
        read_firmware(data).metadata_offset(ovmf.TDX_METADATA)


def test_a_file_longer_than_any_firmware_is_refused() -> None:
    with pytest.raises(BadFirmware, match="0x4001000"):
        read_firmware(memoryview(bytearray((64 << 20) + 4096)))


def test_a_firmware_file_is_recognised_by_its_footer(tmp_path: Path) -> None:
    good, other, short = tmp_path / "a.fd", tmp_path / "b.fd", tmp_path / "c"
    good.write_bytes(make_ovmf())
    other.write_bytes(make_ovmf() + b"x")
    short.write_bytes(b"x")
    assert [is_firmware_file(one) for one in (good, other, short, tmp_path / "none")] == [
        True,
        False,
        False,
        False,
    ]
