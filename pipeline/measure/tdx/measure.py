"""Measure a trust domain: MRTD and the RTMRs, one measurement for each shape and page order.

What a build cannot know is a named event with its reason; what the host chooses at launch is a policy input.

Cost: one pass of SHA-384 over the firmware for each page order; a shape adds its TD HOB and its ACPI data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.ovmf import MAX_FIRMWARE
from pipeline.measure.tdx.boot_chain import Kernel, boot_events
from pipeline.measure.tdx.edk2 import GENERATIONS, Platform
from pipeline.measure.tdx.mrtd import PageOrder, mrtd
from pipeline.measure.tdx.mrtd_log import write_mrtd_log
from pipeline.measure.tdx.rtmr import RtmrEvent, fold, gaps, write_rtmr_log
from pipeline.measure.tdx.rtmr0 import Rtmr0Input, SecureBoot, rtmr0_events
from pipeline.measure.tdx.shape import ContradictoryShape, Shape, captured, shapes_of
from pipeline.measure.tdx.td_hob import td_hob
from pipeline.measure.tdx.tdvf import BadTdvf, SectionKind, Tdvf, read_tdvf
from pipeline.measure.tdx.varstore import Varstore, read_varstore
from pipeline.measure.tdx.vmm import QEMU, VMMS
from provenance.claims import POLICY_INPUTS, ClaimValue, Measurement, Unpredicted
from provenance.measurement_log import MeasurementLog
from provenance.strict import read_file


class TdxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a trust domain measures to depends on, beside its firmware.

    Attributes:
        name: what to call the firmware; default: the file's name.
        varstore: variables (OVMF_VARS.fd) instead of those in the firmware, or before one that has none.
        vmm: who starts it: a name of `VMMS`.
        page_orders: which to compute; none: all that the VMM is known to use.
        memory: sizes in bytes; a shape for each.
        vcpus: numbers; a shape for each.
        edk2: generation of the firmware: a name of `GENERATIONS`; empty: MRTD alone.
        platform: the build; None: where generations do not tell them apart.
        acpi: folder with what was captured of the VMM.
        secure_boot: what the firmware says of Secure Boot; None: what its variables say.
        kernel: what the VMM gives to the firmware; None: a disk has it.
        qemu: generation of QEMU: a name of `QEMU`; empty: the newest for the kernel, any for the page order.
        runtime_events: what applications extend into RTMR3; None: not known.
        with_log: also write the measurement logs.
    """

    name: str = ""
    varstore: bytes | None = None
    vmm: str = "qemu"
    page_orders: tuple[PageOrder, ...] = ()
    memory: tuple[int, ...] = ()
    vcpus: tuple[int, ...] = ()
    edk2: str = ""
    platform: Platform | None = None
    acpi: Path | None = None
    secure_boot: SecureBoot | None = None
    kernel: Kernel | None = None
    qemu: str = ""
    runtime_events: tuple[RtmrEvent, ...] | None = None
    with_log: bool = True


def measure_firmware(path: Path, options: MeasureOptions) -> Measured:
    """Measure a firmware file as it is: MRTD."""
    return measure_td(path, TdxOptions(name=options.name, with_log=options.with_log))


