"""Launch digests against another implementation, sev-snp-measure, on random firmware and machines."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import pytest
from sevsnpmeasure import guest as oracle
from sevsnpmeasure import vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

from pipeline.measure.machine import Machine
from pipeline.measure.measured import Measured, MeasureOptions
from pipeline.measure.ovmf import read_firmware
from pipeline.measure.snp.cpu_signature import SIGNATURES, UnknownCpu, signature_of
from pipeline.measure.snp.guest import (
    BadShape,
    KernelHashesUnsupported,
    NoResetAddress,
    Shape,
    launch_digests,
    make_guest,
)
from pipeline.measure.snp.kernel_hashes import BadCommandLine, hash_kernel
from pipeline.measure.snp.launch_digest import PageType, fold, runs_of_log
from pipeline.measure.snp.measurement import MachineUnstated, measure_snp
from pipeline.measure.snp.save_area import UnknownVmm
from pipeline.measure.snp.sev import sev_digest, sev_es_digest
from provenance.strict import NotReadable
from tests.fakes.ovmf import AMD_SEV, CPUID, KERNEL_HASHES, SEC_MEM, SECRETS, make_ovmf

VMMS = {"qemu": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}
SVSM_SECTIONS = ((0x806000, 0x2000, SEC_MEM), (0x808000, 0x1000, SECRETS), (0x809000, 0x1000, CPUID))


def _measure(path: Path, **machine: object) -> Measured:
    return measure_snp(path, MeasureOptions(machine=Machine(**machine)))  # type: ignore[arg-type]


def _value(path: Path, **machine: object) -> str:
    (one,) = _measure(path, **machine).measurements
    return str(one.claims["measurement"])


def _kernel(folder: Path, chance: random.Random) -> tuple[Path, Path | None, str | None]:
    kernel, initrd = folder / "vmlinuz", folder / "initrd"
    kernel.write_bytes(chance.randbytes(chance.randint(0, 9000)))
    initrd.write_bytes(chance.randbytes(chance.randint(0, 9000)))
    return kernel, chance.choice([None, initrd]), chance.choice([None, "", "console=ttyS0 quiet", "ümlaut"])


@pytest.mark.parametrize("seed", range(60))
def test_random_guests_have_the_digest_that_another_tool_computes(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    sections = list(AMD_SEV)
    chance.shuffle(sections)
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(
        make_ovmf(
            [*sections[: chance.randint(1, 7)], (0x900000, 0x1000, KERNEL_HASHES)],
            seed=seed,
            size=0x1000 * chance.randint(2, 40),
            reset_eip=chance.randrange(1 << 32),
            hash_table=(0x900000 + 16 * chance.randint(0, 240), 0x400),
        )
    )
    vmm = chance.choice(list(VMMS))
    kind = chance.choice(sorted(set(SIGNATURES) & set(vcpu_types.CPU_SIGS)))
    features = chance.choice([1, 0x21, 0x201, chance.randrange(1 << 63) | 1])
    vcpus = chance.randint(1, 9)
    kernel, initrd, cmdline = _kernel(tmp_path, chance) if chance.random() < 0.7 else (None, None, None)
    expected = oracle.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, vcpu_types.CPU_SIGS[kind], str(firmware),
        str(kernel) if kernel else "", str(initrd) if initrd else "", cmdline or "", features, vmm_type=VMMS[vmm],
    )  # fmt: skip
    got = _value(
        firmware, vcpus=(vcpus,), vmms=(vmm,), vcpu_types=(kind,), guest_features=(features,),
        kernel=kernel, initrd=initrd, cmdline=cmdline,
    )  # fmt: skip
    assert got == expected.hex()


@pytest.mark.parametrize("seed", range(12))
def test_random_guests_with_an_svsm_have_the_digest_that_another_tool_computes(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    firmware, svsm = tmp_path / "OVMF_CODE.fd", tmp_path / "svsm.bin"
    firmware.write_bytes(make_ovmf(None, seed=seed, size=0x1000 * chance.randint(2, 20)))
    svsm.write_bytes(
        make_ovmf(
            SVSM_SECTIONS, seed=seed + 100, size=0x1000 * chance.randint(2, 20), reset_eip=None, hash_table=None,
            svsm_info=chance.randrange(0x10000),
        )
    )  # fmt: skip
    variables, vcpus = 0x1000 * chance.randint(0, 200), chance.randint(1, 5)
    expected = oracle.calc_launch_digest(
        SevMode.SEV_SNP_SVSM, vcpus, vcpu_types.CPU_SIGS["EPYC-Milan"], str(firmware), "", "", "", 1,
        svsm_file=str(svsm), ovmf_vars_size=variables,
    )  # fmt: skip
    got = _value(firmware, vcpus=(vcpus,), vcpu_types=("EPYC-Milan",), svsm=svsm, variables_bytes=variables)
    assert got == expected.hex()


@pytest.mark.parametrize("seed", range(12))
def test_sev_and_sev_es_digests_are_those_of_another_tool(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_ovmf(seed=seed))
    kernel, initrd, cmdline = _kernel(tmp_path, chance) if seed % 2 else (None, None, None)
    hashes = hash_kernel(kernel, initrd, cmdline) if kernel else None
    vmm, vcpus = chance.choice(list(VMMS)), chance.randint(1, 4)
    files = (str(path), str(kernel) if kernel else "", str(initrd) if initrd else "", cmdline or "")
    firmware = read_firmware(path.read_bytes())
    expected = oracle.calc_launch_digest(SevMode.SEV, vcpus, 0, *files, 0)
    assert sev_digest(firmware, hashes) == expected
    shape = Shape(vmm=vmm, vcpu_type="EPYC-Rome", guest_features=1, vcpus=vcpus)
    signature = vcpu_types.CPU_SIGS["EPYC-Rome"]
    expected = oracle.calc_launch_digest(SevMode.SEV_ES, vcpus, signature, *files, 0, vmm_type=VMMS[vmm])
    assert sev_es_digest(firmware, shape, hashes) == expected


def test_sev_with_a_kernel_needs_a_place_for_its_hashes(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"kernel")
    with pytest.raises(KernelHashesUnsupported):
        sev_digest(read_firmware(make_ovmf(hash_table=None)), hash_kernel(tmp_path / "k", None, None))


def test_the_table_of_models_agrees_with_another_tool() -> None:
    both = set(SIGNATURES) & set(vcpu_types.CPU_SIGS)
    assert both == set(vcpu_types.CPU_SIGS)
    assert {name: SIGNATURES[name] for name in both} == vcpu_types.CPU_SIGS


def test_a_matrix_has_each_shape_once_and_each_value_is_that_of_the_shape_alone(tmp_path: Path) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_ovmf())
    found = _measure(
        path, vcpus=(4, 1, 2, 4), vmms=("qemu", "ec2", "gce"), vcpu_types=("EPYC-v4", "EPYC-Milan"),
        guest_features=(1, 0x21),
    ).measurements  # fmt: skip
    assert len(found) == 3 * 2 * (2 + 1 + 1)  # vCPUs, features; two models matter with QEMU alone
    assert len({tuple(sorted(one.variant.items())) for one in found}) == len(found)
    for one in found:
        alone = _value(
            path, vcpus=(one.variant["vcpus"],), vmms=(one.variant["vmm"],),
            vcpu_types=(one.variant.get("vcpu_type", "EPYC"),),
            guest_features=(int(str(one.variant["guest_features"]), 16),),
        )  # fmt: skip
        assert one.claims["measurement"] == alone
    assert found[0].variant["vmm"] in {"qemu", "ec2", "gce"}


def test_the_logs_fold_to_their_values(tmp_path: Path) -> None:
    path, kernel = tmp_path / "OVMF.fd", tmp_path / "vmlinuz"
    path.write_bytes(make_ovmf(size=0x20000))
    kernel.write_bytes(b"kernel")
    found = _measure(path, vcpus=(1, 2, 7), vmms=("qemu", "gce"), kernel=kernel, cmdline="quiet")
    guest = make_guest(read_firmware(path.read_bytes()), hashes=hash_kernel(kernel, None, "quiet"))
    for one, log in zip(found.measurements, found.logs, strict=True):
        contents = _contents(path.read_bytes(), guest, one.variant)
        assert log.value == one.claims["measurement"]
        assert fold(runs_of_log(log, contents)).hex() == log.value
        assert sum(event.count for event in log.events if event.label == "firmware") == 0x20
        assert log.events[-1].flags == PageType.VMSA


def _contents(firmware: bytes, guest, variant) -> dict[str, bytes]:
    """Every run of pages that there can be, by its digest."""
    from pipeline.measure.snp.guest import runs_before_vcpus, vcpu_runs

    pieces = [
        firmware[start : start + length]
        for start in range(0, len(firmware), 4096)
        for length in range(4096, len(firmware) - start + 1, 4096)
    ]
    shape = Shape(
        vmm=variant["vmm"], vcpu_type=variant.get("vcpu_type", ""), vcpus=variant["vcpus"],
        guest_features=int(variant["guest_features"], 16),
    )  # fmt: skip
    pieces += [
        bytes(run.content) * (run.count if len(run.content) == 4096 else 1)
        for run in (*runs_before_vcpus(guest, shape.vmm), *vcpu_runs(guest, shape))
        if run.label != "firmware" and run.content
    ]
    return {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}


def test_one_flipped_bit_of_firmware_kernel_or_command_line_changes_every_value(tmp_path: Path) -> None:
    path, kernel = tmp_path / "OVMF.fd", tmp_path / "vmlinuz"
    data = make_ovmf()
    path.write_bytes(data)
    kernel.write_bytes(b"kernel")
    first = _value(path, vcpus=(2,), kernel=kernel, cmdline="a")
    seen = {first, _value(path, vcpus=(2,), kernel=kernel, cmdline="b")}
    seen.add(_value(path, vcpus=(2,), kernel=kernel, initrd=kernel, cmdline="a"))
    seen.add(_value(path, vcpus=(2,)))
    seen.add(_value(path, vcpus=(3,), kernel=kernel, cmdline="a"))
    kernel.write_bytes(b"kerneL")
    seen.add(_value(path, vcpus=(2,), kernel=kernel, cmdline="a"))
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    seen.add(_value(path, vcpus=(2,), kernel=kernel, cmdline="a"))
    assert len(seen) == 7


def test_a_kernel_without_a_section_for_its_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_ovmf([one for one in AMD_SEV if one[2] != KERNEL_HASHES]))
    with pytest.raises(KernelHashesUnsupported, match="no section for kernel hashes"):
        _value(path, vcpus=(1,), kernel=path)
    for table in (None, (0, 0)):
        path.write_bytes(make_ovmf(hash_table=table))
        with pytest.raises(KernelHashesUnsupported, match="does not say where its hash table lies"):
            _value(path, vcpus=(1,), kernel=path)


def test_what_says_nothing_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_ovmf(reset_eip=None))
    with pytest.raises(MachineUnstated, match="SEV metadata"):
        measure_snp(path, MeasureOptions())
    with pytest.raises(BadShape, match="without a kernel"):
        _value(path, vcpus=(1,), cmdline="")
    with pytest.raises(NoResetAddress, match="2 vCPUs"):
        _value(path, vcpus=(2,))
    for vcpus in (0, -1, 4097, 1 << 70):
        with pytest.raises(BadShape):
            _value(path, vcpus=(vcpus,))
    with pytest.raises(BadShape):
        _value(path, vcpus=(1,), guest_features=(1 << 64,))
    with pytest.raises(BadShape, match="shapes"):
        _value(path, vcpus=tuple(range(1, 4000)), guest_features=(1, 2, 3))
    with pytest.raises(UnknownCpu, match='did you mean "EPYC-Milan"'):
        _value(path, vcpus=(1,), vcpu_types=("EPYC-Milano",))
    with pytest.raises(UnknownVmm):
        _value(path, vcpus=(1,), vmms=("xen",))
    (tmp_path / "svsm").write_bytes(make_ovmf(SVSM_SECTIONS, svsm_info=4))
    with pytest.raises(BadShape, match="SVSM"):
        _value(path, vcpus=(1,), vmms=("gce",), svsm=tmp_path / "svsm")


@pytest.mark.parametrize("text", ["a\0b", "\0", "x" * 65537, "\ud800"])
def test_a_command_line_that_no_vmm_could_pass_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"kernel")
    with pytest.raises(BadCommandLine):
        hash_kernel(tmp_path / "k", None, text)


def test_a_kernel_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotReadable, match="none"):
        hash_kernel(tmp_path / "none", None, None)


def test_a_signature_can_be_given_as_a_number() -> None:
    assert signature_of("0x00A00F11") == SIGNATURES["EPYC-Milan"]
    with pytest.raises(UnknownCpu):
        signature_of("0x1a00f1100")


def test_two_hundred_shapes_share_the_firmware(tmp_path: Path) -> None:
    guest = make_guest(read_firmware(make_ovmf(size=0x400000)))
    import time

    started = time.process_time()
    one = launch_digests(guest, [Shape(vmm="qemu", vcpu_type="EPYC", guest_features=1, vcpus=1)])
    alone = time.process_time() - started
    shapes = [Shape(vmm="qemu", vcpu_type="EPYC", guest_features=1, vcpus=count) for count in range(1, 201)]
    started = time.process_time()
    many = launch_digests(guest, shapes)
    assert len(many) == 200
    assert set(one.items()) < set(many.items())
    assert time.process_time() - started < 20 * alone  # 200 times it if nothing were shared


# facts of Debian 12's package ovmf 2022.11-6+deb12u2
DEBIAN = {
    1: "11570979c77a0adb515761a702527c8b9e11554e730552621d950988613a3a75c6ff1703f540bd22a9beede8fe7a97e3",
    2: "a5b54e62ae971b58274dd24cc6c47b842662617036e7bd67d7326c07ac6363f35399ef933330a5ea160cead90a00603f",
}


@pytest.fixture(scope="module")
def debian_ovmf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of Debian's package ovmf: installed, or fetched."""
    installed = Path("/usr/share")
    if (installed / "ovmf" / "OVMF.fd").is_file():
        return installed
    folder = tmp_path_factory.mktemp("ovmf")
    subprocess.run(["apt-get", "download", "ovmf"], cwd=folder, check=True, capture_output=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "x"], check=True)
    return folder / "x" / "usr" / "share"


