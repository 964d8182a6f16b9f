"""A freestanding enclave without a compiler: an ELF file with two segments, a note, and `g_global_data`.

The code is not meant to run; its layout is what a linker would write.
"""

from __future__ import annotations

import struct

PAGE = 4096
NOTE_ROOM = 0x3000


def enclave_elf(
    *,
    code: bytes = b"\x0f\x0b" * 700,
    marker: bytes = b"rvpencl1",
    seed: bytes = b"data",
    builtin: bytes | None = None,
) -> bytes:
    """Write it: segment r-x at 0x1000, after it segment rw- with 0x1800 bytes of memory.

    `builtin`: the code begins with these bytes, and a section `.builtin_config` names them.
    """
    code = (builtin or b"") + code
    data = (marker.ljust(64, b"\0") + seed * 9).ljust(0x200, b"\0")
    code_at = PAGE
    data_at = code_at + (len(code) + PAGE - 1) // PAGE * PAGE
    body = bytearray(data_at) + data
    body[code_at : code_at + len(code)] = code

    names = b"\0.dynsym\0.dynstr\0.note.sgxmeta\0.shstrtab\0.builtin_config\0"
    strings = b"\0g_global_data\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x11, 0, 1, data_at, 64)
    note = struct.pack("<III", 13, NOTE_ROOM, 1) + b"sgx_metadata\0" + bytes(NOTE_ROOM)
    places = []
    for content in (symbols, strings, note, names):
        while len(body) % 8:
            body.append(0)
        places.append((len(body), len(content)))
        body += content
    while len(body) % 8:
        body.append(0)
    sections_at = len(body)

    def section(name: int, kind: int, index: int, link: int = 0) -> bytes:
        at, size = places[index]
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, link, 0, 1, 0)

    body += bytes(64)
    body += section(1, 11, 0, link=2) + section(9, 3, 1) + section(17, 7, 2) + section(31, 3, 3)
    if builtin is not None:
        body += struct.pack("<IIQQQQIIQQ", 41, 1, 2, code_at, code_at, len(builtin), 0, 0, 1, 0)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        identity,
        3,
        62,
        1,
        code_at,
        64,
        sections_at,
        0,
        64,
        56,
        2,
        64,
        5 + (builtin is not None),
        4,
    )
    header += struct.pack("<IIQQQQQQ", 1, 5, code_at, code_at, code_at, len(code), len(code), PAGE)
    header += struct.pack("<IIQQQQQQ", 1, 6, data_at, data_at, data_at, len(data), 0x1800, PAGE)
    body[: len(header)] = header
    return bytes(body)