def measure_td(path: Path, options: TdxOptions) -> Measured:
    """Measure a trust domain in every shape that was asked for.

    Raises:
        NoTdvfMetadata: RVP-5200. BadTdvf: RVP-5201. ContradictoryShape: RVP-5203.
        MemoryNotPossible: RVP-5204. BadVarstore: RVP-5205. BadFwCfg: RVP-5206.
        ContradictoryVariables: RVP-5207. BadFirmware: RVP-5300.
        NotReadable: RVP-1010.
    """
    name = options.name or path.name
    stored = read_file(path, limit_bytes=MAX_FIRMWARE)
    data = with_varstore(stored, options.varstore, name)
    tdvf = read_tdvf(data, name)
    _check(options, tdvf)
    subject = subject_of(stored, name)
    orders = tuple(_orders(options))
    values = {order: mrtd(tdvf, data, order) for order in orders}
    shapes = tuple(shapes_of(options.memory, options.vcpus))
    measurements: list[Measurement] = []
    logs: list[MeasurementLog] = []
    written: set[tuple[str, tuple[RtmrEvent, ...]]] = set()
    if options.with_log:
        logs += [write_mrtd_log(tdvf, data, order, value) for order, value in values.items()]
    fixed = _Fixed.of(tdvf, data, name, options) if options.edk2 else None
    for shape in shapes:
        registers = {} if fixed is None else fixed.registers(options, shape, alone=len(shapes) == 1)
        if options.runtime_events is not None:
            registers["rtmr3"] = options.runtime_events
        claims, unpredicted = _said(registers)
        measurements += [
            Measurement(
                tee="tdx",
                subject=subject,
                variant={
                    "vmm": options.vmm,
                    "page_order": str(order),
                    **({"firmware_generation": options.edk2} if options.edk2 else {}),
                    **shape.variant(),
                },
                claims={"mrtd": value.hex(), **claims},
                unpredicted=unpredicted,
                policy_inputs=tuple(one for one in POLICY_INPUTS["tdx"] if one not in claims),
            )
            for order, value in values.items()
        ]
        if options.with_log:
            logs += [write_rtmr_log(*one) for one in registers.items() if one not in written]
            written |= set(registers.items())
    return Measured(measurements=tuple(measurements), logs=tuple(logs))