@pytest.mark.network
def test_the_firmware_of_debian_has_the_digest_that_another_tool_computes(debian_ovmf: Path) -> None:
    path = debian_ovmf / "ovmf" / "OVMF.fd"
    if hashlib.sha256(path.read_bytes()).hexdigest().startswith("7b456907"):
        assert {count: _value(path, vcpus=(count,)) for count in DEBIAN} == DEBIAN
    for seed in range(20):
        chance = random.Random(seed)
        vmm, kind = chance.choice(list(VMMS)), chance.choice(sorted(vcpu_types.CPU_SIGS))
        vcpus, features = chance.randint(1, 64), chance.choice([1, 0x21])
        expected = oracle.calc_launch_digest(
            SevMode.SEV_SNP,
            vcpus,
            vcpu_types.CPU_SIGS[kind],
            str(path),
            "",
            "",
            "",
            features,
            vmm_type=VMMS[vmm],
        )
        got = _value(path, vcpus=(vcpus,), vmms=(vmm,), vcpu_types=(kind,), guest_features=(features,))
        assert got == expected.hex()


@pytest.mark.network
def test_the_firmware_of_debian_says_what_it_cannot_do(debian_ovmf: Path) -> None:
    from pipeline.measure.snp.sections import NoSevMetadata

    with pytest.raises(KernelHashesUnsupported):
        _value(debian_ovmf / "ovmf" / "OVMF.fd", vcpus=(1,), kernel=debian_ovmf / "ovmf" / "OVMF.fd")
    for name in ("OVMF_CODE_4M.fd", "OVMF_VARS.fd"):
        with pytest.raises(NoSevMetadata) as caught:
            _value(debian_ovmf / "OVMF" / name, vcpus=(1,))
        assert "OVMF.fd" in caught.value.hint
