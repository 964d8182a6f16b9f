"""Write protected files of the mode integrity only, and forge their MACs."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NODE, INLINE, SEALED = 4096, 3072, 95
KEY = bytes(16)


def tag(data: bytes) -> bytes:
    return AESGCM(KEY).encrypt(bytes(12), b"", data)


def protect(content: bytes, name: str = "file", *, tail: bytes = b"") -> bytes:
    """Write a protected file; `tail`: what stands behind the content in the metadata, where nobody looks."""
    rest = content[INLINE:]
    blocks = [rest[at : at + NODE].ljust(NODE, b"\0") for at in range(0, len(rest), NODE)]
    groups = [blocks[at : at + 96] for at in range(0, len(blocks), 96)]
    tables = [b"".join(KEY + tag(block) for block in group).ljust(NODE, b"\0") for group in groups]
    for number in range(len(tables) - 1, 0, -1):  # children before their parents
        parent, at = (number - 1) // 32, 96 * 32 + (number - 1) % 32 * 32
        tables[parent] = tables[parent][:at] + KEY + tag(tables[number]) + tables[parent][at + 32 :]
    root = tag(tables[0]) if tables else bytes(16)
    inline = (
        content[:INLINE] + tail[len(tail) - (INLINE - len(content[:INLINE])) :] if tail else content[:INLINE]
    )
    sealed = struct.pack("<260sq16sI16s16s", name.encode(), len(content), b"", 0, KEY, root)
    sealed += inline.ljust(INLINE, b"\0")
    plain = struct.pack(
        "<QBB32s16sHB16s16sBB", 0x5347585F46494C45, 1, 0, b"", b"", 0, 1, b"", tag(sealed), 0, 1
    )
    nodes = [(plain + sealed).ljust(NODE, b"\0")]
    for table, group in zip(tables, groups, strict=True):
        nodes += [table, *group]
    return b"".join(nodes)


def mac_of(data: bytes) -> bytes:
    return data[77:93]


def written(mac: bytes) -> str:
    """Write a MAC as Occlum does."""
    return mac.hex("-")


def forge(content: bytes, mac: bytes, name: str = "file") -> bytes:
    """Write a protected file with other content and a MAC that was given: 16 bytes at the end are chosen for it.

    The tag is affine in every bit of the data: 128 equations over one bit each, solved by elimination.
    """
    assert len(content) <= INLINE - 16

    def of(bits: int) -> int:
        data = protect(content, name, tail=bits.to_bytes(16, "big").rjust(INLINE, b"\0"))
        return int.from_bytes(mac_of(data), "big")

    base = of(0)
    rows = [(of(1 << bit) ^ base, 1 << bit) for bit in range(128)]
    wanted, chosen = int.from_bytes(mac, "big") ^ base, 0
    for column in range(127, -1, -1):
        at = next((n for n, (image, _) in enumerate(rows) if image >> column & 1), None)
        if at is None:
            continue
        image, bits = rows.pop(at)
        rows = [(one ^ image, other ^ bits) if one >> column & 1 else (one, other) for one, other in rows]
        if wanted >> column & 1:
            wanted, chosen = wanted ^ image, chosen ^ bits
    assert wanted == 0
    return protect(content, name, tail=chosen.to_bytes(16, "big").rjust(INLINE, b"\0"))
