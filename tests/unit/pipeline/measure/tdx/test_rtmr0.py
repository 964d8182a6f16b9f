"""TD HOB and RTMR0 against the logs of real machines."""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest

from pipeline.measure.tdx.boot_chain import Kernel
from pipeline.measure.tdx.edk2 import GENERATIONS, Platform
from pipeline.measure.tdx.fw_cfg import BadFwCfg, FwCfg, read_fw_cfg
from pipeline.measure.tdx.measure import TdxOptions, measure_td
from pipeline.measure.tdx.mrtd_log import TdxLogDoesNotFold
from pipeline.measure.tdx.rtmr import NAMES, RtmrEvent, extend, fold, fold_rtmr_log, write_rtmr_log
from pipeline.measure.tdx.rtmr0 import UI_APP, ContradictoryVariables, Rtmr0Input, SecureBoot, rtmr0_events
from pipeline.measure.tdx.shape import ContradictoryShape
from pipeline.measure.tdx.td_hob import MemoryNotPossible, td_hob
from pipeline.measure.tdx.tdvf import BadTdvf, Section, SectionKind, Tdvf, read_tdvf
from pipeline.measure.tdx.varstore import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY,
    BadVarstore,
    Variable,
    Varstore,
    read_varstore,
)
from pipeline.measure.tdx.vmm import VMMS
from tests.conftest import ROOT
from tests.fakes.ccel import read_log, register_of
from tests.fakes.pe_file import write_pe
from tests.fakes.tdvf import TD_SHIM, TEMP_MEM, make_tdvf, make_varstore, ovmf_sections

GIB = 1 << 30
KERNEL = Kernel(data=write_pe())
EMPTY = Varstore()


def layout(size: int, variables: int) -> Tdvf:
    """The sections of OVMF until edk2-stable202402, of a flash image of `size` bytes."""
    rows = ovmf_sections(size, variables)
    rows[2] = (0, 0, 0x810000, 0x10000, TEMP_MEM, 0)
    names = ("offset", "raw_size", "address", "size", "kind", "attributes")
    made = [dict(zip(names, row, strict=True)) for row in rows]
    return Tdvf(
        form="ovmf",
        sections=tuple(msgspec.convert(one | {"kind": SectionKind(one["kind"])}, Section) for one in made),
    )


MACHINES = [
    ("trustee_CCEL_data_ovmf", 2, "qemu", 0x400000, 0x84000),
    ("trustee_CCEL_data_grub", 10, "qemu", 0x400000, 0x84000),
    ("dstack_quote-report.json", 64, "qemu", 0x400000, 0x84000),
    ("goel_cos-113-intel-tdx.bin", 16, "gce", 0x200000, 0x20000),
    ("goel_cos-113-intel-tdx-dupe-separator.bin", 16, "gce", 0x200000, 0x20000),
]


@pytest.mark.parametrize(("name", "gib", "vmm", "size", "variables"), MACHINES)
def test_the_td_hob_is_the_one_that_a_real_machine_measured(
    vectors: Path, name: str, gib: int, vmm: str, size: int, variables: int
) -> None:
    logged = register_of(read_log(vectors / "eventlog" / name), 0)[0]
    hob = td_hob(layout(size, variables), gib * GIB, VMMS[vmm])
    assert hashlib.sha384(hob).digest() == logged.digest
    assert (
        hashlib.sha384(td_hob(layout(size, variables), (gib + 1) * GIB, VMMS[vmm])).digest() != logged.digest
    )


# Registers of machines that booted a kernel from the VMM, and the generation that they show.
DIRECT = [
    (
        "trustee_CCEL_data_ovmf", 2, "202305",
        "8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
    ),
    (
        "dstack_quote-report.json", 64, "202411",
        "2e3843265f8ecdd4e2282694747f6f2f111605c33f2a8882f5734ee6f3a6ce63d8f34aeef06093dcda76fa5f9d33d8d6",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "gib", "generation", "value"), DIRECT)
