"""A small writer of event logs: the form of the TCG's profile, as far as tests need it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

NUMBERS = {"sha1": 0x4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD}
SIGNATURE = b"Spec ID Event03\0"


@dataclass(frozen=True)
class Entry:
    """One event: where, what, the data beside it, and what was hashed (the data, unless said otherwise)."""

    index: int
    type: int
    data: bytes = b""
    hashed: bytes | None = None
    banks: tuple[str, ...] = field(default=())


def digest(bank: str, entry: Entry) -> bytes:
    if entry.type == 3:
        return bytes(hashlib.new(bank).digest_size)
    return hashlib.new(bank, entry.data if entry.hashed is None else entry.hashed).digest()


def old_event(index: int, type_: int, sha1: bytes, data: bytes) -> bytes:
    return struct.pack("<II20sI", index, type_, sha1, len(data)) + data


def spec_id(banks: tuple[str, ...], *, vendor: bytes = b"", sizes: dict[str, int] | None = None) -> bytes:
    sizes = sizes or {}
    text = SIGNATURE + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    for bank in banks:
        text += struct.pack("<HH", NUMBERS[bank], sizes.get(bank, hashlib.new(bank).digest_size))
    return text + bytes([len(vendor)]) + vendor


def agile_event(entry: Entry, banks: tuple[str, ...]) -> bytes:
    banks = entry.banks or banks
    made = struct.pack("<III", entry.index, entry.type, len(banks))
    for bank in banks:
        made += struct.pack("<H", NUMBERS[bank]) + digest(bank, entry)
    return made + struct.pack("<I", len(entry.data)) + entry.data


def agile_log(
    entries: list[Entry], banks: tuple[str, ...] = ("sha256",), *, first_index: int = 0, **spec: object
) -> bytes:
    head = old_event(first_index, 3, bytes(20), spec_id(banks, **spec))  # type: ignore[arg-type]
    return head + b"".join(agile_event(entry, banks) for entry in entries)


def sha1_log(entries: list[Entry]) -> bytes:
    return b"".join(old_event(one.index, one.type, digest("sha1", one), one.data) for one in entries)


def folded(entries: list[Entry], bank: str, index: int, last: int = 0) -> bytes:
    """Fold as the specification has it, apart from the product's code."""
    value = bytes(hashlib.new(bank).digest_size - 1) + bytes([last])
    for one in entries:
        if one.index == index and one.type != 3:
            value = hashlib.new(bank, value + digest(bank, one)).digest()
    return value


def variable(guid: bytes, name: str, value: bytes) -> bytes:
    return guid + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


EFI_GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
BOOT = [
    Entry(0, 0x8, "1.0\0".encode("utf-16-le")),
    Entry(7, 0x80000001, variable(EFI_GLOBAL, "SecureBoot", b"\x01")),
    Entry(1, 0x80000002, variable(EFI_GLOBAL, "BootOrder", b"\0\0"), b"\0\0"),
    Entry(4, 0x80000007, b"Calling EFI Application from Boot Option"),
    *(Entry(index, 0x4, bytes(4)) for index in range(8)),
    Entry(8, 0xD, b"grub_cmd: linux /vmlinuz quiet\0", b"linux /vmlinuz quiet"),
    Entry(9, 0x6, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", b"the initrd"),
    Entry(5, 0x80000007, b"Exit Boot Services Invocation"),
]
CCEL = [
    Entry(1, 0x8000000A, b"\x03Fv(" + bytes(16), b"firmware"),
    Entry(1, 0x4, bytes(4)),
    Entry(2, 0x80000007, b"Calling EFI Application from Boot Option"),
    Entry(3, 0x6, struct.pack("<II", 0x8F3B22ED, 4) + b"opts", b"console=ttyS0"),
    Entry(2, 0x80000007, b"Exit Boot Services Invocation"),
]


def tdx_quote(rtmrs: tuple[bytes, ...], *, version: int = 4, signature: bytes = b"\0" * 8) -> bytes:
    """A quote with these RTMRs and nothing else; not signed."""
    body = bytes(136) + bytes(4 * 48) + b"".join(rtmrs) + bytes(64)
    head = struct.pack("<HHI", version, 2, 0x81) + bytes(40)
    if version == 5:
        body += bytes(64)
        head += struct.pack("<HI", 3, len(body))
    return head + body + struct.pack("<I", len(signature)) + signature
