"""RTMR1 and RTMR2 of a kernel from the VMM, RTMR3 of runtime events."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest

from pipeline.measure.boot.pe import authenticode
from pipeline.measure.tdx.boot_chain import Kernel, boot_events
from pipeline.measure.tdx.edk2 import GENERATIONS, Platform
from pipeline.measure.tdx.measure import TdxOptions, measure_td
from pipeline.measure.tdx.mrtd import PageOrder
from pipeline.measure.tdx.rtmr import fold
from pipeline.measure.tdx.rtmr0 import SecureBoot
from pipeline.measure.tdx.runtime_events import BadRuntimeEvent, dstack_digest, read_runtime_events
from pipeline.measure.tdx.shape import ContradictoryShape
from rvp import cli
from tests.fakes.ccel import read_log, register_of
from tests.fakes.pe_file import write_pe
from tests.fakes.tdvf import make_tdvf, make_varstore
from verifier.cli.terminal import run

GIB = 1 << 30


def bzimage(version: str = "6.12.1-test") -> bytes:
    """A kernel as small as one can be: a PE file with a setup header."""
    head = bytearray(0x400 - 64)

    def put(at: int, data: bytes) -> None:
        head[at - 64 : at - 64 + len(data)] = data

    put(0x1F1, b"\1")
    put(0x202, b"HdrS" + struct.pack("<H", 0x20F))
    put(0x20E, struct.pack("<H", 0x300 - 0x200))
    put(0x211, b"\1")
    put(0x236, b"\2\0")
    put(0x300, version.encode() + b" (tests)\0")
    return write_pe(((".text", bytes(range(256)) * 8),), before=bytes(head))


KERNEL = Kernel(data=bzimage(), initrd=b"initrd" * 999, cmdline="console=ttyS0 quiet")


def digests(kernel: Kernel, generation: str, **more: object) -> dict[str, list[str]]:
    usual = {"header_patch": False, "memory_bytes": None} | more
    made = boot_events(kernel, GENERATIONS[generation], **usual)  # type: ignore[arg-type]  # as named
    return {name: [one.digest.hex() for one in events if one.digest] for name, events in made.items()}


def said(text: bytes) -> str:
    return hashlib.sha384(text).hexdigest()


def test_rtmr1_is_the_kernel_then_what_the_firmware_says() -> None:
    kernel = authenticode(KERNEL.data, "sha384").hex()
    calling = said(b"Calling EFI Application from Boot Option")
    end = [said(b"Exit Boot Services Invocation"), said(b"Exit Boot Services Returned with Success")]
    assert digests(KERNEL, "202408")["rtmr1"] == [kernel, calling, *end]
    assert digests(KERNEL, "202411")["rtmr1"] == [kernel, calling, said(bytes(4)), *end]


def test_rtmr2_is_what_the_kernel_was_told() -> None:
    before, after = ("console=ttyS0 quiet initrd=initrd", "initrd=initrd console=ttyS0 quiet")
    initrd = said(KERNEL.initrd)
    assert digests(KERNEL, "202505")["rtmr2"] == [said(f"{before}\0".encode("utf-16-le")), initrd]
    assert digests(KERNEL, "202508")["rtmr2"] == [said(f"{after}\0".encode("utf-16-le")), initrd]
    alone = msgspec.structs.replace(KERNEL, initrd=b"")
    assert digests(alone, "202508")["rtmr2"] == [said("console=ttyS0 quiet\0".encode("utf-16-le"))]
    old = msgspec.structs.replace(KERNEL, data=bzimage("6.1.0-56"))
    assert digests(old, "202508")["rtmr2"] == []


def test_qemu_that_patches_the_kernel_makes_rtmr1_depend_on_the_machine() -> None:
    values = {
        digests(KERNEL, "202411", header_patch=True, memory_bytes=size << 20)["rtmr1"][0]
        for size in (700, 2048)
    }
    assert len(values | {digests(KERNEL, "202411")["rtmr1"][0]}) == 3
    large = {
        digests(KERNEL, "202411", header_patch=True, memory_bytes=size * GIB)["rtmr1"][0] for size in (4, 8)
    }
    assert len(large) == 1
    with pytest.raises(ContradictoryShape, match="depends on the memory"):
        digests(KERNEL, "202411", header_patch=True)


def measured(tmp_path: Path, **changes: object) -> list[dict[str, object]]:
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(make_tdvf(store=make_varstore([])))
    usual = TdxOptions(
        edk2="202302", memory=(GIB, 4 * GIB), kernel=KERNEL, secure_boot=SecureBoot.OFF,
        page_orders=(PageOrder.SINGLE_PASS,),
    )  # fmt: skip
    found = measure_td(firmware, msgspec.structs.replace(usual, **changes)).measurements
    return [one.claims for one in found]


def test_every_shape_has_the_registers_of_its_kernel(tmp_path: Path) -> None:
    plain = measured(tmp_path)
    assert [sorted(one) for one in plain] == [["mrtd", "rtmr1", "rtmr2"]] * 2
    assert plain[0] == plain[1]
    patched = measured(tmp_path, qemu="9", page_orders=())
    assert len({str(one["rtmr1"]) for one in patched}) == 2
    assert {one["rtmr2"] for one in patched} == {plain[0]["rtmr2"]}
    zeros = measured(tmp_path, edk2="202211", platform=Platform.OVMF)
    assert {one[name] for one in zeros for name in ("rtmr0", "rtmr1", "rtmr2")} == {"00" * 48}


@pytest.mark.parametrize(
    "changes",
    [
        {"qemu": "7"},
        {"qemu": "9", "vmm": "gce"},
        {"vmm": "gce"},
        {"qemu": "10.1", "page_orders": (PageOrder.TWO_PASS,)},
    ],
)
def test_what_a_vmm_does_not_do_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ContradictoryShape) as caught:
        measured(tmp_path, **changes)
    assert caught.value.hint


def test_runtime_events_of_dstack_fold_to_the_quoted_register(vectors: Path) -> None:
    path = vectors / "eventlog" / "dstack_quote-report.json"
    logged = register_of(read_log(path), 3)
    document = json.loads(path.read_text())
    payloads = [one["event_payload"] for one in json.loads(document["event_log"]) if one["imr"] == 3]
    listed = "".join(
        f'[[event]]\nconvention = "dstack"\nevent = "{one.data.decode()}"\npayload = "{payload}"\n'
        for one, payload in zip(logged, payloads, strict=True)
    )
    events = read_runtime_events(listed.encode(), "x")
    assert [one.digest for one in events] == [one.digest for one in logged]
    assert fold(events) == bytes.fromhex(document["quote"])[520:568]


def test_other_conventions_of_runtime_events() -> None:
    image = "sha256:" + "ab" * 32
    events = read_runtime_events(
        f'[[event]]\nconvention = "image"\ndigest = "{image}"\n'
        f'[[event]]\nconvention = "digest"\ndigest = "{"cd" * 32}"\nlabel = "rootfs"\n'.encode(),
        "x",
    )
    assert events[0].digest == hashlib.sha384(image.encode()).digest()
    assert events[1].digest == b"\xcd" * 32 + bytes(16)
    assert [one.label for one in events] == [image, "rootfs"]
    assert dstack_digest("a", b"b") == hashlib.sha384(b"\1\0\0\x08:a:b").digest()


@pytest.mark.parametrize(
    "text",
    [
        'convention = "dstack"\nevent = "x"',
        'convention = "dstack"\nevent = "x"\npayload = "AB"',
        'convention = "dstack"\nevent = "x"\npayload = ""\ndigest = "ab"',
        'convention = "image"\ndigest = "ab"',
        'convention = "image"',
        'convention = "digest"',
        'convention = "digest"\ndigest = ""',
        'convention = "digest"\ndigest = "abc"',
        f'convention = "digest"\ndigest = "{"ab" * 49}"',
        'convention = "digest"\ndigest = "ab"\nevent = "x"',
    ],
)
def test_a_wrong_runtime_event_is_refused_with_its_number(text: str) -> None:
    with pytest.raises(BadRuntimeEvent) as caught:
        read_runtime_events(f"[[event]]\n{text}\n".encode(), "list.toml")
    assert caught.value.place == "list.toml: event 1"


def test_the_command_measures_a_whole_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "OVMF.fd").write_bytes(make_tdvf(store=make_varstore([])))
    (tmp_path / "vmlinuz").write_bytes(KERNEL.data)
    (tmp_path / "initrd").write_bytes(KERNEL.initrd)
    (tmp_path / "events.toml").write_text('[[event]]\nconvention = "digest"\ndigest = "ab"\n')
    code = run(
        cli,
        ["measure", "tdx", "--firmware", str(tmp_path / "OVMF.fd"), "--edk2", "202411", "--memory", "2GiB",
         "--vcpus", "4", "--kernel", str(tmp_path / "vmlinuz"), "--initrd", str(tmp_path / "initrd"),
         "--cmdline", KERNEL.cmdline, "--qemu", "10.1", "--secure-boot", "absent", "--format", "json",
         "--runtime-events", str(tmp_path / "events.toml"), "--log", str(tmp_path / "log.json")],
    )  # fmt: skip
    assert code == 0
    (found,) = json.loads(capfd.readouterr().out)["measurements"]
    assert found["variant"] == {
        "vmm": "qemu", "page_order": "single-pass", "firmware_generation": "202411", "memory": "2GiB", "vcpus": 4,
    }  # fmt: skip
    assert sorted(found["claims"]) == ["mrtd", "rtmr1", "rtmr2", "rtmr3"]
    assert [one["event"] for one in found["unpredicted"]] == ["acpi-loader", "acpi-rsdp", "acpi-tables"]
    assert found["policy_inputs"] == ["mrconfigid", "mrowner", "mrownerconfig"]
    logs = json.loads((tmp_path / "log.json").read_text())
    assert [one["register"] for one in logs] == ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    assert run(cli, ["measure", "tdx", str(tmp_path / "OVMF.fd"), "--initrd", str(tmp_path / "initrd")]) == 2


@pytest.mark.network
def test_rtmr1_of_debian_s_kernel_has_the_published_value(tmp_path: Path) -> None:
    subprocess.run(["apt-get", "download", "linux-image-6.1.0-56-amd64"], cwd=tmp_path, check=True)
    (package,) = tmp_path.glob("linux-image-*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "x"], cwd=tmp_path, check=True)
    kernel = Kernel(
        data=(tmp_path / "x/boot/vmlinuz-6.1.0-56-amd64").read_bytes(), cmdline="console=ttyS0 quiet"
    )
    made = boot_events(kernel, GENERATIONS["202211"], header_patch=False, memory_bytes=None)
    value = fold(made["rtmr1"])
    assert value is not None
    assert value.hex().startswith("6be6a0662f5d4d90")
    assert fold(made["rtmr2"]) == bytes(48)  # a stub before 6.9


@pytest.mark.parametrize(("stub", "again"), [("252.39", 1), ("258.1", 0)])
def test_a_uki_brings_what_it_boots(stub: str, again: int) -> None:
    inner = bzimage()
    magic = f"#### LoaderInfo: systemd-stub {stub} ####\0".encode()
    data = write_pe(((".sdmagic", magic), (".linux", inner), (".cmdline", b"quiet"), (".initrd", b"initrd")))
    uki = Kernel(data=data)
    found = digests(uki, "202411")
    assert found["rtmr1"][0] == authenticode(data, "sha384").hex()
    assert found["rtmr1"][2] == said(bytes(4))
    assert found["rtmr1"].count(authenticode(inner, "sha384").hex()) == again
    assert said("quiet\0".encode("utf-16-le")) in found["rtmr2"]
    assert digests(uki, "202411", header_patch=True) == found  # QEMU leaves a UKI as it is
    with pytest.raises(ContradictoryShape, match="is a UKI"):
        digests(msgspec.structs.replace(uki, cmdline="quiet"), "202411")