def test_rtmr0_of_a_real_machine_is_predicted_but_for_what_was_not_captured(
    vectors: Path, name: str, gib: int, generation: str, value: str
) -> None:
    logged = register_of(read_log(vectors / "eventlog" / name), 0)
    events = rtmr0_events(
        Rtmr0Input(
            edk2=GENERATIONS[generation],
            platform=Platform.OVMF,
            hob=td_hob(layout(0x400000, 0x84000), gib * GIB, VMMS["qemu"]),
            cfv_digest=bytes(
                48
            ),  # the file is not among the test data; over the network it is compared below
            varstore=EMPTY,
            secure_boot=SecureBoot.ABSENT,
            direct_boot=True,
        )
    )
    assert [one.kind for one in events] == [one.kind for one in logged]
    assert [one.name for one in events if one.digest is None] == ["acpi-loader", "acpi-rsdp", "acpi-tables"]
    differing = [one.label for one, seen in zip(events, logged, strict=True) if one.digest != seen.digest]
    assert differing == ["CFV", "acpi-loader", "acpi-rsdp", "acpi-tables"]
    filled = [
        msgspec.structs.replace(one, digest=seen.digest) if one.label in differing else one
        for one, seen in zip(events, logged, strict=True)
    ]
    folded = fold(filled)
    assert folded is not None
    assert folded.hex() == value


@pytest.mark.parametrize(
    "name", ["trustee_CCEL_data_grub", "goel_cos-113-intel-tdx.bin", "trustee_CCEL_data_ovmf"]
)
def test_variables_are_hashed_as_real_machines_do(vectors: Path, name: str) -> None:
    logged = [one for one in register_of(read_log(vectors / "eventlog" / name), 0) if one.kind == 0x80000001]
    stored = []
    for one in logged[1:]:
        characters, length = struct.unpack_from("<QQ", one.data, 16)
        vendor = IMAGE_SECURITY if one.data.startswith(b"\xcb\xb2") else GLOBAL_VARIABLE
        title = one.data[32 : 32 + 2 * characters].decode("utf-16-le")
        stored.append(Variable(vendor=vendor, name=title, data=one.data[32 + 2 * characters :][:length]))
    said = (
        {0x00: SecureBoot.OFF, 0x01: SecureBoot.ON}.get(logged[0].data[-1])
        if len(logged[0].data) == 53
        else None
    )
    store = read_varstore(make_varstore(one for one in stored if one.data), "x")
    events = rtmr0_events(given(varstore=store, secure_boot=said or SecureBoot.ABSENT))
    assert [one.digest for one in events if one.kind == 0x80000001] == [one.digest for one in logged]


def given(**changes: object) -> Rtmr0Input:
    usual = Rtmr0Input(
        edk2=GENERATIONS["202411"], platform=Platform.OVMF, hob=b"hob", cfv_digest=bytes(48), varstore=EMPTY,
        fw_cfg=FwCfg(items=BLOBS), secure_boot=SecureBoot.ABSENT, direct_boot=True,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **changes)


BLOBS = {"etc/table-loader": b"loader", "etc/acpi/rsdp": b"rsdp", "etc/acpi/tables": b"tables"}


def labels(value: Rtmr0Input) -> list[str]:
    return [one.label for one in rtmr0_events(value)]


def test_each_generation_measures_what_its_line_of_the_table_says() -> None:
    variables = ["SecureBoot", "PK", "KEK", "db", "dbx", "separator"]
    acpi = ["acpi-loader", "acpi-rsdp", "acpi-tables"]
    boot = ["BootOrder", "Boot0000: UiApp"]
    for name, edk2 in GENERATIONS.items():
        for platform in Platform:
            got = labels(given(edk2=edk2, platform=platform))
            if name < "202208" or (platform is Platform.OVMF and name < "202302"):
                assert got == []
                continue
            expected = ["TD HOB", "CFV"]
            if name >= ("202505" if platform is Platform.OVMF else "202602"):
                expected += ["fw-cfg-boot-menu"]
            expected += variables + (acpi if name >= "202302" else []) + boot
            assert got == expected + (["separator"] if name < "202411" else [])


