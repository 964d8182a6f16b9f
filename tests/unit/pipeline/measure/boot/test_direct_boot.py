"""Direct boot: kernels patched as QEMU patches them, load options, and what live boots logged."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.measure.boot.bzimage import BadKernel, qemu_patched, read_header
from pipeline.measure.boot.direct_boot import (
    BadCommandLine,
    DirectBoot,
    direct_events,
    load_options,
    measure_direct_boot,
)
from pipeline.measure.boot.pe import Pe, authenticode
from pipeline.measure.boot.register import BANKS, BootEvent, fold, fold_log
from provenance.errors import RvpError
from tests.fakes.boot_log import read_log
from tests.fakes.pe_file import write_kernel, write_pe

GIB = 1 << 30
CMDLINE = b"console=ttyS0 quiet"
LIVE_INITRD_BYTES = 1984512  # of the initrd of the shared boots


def changed(kernel: bytes, **options: int | bytes) -> dict[int, bytes]:
    given = {"cmdline": b"", "initrd_size": 0, "memory_bytes": 2 * GIB, **options}
    patched = b"".join(qemu_patched(kernel, **given))  # type: ignore[arg-type]  # of the names above
    assert len(patched) == len(kernel)
    return {
        at: patched[at : at + size]
        for at, size in ((0x1FA, 2), (0x210, 1), (0x211, 1), (0x218, 4), (0x21C, 4), (0x224, 2), (0x228, 4))
        if patched[at : at + size] != kernel[at : at + size]
    }


def test_the_header_says_what_the_kernel_is() -> None:
    header = read_header(write_kernel())
    assert header is not None
    assert (header.protocol, header.setup_size, header.version) == (0x20F, 4096, "6.12.1-test")
    assert header.release == (6, 12)
    assert read_header(write_pe()) is None


def test_without_an_initrd_loader_heap_and_command_line_are_written() -> None:
    assert changed(write_kernel()) == {
        0x210: b"\xb0",
        0x211: b"\x81",
        0x224: b"\x00\xfe",
        0x228: b"\x00\x00\x02\x00",
    }


@pytest.mark.parametrize(
    ("options", "size", "memory", "address"),
    [
        ({}, 0x1000, 2 * GIB, 0x80000000 - 0x28000 - 0x2000),
        ({}, 0x1001, 700 << 20, (700 << 20) - 0x28000 - 0x2000),
        ({}, 0x1000, 5 * GIB, 0x80000000 - 0x28000 - 0x2000),
        ({}, 0x1000, 0xAF000000, 0xAF000000 - 0x28000 - 0x2000),
        ({"extended": 1}, 0x1000, 5 * GIB, 0x7FFFFFFF - 0x28000 - 0xFFF - 0x1000),
        ({"protocol": 0x20B, "initrd_max": 0x10000000}, 0x1000, 2 * GIB, 0xFFFF000),
        ({"protocol": 0x202}, 0x1000, 2 * GIB, 0x37FFE000),
    ],
)
def test_the_initrd_lies_as_high_as_kernel_and_memory_allow(
    options: dict[str, int], size: int, memory: int, address: int
) -> None:
    made = changed(write_kernel(**options), initrd_size=size, memory_bytes=memory)
    got = struct.unpack("<I", made[0x218])[0]
    assert got == address & ~0xFFF
    assert made[0x21C] == struct.pack("<I", size)


@pytest.mark.parametrize(
    ("cmdline", "mode"),
    [(b"vga=0x317", 0x317), (b"quiet vga=ask x", 0xFFFD), (b"vga=ext", 0xFFFE), (b"vga=791", 791)],
)
def test_vga_is_written(cmdline: bytes, mode: int) -> None:
    assert changed(write_kernel(), cmdline=cmdline)[0x1FA] == struct.pack("<H", mode)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (write_kernel(protocol=0x201), "0x201"),
        (write_kernel(flags=0), "not loaded high"),
        (write_kernel(setup=200), "setup_sects"),
        (write_kernel()[:0x240], "setup header"),
    ],
)
def test_a_kernel_that_qemu_does_not_load_is_refused(kernel: bytes, words: str) -> None:
    with pytest.raises(BadKernel, match=words):
        qemu_patched(kernel, cmdline=b"", initrd_size=0, memory_bytes=GIB, name="vmlinuz")


def test_an_initrd_without_room_is_refused() -> None:
    with pytest.raises(BadKernel, match="no room"):
        qemu_patched(write_kernel(), cmdline=b"", initrd_size=2 * GIB, memory_bytes=GIB)


def test_firmware_names_the_initrd_after_or_before_the_command_line() -> None:
    assert (
        load_options(b"a", with_initrd=True, initrd_name="suffix").decode("utf-16-le") == "a initrd=initrd\0"
    )
    assert (
        load_options(b"a", with_initrd=True, initrd_name="prefix").decode("utf-16-le") == "initrd=initrd a\0"
    )
    assert load_options(b"a", with_initrd=False, initrd_name="suffix").decode("utf-16-le") == "a\0"
    assert load_options(b"", with_initrd=False, initrd_name="suffix") == b""
    for bad in (b"a\0b", "ä".encode()):
        with pytest.raises(BadCommandLine):
            load_options(bad, with_initrd=False, initrd_name="suffix")


def test_events_that_need_no_file_are_those_of_a_live_boot(vectors: Path) -> None:
    log = read_log((vectors / "boot" / "direct.tcglog").read_bytes())
    values = json.loads((vectors / "boot" / "direct.pcrs.json").read_text())
    ours = direct_events(DirectBoot(kernel=write_kernel(), cmdline=CMDLINE, initrd=b"i"))
    for pcr in (4, 5, 9):
        logged = [digests for index, _, digests, _ in log if index == pcr]
        events = ours[f"pcr{pcr}"]
        assert len(events) == len(logged)
        for bank in BANKS:
            mixed = []
            for event, digests in zip(events, logged, strict=True):
                if event.label not in {"kernel", "Linux initrd"}:
                    assert event.digests[bank] == digests[bank], event.label
                mixed.append(BootEvent(op=event.op, label=event.label, length=0, digests=digests))
            assert fold(mixed, bank).hex() == values[f"{bank}:{pcr}"]


def test_the_registers_of_a_td_get_the_events_of_the_pcrs() -> None:
    boot = DirectBoot(kernel=write_kernel(), cmdline=CMDLINE, initrd=b"i")
    events = direct_events(boot)
    assert [one.label for one in events["rtmr1"]][2] == "separator"
    assert fold(events["rtmr2"], "sha384") == fold(events["pcr9"], "sha384")
    older = direct_events(DirectBoot(kernel=write_kernel(), cmdline=CMDLINE, separator_in_rtmr1=False))
    assert "separator" not in [one.label for one in older["rtmr1"]]


def test_a_direct_boot_is_measured_in_each_bank_with_logs_that_fold() -> None:
    boot = DirectBoot(kernel=write_kernel(), cmdline=CMDLINE, initrd=b"i", header_patch=False)
    measured = measure_direct_boot(boot, name="vmlinuz")
    assert [one.variant for one in measured.measurements] == [
        {"bank": bank, "boot": "direct"} for bank in BANKS
    ]
    assert all(fold_log(one).hex() == one.value for one in measured.logs)
    kernel = direct_events(boot)["pcr4"][0]
    assert kernel.digests["sha256"] == authenticode(boot.kernel, "sha256")


def test_every_truncation_and_flip_of_a_kernel_is_our_error_or_a_value() -> None:
    kernel = write_kernel()
    for size in range(0, len(kernel), 7):
        with pytest.raises(RvpError):
            direct_events(DirectBoot(kernel=kernel[:size], initrd=b"i"))
    for at in range(0x1F0, 0x270):
        data = bytearray(kernel)
        data[at] ^= 1 << (at % 8)
        try:
            direct_events(DirectBoot(kernel=bytes(data), initrd=b"i"))
        except RvpError:
            continue


@pytest.mark.network
def test_debians_kernel_patched_for_each_memory_is_what_live_boots_logged(
    tmp_path: Path, vectors: Path
) -> None:
    package = "linux-image-6.1.0-56-amd64=6.1.192-2"
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    got = subprocess.run(["apt-get", "download", package], cwd=tmp_path, check=False, capture_output=True)
    files = list(tmp_path.glob("*.deb"))
    if got.returncode or not files:
        pytest.skip("the mirror has this kernel no more")
    subprocess.run(["dpkg-deb", "-x", files[0], tmp_path / "x"], check=True)
    kernel = (tmp_path / "x" / "boot" / "vmlinuz-6.1.0-56-amd64").read_bytes()
    for name, memory in (("direct", 2048), ("direct700", 700), ("direct2900", 2900), ("direct5000", 5000)):
        boot = DirectBoot(kernel=kernel, initrd=bytes(LIVE_INITRD_BYTES), memory_bytes=memory << 20)
        values = json.loads((vectors / "boot" / f"{name}.pcrs.json").read_text())
        events = direct_events(boot)
        for bank in BANKS:
            assert fold(events["pcr4"], bank).hex() == values[f"{bank}:4"]
            assert fold(events["pcr5"], bank).hex() == values[f"{bank}:5"]
    log = read_log((vectors / "boot" / "ukidisk.tcglog").read_bytes())
    inner = [digests for pcr, kind, digests, _ in log if (pcr, kind) == (4, 0x80000003)][-1]
    assert all(Pe(kernel).authenticode(bank) == inner[bank] for bank in BANKS)


def test_the_command_prints_what_the_library_computes(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pipeline.cli.measure_direct import measure_direct
    from verifier.cli.terminal import Settings

    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(write_kernel())
    initrd.write_bytes(b"initrd")
    arguments = ["--kernel", str(kernel), "--initrd", str(initrd), "--cmdline", "a", "--memory", "1GiB"]
    said = CliRunner().invoke(measure_direct, [*arguments, "--format", "json"], obj=Settings())
    assert said.exit_code == 0, said.output
    boot = DirectBoot(kernel=write_kernel(), initrd=b"initrd", cmdline=b"a", memory_bytes=GIB)
    expected = [dict(one.claims) for one in measure_direct_boot(boot, name="vmlinuz").measurements]
    assert [one["claims"] for one in json.loads(said.stdout)["measurements"]] == expected
