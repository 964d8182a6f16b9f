"""UKIs: PCR 11 against systemd-measure, the rest against what was logged by live boots; hostile files."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.boot.pe import BadPe, Pe, authenticode
from pipeline.measure.boot.register import BANKS, BootEvent, UnknownBank, check_banks, fold, fold_log
from pipeline.measure.boot.stub_generation import G252, G254, GENERATIONS, UnknownStub, generation
from pipeline.measure.boot.uki import (
    PHASES,
    BadUki,
    kernel_initrd,
    kernel_options,
    pcr11_events,
    phase_events,
    read_uki,
    uki_events,
    unpredicted_events,
)
from provenance.claims import check_claims
from provenance.errors import RvpError
from tests.fakes.boot_log import read_log
from tests.fakes.pe_file import write_pe

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
MEASURE = Path("/usr/lib/systemd/systemd-measure")
KERNEL = write_pe((("k", b"kernel"),), directories=6)


def write_uki(*sections: tuple[str, bytes], version: str = "252.1-1", kernel: bytes = KERNEL) -> bytes:
    magic = f"#### LoaderInfo: systemd-stub {version} ####".encode()
    return write_pe(((".text", b"stub"), (".sdmagic", magic), (".linux", kernel), *sections))


def join_sections(stub: Path, sections: list[tuple[str, Path]], out: Path) -> None:
    """Make a UKI with objcopy, as the manual of systemd-stub shows."""
    data = stub.read_bytes()
    (start,) = struct.unpack_from("<I", data, 0x3C)
    (base,) = struct.unpack_from("<Q", data, start + 24 + 24)
    free = max(one.address + one.virtual_size for one in Pe(data).sections)
    command: list[str | Path] = ["objcopy"]
    for name, file in sections:
        free = (free + 0xFFFF) & ~0xFFFF
        command += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={base + free:#x}"]
        free += file.stat().st_size
    subprocess.run([*command, stub, out], check=True, capture_output=True)


def test_pcr11_is_what_systemd_measure_calculates_for_random_ukis(tmp_path: Path) -> None:
    if not (STUB.exists() and MEASURE.exists() and shutil.which("objcopy")):
        pytest.skip("needs the Debian packages systemd, systemd-boot-efi and binutils")
    said = subprocess.run([MEASURE, "--version"], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]
    names = [
        one.removeprefix(".")
        for one in generation(said).sections
        if one not in {".linux", ".sbat", ".profile", ".dtbauto", ".hwids", ".efifw"}
    ]
    chance = random.Random(11)
    compared = 0
    for _ in range(5):
        files = {"linux": chance.randbytes(chance.randrange(1, 9000))}
        files |= {one: chance.randbytes(chance.randrange(1, 3000)) for one in names if chance.random() < 0.7}
        paths = {name: tmp_path / name for name in files}
        for name, content in files.items():
            paths[name].write_bytes(content)
        sections = [(f".{name}", path) for name, path in paths.items()]
        chance.shuffle(sections)
        join_sections(STUB, sections, tmp_path / "uki.efi")
        uki = read_uki((tmp_path / "uki.efi").read_bytes())
        given = [f"--{name}={path}" for name, path in paths.items()]
        if ".sbat" in uki.stub.sections and ".sbat" in uki.sections:
            (tmp_path / "sbat").write_bytes(uki.sections[".sbat"])
            given.append(f"--sbat={tmp_path / 'sbat'}")
        command = [MEASURE, "calculate", "--json=short", "--bank=sha256", "--bank=sha384", *given]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for bank in BANKS:
            for one in told[bank]:
                phases = one["phase"].split(":") if one["phase"] else []
                events = (*pcr11_events(uki, BANKS), *phase_events(phases, BANKS))
                assert fold(events, bank).hex() == one["hash"], (bank, one["phase"], sorted(files))
                compared += 1
    assert compared >= 40


@pytest.mark.parametrize("boot", ["disk", "direct"])
def test_a_live_boot_logged_the_events_of_this_command_line_in_this_order(boot: str, vectors: Path) -> None:
    log = read_log((vectors / "boot" / f"uki{boot}.tcglog").read_bytes())
    values = json.loads((vectors / "boot" / f"uki{boot}.pcrs.json").read_text())
    uki = read_uki(write_uki((".osrel", b"x"), (".cmdline", b"console=ttyS0 quiet uki=1"), (".initrd", b"i")))
    ours = uki_events(uki, boot=boot, separator_in_rtmr1=True)  # type: ignore[arg-type]  # of the parameters
    for pcr in (4, 5, 9, 11):
        if f"pcr{pcr}" not in ours:
            continue
        logged = [digests for index, _, digests, _ in log if index == pcr]
        events = ours[f"pcr{pcr}"]
        assert len(events) == len(logged)
        for bank in BANKS:
            same = {
                event.label
                for event, digests in zip(events, logged, strict=True)
                if event.digests[bank] == digests[bank]
            }
            # what depends on files that are not here is taken from the log, the rest must be equal
            unknown = {
                "UKI",
                "kernel in .linux",
                "Linux initrd",
                ".linux: content",
                ".osrel: content",
                ".initrd: content",
            }
            assert {event.label for event in events} - same <= unknown
            mixed = tuple(
                BootEvent(op=event.op, label=event.label, length=0, digests=digests)
                for event, digests in zip(events, logged, strict=True)
            )
            assert fold(mixed, bank).hex() == values[f"{bank}:{pcr}"]


def test_every_log_folds_to_the_value_that_it_states_and_every_claim_has_its_shape(tmp_path: Path) -> None:
    for version in ("252", "254", "256", "257", "258"):
        file = tmp_path / f"{version}.efi"
        file.write_bytes(write_uki((".cmdline", b"a b"), (".initrd", b"i" * 9), version=version))
        measured = measure_file(file, options=MeasureOptions())
        assert {fold_log(one).hex() == one.value for one in measured.logs} == {True}
        for one in measured.measurements:
            check_claims(one.tee, dict(one.claims))
            assert not one.unpredicted
        stated = {(one.register, one.algorithm, one.value) for one in measured.logs}
        for one in measured.measurements:
            bank = one.variant.get("bank", "sha384")
            assert {(key, bank, value) for key, value in one.claims.items()} <= stated
        assert len(measured.measurements) == 2 * 2 + 2 * len(PHASES) + 2


def test_pcr11_is_the_fold_of_names_and_contents_in_the_order_of_the_table() -> None:
    uki = read_uki(write_uki((".initrd", b"i"), (".osrel", b"o"), (".uname", b"u")))
    value = bytes(32)
    for name, content in ((b".linux\0", KERNEL), (b".osrel\0", b"o"), (b".initrd\0", b"i")):
        for one in (name, content):
            value = hashlib.sha256(value + hashlib.sha256(one).digest()).digest()
    assert fold(uki_events(uki)["pcr11"], "sha256") == value
    assert ".uname: name" in {
        one.label for one in pcr11_events(read_uki(bytes(uki.pe.data), stub="254"), BANKS)
    }


def test_firmware_measures_the_inner_kernel_only_where_the_stub_uses_load_image() -> None:
    data = write_uki((".cmdline", b"a"))
    for version, count in (("252", 4), ("257", 4), ("258", 3)):
        events = uki_events(read_uki(data, stub=version))["pcr4"]
        assert len(events) == count
        assert events[2].digests["sha256"] == authenticode(data, "sha256")
    assert events[-1].label == "UKI"
    inner = uki_events(read_uki(data, stub="258"), inner_kernel=True)["pcr4"][-1]
    assert inner.digests["sha384"] == authenticode(KERNEL, "sha384")


def test_rtmr2_has_the_sections_only_where_the_stub_measures_in_a_td() -> None:
    data = write_uki((".cmdline", b"a"))
    assert [one.label for one in uki_events(read_uki(data))["rtmr2"]] == ["LOADED_IMAGE::LoadOptions"]
    assert len(uki_events(read_uki(data, stub="257"))["rtmr2"]) == 5


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("252", b" a\tb \n", " a b"),
        ("257", b" a\tb \x7f\n", "a b"),
        ("252", b"a\0b", "a"),
        ("257", "ä\U0001f600x".encode(), "äx"),
    ],
)
def test_the_command_line_is_cleaned_as_the_stub_cleans_it(version: str, given: bytes, expected: str) -> None:
    uki = read_uki(write_uki((".cmdline", given)), stub=version)
    assert kernel_options(uki) == (expected + "\0").encode("utf-16-le")


def test_the_initrd_of_a_newer_stub_is_followed_by_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    uki = read_uki(write_uki((".initrd", b"abc"), (".osrel", b"ID=x\n"), (".ucode", b"u"), version="257.3"))
    parts = [bytes(one) for one in kernel_initrd(uki)]
    assert parts[:4] == [b"u", b"\0\0\0", b"abc", b"\0"]
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    subprocess.run(["cpio", "-id"], input=parts[4], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".extra" / "os-release").read_bytes() == b"ID=x\n"
    assert kernel_initrd(read_uki(bytes(uki.pe.data), stub="252")) == (b"abc",)


def test_what_the_hardware_decides_is_named_and_its_register_not_claimed(tmp_path: Path) -> None:
    file = tmp_path / "u.efi"
    file.write_bytes(write_uki((".cmdline", b"quiet"), (".dtbauto", b"d"), version="262.1"))
    measured = measure_file(file)
    assert {one.event for one in measured.measurements[0].unpredicted} == {
        ".dtbauto: content", "LOADED_IMAGE::LoadOptions", "Linux initrd",
    }  # fmt: skip
    assert {name for one in measured.measurements for name in one.claims} == {"pcr4", "pcr5"}
    console = read_uki(write_uki((".cmdline", b"console=ttyS0"), version="258"))
    assert unpredicted_events(console) == ()


def test_profiles_override_the_base_and_the_first_is_the_default() -> None:
    data = write_uki(
        (".cmdline", b"base"),
        (".profile", b"ID=a"),
        (".profile", b"ID=b"),
        (".cmdline", b"other"),
        version="257",
    )
    assert kernel_options(read_uki(data)) == "base\0".encode("utf-16-le")
    assert kernel_options(read_uki(data, profile=1)) == "other\0".encode("utf-16-le")
    with pytest.raises(BadUki, match="no profile 2"):
        read_uki(data, profile=2)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (write_pe(((".text", b"x"),)), UnknownStub, "sdmagic"),
        (write_uki(version="251"), UnknownStub, "251"),
        (write_pe(((".sdmagic", b"#### LoaderInfo: systemd-stub 252 ####"),)), BadUki, ".linux"),
        (write_uki((".initrd", b"1"), (".initrd", b"2")), BadUki, "twice"),
        (write_uki((".initrd2", b"1")), BadUki, "counts as another"),
    ],
)
def test_a_file_that_the_stub_reads_otherwise_is_refused(
    data: bytes, error: type[RvpError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_uki(data, name="u.efi")


def test_sections_over_each_other_in_memory_are_refused() -> None:
    data = bytearray(write_uki((".initrd", b"i" * 5000), (".cmdline", b"c")))
    at = data.index(b".cmdline")
    struct.pack_into("<I", data, at + 12, struct.unpack_from("<I", data, data.index(b".initrd") + 12)[0] + 64)
    with pytest.raises(BadUki, match="overlap in memory"):
        read_uki(bytes(data))


def test_a_section_larger_than_its_data_is_refused() -> None:
    data = bytearray(write_uki((".initrd", b"i")))
    struct.pack_into("<I", data, data.index(b".initrd") + 8, 0x7FFFFFFF)
    with pytest.raises(BadUki, match="VirtualSize"):
        read_uki(bytes(data))


def test_every_truncation_and_every_flip_is_one_of_our_errors_or_another_value(tmp_path: Path) -> None:
    data = write_uki((".cmdline", b"a"), (".initrd", b"i"))
    good = fold(uki_events(read_uki(data))["pcr4"], "sha384")
    for size in range(0, len(data), 3):
        with pytest.raises((BadPe, BadUki, UnknownStub)):
            uki_events(read_uki(data[:size]))
    checksum = Pe(data).checksum_at
    for at in range(0x400):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        try:
            value = fold(uki_events(read_uki(bytes(changed)))["pcr4"], "sha384")
        except RvpError:
            continue
        assert (value == good) == (checksum <= at < checksum + 4 or 232 <= at < 236), at


def test_generations_and_banks_are_known_or_refused() -> None:
    assert generation("252.39-1~deb12u2") is G252
    assert generation("255") is G254
    assert generation("999") is GENERATIONS[-1]
    for bad in ("", "x", "v257", "2579999"):
        with pytest.raises(UnknownStub):
            generation(bad)
    with pytest.raises(UnknownBank):
        check_banks(("sha256", "md5"))
