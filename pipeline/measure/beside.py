"""Work that runs in a thread beside the caller's: hashlib and numpy let both run at the same time.

A file's own digest and the contents of its log are hashes over the same bytes as its measurement; on two
processors they cost little time beside it.

Example:
    >>> import hashlib
    >>> with Beside(digest_of(memoryview(b"abc"))) as digest:
    ...     digest.value() == hashlib.sha256(b"abc").digest()
    True
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from typing import Final, Generic, Self, TypeVar

_PIECE: Final = 4 << 20
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


def digest_of(data: memoryview) -> Generator[None, None, bytes]:
    """Hash a file piece by piece: SHA-256."""
    hashing = hashlib.sha256()
    for at in range(0, len(data), _PIECE):
        hashing.update(data[at : at + _PIECE])
        yield
    return hashing.digest()
