"""Writes small PE32+ files: an honest header, sections in order, what comes after them; and UKIs of them."""

from __future__ import annotations

import struct

ALIGN = 512


def write_pe(
    sections: tuple[tuple[str, bytes], ...] = ((".text", b"\x90" * 16),),
    *,
    trailing: bytes = b"",
    certificates: bytes = b"",
    directories: int = 16,
    machine: int = 0x8664,
    before: bytes = b"",
) -> bytes:
    """Write a PE file.

    Args:
        sections: name and content; raw data is rounded up to 512 bytes.
        trailing: bytes after the last section.
        certificates: a certificate table at the end.
        directories: how many data directories the header has (a kernel has 6).
        machine: of the file header.
        before: from offset 64 on, before the PE header.
    """
    start = 64 + -(-len(before) // 8) * 8
    optional_size = 112 + 8 * directories
    headers = start + 24 + optional_size + 40 * len(sections)
    size_of_headers = -(-headers // ALIGN) * ALIGN
    table, body, offset, address = b"", b"", size_of_headers, 0x1000
    for name, content in sections:
        raw = -(-len(content) // ALIGN) * ALIGN
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(content), address, raw, offset, 0, 0, 0, 0, 0x40000040
        )
        body += content.ljust(raw, b"\0")
        offset += raw
        address += -(-max(len(content), 1) // 0x1000) * 0x1000
    end = size_of_headers + len(body) + len(trailing)
    listed = [(0, 0)] * directories
    if certificates and directories > 4:
        listed[4] = (end, len(certificates))
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 40, 0, 0, 0, 0x1000, 0x1000)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHHQQQQII",
        0, 0x1000, ALIGN, 0, 0, 0, 0, 0, 0, 0, address, size_of_headers, 0xC4EC5037, 10, 0, 0, 0, 0, 0, 0, directories,
    )  # fmt: skip
    optional += b"".join(struct.pack("<II", *one) for one in listed)
    header = (b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start) + before).ljust(start, b"\0")
    header += b"PE\0\0" + struct.pack("<HHIIIHH", machine, len(sections), 0, 0, 0, optional_size, 0x22)
    return (header + optional + table).ljust(size_of_headers, b"\0") + body + trailing + certificates


def write_kernel(
    *, protocol: int = 0x20F, flags: int = 1, extended: int = 2, initrd_max: int = 0x7FFFFFFF, setup: int = 7
) -> bytes:
    """A PE file with a setup header in it; the PE header lies behind the setup header, as a kernel's may."""
    data = bytearray(write_pe((("k", b"kernel" * 900),), directories=6, before=bytes(0x400)))
    struct.pack_into("<4sHIIHHB", data, 0x202, b"HdrS", protocol, 0, 0, 0x100, 0x300, 0)
    data[0x1F1], data[0x211] = setup, flags
    struct.pack_into("<I", data, 0x22C, initrd_max)
    struct.pack_into("<H", data, 0x236, extended)
    version = b"6.12.1-test (builder) #1\0"
    struct.pack_into("<H", data, 0x20E, 0x100)
    data[0x300 : 0x300 + len(version)] = version
    return bytes(data)
