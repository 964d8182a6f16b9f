"""Gramine's layout once more, as the facts say it: page by page, from addresses, without the model's help.

It is written apart from the code it checks: it fills a table of pages by address first, and hashes the areas
afterwards in the order of a list.
"""

from __future__ import annotations

import hashlib
import struct

from tests.fakes.libpal import PAGE, Load

RW, TCS, REG_R = 0x203, 0x100, 0x201


def gramine_mrenclave(
    text: bytes,
    loads: tuple[Load, ...],
    file: bytes,
    entry: int,
    *,
    size: int,
    threads: int,
    edmm: bool,
    based: bool,
) -> bytes:
    """Compute MRENCLAVE; `based`: releases until 1.4, whose addresses begin at the enclave's size."""
    pages: dict[int, tuple[int, bytes | None]] = {}
    order: list[int] = []

    def up(number: int) -> int:
        return -(-number // PAGE) * PAGE

    def fill(at: int, flags: int, content: bytes | None, length: int) -> None:
        for offset in range(0, length, PAGE):
            page = None if content is None else content[offset : offset + PAGE].ljust(PAGE, b"\0")
            pages[at + offset] = (flags, page)
            order.append(at + offset)

    text += b"\0"
    manifest = size - up(len(text))
    ssa = manifest - threads * 0x8000
    tcs = ssa - threads * PAGE
    tls = tcs - threads * PAGE
    stack = [tls - 0x40000 * (thread + 1) for thread in range(threads)]
    signal = [stack[-1] - 0x10000 * (thread + 1) for thread in range(threads)]
    pal = signal[-1] - up(max(load.address + load.memory for load in loads))
    base, lowest = (size, 0) if based else (0, 0x10000)

    fill(manifest, REG_R, text, up(len(text)))
    fill(ssa, RW, b"", threads * 0x8000)
    for thread in range(threads):
        page = bytearray(PAGE)
        page[0x10:0x18] = (ssa + 0x8000 * thread).to_bytes(8, "little")
        page[0x1C] = 2
        page[0x20:0x28] = (pal + entry).to_bytes(8, "little")
        page[0x38:0x40] = (tls + PAGE * thread).to_bytes(8, "little")
        page[0x40:0x48] = bytes.fromhex("ff0f0000ff0f0000")
        fill(tcs + thread * PAGE, TCS, bytes(page), PAGE)
    for thread in range(threads):
        frame = base + ssa + 0x8000 * thread
        words = {
            0x0: base + tls + PAGE * thread,
            0x8: 0xBADBADBADBAD,
            0x110: size,
            0x118: tcs + PAGE * thread,
            0x120: base + stack[thread] + 0x40000,
            0x130: base + signal[thread],
            0x138: base + signal[thread] + 0x10000,
            0x148: frame,
            0x150: frame + 0x4000 - 184,
            0x1A0: len(text),
            0x1A8: base + lowest,
            0x1B0: base + pal,
        }
        page = bytearray(PAGE)
        for at, word in words.items():
            page[at : at + 8] = word.to_bytes(8, "little")
        fill(tls + thread * PAGE, RW, bytes(page), PAGE)
    for at in stack:
        fill(at, RW, b"", 0x40000)
    for at in signal:
        fill(at, RW, b"", 0x10000)
    for number, load in enumerate(loads):
        (_, flags, offset, address, _, length, memory, _) = struct.unpack_from(
            "<IIQQQQQQ", file, 64 + 56 * number
        )
        memory_of_page = bytes(address % PAGE) + file[offset : offset + length]
        start = address // PAGE * PAGE
        bits = 0x200 | (flags & 4) // 4 | (flags & 2) | (flags & 1) * 4
        assert load.address == address
        fill(pal + start, bits, memory_of_page, up(address + memory) - start)
    if not edmm:
        fill(lowest, 0x207, None, pal - lowest)

    digest = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", 4, size))
    for at in order:
        flags, content = pages[at]
        digest.update(struct.pack("<8sQQ40x", b"EADD", at, flags))
        for chunk in range(0, PAGE, 256) if content is not None else ():
            digest.update(
                struct.pack("<8sQ48x", b"EEXTEND", at + chunk) + (content or b"")[chunk : chunk + 256]
            )
    return digest.digest()