def test_settings_of_the_vmm_are_measured_in_their_order() -> None:
    items = {**BLOBS, "bootorder": b"x", "etc/extra-pci-roots": bytes(8), "bootmenu": bytes(2)}
    events = rtmr0_events(given(edk2=GENERATIONS["202505"], fw_cfg=FwCfg(items=items)))
    assert [one.label for one in events][2:5] == ["etc/extra-pci-roots", "bootmenu", "bootorder"]
    assert fold(events) is not None
    (gap,) = [
        one for one in rtmr0_events(given(edk2=GENERATIONS["202505"], fw_cfg=None)) if one.name == "fw-cfg"
    ]
    assert "captured" in gap.reason


def test_what_cannot_be_known_is_named_and_nothing_else() -> None:
    def gaps(**changes: object) -> list[str]:
        return [one.name for one in rtmr0_events(given(**changes)) if one.digest is None]

    key = Variable(vendor=GLOBAL_VARIABLE, name="PK", data=b"key")
    order = Variable(vendor=GLOBAL_VARIABLE, name="BootOrder", data=bytes(2))
    off = Variable(vendor="f0a30bc7-af08-4556-99c4-001009c93a44", name="SecureBootEnable", data=b"\0")
    assert gaps() == []
    assert gaps(hob=None) == ["td-hob"]
    assert gaps(secure_boot=None) == ["secure-boot"]
    assert gaps(secure_boot=None, varstore=Varstore(variables=(key, off))) == []
    assert gaps(secure_boot=None, varstore=Varstore(variables=(key,))) == ["secure-boot-authority"]
    assert gaps(fw_cfg=None) == ["acpi-loader", "acpi-rsdp", "acpi-tables"]
    assert gaps(direct_boot=False) == ["boot-variables"]
    assert gaps(varstore=Varstore(variables=(order,))) == ["boot-variables"]
    with pytest.raises(ContradictoryVariables):
        gaps(secure_boot=SecureBoot.ON)


def test_edk2_s_own_menu_is_the_boot_option_of_an_empty_store() -> None:
    assert len(UI_APP) == 62
    assert hashlib.sha384(UI_APP).hexdigest().startswith("23ada07f5261f12f")


def test_the_log_of_a_register_folds_and_has_its_gaps() -> None:
    events = rtmr0_events(given())
    log = write_rtmr_log("rtmr0", events)
    assert fold_rtmr_log(log) == fold(events)
    assert log.events[0].op == "EV_EFI_HANDOFF_TABLES2"
    with pytest.raises(TdxLogDoesNotFold, match="states"):
        fold_rtmr_log(msgspec.structs.replace(log, events=log.events[1:]))
    with pytest.raises(TdxLogDoesNotFold, match="acpi-loader"):
        fold_rtmr_log(write_rtmr_log("rtmr0", rtmr0_events(given(fw_cfg=None))))


def test_a_short_digest_is_filled_up_with_zeros() -> None:
    assert extend(bytes(48), b"\1" * 32) == hashlib.sha384(bytes(48) + b"\1" * 32 + bytes(16)).digest()
    assert fold(()) == bytes(48)
    assert NAMES[0x80000001] == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    assert fold((RtmrEvent(kind=0, digest=None, label="x"),)) is None


@pytest.mark.parametrize("memory", [0, 4095, 4096, 0x810000, 1 << 50])
def test_memory_that_no_machine_has_is_refused(memory: int) -> None:
    with pytest.raises(MemoryNotPossible):
        td_hob(layout(0x400000, 0x84000), memory, VMMS["qemu"])


