r"""UEFI device paths in words: `PciRoot(0x0)/Pci(0x1,0x0)/HD(1,GPT,…)/\\EFI\\BOOT\\BOOTX64.EFI`.

What is not known is shown as `Path(type,subtype,hex)`; what is cut off ends with `…`. Nothing here fails.

Source: UEFI 2.10, section 10.3 (nodes) and 10.6 (text).

Example:
    >>> device_path(bytes.fromhex("02010c00d041030a00000000" "0101060000017fff0400"))
    'PciRoot(0x0)/Pci(0x1,0x0)'
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Final

MAX_NODES: Final = 32
_SHOWN_BYTES: Final = 16
_MAX_TEXT: Final = 200


def device_path(data: bytes) -> str:
    """Write a device path; an empty one is an empty text."""
    return "/".join(_nodes(data))


def text16(data: bytes) -> str:
    """Read UTF-16LE up to its NUL, at most 200 characters."""
    text = data[: 2 * _MAX_TEXT].decode("utf-16-le", errors="replace")
    return text.partition("\0")[0]


def guid(data: bytes) -> str:
    """Write a GUID that lies in memory as UEFI has it."""
    return str(uuid.UUID(bytes_le=bytes(data[:16])))


def _nodes(data: bytes) -> list[str]:
    found: list[str] = []
    at = 0
    while at + 4 <= len(data):
        kind, sub, length = struct.unpack_from("<BBH", data, at)
        if (kind, sub) == (0x7F, 0xFF):
            return found
        if length < 4 or at + length > len(data) or len(found) == MAX_NODES:
            break
        found.append(_node(kind, sub, data[at + 4 : at + length]))
        at += length
    if data:
        found.append("…")
    return found


def _node(kind: int, sub: int, body: bytes) -> str:
    written = _WORDS.get((kind, sub))
    if written is not None:
        try:
            return written(body)
        except (struct.error, ValueError):
            pass
    return f"Path({kind},{sub},{body[:_SHOWN_BYTES].hex()}{'…' if len(body) > _SHOWN_BYTES else ''})"


def _pci(body: bytes) -> str:
    function, device = struct.unpack_from("<BB", body)
    return f"Pci({device:#x},{function:#x})"


def _acpi(body: bytes) -> str:
    hid, uid = struct.unpack_from("<II", body)
    names = {0x0A0341D0: "PciRoot", 0x0A0841D0: "PcieRoot", 0x060441D0: "Floppy", 0x050141D0: "Serial"}
    return f"{names[hid]}({uid:#x})" if hid in names else f"Acpi({hid:#010x},{uid:#x})"


def _hard_drive(body: bytes) -> str:
    number, _, _, signature, _, kind = struct.unpack_from("<IQQ16sBB", body)
    if kind == 2:
        return f"HD({number},GPT,{guid(signature)})"
    return f"HD({number},MBR,0x{signature[:4][::-1].hex()})"


def _memory(body: bytes) -> str:
    kind, start, end = struct.unpack_from("<IQQ", body)
    return f"MemoryMapped({kind:#x},{start:#x},{end:#x})"


def _named(name: str) -> Callable[[bytes], str]:
    def write(body: bytes) -> str:
        rest = body[16:]
        shown = f",{rest[:_SHOWN_BYTES].hex()}{'…' if len(rest) > _SHOWN_BYTES else ''}" if rest else ""
        return f"{name}({guid(body)}{shown})"

    return write


def _numbers(name: str, form: str) -> Callable[[bytes], str]:
    def write(body: bytes) -> str:
        return f"{name}({','.join(f'{one:#x}' for one in struct.unpack_from(form, body))})"

    return write


def _nvme(body: bytes) -> str:
    space, identifier = struct.unpack_from("<I8s", body)
    return f"NVMe({space:#x},{identifier[::-1].hex('-')})"


def _uri(body: bytes) -> str:
    return f"Uri({body[:_MAX_TEXT].decode('utf-8', errors='replace')})"


_WORDS: Final[dict[tuple[int, int], Callable[[bytes], str]]] = {
    (1, 1): _pci,
    (1, 3): _memory,
    (1, 4): _named("VenHw"),
    (2, 1): _acpi,
    (3, 1): _numbers("Ata", "<BBH"),
    (3, 2): _numbers("Scsi", "<HH"),
    (3, 5): _numbers("USB", "<BB"),
    (3, 10): _named("VenMsg"),
    (3, 11): lambda body: f"MAC({body[:6].hex()})",
    (3, 12): lambda body: "IPv4(" + ".".join(map(str, struct.unpack_from("<4B", body, 4))) + ")",
    (3, 13): lambda body: f"IPv6({body[16:32].hex(':', 2)})",
    (3, 17): lambda body: f"Unit({struct.unpack_from('<B', body)[0]:#x})",
    (3, 18): _numbers("Sata", "<HHH"),
    (3, 23): _nvme,
    (3, 24): _uri,
    (4, 1): _hard_drive,
    (4, 3): _named("VenMedia"),
    (4, 4): text16,
    (4, 6): lambda body: f"FvFile({guid(body)})",
    (4, 7): lambda body: f"Fv({guid(body)})",
    (4, 8): _numbers("Offset", "<4xQQ"),
    (0x7F, 1): lambda _: ",",
}