class _Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all shapes."""

    tdvf: Tdvf
    cfv_digest: bytes
    varstore: Varstore
    header_patch: bool
    booted: dict[int | None, dict[str, tuple[RtmrEvent, ...]]]

    @classmethod
    def of(cls, tdvf: Tdvf, data: bytes, name: str, options: TdxOptions) -> _Fixed:
        section = tdvf.only(SectionKind.CFV)
        cfv = b"" if section is None else bytes(section.content(data))
        patch = bool(options.qemu) and QEMU[options.qemu].header_patch
        return cls(
            tdvf=tdvf,
            cfv_digest=hashlib.sha384(cfv).digest(),
            varstore=read_varstore(cfv, name),
            header_patch=patch,
            booted=_booted(options, patch=patch),
        )

    def registers(
        self, options: TdxOptions, shape: Shape, *, alone: bool
    ) -> dict[str, tuple[RtmrEvent, ...]]:
        vmm = VMMS[options.vmm]
        given = Rtmr0Input(
            edk2=GENERATIONS[options.edk2],
            platform=options.platform or Platform.OVMF,
            hob=None if shape.memory_bytes is None else td_hob(self.tdvf, shape.memory_bytes, vmm),
            cfv_digest=self.cfv_digest,
            varstore=self.varstore,
            fw_cfg=captured(options.acpi, shape, alone=alone),
            secure_boot=options.secure_boot,
            direct_boot=options.kernel is not None,
        )
        registers = {"rtmr0": rtmr0_events(given)}
        if options.kernel is not None:
            registers |= self.booted[shape.memory_bytes if self.header_patch else None]
        return registers


def _booted(options: TdxOptions, *, patch: bool) -> dict[int | None, dict[str, tuple[RtmrEvent, ...]]]:
    """Give the events of RTMR1 and RTMR2 by memory size; once for all sizes when they do not depend on it."""
    if options.kernel is None:
        return {}
    edk2 = GENERATIONS[options.edk2]
    if (options.platform or Platform.OVMF) not in edk2.measuring:
        return {size: {"rtmr1": (), "rtmr2": ()} for size in (*options.memory, None)}
    return {
        size: boot_events(options.kernel, edk2, header_patch=patch, memory_bytes=size)
        for size in ((options.memory or (None,)) if patch else (None,))
    }


def _said(
    registers: dict[str, tuple[RtmrEvent, ...]],
) -> tuple[dict[str, ClaimValue], tuple[Unpredicted, ...]]:
    claims: dict[str, ClaimValue] = {}
    unpredicted: tuple[Unpredicted, ...] = ()
    for register, events in registers.items():
        value = fold(events)
        if value is not None:
            claims[register] = value.hex()
        unpredicted += gaps(register, events)
    return claims, unpredicted


def _check(options: TdxOptions, tdvf: Tdvf) -> None:
    if options.qemu and options.qemu not in QEMU:
        raise ContradictoryShape(
            f'the generation "{options.qemu}" of QEMU is not known', hint=f"known: {', '.join(QEMU)}"
        )
    if options.qemu and options.vmm != "qemu":
        raise ContradictoryShape(
            f"a generation of QEMU does not go with the VMM {options.vmm}",
            hint="leave --qemu out",
        )
    if options.kernel and options.vmm in VMMS and not VMMS[options.vmm].gives_kernels:
        raise ContradictoryShape(
            f"{options.vmm} gives no kernel to the firmware; it boots from a disk", hint="leave --kernel out"
        )
    if not options.edk2:
        if options.memory or options.acpi or options.secure_boot or options.platform or options.kernel:
            raise ContradictoryShape(
                "what RTMR0 has depends on the generation of edk2, which was not said",
                hint=f"--edk2 {' | '.join(GENERATIONS)}",
            )
        return
    if options.edk2 not in GENERATIONS:
        raise ContradictoryShape(
            f'the generation "{options.edk2}" of edk2 is not known', hint=f"known: {', '.join(GENERATIONS)}"
        )
    if tdvf.form == "td-shim":
        raise ContradictoryShape(
            "the firmware is td-shim, which is not edk2; of it MRTD alone is computed",
            hint="leave --edk2 out",
        )
    edk2 = GENERATIONS[options.edk2]
    if options.acpi is not None and not edk2.acpi_events and not edk2.fw_cfg_events:
        raise ContradictoryShape(
            f"edk2-stable{options.edk2} measures nothing of what the VMM hands over", hint="leave --acpi out"
        )
    if options.platform is None and GENERATIONS[options.edk2].differs_by_platform():
        raise ContradictoryShape(
            f"of edk2-stable{options.edk2} the builds differ, and the image does not say which it is",
            hint=f"--platform {' | '.join(Platform)}",
        )


def _orders(options: TdxOptions) -> Iterator[PageOrder]:
    if options.vmm not in VMMS:
        raise ContradictoryShape(f'the VMM "{options.vmm}" is not known', hint=f"known: {', '.join(VMMS)}")
    known = QEMU[options.qemu].page_orders if options.qemu else VMMS[options.vmm].page_orders
    for order in options.page_orders or known:
        if order not in known:
            raise ContradictoryShape(
                f"{options.vmm} {options.qemu} adds pages in {' or '.join(known)}, not in {order}",
                hint="leave --page-order out, or name another VMM",
            )
        yield order


def with_varstore(firmware: bytes, varstore: bytes | None, name: str) -> bytes:
    """Put variables into a flash image, or before a code image that has none.

    Raises:
        BadTdvf: RVP-5201, when they do not fit. NoTdvfMetadata: RVP-5200.
    """
    if varstore is None:
        return firmware
    joined = varstore + firmware
    try:
        tdvf = read_tdvf(joined, name)
    except BadTdvf:
        joined = varstore + firmware[len(varstore) :]
        tdvf = read_tdvf(joined, name)
    stored = variables_of(tdvf)
    if stored != len(varstore):
        raise BadTdvf(
            f"the variables have {len(varstore):#x} bytes, the firmware has room for {stored:#x}", place=name
        )
    return joined


def variables_of(tdvf: Tdvf) -> int:
    """Give the size of the variables that stand at the beginning of a flash image."""
    section = tdvf.only(SectionKind.CFV)
    return 0 if section is None else section.raw_size
