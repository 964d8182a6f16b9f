"""The footer of OVMF: a table of GUIDs at the end of the firmware that says where its metadata lie.

    … metadata …  entry n … entry 1, footer entry | 32 bytes: reset vector | end of the file, 4 GiB

An entry is read backwards: 16 bytes of GUID, before them the entry's length (u16, itself and the GUID
included), before it the data. The footer entry's length is that of the whole table. SEV and TDX use the same
table; each finds its metadata by an offset counted from the end of the file.

Units: offsets are bytes from the start of the file unless said otherwise; numbers are little-endian.
Source: edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; QEMU, hw/i386/pc_sysfw_ovmf.c.
Cost: the table only, at most 64 KiB; the rest of the file is not looked at.

Example:
    >>> read_firmware(bytes(4096), name="zeros.fd").entries
    ()
"""

from __future__ import annotations

import struct
import uuid
from pathlib import Path
from typing import Final

import msgspec

from provenance.errors import UsageError

PAGE: Final = 4096
FOUR_GIB: Final = 1 << 32
# QEMU maps at most 8 MiB unless told otherwise (pc.max-fw-size); none that exists is longer than 16 MiB.
MAX_FIRMWARE: Final = 64 << 20

_TAIL: Final = 32  # bytes after the table: the reset vector
_ENTRY: Final = struct.Struct("<H16s")
_U32: Final = struct.Struct("<I")


def guid_bytes(text: str) -> bytes:
    """Write a GUID as it stands in firmware: the first three fields little-endian (UEFI, appendix A)."""
    return uuid.UUID(text).bytes_le


# Source: edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; COCONUT-SVSM, its own table.
FOOTER: Final = "96b582de-1fb2-45f7-baea-a366c55a082d"
TDX_METADATA: Final = "e47a6535-984a-4798-865e-4685a7bf8ec2"
SEV_METADATA: Final = "dc886566-984a-4798-a75e-5585a7bf67cc"
SEV_HASH_TABLE: Final = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_SECRET: Final = "4c2eb361-7d9b-4cc3-8081-127c90d3d294"  # noqa: S105  a GUID
SEV_ES_RESET: Final = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SVSM_INFO: Final = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
IGVM: Final = "784fa70e-3176-4677-8a20-04b68699e374"

NAMES: Final = {
    FOOTER: "footer",
    TDX_METADATA: "TDX metadata offset",
    SEV_METADATA: "SEV metadata offset",
    SEV_HASH_TABLE: "SEV hash table",
    SEV_SECRET: "SEV secret",
    SEV_ES_RESET: "SEV-ES reset block",
    SVSM_INFO: "SVSM info",
    IGVM: "IGVM",
}


class BadFirmware(UsageError):
    """A firmware file contradicts itself: its table of GUIDs, or the metadata that the table points to.

    The message names the field, its offset in the file and its value.
    Cure: check that the file is complete, and that it is the firmware and not its variable store.
    """

    code = "RVP-5300"


class TableEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the table.

    Attributes:
        guid: lowercase, as in the specifications.
        offset: of the data in the file.
        data: without length and GUID.
    """

    guid: str
    offset: int
    data: bytes


class Firmware(msgspec.Struct, frozen=True, kw_only=True):
    """A firmware file and its table, in the order in which it is read: backwards.

    Attributes:
        data: the whole file.
        name: what to call it in messages.
        has_table: whether the footer GUID is there.
        entries: none for firmware without the table (td-shim, SeaBIOS, Debian's OVMF_CODE_4M.fd).
    """

    data: bytes | memoryview
    name: str = ""
    has_table: bool = False
    entries: tuple[TableEntry, ...] = ()

    @property
    def gpa(self) -> int:
        """Where it is mapped: it ends at 4 GiB."""
        return FOUR_GIB - len(self.data)

    def entry(self, guid: str) -> TableEntry | None:
        """Find an entry."""
        return next((one for one in self.entries if one.guid == guid), None)

    def number(self, guid: str) -> int | None:
        """Read the u32 that begins an entry; None without the entry.

        Raises:
            BadFirmware: RVP-5300, when the entry is too short for it.
        """
        entry = self.entry(guid)
        if entry is None:
            return None
        if len(entry.data) < _U32.size:
            raise BadFirmware(
                f"{NAMES.get(guid, guid)} at {entry.offset:#x} has {len(entry.data)} bytes, "
                "at least 4 are needed",
                place=self.name,
            )
        return int(_U32.unpack_from(entry.data)[0])

    def metadata_offset(self, guid: str) -> int | None:
        """Give where metadata lie in the file, by the entry that counts back from its end.

        Raises:
            BadFirmware: RVP-5300, when it points before the file or behind its end.
        """
        back = self.number(guid)
        if back is None:
            return None
        if not 0 < back <= len(self.data):
            raise BadFirmware(
                f"{NAMES.get(guid, guid)} is {back:#x} bytes before the end of a file of {len(self.data):#x}",
                place=self.name,
            )
        return len(self.data) - back


def has_footer(tail: bytes) -> bool:
    """Tell whether a file that ends with these bytes (48 or more) has the table."""
    end = len(tail) - _TAIL
    return end >= 16 and tail[end - 16 : end] == guid_bytes(FOOTER)


def is_firmware_file(path: Path) -> bool:
    """Tell whether a file has the table; reads its last bytes, and never raises."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if not _TAIL + _ENTRY.size <= size <= MAX_FIRMWARE:
                return False
            stream.seek(size - _TAIL - _ENTRY.size)
            return has_footer(stream.read(_TAIL + _ENTRY.size))
    except OSError:
        return False


def has_sev_metadata(path: Path) -> bool:
    """Tell whether a file is firmware that SEV-SNP guests can be launched with; never raises."""
    if not is_firmware_file(path):
        return False
    try:
        return read_firmware(path.read_bytes()).entry(SEV_METADATA) is not None
    except (OSError, BadFirmware):
        return False


def read_firmware(data: bytes | memoryview, *, name: str = "") -> Firmware:
    """Read the table of a firmware file; firmware without one has no entries.

    Raises:
        BadFirmware: RVP-5300, for a table that does not fit together, or a file that is no firmware.
    """
    if not data:
        raise BadFirmware("the file is empty", place=name)
    if len(data) > MAX_FIRMWARE:
        raise BadFirmware(
            f"the file has {len(data):#x} bytes; firmware has {MAX_FIRMWARE:#x} at most", place=name
        )
    if not has_footer(bytes(data[-_TAIL - _ENTRY.size :])):
        return Firmware(data=data, name=name)
    end = len(data) - _TAIL
    length = _ENTRY.unpack_from(data, end - _ENTRY.size)[0]
    start = end - length
    if length < _ENTRY.size or start < 0:
        raise BadFirmware(
            f"the footer at {end - _ENTRY.size:#x} says that the table has {length} bytes, "
            f"{_ENTRY.size} to {end} are possible",
            place=name,
        )
    entries: list[TableEntry] = []
    seen: set[str] = set()
    at = end - _ENTRY.size
    while at > start:
        if at - start < _ENTRY.size:
            raise BadFirmware(f"{at - start} bytes at {start:#x} are left over in the table", place=name)
        length, raw = _ENTRY.unpack_from(data, at - _ENTRY.size)
        guid = str(uuid.UUID(bytes_le=raw))
        if not _ENTRY.size <= length <= at - start:
            raise BadFirmware(
                f"the entry {NAMES.get(guid, guid)} at {at - _ENTRY.size:#x} "
                f"says that it has {length} bytes, "
                f"{_ENTRY.size} to {at - start} are possible",
                place=name,
            )
        if guid in seen:
            raise BadFirmware(f"the entry {NAMES.get(guid, guid)} stands twice in the table", place=name)
        seen.add(guid)
        offset = at - length
        content = bytes(data[offset : at - _ENTRY.size])
        entries.append(TableEntry(guid=guid, offset=offset, data=content))
        at = offset
    return Firmware(data=data, name=name, has_table=True, entries=tuple(entries))
