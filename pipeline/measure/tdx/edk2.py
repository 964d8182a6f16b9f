"""Generations of edk2, and what each changes in the registers of a trust domain.

Named after the stable tags (`edk2-stable202211`). What a line does not say is as in the one before.

Source: the history of edk2, `git tag --contains` of each change.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Platform(StrEnum):
    """The builds of edk2 that start trust domains."""

    OVMF = "OvmfPkgX64"
    INTEL_TDX = "IntelTdxX64"


class Edk2(msgspec.Struct, frozen=True, kw_only=True):
    """One generation.

    Attributes:
        measuring: the builds that extend RTMRs at all.
        acpi_events: the three ACPI blobs of the VMM are measured.
        fw_cfg_events: the builds that measure settings of the VMM (EV_PLATFORM_CONFIG_FLAGS).
        separator_in_rtmr0: the separator at "ready to boot" goes to RTMR0, not to RTMR1.
        initrd_first: "initrd=initrd " comes before the command line, not " initrd=initrd" after it.
        change: what is new, for people.
    """

    measuring: frozenset[Platform]
    acpi_events: bool = False
    fw_cfg_events: frozenset[Platform] = frozenset()
    separator_in_rtmr0: bool = True
    initrd_first: bool = False
    change: str = ""

    def differs_by_platform(self) -> bool:
        """Whether one must know the build to predict a register."""
        return len(self.measuring) == 1 or len(self.fw_cfg_events) == 1


_BOTH: Final = frozenset(Platform)
_TDX: Final = frozenset({Platform.INTEL_TDX})
_OVMF: Final = frozenset({Platform.OVMF})

_202202: Final = Edk2(measuring=frozenset(), change="TDX metadata (since 202111); no RTMR is extended")
_202208: Final = msgspec.structs.replace(_202202, measuring=_TDX, change="IntelTdxX64 extends RTMRs")
_202302: Final = msgspec.structs.replace(
    _202208,
    measuring=_BOTH,
    acpi_events=True,
    change="OvmfPkgX64 extends RTMRs too; ACPI data events in RTMR0",
)
_202405: Final = msgspec.structs.replace(
    _202302, change="a page for SVSM's calling area: temporary memory begins at 0x811000, so another TD HOB"
)
_202411: Final = msgspec.structs.replace(
    _202405, separator_in_rtmr0=False, change="the separator at ready-to-boot moves from RTMR0 to RTMR1"
)
_202502: Final = msgspec.structs.replace(
    _202411, change="kernel and initrd by name (etc/boot/kernel), as the VMM has them"
)
_202505: Final = msgspec.structs.replace(
    _202502, fw_cfg_events=_OVMF, change="OvmfPkgX64 measures settings of the VMM (fw_cfg) into RTMR0"
)
_202508: Final = msgspec.structs.replace(
    _202505,
    initrd_first=True,
    change='"initrd=initrd " before the command line instead of " initrd=initrd" after it',
)
_202602: Final = msgspec.structs.replace(
    _202508, fw_cfg_events=_BOTH, change="IntelTdxX64 measures settings of the VMM too"
)


def _same(one: Edk2) -> Edk2:
    return msgspec.structs.replace(one, change="")


GENERATIONS: Final[dict[str, Edk2]] = {
    "202202": _202202,
    "202205": _same(_202202),
    "202208": _202208,
    "202211": _same(_202208),
    "202302": _202302,
    "202305": _same(_202302),
    "202308": _same(_202302),
    "202311": _same(_202302),
    "202402": _same(_202302),
    "202405": _202405,
    "202408": _same(_202405),
    "202411": _202411,
    "202502": _202502,
    "202505": _202505,
    "202508": _202508,
    "202511": _same(_202508),
    "202602": _202602,
}
