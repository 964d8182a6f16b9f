"""A firmware file with a table of GUIDs and SEV metadata, as small as one can be: what OVMF's reset vector has."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Sequence

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SEV_HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_ES_RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"

SEC_MEM, SECRETS, CPUID, SVSM_CAA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
AMD_SEV = (
    (0x800000, 0x9000, SEC_MEM),
    (0x80A000, 0x3000, SEC_MEM),
    (0x80D000, 0x1000, SECRETS),
    (0x80E000, 0x1000, CPUID),
    (0x80F000, 0x1000, SVSM_CAA),
    (0x810000, 0x1000, KERNEL_HASHES),
    (0x811000, 0xF000, SEC_MEM),
)
HASH_TABLE_GPA = 0x810C00


def entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


def sev_metadata(sections: Sequence[tuple[int, int, int]], *, version: int = 1) -> bytes:
    body = b"".join(struct.pack("<III", *one) for one in sections)
    return b"ASEV" + struct.pack("<III", 16 + len(body), version, len(sections)) + body


def make_ovmf(
    sections: Sequence[tuple[int, int, int]] | None = AMD_SEV,
    *,
    size: int = 0x10000,
    reset_eip: int | None = 0x80B004,
    hash_table: tuple[int, int] | None = (HASH_TABLE_GPA, 0x400),
    svsm_info: int | None = None,
    more: Sequence[tuple[str, bytes]] = (),
    seed: int = 1,
) -> bytes:
    """Make a firmware of `size` bytes; content differs by seed, with zero pages and equal ones in it."""
    chance = random.Random(seed)
    pages = [
        chance.choice([bytes(4096), b"\xff" * 4096, chance.randbytes(4096)]) for _ in range(size // 4096)
    ]
    data = bytearray(b"".join(pages))
    table = b""
    for guid, content in more:
        table = entry(guid, content) + table
    if hash_table is not None:
        table = entry(SEV_HASH_TABLE, struct.pack("<II", *hash_table)) + table
    if reset_eip is not None:
        table = entry(SEV_ES_RESET, struct.pack("<I", reset_eip)) + table
    if svsm_info is not None:
        table = entry(SVSM_INFO, struct.pack("<I", svsm_info)) + table
    if sections is not None:
        metadata = sev_metadata(sections)
        at = size - 0x800
        data[at : at + len(metadata)] = metadata
        table = entry(SEV_METADATA, struct.pack("<I", size - at)) + table
    table += struct.pack("<H", len(table) + 18) + uuid.UUID(FOOTER).bytes_le
    data[size - 32 - len(table) : size - 32] = table
    return bytes(data)
