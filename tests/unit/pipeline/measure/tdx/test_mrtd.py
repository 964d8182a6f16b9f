"""MRTD against a second, straight-line implementation, and against what others published of Debian's ovmf."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.tdx.measure import TdxOptions, measure_firmware, measure_td
from pipeline.measure.tdx.mrtd import PageOrder, mrtd
from pipeline.measure.tdx.mrtd_log import TdxLogDoesNotFold, fold_mrtd_log, write_mrtd_log
from pipeline.measure.tdx.shape import ContradictoryShape
from pipeline.measure.tdx.tdvf import BadTdvf, read_tdvf
from provenance.measurement_log import LogEvent
from tests.fakes.tdvf import TD_INFO, TD_SHIM, Row, make_tdvf, ovmf_sections

FIRMWARE = {
    "ovmf": (make_tdvf(), ovmf_sections(0x10000, 0x4000)),
    "td-shim": (make_tdvf(TD_SHIM, form="td-shim", seed=2), TD_SHIM),
    "larger than a batch": (make_tdvf(size=0x210000, seed=3), ovmf_sections(0x210000, 0x4000)),
}


def plain_mrtd(data: bytes, sections: list[Row], *, two_pass: bool) -> str:
    """MRTD as its specification says it, one record after the other."""
    hashing = hashlib.sha384()

    def add(address: int) -> None:
        hashing.update(b"MEM.PAGE.ADD\0\0\0\0" + address.to_bytes(8, "little") + bytes(104))

    def extend(address: int, page: bytes) -> None:
        for at in range(0, 4096, 256):
            hashing.update(b"MR.EXTEND".ljust(16, b"\0") + (address + at).to_bytes(8, "little") + bytes(104))
            hashing.update(page[at : at + 256])

    for offset, raw_size, address, size, kind, attributes in sections:
        if attributes & 2 or kind == TD_INFO:
            continue
        content = data[offset : offset + raw_size].ljust(size, b"\0")
        if two_pass:
            for at in range(0, size, 4096):
                add(address + at)
        for at in range(0, size, 4096):
            if not two_pass:
                add(address + at)
            if attributes & 1:
                extend(address + at, content[at : at + 4096])
    return hashing.hexdigest()


@pytest.mark.parametrize("name", FIRMWARE)
@pytest.mark.parametrize("order", PageOrder)
def test_both_orders_agree_with_a_straight_line(name: str, order: PageOrder) -> None:
    data, sections = FIRMWARE[name]
    expected = plain_mrtd(data, sections, two_pass=order is PageOrder.TWO_PASS)
    assert mrtd(read_tdvf(data, name), data, order).hex() == expected


def test_the_orders_differ_and_variables_are_in_neither() -> None:
    data = bytearray(make_tdvf())
    tdvf = read_tdvf(data, "x")
    before = [mrtd(tdvf, data, order) for order in PageOrder]
    assert before[0] != before[1]
    data[0x100] ^= 1
    assert [mrtd(tdvf, data, order) for order in PageOrder] == before
    data[0x4100] ^= 1
    assert not set(before) & {mrtd(tdvf, data, order) for order in PageOrder}


@pytest.mark.parametrize("name", FIRMWARE)
@pytest.mark.parametrize("order", PageOrder)
def test_the_log_folds_to_the_value(name: str, order: PageOrder) -> None:
    data, sections = FIRMWARE[name]
    tdvf = read_tdvf(data, name)
    value = mrtd(tdvf, data, order)
    log = write_mrtd_log(tdvf, data, order, value)

    def content_of(event: LogEvent) -> bytes:
        row = next(one for one in sections if one[2] <= event.address < one[2] + one[3])
        at = event.address - row[2]
        return data[row[0] : row[0] + row[1]].ljust(row[3], b"\0")[at : at + event.count * 4096]

    assert fold_mrtd_log(log, content_of) == value
    with pytest.raises(TdxLogDoesNotFold):
        fold_mrtd_log(log, lambda event: bytes(event.count * 4096))
    assert len({one.label for one in log.events}) > 3


def test_a_log_names_the_one_page_that_differs() -> None:
    data = make_tdvf()
    other = bytearray(data)
    other[0x7123] ^= 1
    logs = [
        write_mrtd_log(read_tdvf(one, "x"), one, PageOrder.SINGLE_PASS, bytes(48)).events
        for one in (data, other)
    ]
    (address,) = {one.address for one in set(logs[0]) ^ set(logs[1]) if one.address == 0xFFFF7000}
    assert address == 0xFFFF7000


def test_a_firmware_gives_one_measurement_for_each_page_order(tmp_path: Path) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_tdvf())
    measured = measure_firmware(path, MeasureOptions())
    assert [one.variant for one in measured.measurements] == [
        {"vmm": "qemu", "page_order": "single-pass"},
        {"vmm": "qemu", "page_order": "two-pass"},
    ]
    assert [log.value for log in measured.logs] == [one.claims["mrtd"] for one in measured.measurements]
    gce = measure_td(path, TdxOptions(vmm="gce", with_log=False))
    assert [one.variant for one in gce.measurements] == [{"vmm": "gce", "page_order": "single-pass"}]
    with pytest.raises(ContradictoryShape, match="not in two-pass"):
        measure_td(path, TdxOptions(vmm="gce", page_orders=(PageOrder.TWO_PASS,)))


def test_a_split_build_measures_as_the_whole_one(tmp_path: Path) -> None:
    data = make_tdvf()
    whole, code = tmp_path / "OVMF.fd", tmp_path / "OVMF_CODE.fd"
    whole.write_bytes(data)
    code.write_bytes(data[0x4000:])
    with pytest.raises(BadTdvf, match="lie outside") as caught:
        measure_td(code, TdxOptions())
    assert "--varstore" in caught.value.hint
    expected = [one.claims for one in measure_td(whole, TdxOptions()).measurements]
    for path in (whole, code):
        split = measure_td(path, TdxOptions(varstore=data[:0x4000]))
        assert [one.claims for one in split.measurements] == expected
    with pytest.raises(BadTdvf):
        measure_td(code, TdxOptions(varstore=data[:0x3000]))
    with pytest.raises(BadTdvf, match="room for 0x4000"):
        measure_td(whole, TdxOptions(varstore=data[:0x3000]))


@pytest.mark.network
def test_the_ovmf_package_of_debian_12_has_the_published_values(tmp_path: Path) -> None:
    subprocess.run(["apt-get", "download", "ovmf=2022.11-6+deb12u2"], cwd=tmp_path, check=True)
    (package,) = tmp_path.glob("ovmf_*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "x"], cwd=tmp_path, check=True)
    found = measure_td(tmp_path / "x/usr/share/ovmf/OVMF.fd", TdxOptions()).measurements
    assert [str(one.claims["mrtd"])[:8] for one in found] == ["4c7206f0", "acccbcc8"]
