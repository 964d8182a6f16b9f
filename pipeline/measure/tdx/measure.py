"""Measure a trust domain: MRTD of its firmware in both page orders, one measurement for each.

What a build cannot know is a named event with its reason; what the host chooses at launch is a policy input.

Cost: one pass of SHA-384 over the firmware for each page order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.ovmf import MAX_FIRMWARE
from pipeline.measure.tdx.mrtd import PageOrder, mrtd
from pipeline.measure.tdx.mrtd_log import write_mrtd_log
from pipeline.measure.tdx.tdvf import BadTdvf, SectionKind, Tdvf, read_tdvf
from pipeline.measure.tdx.vmm import VMMS
from provenance.claims import POLICY_INPUTS, Measurement
from provenance.errors import UsageError
from provenance.measurement_log import MeasurementLog
from provenance.strict import read_file


class ContradictoryShape(UsageError):
    """What was said of a trust domain contradicts itself, its firmware or its VMM.

    The message names both. Cure: `rvp measure tdx --help` lists what belongs together.
    """

    code = "RVP-5203"


class TdxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a trust domain measures to depends on, beside its firmware.

    Attributes:
        name: what to call the firmware; default: the file's name.
        varstore: variables (OVMF_VARS.fd) instead of those in the firmware, or before one that has none.
        vmm: who starts it: a name of `VMMS`.
        page_orders: which to compute; none: all that the VMM is known to use.
        with_log: also write the measurement logs.
    """

    name: str = ""
    varstore: bytes | None = None
    vmm: str = "qemu"
    page_orders: tuple[PageOrder, ...] = ()
    with_log: bool = True


def measure_firmware(path: Path, options: MeasureOptions) -> Measured:
    """Measure a firmware file as it is: MRTD."""
    return measure_td(path, TdxOptions(name=options.name, with_log=options.with_log))


def measure_td(path: Path, options: TdxOptions) -> Measured:
    """Measure a trust domain in every shape that was asked for.

    Raises:
        NoTdvfMetadata: RVP-5200. BadTdvf: RVP-5201. ContradictoryShape: RVP-5203.
        BadFirmware: RVP-5300. NotReadable: RVP-1010.
    """
    name = options.name or path.name
    stored = read_file(path, limit_bytes=MAX_FIRMWARE)
    data = with_varstore(stored, options.varstore, name)
    tdvf = read_tdvf(data, name)
    subject = subject_of(stored, name)
    measurements: list[Measurement] = []
    logs: list[MeasurementLog] = []
    for order in _orders(options):
        value = mrtd(tdvf, data, order)
        measurements.append(
            Measurement(
                tee="tdx",
                subject=subject,
                variant={"vmm": options.vmm, "page_order": str(order)},
                claims={"mrtd": value.hex()},
                policy_inputs=POLICY_INPUTS["tdx"],
            )
        )
        if options.with_log:
            logs.append(write_mrtd_log(tdvf, data, order, value))
    return Measured(measurements=tuple(measurements), logs=tuple(logs))


def _orders(options: TdxOptions) -> Iterator[PageOrder]:
    if options.vmm not in VMMS:
        raise ContradictoryShape(f'the VMM "{options.vmm}" is not known', hint=f"known: {', '.join(VMMS)}")
    known = VMMS[options.vmm].page_orders
    for order in options.page_orders or known:
        if order not in known:
            raise ContradictoryShape(
                f"{options.vmm} adds pages in {' or '.join(known)}, not in {order}",
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
