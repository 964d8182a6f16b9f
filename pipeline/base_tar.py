"""A base that is a tar: pinned by the SHA-256 of the file, used uncompressed.

The digest of the root filesystem is the SHA-256 of the uncompressed tar, however the file is compressed.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from pipeline.store import Store
from provenance.digest import chunks_of, sha256_file
from provenance.errors import SpecError

_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_USTAR_AT: Final = 257


class TarMissing(SpecError):
    """The tar of a base is not there.

    Cure: check the path in the spec; it is relative to the spec's folder.
    """

    code = "RVP-1450"


class TarNotPinned(SpecError):
    """The tar of a base is not the one that the spec or the lock pins, or nothing pins it.

    Cure: write its SHA-256 beside it (`sha256sum FILE`), or bring the right file back.
    """

    code = "RVP-1451"


class TarUnreadable(SpecError):
    """The tar of a base cannot be decompressed, or is no tar.

    Cure: bring a tar, uncompressed or compressed with gzip, xz, bzip2 or zstd.
    """

    code = "RVP-1452"


def lock_tar(path: Path, sha256: str | None) -> str:
    """Check that a tar is the one that the spec pins; return its SHA-256 in hex.

    Raises:
        TarMissing: RVP-1450. TarNotPinned: RVP-1451.
    """
    if not path.is_file():
        raise TarMissing("the tar of the base is not there", place=str(path))
    found = sha256_file(path).hex()
    if sha256 is None:
        raise TarNotPinned(
            "the tar of a base needs its sha256", hint=f'write sha256 = "{found}" beside it', place=str(path)
        )
    if found != sha256.lower():
        raise TarNotPinned(f"expected sha256 {sha256}, got {found}", place=str(path))
    return found


def unpack_tar(path: Path, store: Store) -> bytes:
    """Decompress a tar into the store; return the SHA-256 of what is in it.

    Raises:
        TarUnreadable: RVP-1452.

    Cost: one pass, constant memory.
    """
    with path.open("rb") as stream, decompressed(stream, place=str(path)) as plain:
        return store.put(_tar_of(chunks_of(plain), str(path)))[0]


@contextlib.contextmanager
def decompressed(stream: IO[bytes], *, place: str) -> Iterator[BinaryIO]:
    """Open a compressed stream by its first bytes.

    Raises:
        TarUnreadable: RVP-1452, also while it is read.
    """
    buffered = io.BufferedReader(stream, 1 << 20) if isinstance(stream, io.RawIOBase) else stream
    head = buffered.read(6)
    buffered.seek(-len(head), io.SEEK_CUR)
    kind = next((name for magic, name in _MAGICS if head.startswith(magic)), "")
    try:
        with _reader(kind, buffered) as plain:
            yield plain
    except gzip.BadGzipFile as error:
        raise TarUnreadable(f"the {kind} stream is damaged: {error}", place=place) from error
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise TarUnreadable(f"the {kind} stream is damaged: {error}", place=place) from error


def _reader(kind: str, stream: Any) -> Any:
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=stream)
        case "xz":
            return lzma.LZMAFile(stream)
        case "bzip2":
            return bz2.BZ2File(stream)
        case "zstd":
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        case _:
            return contextlib.nullcontext(stream)


def _tar_of(chunks: Iterable[bytes], place: str) -> Iterator[bytes]:
    """Pass a tar on, refusing what does not begin like one."""
    rest = iter(chunks)
    first = next(rest, b"")
    if first[_USTAR_AT : _USTAR_AT + 5] != b"ustar":
        raise TarUnreadable("this is no tar", place=place)
    yield first
    yield from rest