def test_a_hob_that_does_not_fit_is_refused() -> None:
    crowded = tuple(
        Section(
            kind=SectionKind.TEMP_MEM,
            offset=0,
            raw_size=0,
            address=(1 + 2 * n) << 24,
            size=4096,
            attributes=0,
        )
        for n in range(60)
    )
    place = Section(kind=SectionKind.TD_HOB, offset=0, raw_size=0, address=0x809000, size=4096, attributes=0)
    with pytest.raises(BadTdvf, match="TD HOB has"):
        td_hob(Tdvf(form="ovmf", sections=(place, *crowded)), 4 * GIB, VMMS["qemu"])


def captured(folder: Path, vectors: Path) -> Path:
    for name in ("acpi/rsdp", "acpi/tables", "table-loader"):
        path = folder / "etc" / name / "raw"
        path.parent.mkdir(parents=True)
        source = vectors / "acpi" / f"qemu7.2_tpm_etc_{name.replace('/', '_')}.bin"
        path.write_bytes(source.read_bytes())
    return folder


def test_acpi_data_are_read_as_linux_shows_them(tmp_path: Path, vectors: Path) -> None:
    found = read_fw_cfg(captured(tmp_path, vectors))
    assert sorted(map(len, found.items.values())) == [20, 4096, 131072]
    (tmp_path / "etc" / "boot-menu-wait").write_bytes(b"1")
    with pytest.raises(BadFwCfg, match="boot-menu-wait has 1 bytes"):
        read_fw_cfg(tmp_path)
    (tmp_path / "etc" / "boot-menu-wait").unlink()
    (tmp_path / "etc/acpi/rsdp/raw").write_bytes(b"RSD PTR ")
    with pytest.raises(BadFwCfg, match="rsdp has 8 bytes"):
        read_fw_cfg(tmp_path)
    (tmp_path / "etc/acpi/rsdp/raw").unlink()
    with pytest.raises(BadFwCfg, match="no etc/acpi/rsdp"):
        read_fw_cfg(tmp_path)


