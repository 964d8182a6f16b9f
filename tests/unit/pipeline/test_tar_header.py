"""Hostile headers of a tar cost nothing and end in our words."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pipeline.store import FolderStore
from pipeline.tar_header import MOST_IN_A_ROW
from pipeline.unpack import BadArchive, unpack


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


FIRST = header(tarfile.REGTYPE, 0, "first")  # so that it is a tar at all
LONG = header(tarfile.GNUTYPE_LONGNAME, 2) + b"n\0".ljust(512, b"\0")
END = header(tarfile.REGTYPE, 0, "last") + bytes(1024)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_large_extension_is_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    size = 64 << 20
    bomb = gzip.compress(FIRST + header(kind, size) + bytes(size) + END, 1, mtime=0)
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match=f"extension of {size} bytes"):
            unpack(io.BytesIO(bomb), "bomb.tar.gz", FolderStore(tmp_path / "store"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_extensions_in_a_row_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with pytest.raises(BadArchive, match="in a row"):
        unpack(io.BytesIO(FIRST + LONG * 5000 + END), "deep.tar", store)
    few = unpack(io.BytesIO(FIRST + LONG * MOST_IN_A_ROW + END), "few.tar", store)
    assert [entry.path for entry in few.entries] == ["first", "n"]
