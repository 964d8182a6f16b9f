"""A layer's bytes, uncompressed as they stream by, and the two digests that it must have.

What compresses a layer is seen from its first bytes: media types lie, engines look as well. A bomb is
refused: beyond 1 GiB, a layer has at most 200 times its stored size, and never more than 64 GiB.

Units: digests are SHA-256 of the layer as stored, and of the uncompressed tar (its diff id).
Source: OCI image-spec v1.1, layer.
Cost: one pass; memory for one chunk and the decompressor's window (at most 32 MiB).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from pipeline.measure.image_manifest import ImageDigestMismatch, Layer
from pipeline.measure.image_room import BadImage, Room
from provenance.digest import CHUNK_BYTES

MAX_LAYER: Final = 64 << 30  # uncompressed
_FREE: Final = 1 << 30  # a layer of less than this is never called a bomb
_MAX_RATIO: Final = 200
_ZSTD_WINDOW: Final = 1 << 25  # RFC 8878 asks decoders for 8 MiB; `zstd -19` needs that


class LayerReader:
    """Reads one layer; the digests are known when it was read to its end."""

    def __init__(self, room: Room, layer: Layer, place: str) -> None:
        """Begin to read.

        Args:
            room: where the image lies.
            layer: which one.
            place: of the image, for messages.
        """
        self._layer, self._place = layer, place
        self._blob = room.chunks(layer.name)
        self._stored, self._plain = hashlib.sha256(), hashlib.sha256()
        self._stored_size = 0
        self._is_compressed = False

    def chunks(self) -> Iterator[bytes]:
        """Stream the uncompressed tar.

        Raises:
            BadImage: RVP-5101 for a layer that is damaged, too large, or a bomb.
        """
        source = self._source()
        first = next(source, b"")
        size = 0
        for piece in self._expand(first, source):
            if self._is_compressed:
                self._plain.update(piece)
            size += len(piece)
            if size > MAX_LAYER:
                raise BadImage(f"a layer of more than {MAX_LAYER} bytes", place=self._place)
            if size > _FREE and size > _MAX_RATIO * self._stored_size:
                raise BadImage(
                    f"{self._stored_size} bytes of a layer became {size}: this is a bomb", place=self._place
                )
            yield piece
        for _ in source:  # what stands behind the end of the compressed data counts for the digest
            pass

    @property
    def stored(self) -> str:
        """The digest of the layer as stored: `sha256:` and hex."""
        return f"sha256:{self._stored.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """The digest of the uncompressed layer: `sha256:` and hex."""
        return f"sha256:{self._plain.hexdigest()}" if self._is_compressed else self.stored

    def refuse(self, error: BadImage) -> NoReturn:
        """Raise what is wrong with this layer: its digest, if that is wrong, else what was found in it.

        Raises:
            ImageDigestMismatch: RVP-5102. BadImage: RVP-5101.
        """
        for _ in self._source():
            pass
        if self._layer.digest not in {"", self.stored}:
            raise ImageDigestMismatch(
                f"a layer is {self.stored}, expected {self._layer.digest} ({error.message})",
                place=self._place,
            ) from error
        raise error

    def _source(self) -> Iterator[bytes]:
        for chunk in self._blob:
            self._stored.update(chunk)
            self._stored_size += len(chunk)
            yield chunk

    def _expand(self, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
        if first[:2] == b"\x1f\x8b":
            self._is_compressed = True
            return self._gunzip(first, rest)
        if first[:4] == b"\x28\xb5\x2f\xfd":
            self._is_compressed = True
            return self._unzstd(first, rest)
        return _joined(first, rest)

    def _gunzip(self, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
        reader = zlib.decompressobj(wbits=31)
        for one in _joined(first, rest):
            chunk, more = one, False  # output may wait inside although the input is used up
            while chunk or more:
                if reader.eof:
                    reader = zlib.decompressobj(wbits=31)
                try:
                    piece = reader.decompress(chunk, CHUNK_BYTES)
                except zlib.error as error:
                    raise BadImage(f"a layer is not gzip: {error}", place=self._place) from error
                if piece:
                    yield piece
                more = len(piece) == CHUNK_BYTES and not reader.eof
                chunk = reader.unconsumed_tail or reader.unused_data
        if not reader.eof:
            raise BadImage("a layer's gzip stream ends in the middle", place=self._place)

    def _unzstd(self, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
        import zstandard

        opener = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        source: Any = _Readable(_joined(first, rest))
        try:
            with opener.stream_reader(source, read_across_frames=True, closefd=False) as reader:
                while piece := reader.read(CHUNK_BYTES):
                    yield piece
        except zstandard.ZstdError as error:
            raise BadImage(f"a layer is not zstd: {error}", place=self._place) from error


class _Readable:
    """Chunks as a file that is read piece by piece."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to so many bytes; none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
