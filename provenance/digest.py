"""Digests of artifacts: bytes inside, lowercase hex at the edge.

An artifact that a statement names has both its SHA-256 and its SHA-384; everything that rvp itself
addresses by content (store objects, trees, recipes) uses SHA-256.

Example:
    >>> sha256(b"").hex()[:8]
    'e3b0c442'
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

CHUNK_BYTES: Final = 1 << 20


class Digests(msgspec.Struct, frozen=True, order=True):
    """The digests of one artifact: `sha256` (32 bytes) and `sha384` (48 bytes)."""

    sha256: bytes
    sha384: bytes

    def as_hex(self) -> dict[str, str]:
        """Return the in-toto DigestSet: algorithm to lowercase hex."""
        return {"sha256": self.sha256.hex(), "sha384": self.sha384.hex()}


def sha256(data: bytes | memoryview) -> bytes:
    """Hash bytes that are at hand."""
    return hashlib.sha256(data).digest()


def chunks_of(stream: BinaryIO) -> Iterable[bytes]:
    """Read a stream to its end in chunks of 1 MiB."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def hash_stream(chunks: Iterable[bytes]) -> tuple[Digests, int]:
    """Hash a stream once for both algorithms.

    Returns:
        The digests, and the number of bytes seen.

    Cost: one pass, constant memory.
    """
    short, long, size_bytes = hashlib.sha256(), hashlib.sha384(), 0
    for chunk in chunks:
        short.update(chunk)
        long.update(chunk)
        size_bytes += len(chunk)
    return Digests(short.digest(), long.digest()), size_bytes


def hash_bytes(data: bytes) -> Digests:
    """Hash bytes that are at hand, for both algorithms."""
    return Digests(hashlib.sha256(data).digest(), hashlib.sha384(data).digest())


def hash_file(path: Path) -> tuple[Digests, int]:
    """Hash a file for both algorithms; return the digests and the size in bytes."""
    with path.open("rb") as stream:
        return hash_stream(chunks_of(stream))


def sha256_file(path: Path) -> bytes:
    """Hash a file with SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
