"""An unsigned enclave of Intel's SDK without a compiler: what its signing tool looks at, and nothing more.

The code is not meant to run. The signing tools of all releases take this file; what they made of it is in
`tests/unit/pipeline/measure/sgx/test_sdk_sign.py`.
"""

from __future__ import annotations

import struct

PAGE = 4096


def sdk_elf(
    version: tuple[int, int, int] | None = (2, 26, 100),
    *,
    tls_bytes: int = 5000,
    room: int = 0x6000,
    global_data_bytes: int = 1768,
    undefined: bytes = b"",
    relocation: int = 8,
    skew: int = 0,
) -> bytes:
    """Write it: r-- at 0, r-x at 0x1000, rw- at 0x2000 (0x4000 of memory): g_global_data, dynamic section.

    Args:
        version: that g_global_data begins with; None: no release, as before SDK 2.9.1.
        tls_bytes: of thread-local storage, aligned to 16; 0 for none.
        room: of the note.
        global_data_bytes: size of the symbol.
        undefined: a symbol that the file needs and does not have.
        relocation: the type of its one relocation.
        skew: how far behind the beginning of its page the last segment begins, a multiple of 16.
    """
    code_at, data_at = PAGE, 2 * PAGE + skew
    strings = b"\0g_global_data\0enclave_entry\0" + undefined + b"\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x11, 0, 4, data_at, global_data_bytes)
    symbols += struct.pack("<IBBHQQ", 15, 0x12, 0, 3, code_at + 64, 9)
    if undefined:
        symbols += struct.pack("<IBBHQQ", 29, 0x12, 0, 0, 0, 0)
    major, minor, revision = version or (0, 0, 1)
    stored = struct.pack("<HHI", revision, minor, major)
    data = stored.ljust(1792, b"\0") + b"initialised data" * 5
    data = data.ljust(-(-len(data) // 16) * 16, b"\0")

    body = bytearray(0x200)  # headers
    places: dict[str, tuple[int, int]] = {}

    def place(name: str, content: bytes) -> int:
        body.extend(bytes(-len(body) % 8))
        places[name] = len(body), len(content)
        body.extend(content)
        return places[name][0]

    symbols_at = place(".dynsym", symbols)
    strings_at = place(".dynstr", strings)
    relocations_at = place(".rela.dyn", struct.pack("<QQq", data_at + 1800, relocation, code_at))
    headers_end = len(body)
    body.extend(bytes(code_at - len(body)))
    place(".text", b"\x0f\x0b" * 700)
    body.extend(bytes(data_at - len(body)))
    place(".data", data)
    dynamic = [(5, strings_at), (6, symbols_at), (10, len(strings)), (11, 24)]
    dynamic += [(7, relocations_at), (8, 24), (9, 24), (0, 0)]
    dynamic_at = place(".dynamic", b"".join(struct.pack("<QQ", *one) for one in dynamic))
    data_end = len(body)
    place(".note.sgxmeta", struct.pack("<III", 13, room, 1) + b"sgx_metadata\0" + bytes(room))
    names = b"\0" + b"\0".join(one.encode() for one in [*places, ".shstrtab"]) + b"\0"
    place(".shstrtab", names)

    body.extend(bytes(-len(body) % 8))
    sections_at = len(body)
    kinds = {".dynsym": 11, ".dynstr": 3, ".rela.dyn": 4, ".dynamic": 6, ".note.sgxmeta": 7, ".shstrtab": 3}
    body.extend(bytes(64))
    for name, (at, size) in places.items():
        loaded = name not in {".note.sgxmeta", ".shstrtab"}
        entry = 24 if name in {".dynsym", ".rela.dyn"} else 0
        row = (
            names.index(name.encode() + b"\0"),
            kinds.get(name, 1),
            2 if loaded else 0,
            at if loaded else 0,
        )
        body.extend(struct.pack("<IIQQQQIIQQ", *row, at, size, 2 if name == ".dynsym" else 0, 0, 1, entry))
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    count = 5 if tls_bytes else 4
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(
            identity,
            3,
            62,
            1,
            code_at + 64,
            64,
            sections_at,
            0,
            64,
            56,
            count,
            64,
            len(places) + 1,
            len(places),
        ),
    )

    def segment(kind: int, flags: int, at: int, end: int, memory: int, align: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, end - at, memory or end - at, align)

    header += segment(1, 4, 0, headers_end, 0, PAGE)
    header += segment(1, 5, code_at, code_at + 1400, 0, PAGE)
    header += segment(1, 6, data_at, data_end, 0x4000 + skew // 16, PAGE)
    header += segment(2, 6, dynamic_at, data_end, 0, 8)
    if tls_bytes:
        header += segment(7, 4, data_at + 1792, data_at + 1808, tls_bytes, 16)
    body[: len(header)] = header
    return bytes(body)
