"""Firmware with TDX metadata, as small as one can be: OVMF's form with its GUID table, and td-shim's."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from tests.fakes.ovmf import FOOTER, entry

TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
METADATA = uuid.UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae").bytes_le
BFV, CFV, TD_HOB, TEMP_MEM, PERM_MEM, PAYLOAD, PAYLOAD_PARAM, TD_INFO = range(8)

Row = tuple[int, int, int, int, int, int]  # offset, raw size, address, size, type, attributes


def ovmf_sections(size: int, variables: int) -> list[Row]:
    """The sections of OVMF since edk2-stable202405, for a flash image of `size` bytes."""
    top = 1 << 32
    return [
        (variables, size - variables, top - size + variables, size - variables, BFV, 1),
        (0, variables, top - size, variables, CFV, 0),
        (0, 0, 0x811000, 0xF000, TEMP_MEM, 0),
        (0, 0, 0x80B000, 0x2000, TEMP_MEM, 0),
        (0, 0, 0x809000, 0x2000, TD_HOB, 0),
        (0, 0, 0x800000, 0x6000, TEMP_MEM, 0),
    ]


def descriptor(sections: Sequence[Row], *, version: int = 1, count: int | None = None) -> bytes:
    body = b"".join(struct.pack("<IIQQII", *one) for one in sections)
    return (
        METADATA
        + b"TDVF"
        + struct.pack("<III", 16 + len(body), version, len(sections) if count is None else count)
        + body
    )


def make_tdvf(
    sections: Sequence[Row] | None = None,
    *,
    size: int = 0x10000,
    variables: int = 0x4000,
    form: str = "ovmf",
    seed: int = 1,
    store: bytes = b"",
    **more: int,
) -> bytes:
    """Make a firmware of `size` bytes; content differs by seed, with zero pages and equal ones in it."""
    chance = random.Random(seed)
    pages = [
        chance.choice([bytes(4096), b"\xff" * 4096, chance.randbytes(4096)]) for _ in range(size // 4096)
    ]
    data = bytearray(b"".join(pages))
    if store:
        data[: len(store)] = store
    written = descriptor(ovmf_sections(size, variables) if sections is None else sections, **more)
    at = size - 0x800
    data[at : at + len(written)] = written
    if form == "ovmf":
        table = entry(TDX_METADATA, struct.pack("<I", size - at - 16))
        table += struct.pack("<H", len(table) + 18) + uuid.UUID(FOOTER).bytes_le
        data[size - 32 - len(table) : size - 32] = table
    else:
        data[size - 48 : size - 28] = bytes(16) + struct.pack("<I", at + 16)
    return bytes(data)


# td-shim's own layout, shrunk: everything is in the file, memory is added later (PAGE.AUG).
TD_SHIM = [
    (0x4000, 0xC000, 0xFFFF4000, 0xC000, BFV, 1),
    (0, 0x4000, 0xFFFF0000, 0x4000, CFV, 0),
    (0, 0, 0x810000, 0x20000, TEMP_MEM, 0),
    (0, 0, 0x80000, 0x2000, TD_HOB, 0),
    (0, 0, 0x4000000, 0x20000000, PERM_MEM, 2),
    (0x4000, 0x1800, 0x1000000, 0x3000, PAYLOAD, 1),
    (0, 0, 0x1100000, 0x1000, PAYLOAD_PARAM, 0),
    (0x4000, 0x200, 0, 0, TD_INFO, 0),
]


def make_varstore(variables: Iterable[Any], *, states: Sequence[int] = (), size: int = 0x4000) -> bytes:
    """Make a store of authenticated variables (vendor, name, data) in a firmware volume, as edk2 lays it out."""
    body = b""
    for number, one in enumerate(variables):
        name = f"{one.name}\0".encode("utf-16-le")
        state = states[number] if states else 0x3F
        body += struct.pack("<HBBIQ16sIII", 0x55AA, state, 0, 7, 0, bytes(16), 0, len(name), len(one.data))
        body += uuid.UUID(one.vendor).bytes_le + name + one.data
        body += b"\xff" * (-len(body) % 4)
    length = max(size, 72 + 28 + len(body) + 4096 & ~4095)
    volume = bytes(16) + uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
    volume += struct.pack("<Q4sIHHHBB", length, b"_FVH", 0x4FEFF, 72, 0, 0, 0, 2)
    volume += struct.pack("<IIII", length // 4096, 4096, 0, 0)
    store = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    store += struct.pack("<IBB6x", length - 72 - 4096 if length > 8192 else length - 72, 0x5A, 0xFE)
    return (volume + store + body).ljust(length, b"\xff")
