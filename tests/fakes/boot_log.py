"""Reads the crypto-agile event logs of the shared boots: PCR, type, digests, data; nothing else."""

from __future__ import annotations

import struct

SIZES = {0x4: ("sha1", 20), 0xB: ("sha256", 32), 0xC: ("sha384", 48), 0xD: ("sha512", 64)}
Entry = tuple[int, int, dict[str, bytes], bytes]


def read_log(data: bytes) -> list[Entry]:
    """Read all events after the first, which describes the log."""
    (size,) = struct.unpack_from("<I", data, 28)
    at, found = 32 + size, []
    while at < len(data):
        pcr, kind, count = struct.unpack_from("<III", data, at)
        if pcr == 0xFFFFFFFF:
            break
        at, digests = at + 12, {}
        for _ in range(count):
            name, length = SIZES[struct.unpack_from("<H", data, at)[0]]
            digests[name] = data[at + 2 : at + 2 + length]
            at += 2 + length
        (size,) = struct.unpack_from("<I", data, at)
        found.append((pcr, kind, digests, data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found
