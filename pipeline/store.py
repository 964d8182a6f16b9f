"""The store: immutable objects addressed by their SHA-256, and the records that name them.

An object is there whole or not at all: it is written under a temporary name, flushed, and renamed.
A writer holds a lock on its temporary file for as long as it lives; what a killed process left behind has
no lock and is swept away by the next one that opens the store (also from another container or host, where
process numbers say nothing).
A record says what a key gave (the outputs of a step, the root filesystem of a base); the first record of a
key stays, so two runs that share a store agree.
Each process hashes an object before it reads it for the first time, and a record carries its own digest:
what a disk damaged is removed and made again. It is no defence against somebody who may write to the store.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FolderStore(Path(folder))
    ...     digest, size_bytes = store.put([b"hello"])
    ...     with store.get(digest) as stream:
    ...         stream.read()
    b'hello'
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from provenance.digest import chunks_of, sha256
from provenance.errors import EnvironmentFailure

_FAN_OUT: Final = 2
_DIGEST_BYTES: Final = 32  # a record begins with the SHA-256 of the rest


class ObjectMissing(EnvironmentFailure):
    """The store has no object with this digest.

    Cure: somebody removed it by hand; run the command that makes it again.
    """

    code = "RVP-2101"


class ObjectTooLarge(EnvironmentFailure):
    """What was to be stored is larger than its limit; nothing was kept.

    Cure: raise the limit in the spec if the size is right (a hole in a sparse file counts in full).
    """

    code = "RVP-2102"


class DiskFull(EnvironmentFailure):
    """There is no space left where the store lies; nothing was left half-written.

    Cure: free space, or put the store elsewhere with `--store` or `RVP_STORE`.
    """

    code = "RVP-2103"


class NotWritable(EnvironmentFailure):
    """The store or the working folder cannot be read or written.

    Cure: check who owns the folder, or put the store elsewhere with `--store` or `RVP_STORE`.
    """

    code = "RVP-2104"


class ObjectDamaged(EnvironmentFailure):
    """An object of the store is not what its name says: the disk, or somebody, changed it. It was removed.

    Cure: run the command again, which makes it or fetches it again; if that happens often, look at the disk.
    """

    code = "RVP-2105"


class Store(Protocol):
    """Get, put, has, list; and records."""

    def put(self, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> tuple[bytes, int]:
        """Store a stream; return its SHA-256 and its size in bytes."""
        ...

    def put_file(self, path: Path, *, limit_bytes: int | None = None) -> tuple[bytes, int]:
        """Store a file; one whose content is there already is only read."""
        ...

    def get(self, digest: bytes) -> BinaryIO:
        """Open an object."""
        ...

    def has(self, digest: bytes) -> bool:
        """Tell whether an object is there."""
        ...

    def list(self) -> Iterator[bytes]:
        """Name all objects, sorted."""
        ...

    def record(self, kind: str, key: bytes, value: bytes) -> bytes:
        """Keep what a key gave, unless something is kept already; return what is kept."""
        ...

    def recorded(self, kind: str, key: bytes) -> bytes | None:
        """Return what a key gave."""
        ...


class FolderStore:
    """A store in a folder; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = str(folder)
        self._swept = False
        self._sound: set[bytes] = set()  # hashed, or written, by this process

    def path_of(self, digest: bytes) -> Path:
        """Return where an object lies (or would lie)."""
        return Path(self._object(digest))

    def file_of(self, digest: bytes) -> Path:
        """Return where an object lies, whose content is what its name says.

        Raises:
            ObjectMissing: RVP-2101. ObjectDamaged: RVP-2105.
        """
        self.get(digest).close()
        return self.path_of(digest)

    def _object(self, digest: bytes) -> str:
        name = digest.hex()  # text, not Path: a build with records for everything asks thousands of times
        return f"{self._root}/objects/{name[:_FAN_OUT]}/{name[_FAN_OUT:]}"

    def put(self, chunks: Iterable[bytes], *, limit_bytes: int | None = None) -> tuple[bytes, int]:
        """Store a stream; return its SHA-256 and its size in bytes.

        Raises:
            ObjectTooLarge: RVP-2102. DiskFull: RVP-2103.

        Cost: one pass, constant memory.
        """
        hashing, size_bytes = hashlib.sha256(), 0
        with self._temporary() as (stream, temporary):
            for chunk in chunks:
                size_bytes += len(chunk)
                if limit_bytes is not None and size_bytes > limit_bytes:
                    raise ObjectTooLarge(f"more than {limit_bytes} bytes")
                hashing.update(chunk)
                stream.write(chunk)
            stream.flush()
            digest = hashing.digest()
            target = self.path_of(digest)
            if not target.exists():
                os.fsync(stream.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.chmod(0o444)
                temporary.replace(target)
                _sync_folder(target.parent)
                self._sound.add(digest)
        return digest, size_bytes

    def put_file(self, path: Path, *, limit_bytes: int | None = None) -> tuple[bytes, int]:
        """Store a file; one whose content is there already is only read.

        Raises:
            ObjectTooLarge: RVP-2102. DiskFull: RVP-2103.
        """
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
            size_bytes = stream.tell()
            if (limit_bytes is None or size_bytes <= limit_bytes) and self.has(digest):
                return digest, size_bytes
            stream.seek(0)
            return self.put(chunks_of(stream), limit_bytes=limit_bytes)

    def get(self, digest: bytes) -> BinaryIO:
        """Open an object.

        Raises:
            ObjectMissing: RVP-2101. ObjectDamaged: RVP-2105.

        Cost: one pass more, the first time in each process, over what another process wrote.
        """
        try:
            stream = open(self._object(digest), "rb")  # noqa: PTH123, SIM115  see _object; the caller closes it
        except FileNotFoundError as error:
            raise ObjectMissing(f"the store has no object {digest.hex()}", place=str(self.folder)) from error
        except OSError as error:
            raise environment_failure(error, str(self.folder)) from error
        if digest not in self._sound:
            if hashlib.file_digest(stream, "sha256").digest() != digest:
                stream.close()
                with contextlib.suppress(OSError):
                    self.path_of(digest).unlink()
                raise ObjectDamaged(
                    f"the object {digest.hex()} was damaged, and was removed",
                    place=str(self.folder),
                    hint="run the command again; it makes or fetches the object again",
                )
            self._sound.add(digest)
            stream.seek(0)
        return stream

    def has(self, digest: bytes) -> bool:
        """Tell whether an object is there."""
        return os.path.exists(self._object(digest))  # noqa: PTH110  see _object

    def list(self) -> Iterator[bytes]:
        """Name all objects, sorted."""
        objects = self.folder / "objects"
        for shelf in sorted(objects.iterdir()) if objects.exists() else ():
            for path in sorted(shelf.iterdir()):
                yield bytes.fromhex(shelf.name + path.name)

    def record(self, kind: str, key: bytes, value: bytes) -> bytes:
        """Keep what a key gave, unless something is kept already; return what is kept."""
        target = Path(self._record(kind, key))
        with self._temporary() as (stream, temporary):
            stream.write(sha256(value) + value)
            stream.flush()
            os.fsync(stream.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    os.link(temporary, target)
                    break
                except FileExistsError:
                    kept = self.recorded(kind, key)  # removes one that is damaged
                    if kept is not None:
                        return kept
            _sync_folder(target.parent)
        return value

    def sweep(self) -> int:
        """Remove what killed processes left half-written; return how many files there were."""
        room, swept = self.folder / "temporary", 0
        for path in sorted(room.iterdir()) if room.is_dir() else ():
            with contextlib.suppress(OSError), path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                swept += 1
        return swept

    def recorded(self, kind: str, key: bytes) -> bytes | None:
        """Return what a key gave, or None; a damaged record is removed and is None."""
        try:
            with open(self._record(kind, key), "rb") as stream:  # noqa: PTH123  see _object
                data = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise environment_failure(error, str(self.folder)) from error
        value = data[_DIGEST_BYTES:]
        if sha256(value) == data[:_DIGEST_BYTES]:
            return value
        try:
            Path(self._record(kind, key)).unlink(missing_ok=True)
        except OSError as error:
            raise environment_failure(error, str(self.folder)) from error
        return None

    def _record(self, kind: str, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}/records/{kind}/{name[:_FAN_OUT]}/{name[_FAN_OUT:]}"

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        room = self.folder / "temporary"
        path = room / secrets.token_hex(12)
        try:
            room.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                self._swept = True
                self.sweep()
            stream, path = _create_locked(room)
            with stream:
                yield stream, path
        except OSError as error:
            raise environment_failure(error, str(self.folder)) from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def environment_failure(error: OSError, place: str) -> EnvironmentFailure:
    """Say in our words what the operating system refused."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return DiskFull(
            f"no space left: {error.strerror}",
            place=place,
            hint="free space, or name another folder with --store or RVP_STORE",
        )
    path = f" ({error.filename})" if error.filename else ""
    return NotWritable(f"{error.strerror or error}{path}", place=place)


def _create_locked(room: Path) -> tuple[BinaryIO, Path]:
    """Create a temporary file and lock it; a sweeper may win the file between the two, then try again."""
    while True:
        path = room / secrets.token_hex(12)
        stream = path.open("xb")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if os.fstat(stream.fileno()).st_nlink:
                return stream, path
        except BaseException:
            stream.close()
            raise
        stream.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
