"""Hostile numbers in enclave files: whatever they say, reading them takes little time and memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import pack_enclave
from pipeline.measure.sgx.sdk.metadata import DIRECTORIES_AT, metadata_block
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.limits import measured_in_a_child

PAGE = 4096
BIG = 24 << 20  # large tables: seconds and gigabytes, if Python made an object of every entry and kept it
MOST = (1 << 64) - 1
PACKED = pack_enclave(enclave_elf(), EnclaveConfig(threads=2, stack="16KiB", heap="64KiB"))


def _block(data: bytes) -> int:
    block = metadata_block(Elf(memoryview(data)))
    assert block
    return block[0]


RECORD = _block(PACKED)
RECORD_SIZE = struct.unpack_from("<I", PACKED, RECORD + 16)[0]
LAYOUT, LAYOUT_SIZE = struct.unpack_from("<II", PACKED, RECORD + DIRECTORIES_AT + 8)
TCS = next(
    index
    for index in range(LAYOUT_SIZE // 32)
    if struct.unpack_from("<Q", PACKED, RECORD + LAYOUT + 32 * index + 24)[0] == 0x100
)


def put(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    found = bytearray(data)
    for at, form, value in changes:
        struct.pack_into(form, found, at, value)
    return bytes(found)


def header(kind: int, offset: int, address: int, size: int, memory: int, flags: int = 5) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, memory, PAGE)


def with_headers(*headers: bytes, data: bytes = PACKED) -> bytes:
    """Append another table of program headers and point to it."""
    table = b"".join(headers)
    return put(data, (32, "<Q", len(data)), (56, "<H", len(headers))) + table


def with_section(kind: int, content: bytes, link: int = 2) -> bytes:
    """Append content, and make the symbol table's section of the file be of it."""
    sections = struct.unpack_from("<Q", PACKED, 40)[0]
    row = sections + 64
    found = put(PACKED, (row + 4, "<I", kind), (row + 24, "<Q", len(PACKED)), (row + 32, "<Q", len(content)))
    return put(found, (row + 40, "<I", link)) + content


def with_record(table: bytes, directory: int, *, size: int | None = None, more: bytes = b"") -> bytes:
    """Move the metadata to the end of the file, where there is room, with another table of a directory."""
    record = bytearray(PACKED[RECORD : RECORD + RECORD_SIZE])
    at = len(record)
    record += table + more
    struct.pack_into("<II", record, DIRECTORIES_AT + 8 * directory, at, len(table) if size is None else size)
    struct.pack_into("<I", record, 16, len(record))
    note = struct.pack("<III", 13, len(record), 1) + b"sgx_metadata\0" + record
    sections = struct.unpack_from("<Q", PACKED, 40)[0]
    row = sections + 64 * 3
    return put(PACKED, (row + 24, "<Q", len(PACKED)), (row + 32, "<Q", len(note))) + note


def entry(
    ident: int, attributes: int, pages: int, address: int, size: int = 0, offset: int = 0, flags: int = 0x203
) -> bytes:
    return struct.pack("<HHIQIIQ", ident, attributes, pages, address, size, offset, flags)


def group(count: int, times: int, step: int) -> bytes:
    return struct.pack("<HHIQ16x", 0x1009, count, times, step)


SEGMENTS = [PACKED[64:120], PACKED[120:176]]


