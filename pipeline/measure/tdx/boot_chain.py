"""RTMR1 and RTMR2 of a kernel that the VMM gives to the firmware: what booted, with what it was told.

The events are those of PCR 4, 5 and 9; `pipeline.measure.boot` makes them. What depends on the trust domain
is decided here: where the separator goes, how the initrd is named (generation of edk2), and whether the VMM
writes into the kernel's header (QEMU).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.measure.boot.direct_boot import DirectBoot, direct_events
from pipeline.measure.boot.register import BootEvent
from pipeline.measure.boot.uki import looks_like_uki, read_uki, uki_events, unpredicted_events
from pipeline.measure.tdx.edk2 import Edk2
from pipeline.measure.tdx.rtmr import EVENT_TYPES, RtmrEvent
from pipeline.measure.tdx.shape import ContradictoryShape

_BANK = "sha384"


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """What the VMM gives: kernel (bzImage or UKI), initrd, command line."""

    data: bytes
    name: str = "kernel"
    initrd: bytes = b""
    cmdline: str = ""


def boot_events(
    kernel: Kernel, edk2: Edk2, *, header_patch: bool, memory_bytes: int | None
) -> dict[str, tuple[RtmrEvent, ...]]:
    """Give the events of RTMR1 and RTMR2.

    Args:
        kernel: what is booted.
        edk2: generation of the firmware.
        header_patch: the VMM writes into the kernel's header, so that RTMR1 depends on memory and initrd.
        memory_bytes: of the machine.

    Raises:
        ContradictoryShape: RVP-5203. BadPe: RVP-5420. BadKernel: RVP-5421. BadCommandLine: RVP-5422.
        BadUki: RVP-5423. UnknownStub: RVP-5424.
    """
    if looks_like_uki(kernel.data):
        return _uki(kernel, edk2)
    if header_patch and memory_bytes is None:
        raise ContradictoryShape(
            "this VMM writes the place of the initrd into the kernel, which depends on the memory",
            hint="--memory 2GiB",
        )
    made = direct_events(
        DirectBoot(
            kernel=kernel.data,
            initrd=kernel.initrd,
            cmdline=kernel.cmdline.encode(),
            memory_bytes=memory_bytes or 0,
            header_patch=header_patch,
            initrd_name="prefix" if edk2.initrd_first else "suffix",
            separator_in_rtmr1=not edk2.separator_in_rtmr0,
        ),
        banks=(_BANK,),
        name=kernel.name,
    )
    return {register: _events(made[register]) for register in ("rtmr1", "rtmr2")}


def _uki(kernel: Kernel, edk2: Edk2) -> dict[str, tuple[RtmrEvent, ...]]:
    if kernel.initrd or kernel.cmdline:
        raise ContradictoryShape(
            f"{kernel.name} is a UKI, which brings initrd and command line",
            hint="leave --initrd and --cmdline out",
        )
    uki = read_uki(kernel.data, name=kernel.name)
    gaps = [
        one for one in unpredicted_events(uki, name=kernel.name) if one.register in {"rtmr1", "rtmr2", "pcr9"}
    ]
    if gaps:
        raise ContradictoryShape(
            f"RTMR2 of {kernel.name} cannot be predicted: {gaps[0].event}: {gaps[0].reason}",
            hint="build the UKI without what the machine decides",
        )
    made = uki_events(
        uki, boot="direct", banks=(_BANK,), separator_in_rtmr1=not edk2.separator_in_rtmr0, name=kernel.name
    )
    return {register: _events(made[register]) for register in ("rtmr1", "rtmr2")}


def _events(made: Sequence[BootEvent]) -> tuple[RtmrEvent, ...]:
    return tuple(
        RtmrEvent(kind=EVENT_TYPES.get(one.op, 0), digest=one.digests[_BANK], label=one.label) for one in made
    )
