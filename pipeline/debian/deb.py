"""Reading a .deb: an ar archive with a control tar and a data tar, streamed.

Source: deb(5); the common ar format with 60-byte headers.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, Final, cast

from pipeline.tar_header import BoundedHeader
from provenance.errors import RvpError, SignatureFailure

_MAGIC: Final = b"!<arch>\n"
_HEADER_BYTES: Final = 60
_MAX_CONTROL_BYTES: Final = 64 << 20


class NotADeb(SignatureFailure):
    """A package file is not what deb(5) says, or its members cannot be unpacked.

    Cure: its digest is the pinned one, so the archive published it so: report it to its owner.
    """

    code = "RVP-1430"


@contextlib.contextmanager
def open_deb(stream: BinaryIO, *, place: str = "") -> Iterator[Deb]:
    """Open a package file; what goes wrong while it is read is NotADeb.

    Args:
        stream: seekable, at the start of the file.
        place: what to call it in an error.

    Raises:
        NotADeb: RVP-1430.
    """
    try:
        yield Deb(stream)
    except gzip.BadGzipFile as error:
        raise NotADeb(f"the package cannot be read: {error}", place=place) from error
    except (RvpError, OSError):
        raise
    except Exception as error:  # tarfile, lzma, zlib and zstandard each have errors of their own
        raise NotADeb(f"the package cannot be read: {error}", place=place) from error


class Deb:
    """A package file: `control()` and `data()`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._members = dict(self._list())

    def control(self) -> dict[str, bytes]:
        """Read the files of the control member: `control`, `conffiles`, `md5sums`, scripts."""
        found: dict[str, bytes] = {}
        with (
            self._open("control.tar") as raw,
            tarfile.open(fileobj=raw, mode="r|", tarinfo=BoundedHeader) as tar,
        ):
            for member in tar:
                if member.isfile():
                    if member.size > _MAX_CONTROL_BYTES:
                        raise ValueError(f"{member.name} has {member.size} bytes")
                    content = tar.extractfile(member)
                    found[member.name.removeprefix("./")] = content.read() if content else b""
        return found

    @contextlib.contextmanager
    def data(self) -> Iterator[tarfile.TarFile]:
        """Open the data member as a stream: read each member before the next."""
        with (
            self._open("data.tar") as raw,
            tarfile.open(fileobj=raw, mode="r|", bufsize=1 << 20, tarinfo=BoundedHeader) as tar,
        ):
            yield tar

    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]:
        if self._stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not an ar archive")
        offset = len(_MAGIC)
        while header := self._stream.read(_HEADER_BYTES):
            if len(header) != _HEADER_BYTES or header[58:] != b"`\n":
                raise ValueError(f"bad ar header at byte {offset}")
            name = header[:16].decode("ascii").strip().rstrip("/")
            size_bytes = int(header[48:58])
            offset += _HEADER_BYTES
            yield name, (offset, size_bytes)
            offset += size_bytes + size_bytes % 2
            self._stream.seek(offset)

    @contextlib.contextmanager
    def _open(self, stem: str) -> Iterator[IO[bytes]]:
        name = next((name for name in self._members if name.startswith(stem)), None)
        if name is None:
            raise ValueError(f"it has no {stem}")
        offset, size_bytes = self._members[name]
        part = cast("BinaryIO", io.BufferedReader(_Part(self._stream, offset, size_bytes), 1 << 20))
        suffix = name[len(stem) :]
        reader: Any
        match suffix:
            case "":
                reader = part
            case ".gz":
                reader = gzip.GzipFile(fileobj=part)
            case ".xz" | ".lzma":
                reader = lzma.LZMAFile(part)  # noqa: SIM115  closed by the with below
            case ".bz2":
                reader = bz2.BZ2File(part)
            case ".zst":
                import zstandard

                reader = zstandard.ZstdDecompressor().stream_reader(part, read_across_frames=True)
            case _:
                raise ValueError(f"the compression of {name} is not known")
        with reader:
            yield reader


class _Part(io.RawIOBase):
    """A window of a seekable stream."""

    def __init__(self, stream: BinaryIO, offset: int, size_bytes: int) -> None:
        self._stream, self._at, self._end = stream, offset, offset + size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._at)
        data = self._stream.read(min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