def textrel() -> bytes:
    """DT_TEXTREL, and a relocation table of BIG bytes that marks another page with each entry."""
    dynamic = struct.pack("<QQ", 22, 0) + struct.pack("<QQ", 7, 1 << 32) + struct.pack("<QQ", 8, BIG)
    base = len(PACKED)
    table = b"".join(struct.pack("<QQq", index << 12, 8, 0) for index in range(BIG // 24))
    headers = (
        *SEGMENTS,
        header(2, base, 0, 64, 64),
        header(1, base + 64, 1 << 32, len(table), len(table)),
    )
    return with_headers(
        *headers, data=put(PACKED, (RECORD + 40, "<Q", 1 << 40)) + dynamic.ljust(64, b"\0") + table
    )


CASES: dict[str, Callable[[], bytes]] = {
    "e_phnum of 65535, all of nothing": lambda: with_headers(*[header(1, 0, 0x1000, 0, 0)] * 0xFFFF),
    "e_phnum of 65535, one page each": lambda: with_headers(
        *[header(1, 0, 0x1000 * (index + 1), 0x1000, 0x1000) for index in range(0xFFFF)]
    ),
    "e_phnum of 65535, each the whole file": lambda: with_headers(
        *[header(1, 0, 0x1000, len(PACKED), len(PACKED))] * 0xFFFF
    ),
    "program headers in decreasing order": lambda: with_headers(SEGMENTS[1], SEGMENTS[0]),
    "a segment of 2^52 bytes": lambda: put(PACKED, (64 + 40, "<Q", 1 << 52), (RECORD + 40, "<Q", 1 << 52)),
    "a segment of 2^48 bytes": lambda: put(PACKED, (120 + 40, "<Q", 1 << 48), (RECORD + 40, "<Q", 1 << 52)),
    "a segment of 2^64 - 1 bytes": lambda: put(PACKED, (120 + 40, "<Q", MOST)),
    "a segment that wraps around": lambda: put(PACKED, (120 + 16, "<Q", MOST - 0xFFF)),
    "a segment at 2^64 - 1": lambda: put(PACKED, (120 + 8, "<Q", MOST)),
    "segments over each other": lambda: put(PACKED, (120 + 16, "<Q", 0x1000)),
    "sh_size of 2^64 - 1": lambda: put(
        PACKED, (struct.unpack_from("<Q", PACKED, 40)[0] + 64 + 32, "<Q", MOST)
    ),
    "e_shoff of 2^64 - 1": lambda: put(PACKED, (40, "<Q", MOST)),
    "65535 sections with one name of 1 MB": lambda: (
        put(PACKED, (40, "<Q", len(PACKED) + (1 << 20)), (60, "<H", 0xFFFF), (62, "<H", 1))
        + b"n" * (1 << 20)
        + struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, len(PACKED), 1 << 20, 0, 0, 1, 0) * 0xFFFF
    ),
    "a symbol table of the whole file": lambda: with_section(
        11, struct.pack("<IBBHQQ", 1, 17, 0, 1, 0, 0) * (BIG // 24)
    ),
    "a dynamic section of the whole file": lambda: (
        with_headers(*SEGMENTS, header(2, len(PACKED) + 3 * 56, 0, BIG, BIG))
        + b"".join(struct.pack("<QQ", index, 1) for index in range(1, BIG // 16 + 1))
    ),
    "TEXTREL with a table as large as the file": textrel,
    "4096 patches of the same bytes with much content": lambda: with_record(
        struct.pack("<QII16x", 0, RECORD_SIZE, 1 << 23) * 4096, 0, more=bytes(1 << 24)
    ),
    "4096 patches, each of the whole file": lambda: with_record(
        struct.pack("<QII16x", 0, RECORD_SIZE, len(PACKED)) * 4096, 0, more=bytes(len(PACKED))
    ),
    "a million patches": lambda: with_record(struct.pack("<QII16x", 0, 0, 1) * (1 << 20), 0),
    "a million layout entries": lambda: with_record(entry(1, 1, 1, 0x10000) * (1 << 20), 1),
    "4096 entries with much content": lambda: with_record(
        b"".join(
            entry(5, 3, 1 << 12, 0x100000 + (index << 24), 1 << 23, RECORD_SIZE) for index in range(4096)
        ),
        1,
        more=bytes(1 << 24),
    ),
    "a group that repeats content": lambda: with_record(
        entry(5, 3, 1 << 8, 0x100000, 1 << 20, RECORD_SIZE) + group(1, 1 << 17, 1 << 20),
        1,
        more=bytes(1 << 21),
    ),
    "a group of 32768 threads": lambda: put(
        with_record(
            entry(
                4,
                3,
                1,
                0x100000,
                72,
                struct.unpack_from("<I", PACKED, RECORD + LAYOUT + 32 * TCS + 20)[0],
                0x100,
            )
            + entry(8, 3, 1, 0x101000, 0xCCCCCCCC)
            + group(2, 1 << 15, 0x2000),
            1,
        ),
        (len(PACKED) + 25 + 40, "<Q", 1 << 36),
    ),
    "groups that repeat groups": lambda: with_record(
        entry(5, 3, 1, 0x100000)
        + group(1, 3, 0x1000)
        + b"".join(group(index, 2, 0x10000) for index in range(2, 60)),
        1,
    ),
    "4096 groups of everything before": lambda: with_record(
        entry(10, 0, 1, 0x100000) + b"".join(group(index, 1, 0) for index in range(1, 4096)), 1
    ),
    "a group with steps of nothing": lambda: with_record(entry(5, 3, 1, 0x100000) + group(1, 1 << 17, 0), 1),
    "a group of 2^32 - 1 times": lambda: with_record(
        entry(5, 3, 1, 0x100000) + group(1, 0xFFFFFFFF, 0x1000), 1
    ),
    "a group of guards, 2^32 - 1 times": lambda: with_record(
        entry(10, 0, 1, 0x100000) + group(1, 0xFFFFFFFF, 0x1000), 1
    ),
    "page_count of 2^32 - 1, measured": lambda: put(
        with_record(entry(1, 3, 0xFFFFFFFF, 0x100000), 1), (len(PACKED) + 25 + 40, "<Q", 1 << 52)
    ),
    "2048 entries of 2^32 - 1 pages": lambda: put(
        with_record(b"".join(entry(1, 1, 0xFFFFFFFF, 0x100000 + (index << 44)) for index in range(2048)), 1),
        (len(PACKED) + 25 + 40, "<Q", 1 << 52),
    ),
    "an address of 2^64 - 4096": lambda: with_record(entry(1, 1, 1, MOST - 0xFFF), 1),
    "an address inside a page": lambda: with_record(entry(1, 1, 1, 0x100001), 1),
    "a layout larger than the enclave": lambda: with_record(entry(1, 1, 0x1000, 0x100000), 1),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", CASES)
def test_a_hostile_number_costs_little(what: str, tmp_path: Path) -> None:
    path = tmp_path / "e.so"
    path.write_bytes(CASES[what]())
    found = measured_in_a_child(path, memory_bytes=(512 << 20) + 3 * path.stat().st_size, seconds=60)
    assert found.get("value") or found["place"]
