"""A stand-in for Gramine's libpal.so: an ELF file with the segments that a test asks for, and nothing else.

Its code is not meant to run; only its program headers and bytes are looked at.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PAGE = 4096
R, W, X = 4, 2, 1


class Load(NamedTuple):
    """A loadable segment: where, what, how much memory."""

    address: int
    content: bytes
    memory: int
    flags: int


USUAL = (
    Load(0, b"", 0x400, R),
    Load(0x1000, b"\x0f\x0b" * 900, 1800, R | X),
    Load(0x2000, b"constants" * 600, 5400, R),
    Load(0x4EF0, b"variables" * 90, 9000, R | W),
)


def libpal(loads: tuple[Load, ...] = USUAL, *, entry: int = 0x1010) -> bytes:
    """Write it; a segment without content shows the file's first bytes, as a linker's first segment does."""
    headers = 64 + 56 * len(loads)
    body = bytearray(headers)
    table = b""
    for load in loads:
        if load.content:
            body += bytes((load.address - len(body)) % PAGE)
            at = len(body)
            body += load.content
            size = len(load.content)
        else:
            at, size = 0, min(headers, load.memory) if load.address % PAGE == 0 else 0
        table += struct.pack(
            "<IIQQQQQQ", 1, load.flags, at, load.address, load.address, size, load.memory, PAGE
        )
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    body[:headers] = (
        struct.pack("<16sHHIQQQIHHHHHH", identity, 3, 62, 1, entry, 64, 0, 0, 64, 56, len(loads), 0, 0, 0)
        + table
    )
    return bytes(body)


def manifest(*, loader: str = "", **sgx: object) -> bytes:
    """Write a manifest as `gramine-sgx-sign` leaves it, with some lines of `loader` and options of `sgx`."""
    options = {"enclave_size": "8M", "max_threads": 2, "edmm_enable": False, "debug": False, **sgx}
    lines = [f"{key} = {_toml(value)}" for key, value in options.items()]
    return (
        '[loader]\nentrypoint = { uri = "file:/lib/libsysdb.so", sha256 = "' + "11" * 32 + '" }\n'
        f'env = {{ LC_ALL = "C" }}\n{loader}\n\n[libos]\nentrypoint = "/app"\n\n'
        '[[fs.mounts]]\npath = "/app"\nuri = "file:app"\n\n[sgx]\n' + "\n".join(lines) + "\n\n"
        '[sgx.cpu_features]\navx = "unspecified"\nmpx = "disabled"\n\n'
        '[[sgx.trusted_files]]\nuri = "file:app"\nsha256 = "' + "22" * 32 + '"\n'
    ).encode()


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
