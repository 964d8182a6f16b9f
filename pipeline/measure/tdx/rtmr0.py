"""RTMR0: how the machine and the firmware are configured, as edk2 measures it.

    1   TD HOB                    EV_EFI_HANDOFF_TABLES2
    2   CFV, the variables        EV_EFI_PLATFORM_FIRMWARE_BLOB2
    3   settings of the VMM       EV_PLATFORM_CONFIG_FLAGS, one for each that is there    (edk2 from 202505)
    4   SecureBoot PK KEK db dbx  EV_EFI_VARIABLE_DRIVER_CONFIG, and dbt when it is there
    5   separator
    6   ACPI data                 EV_PLATFORM_CONFIG_FLAGS: loader, RSDP, tables          (edk2 from 202302)
    7   BootOrder, Boot####       EV_EFI_VARIABLE_BOOT
    8   separator                                                                         (edk2 until 202408)
    9   who signed what boots     EV_EFI_VARIABLE_AUTHORITY, with Secure Boot

Of variables of Secure Boot the whole event data are hashed, of boot variables the value alone.

Source: edk2, OvmfPkg/Library/PeilessStartupLib (1, 2), OvmfPkg/PlatformPei (3), OvmfPkg/Tcg/TdTcg2Dxe
    (4, 5, 7, 8), OvmfPkg/AcpiPlatformDxe (6); each rule seen in logs of real machines but (3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.measure.ovmf import guid_bytes
from pipeline.measure.tdx.edk2 import Edk2, Platform
from pipeline.measure.tdx.fw_cfg import LOADER, RSDP, SETTINGS, TABLES, FwCfg
from pipeline.measure.tdx.rtmr import (
    EV_EFI_HANDOFF_TABLES2,
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_PLATFORM_CONFIG_FLAGS,
    RtmrEvent,
    event,
    separator,
    unknown,
)
from pipeline.measure.tdx.varstore import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY,
    SECURE_BOOT_ENABLE,
    Variable,
    Varstore,
)
from provenance.errors import UsageError


class SecureBoot(StrEnum):
    """What the firmware says in its variable SecureBoot."""

    ABSENT = "absent"
    OFF = "off"
    ON = "on"


class ContradictoryVariables(UsageError):
    """What was said of Secure Boot contradicts the variables of the firmware.

    Secure Boot is on only when a platform key (PK) is enrolled.
    Cure: give the variables that have the keys (`--varstore`), or leave `--secure-boot` out.
    """

    code = "RVP-5207"


class Rtmr0Input(msgspec.Struct, frozen=True, kw_only=True):
    """All that RTMR0 depends on.

    Attributes:
        edk2: the generation.
        platform: the build.
        hob: the measured part of the TD HOB; None when the memory size is not known.
        cfv_digest: SHA-384 of the section of the firmware with the variables.
        varstore: the same section, read.
        fw_cfg: captured from the VMM; None when nothing was.
        secure_boot: None: what the variables say.
        direct_boot: the VMM gives the kernel; else a disk or the network has it.
    """

    edk2: Edk2
    platform: Platform
    hob: bytes | None
    cfv_digest: bytes
    varstore: Varstore
    fw_cfg: FwCfg | None = None
    secure_boot: SecureBoot | None = None
    direct_boot: bool = False


# The boot option of edk2's own menu, the only one of an empty store when the VMM gives the kernel:
# attributes 0x109, 44 bytes of path, "UiApp", then the path: firmware volume, file, end.
UI_APP: Final = (
    struct.pack("<IH", 0x109, 0x2C)
    + "UiApp\0".encode("utf-16-le")
    + struct.pack("<BBH", 4, 7, 20)
    + guid_bytes("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
    + struct.pack("<BBH", 4, 6, 20)
    + guid_bytes("462caa21-7614-4503-836e-8ab6f4662331")
    + struct.pack("<BBH", 0x7F, 0xFF, 4)
)


def rtmr0_events(given: Rtmr0Input) -> tuple[RtmrEvent, ...]:
    """List the events of RTMR0, in order; none for a build that extends no register.

    Raises:
        ContradictoryVariables: RVP-5207.
    """
    if given.platform not in given.edk2.measuring:
        return ()
    secure_boot = _secure_boot(given)
    return (
        *_firmware(given),
        *_settings(given),
        *_variables(given, secure_boot),
        separator(),
        *_acpi(given),
        *_boot(given),
        *([separator()] if given.edk2.separator_in_rtmr0 else []),
        *_authority(secure_boot),
    )


def _firmware(given: Rtmr0Input) -> Iterator[RtmrEvent]:
    if given.hob is None:
        yield unknown(
            EV_EFI_HANDOFF_TABLES2,
            "td-hob",
            "the list of memory depends on the memory size, which was not given",
        )
    else:
        yield event(EV_EFI_HANDOFF_TABLES2, given.hob, "TD HOB")
    yield RtmrEvent(kind=EV_EFI_PLATFORM_FIRMWARE_BLOB2, digest=given.cfv_digest, label="CFV")


def _settings(given: Rtmr0Input) -> Iterator[RtmrEvent]:
    if given.platform not in given.edk2.fw_cfg_events:
        return
    if given.fw_cfg is None:
        yield unknown(
            EV_PLATFORM_CONFIG_FLAGS,
            "fw-cfg",
            "which settings the VMM hands over, and their values, depend on its devices; none were captured",
        )
        return
    for name in SETTINGS:
        if name in given.fw_cfg.items:
            yield event(EV_PLATFORM_CONFIG_FLAGS, given.fw_cfg.items[name], name)
        elif name == "bootmenu":
            yield unknown(
                EV_PLATFORM_CONFIG_FLAGS,
                "fw-cfg-boot-menu",
                "the item 0x0e of fw_cfg is no file and was not captured (two bytes, as `bootmenu`)",
            )


def _secure_boot(given: Rtmr0Input) -> SecureBoot | None:
    has_key = given.varstore.find(GLOBAL_VARIABLE, "PK") is not None
    if given.secure_boot is SecureBoot.ON and not has_key:
        raise ContradictoryVariables("Secure Boot is said to be on, and the variables have no PK")
    if given.secure_boot is not None:
        return given.secure_boot
    if not has_key:
        return None
    enable = given.varstore.find(SECURE_BOOT_ENABLE, "SecureBootEnable")
    return SecureBoot.OFF if enable is not None and enable.data == b"\0" else SecureBoot.ON


def _variables(given: Rtmr0Input, secure_boot: SecureBoot | None) -> Iterator[RtmrEvent]:
    kind = EV_EFI_VARIABLE_DRIVER_CONFIG
    if secure_boot is None:
        yield unknown(
            kind,
            "secure-boot",
            "no key is enrolled, and whether the build has Secure Boot at all cannot be seen in the image "
            "(`--secure-boot absent` or `off`)",
        )
    else:
        data = {SecureBoot.ABSENT: b"", SecureBoot.OFF: b"\0", SecureBoot.ON: b"\1"}[secure_boot]
        said = Variable(vendor=GLOBAL_VARIABLE, name="SecureBoot", data=data)
        yield event(kind, said.measured(), "SecureBoot")
    for vendor, name in (
        (GLOBAL_VARIABLE, "PK"),
        (GLOBAL_VARIABLE, "KEK"),
        (IMAGE_SECURITY, "db"),
        (IMAGE_SECURITY, "dbx"),
        (IMAGE_SECURITY, "dbt"),
    ):
        found = given.varstore.find(vendor, name)
        if found is not None or name != "dbt":
            yield event(kind, (found or Variable(vendor=vendor, name=name, data=b"")).measured(), name)


def _acpi(given: Rtmr0Input) -> Iterator[RtmrEvent]:
    if not given.edk2.acpi_events:
        return
    for blob, name in ((LOADER, "acpi-loader"), (RSDP, "acpi-rsdp"), (TABLES, "acpi-tables")):
        if given.fw_cfg is None:
            yield unknown(
                EV_PLATFORM_CONFIG_FLAGS,
                name,
                f"{blob} depends on the VMM's version, devices, vCPUs and memory; none was captured",
            )
        else:
            yield event(EV_PLATFORM_CONFIG_FLAGS, given.fw_cfg.items[blob], name)


def _boot(given: Rtmr0Input) -> Iterator[RtmrEvent]:
    if given.varstore.find(GLOBAL_VARIABLE, "BootOrder") is not None:
        reason = "the variables have a BootOrder, to which the firmware adds what it finds"
    elif not given.direct_boot:
        reason = "without a kernel from the VMM the boot options depend on its disks and network cards"
    else:
        yield event(EV_EFI_VARIABLE_BOOT, bytes(2), "BootOrder")
        yield event(EV_EFI_VARIABLE_BOOT, UI_APP, "Boot0000: UiApp")
        return
    yield unknown(EV_EFI_VARIABLE_BOOT, "boot-variables", reason)


def _authority(secure_boot: SecureBoot | None) -> Iterator[RtmrEvent]:
    if secure_boot is SecureBoot.ON:
        yield unknown(
            EV_EFI_VARIABLE_AUTHORITY,
            "secure-boot-authority",
            "which key of db, and which variables of shim, allowed what booted is seen only when it boots",
        )
