"""Work that runs in a thread beside the caller's: hashlib and numpy let both run at the same time.

A file's own digest and the contents of its log are hashes over the same bytes as its measurement; on two
processors they cost little time beside it.

Example:
    >>> with Beside(digest_of(Path("/dev/null"))) as digest:
    ...     digest.value().hex()[:16]
    'e3b0c44298fc1c14'
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from provenance.strict import NotReadable

_PIECE: Final = 1 << 20
WORTH_A_THREAD: Final = 1 << 20  # bytes to hash

Value = TypeVar("Value")


class Beside(Generic[Value]):
    """Runs a generator to its end: where it yields it can be stopped, what it returns is the value."""

    def __init__(self, work: Generator[None, None, Value], *, in_a_thread: bool = True) -> None:
        self._work = work
        self._is_wanted = True
        self._found: list[Value] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run) if in_a_thread else None

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._is_wanted:
                next(self._work)
        except StopIteration as end:
            self._found.append(end.value)
        except BaseException as error:  # noqa: BLE001 - raised again where the value is asked for
            self._error = error

    def value(self) -> Value:
        """Wait for the value; without a thread it is computed now."""
        if self._thread:
            self._thread.join()
        elif not self._found and self._error is None:
            self._run()
        if self._error is not None:
            raise self._error
        return self._found[0]


def digest_of(path: Path) -> Generator[None, None, bytes]:
    """Hash a file piece by piece: SHA-256.

    It is read, not mapped: a second mapping of it would count as memory of this process once more.

    Raises:
        NotReadable: RVP-1010.
    """
    hashing = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE))
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(piece):
                hashing.update(piece[:count])
                yield
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}", place=str(path), hint="check the path"
        ) from error
    return hashing.digest()