def test_shapes_are_measured_in_one_run(tmp_path: Path, vectors: Path) -> None:
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(make_tdvf(store=make_varstore([])))
    for name in ("2GiB", "4GiB-2"):
        captured(tmp_path / "acpi" / name, vectors)
    options = TdxOptions(
        edk2="202411", memory=(2 * GIB, 4 * GIB), vcpus=(2,), acpi=tmp_path / "acpi",
        secure_boot=SecureBoot.OFF, kernel=KERNEL,
    )  # fmt: skip
    measured = measure_td(firmware, options)
    assert [(one.variant["memory"], one.variant["page_order"]) for one in measured.measurements] == [
        ("2GiB", "single-pass"), ("2GiB", "two-pass"), ("4GiB", "single-pass"), ("4GiB", "two-pass"),
    ]  # fmt: skip
    assert len({one.claims["rtmr0"] for one in measured.measurements}) == 2
    assert all(not one.unpredicted for one in measured.measurements)
    assert [one.register for one in measured.logs] == ["mrtd", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr0"]
    with pytest.raises(ContradictoryShape, match="no folder 8GiB-2 or 8GiB"):
        measure_td(firmware, msgspec.structs.replace(options, memory=(2 * GIB, 8 * GIB)))


@pytest.mark.parametrize(
    "options",
    [
        TdxOptions(memory=(GIB,)),
        TdxOptions(edk2="202001"),
        TdxOptions(edk2="202211"),
        TdxOptions(edk2="202505"),
        TdxOptions(edk2="202202", acpi=Path("captured")),
        TdxOptions(vmm="xen"),
    ],
)
def test_what_does_not_belong_together_is_refused(options: TdxOptions, tmp_path: Path) -> None:
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(make_tdvf(store=make_varstore([])))
    with pytest.raises(ContradictoryShape) as caught:
        measure_td(firmware, options)
    assert caught.value.hint


def test_registers_of_td_shim_are_refused_by_name(tmp_path: Path) -> None:
    firmware = tmp_path / "final.bin"
    firmware.write_bytes(make_tdvf(TD_SHIM, form="td-shim"))
    with pytest.raises(ContradictoryShape, match="td-shim"):
        measure_td(firmware, TdxOptions(edk2="202411"))


def test_the_newest_copy_of_a_variable_counts() -> None:
    old, new = (Variable(vendor=GLOBAL_VARIABLE, name="PK", data=data) for data in (b"old", b"new"))
    assert read_varstore(make_varstore([old, new], states=(0x3C, 0x3F)), "x").variables == (new,)
    assert read_varstore(make_varstore([old, new], states=(0x3E, 0x3F)), "x").variables == (new,)
    assert read_varstore(make_varstore([old, new], states=(0x3E, 0x7F)), "x").variables == (old,)
    assert read_varstore(b"\xff" * 4096, "x") == read_varstore(b"", "x") == EMPTY


def test_a_damaged_store_is_refused_or_read_without_harm() -> None:
    data = make_varstore([Variable(vendor=GLOBAL_VARIABLE, name="PK", data=b"key" * 9)])
    for at in range(200):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with contextlib.suppress(BadVarstore):
                read_varstore(bytes(flipped), "x")
    for length in (40, 71, 80, 99, 120, 160):
        with pytest.raises(BadVarstore):
            read_varstore(data[:length], "x")


@pytest.mark.network
def test_rtmr0_of_debian_s_firmware_has_the_published_values(tmp_path: Path, vectors: Path) -> None:
    subprocess.run(["apt-get", "download", "ovmf=2022.11-6+deb12u2"], cwd=tmp_path, check=True)
    (package,) = tmp_path.glob("ovmf_*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "x"], cwd=tmp_path, check=True)
    folder = tmp_path / "x/usr/share/OVMF"
    variables = (folder / "OVMF_VARS_4M.fd").read_bytes()
    rows = ovmf_sections(0x400000, 0x84000)
    rows[2] = (0, 0, 0x810000, 0x10000, TEMP_MEM, 0)
    firmware = tmp_path / "IntelTdx.fd"  # its code differs, which is in MRTD alone
    firmware.write_bytes(make_tdvf(rows, size=0x400000, variables=0x84000, store=variables))
    assert read_tdvf(firmware.read_bytes(), "x").sections
    measured = measure_td(
        firmware,
        TdxOptions(
            edk2="202211", platform=Platform.INTEL_TDX, memory=(2 * GIB, 4 * GIB),
            secure_boot=SecureBoot.ABSENT, kernel=KERNEL,
        ),
    )  # fmt: skip
    values = [str(one.claims["rtmr0"])[:16] for one in measured.measurements]
    assert values == ["d58b01b9084460ec"] * 2 + ["f61f6e99612031dd"] * 2
    machine = register_of(read_log(vectors / "eventlog/trustee_CCEL_data_ovmf"), 0)
    assert hashlib.sha384(variables).digest() == machine[1].digest
    enrolled = read_varstore((folder / "OVMF_VARS_4M.ms.fd").read_bytes(), "ms")
    grub = register_of(read_log(vectors / "eventlog/trustee_CCEL_data_grub"), 0)
    events = rtmr0_events(given(varstore=enrolled, secure_boot=None))
    assert [one.digest for one in events if one.label in {"SecureBoot", "db", "dbx"}] == [
        grub[number].digest for number in (2, 5, 6)
    ]


def test_the_page_has_the_table_of_generations() -> None:
    text = (ROOT / "docs/reference/tdx.md").read_text()
    rows = re.findall(
        r"^\| (\d{6}).*? \| (.+) \|$",
        text.partition("<!-- edk2 -->")[2].partition("<!-- end -->")[0],
        re.MULTILINE,
    )
    assert dict(rows) == {name: one.change for name, one in GENERATIONS.items() if one.change}
