"""What a VMM hands to the firmware through fw_cfg, captured from a machine of the same shape.

A folder in one of three forms, for example of `etc/acpi/tables`:

    etc/acpi/tables/raw        as Linux shows it: /sys/firmware/qemu_fw_cfg/by_name
    etc/acpi/tables            the blob itself
    etc_acpi_tables.bin        the blob itself, in one folder

Units: sizes are bytes, padding included (QEMU: tables to 128 KiB, the loader to 4 KiB).
Source: QEMU, docs/specs/fw_cfg.rst; edk2, OvmfPkg/Library/QemuFwCfgLib and AcpiPlatformDxe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from provenance.errors import UsageError
from provenance.strict import read_file

LOADER: Final = "etc/table-loader"
RSDP: Final = "etc/acpi/rsdp"
TABLES: Final = "etc/acpi/tables"
BOOT_MENU: Final = "bootmenu"  # no file in fw_cfg: item 0x0e, two bytes
# In the order in which edk2 measures them, with the number of bytes that it takes (0: all).
SETTINGS: Final = {
    "etc/extra-pci-roots": 8,
    BOOT_MENU: 2,
    "etc/boot-menu-wait": 2,
    "etc/reserved-memory-end": 8,
    "opt/ovmf/X-PciMmio64Mb": 0,
    "bootorder": 0,
}
_MAX_BLOB: Final = 4 << 20


class BadFwCfg(UsageError):
    """What was captured of a VMM is not there, or is not what it should be.

    ACPI data are the three blobs `etc/table-loader`, `etc/acpi/rsdp` and `etc/acpi/tables`.
    Cure: copy them from a machine of the same shape:
    `cp -r /sys/firmware/qemu_fw_cfg/by_name/etc FOLDER`, as root in a guest.
    """

    code = "RVP-5206"


class FwCfg(msgspec.Struct, frozen=True, kw_only=True):
    """Captured items by name."""

    items: dict[str, bytes] = {}
    place: str = ""

    @property
    def has_acpi(self) -> bool:
        """Whether the ACPI blobs are there (all of them, see `read_fw_cfg`)."""
        return TABLES in self.items


def read_fw_cfg(folder: Path) -> FwCfg:
    """Read what was captured.

    Raises:
        BadFwCfg: RVP-5206, for a folder without ACPI blobs, or with some of them. NotReadable: RVP-1010.
    """
    items = {}
    for name in (LOADER, RSDP, TABLES, *SETTINGS):
        path = _find(folder, name)
        if path is not None:
            items[name] = read_file(path, limit_bytes=_MAX_BLOB)
    missing = [name for name in (LOADER, RSDP, TABLES) if name not in items]
    if missing:
        raise BadFwCfg(
            f"the folder has no {' and no '.join(missing)}",
            place=str(folder),
            hint="in a guest, as root: cp -r /sys/firmware/qemu_fw_cfg/by_name/etc FOLDER",
        )
    _check_acpi(items, str(folder))
    for name, size in SETTINGS.items():
        if name in items and size and len(items[name]) != size:
            raise BadFwCfg(f"{name} has {len(items[name])} bytes, expected {size}", place=str(folder))
    return FwCfg(items=items, place=str(folder))


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name / "raw", folder / name, folder / f"{name.replace('/', '_')}.bin"):
        if path.is_file():
            return path
    return None


def _check_acpi(items: dict[str, bytes], place: str) -> None:
    rsdp, loader = items[RSDP], items[LOADER]
    if not rsdp.startswith(b"RSD PTR ") or len(rsdp) not in {20, 36}:
        raise BadFwCfg(f"{RSDP} has {len(rsdp)} bytes and begins {rsdp[:8].hex()}", place=place)
    if len(loader) % 128 or not loader.startswith(b"\1\0\0\0"):
        raise BadFwCfg(f"{LOADER} has {len(loader)} bytes and begins {loader[:4].hex()}", place=place)
    if len(items[TABLES]) < 36:
        raise BadFwCfg(f"{TABLES} has {len(items[TABLES])} bytes", place=place)
