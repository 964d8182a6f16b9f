"""The TDX metadata of firmware: read whole, or refused with a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.measure import detect
from pipeline.measure.ovmf import BadFirmware
from pipeline.measure.tdx.tdvf import BadTdvf, NoTdvfMetadata, SectionKind, is_tdvf_file, read_tdvf
from tests.fakes.ovmf import make_ovmf
from tests.fakes.tdvf import CFV, TD_HOB, TD_SHIM, TEMP_MEM, Row, make_tdvf, ovmf_sections

SIZE, VARIABLES = 0x10000, 0x4000


def test_sections_come_in_the_order_of_the_file() -> None:
    tdvf = read_tdvf(make_tdvf(), "x")
    assert tdvf.form == "ovmf"
    assert [one.kind.name for one in tdvf.sections] == [
        "BFV",
        "CFV",
        "TEMP_MEM",
        "TEMP_MEM",
        "TD_HOB",
        "TEMP_MEM",
    ]
    bfv = tdvf.only(SectionKind.BFV)
    assert bfv is not None
    assert (bfv.offset, bfv.raw_size, bfv.address, bfv.is_measured) == (0x4000, 0xC000, 0xFFFF4000, True)


def test_td_shim_has_an_offset_instead_of_a_table() -> None:
    tdvf = read_tdvf(make_tdvf(TD_SHIM, form="td-shim"), "x")
    assert tdvf.form == "td-shim"
    by_kind = {one.kind: one for one in tdvf.sections}
    assert not by_kind[SectionKind.PERM_MEM].is_added
    assert not by_kind[SectionKind.TD_INFO].is_added
    assert by_kind[SectionKind.PAYLOAD].is_measured


@pytest.mark.parametrize("form", ["ovmf", "td-shim"])
def test_firmware_is_recognised_by_its_end(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.fd"
    path.write_bytes(make_tdvf(None if form == "ovmf" else TD_SHIM, form=form))
    assert is_tdvf_file(path)
    assert detect(path).name == "tdvf"
    path.write_bytes(make_tdvf()[:-1])
    assert not is_tdvf_file(path)


@pytest.mark.parametrize("data", [b"x", bytes(4096), bytes(65536), make_ovmf(), b"\xff" * 65536])
def test_firmware_without_metadata_says_which_builds_have_it(data: bytes) -> None:
    with pytest.raises(NoTdvfMetadata) as caught:
        read_tdvf(data, "x.fd")
    assert "X64" in caught.value.hint


def changed(number: int, **fields: int) -> list[Row]:
    sections = ovmf_sections(SIZE, VARIABLES)
    names = ("offset", "raw", "address", "size", "type", "attributes")
    row = dict(zip(names, sections[number], strict=True)) | fields
    sections[number] = tuple(row[name] for name in names)  # type: ignore[assignment]  # six numbers
    return sections


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (changed(2, type=8), "section 2 has type 8"),
        (changed(2, attributes=4), "attributes 0x4"),
        (changed(2, attributes=3), "measured and not added"),
        (changed(2, address=0x811001), "not whole pages"),
        (changed(2, size=0xF001), "not whole pages"),
        (changed(0, size=0x1000), "0xc000 bytes of data for 0x1000"),
        (changed(0, offset=0x4001), "lie outside of the file"),
        (changed(2, offset=0xFFFFF000, raw=0x1000), "lie outside of the file"),
        (changed(2, address=0xFFFFFFFFFFFFF000), "leave the address space"),
        (changed(2, size=0xFFFFFFFFFFFFF000), "leave the address space"),
        (changed(2, address=0x80C000), "overlap"),
        (changed(2, address=0x100000000, size=1 << 40), "are added"),
        (changed(2, address=0x100000000, size=1 << 30, attributes=1), "are measured"),
        (changed(2, type=TD_HOB), "2 sections TD_HOB"),
        (changed(4, type=TEMP_MEM), "0 sections TD_HOB"),
        (changed(1, raw=0x3000), "BFV and CFV have 0xf000 bytes"),
        (changed(1, type=TEMP_MEM), "BFV and CFV have 0xc000 bytes"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(sections: list[Row], message: str) -> None:
    with pytest.raises(BadTdvf, match=message) as caught:
        read_tdvf(make_tdvf(sections), "x.fd")
    assert caught.value.place.startswith("x.fd")


@pytest.mark.parametrize(("field", "value"), [("count", 0), ("count", 65), ("count", 5), ("version", 2)])
def test_a_wrong_header_is_refused(field: str, value: int) -> None:
    with pytest.raises(BadTdvf):
        read_tdvf(make_tdvf(**{field: value}), "x.fd")


def test_every_truncation_is_refused() -> None:
    data = make_tdvf()
    for length in [*range(0, len(data), 997), *range(len(data) - 0x900, len(data))]:
        with pytest.raises((NoTdvfMetadata, BadTdvf, BadFirmware)):
            read_tdvf(data[:length], "x.fd")


def test_no_flipped_bit_of_the_metadata_goes_unseen() -> None:
    data = make_tdvf()
    expected = read_tdvf(data, "x.fd")
    start = len(data) - 0x800
    for at in [*range(start, start + 32 + 32 * 6), *range(len(data) - 32 - 40, len(data) - 32)]:
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                read = read_tdvf(bytes(flipped), "x.fd")
            except (NoTdvfMetadata, BadTdvf, BadFirmware):
                continue
            assert read != expected, f"bit {bit} of {at:#x}"


def test_the_variables_are_unmeasured_in_the_fake_as_in_ovmf() -> None:
    assert [row[5] for row in ovmf_sections(SIZE, VARIABLES) if row[4] == CFV] == [0]
