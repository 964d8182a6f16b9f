"""Event logs of real trust domains, read plainly: (register index, type, SHA-384 digest, data)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple


class Logged(NamedTuple):
    index: int  # 0 MRTD, 1 RTMR0, 2 RTMR1, …
    kind: int
    digest: bytes
    data: bytes


def read_ccel(data: bytes) -> list[Logged]:
    """Read a TCG log of crypto-agile form."""
    (size,) = struct.unpack_from("<I", data, 28)
    specification, at = data[32 : 32 + size], 32 + size
    (count,) = struct.unpack_from("<I", specification, 24)
    sizes = dict(struct.unpack_from("<HH", specification, 28 + 4 * number) for number in range(count))
    found = []
    while at + 8 <= len(data):
        index, kind = struct.unpack_from("<II", data, at)
        if index == 0xFFFFFFFF or (index, kind) == (0, 0):
            break
        (count,) = struct.unpack_from("<I", data, at + 8)
        at += 12
        digests = {}
        for _ in range(count):
            (algorithm,) = struct.unpack_from("<H", data, at)
            digests[algorithm] = data[at + 2 : at + 2 + sizes[algorithm]]
            at += 2 + sizes[algorithm]
        (size,) = struct.unpack_from("<I", data, at)
        found.append(Logged(index, kind, digests[12], data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def read_log(path: Path) -> list[Logged]:
    """Read a log in TCG's form, or in the JSON of dstack."""
    if path.suffix != ".json":
        return read_ccel(path.read_bytes())
    return [
        Logged(
            one["imr"] + 1,
            one["event_type"],
            bytes.fromhex(one["digest"]),
            one["event"].encode() if one["imr"] == 3 else bytes.fromhex(one["event_payload"]),
        )
        for one in json.loads(json.loads(path.read_text())["event_log"])
    ]


def register_of(log: list[Logged], rtmr: int) -> list[Logged]:
    """The events of one RTMR."""
    return [one for one in log if one.index == rtmr + 1]
