"""Work beside the caller's: its value, its error, its end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.measure.beside import Beside, digest_of
from provenance.strict import NotReadable


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path, *, in_a_thread: bool) -> None:
    data = bytes(range(256)) * (20 << 10) + b"more"
    (tmp_path / "file").write_bytes(data)
    with Beside(digest_of(tmp_path / "file"), in_a_thread=in_a_thread) as digest:
        assert digest.value() == digest.value() == hashlib.sha256(data).digest()


def test_a_file_that_is_not_there_is_our_error(tmp_path: Path) -> None:
    with Beside(digest_of(tmp_path / "none")) as digest, pytest.raises(NotReadable, match="No such file"):
        digest.value()


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_an_error_is_raised_where_the_value_is_asked_for(*, in_a_thread: bool) -> None:
    def work() -> Generator[None, None, int]:
        yield
        raise ValueError("no")

    with Beside(work(), in_a_thread=in_a_thread) as beside, pytest.raises(ValueError, match="no"):
        beside.value()


def test_work_that_nobody_waits_for_is_stopped() -> None:
    begun = threading.Event()

    def work() -> Generator[None, None, int]:
        while True:
            begun.set()
            yield

    with Beside(work()):  # leaving waits for the thread, which would go on for ever
        assert begun.wait(10)
