"""Seeded mutations: the same bytes for the same seed, on every machine."""

from __future__ import annotations

import random
import struct

_NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
_WORDS = (
    b"\0", b"\xff\xfe", b"\n", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"-1", b"1e999", b"[" * 100, b"{}", b'{"a":1,"a":2}',
    b"../", b"\x1b[2J", b"\xe2\x80\xae", b"9" * 5000, b"sha256:", b"*", b" ",
)  # fmt: skip


def mutate(seeds: list[bytes], number: int) -> bytes:
    """Make mutation `number` of the seeds: one to four small changes."""
    chance = random.Random(number)
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.randrange(256)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + chance.choice((1, 4, 16, 512))]
            case 4:
                size = chance.choice(("<I", "<Q", ">Q", "<H"))
                mask = (1 << 8 * struct.calcsize(size)) - 1
                number_ = struct.pack(size, chance.choice(_NUMBERS) & mask)
                data[at : at + len(number_)] = number_
            case 5:
                data[at:at] = chance.choice(_WORDS)
            case 6:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at : at + 64] = other[start : start + chance.choice((8, 64, 512))]
            case _:
                data[at:at] = data[at : at + chance.choice((1, 16, 512))]
    return bytes(data)
