"""The store: whole objects or none, whatever happens."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import (
    DiskFull,
    FolderStore,
    NotWritable,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooLarge,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def leftovers(store: FolderStore) -> list[str]:
    room = store.folder / "temporary"
    return sorted(path.name for path in room.iterdir()) if room.exists() else []


@settings(max_examples=30, deadline=None)
@given(chunks=st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_put_is_got_under_its_sha256(tmp_path_factory, chunks):
    store = FolderStore(tmp_path_factory.mktemp("store"))
    digest, size = store.put(chunks)
    whole = b"".join(chunks)
    assert (digest, size) == (hashlib.sha256(whole).digest(), len(whole))
    with store.get(digest) as stream:
        assert stream.read() == whole
    assert list(store.list()) == [digest]


def test_an_object_over_its_limit_leaves_nothing(store):
    with pytest.raises(ObjectTooLarge):
        store.put([b"x" * 10, b"y" * 10], limit_bytes=15)
    assert list(store.list()) == []
    assert leftovers(store) == []


def test_an_object_that_is_not_there_is_told(store):
    with pytest.raises(ObjectMissing):
        store.get(b"\0" * 32)


def test_a_stream_that_breaks_leaves_nothing(store):
    def broken():
        yield b"half"
        raise RuntimeError("the reader went away")

    with pytest.raises(RuntimeError):
        store.put(broken())
    assert list(store.list()) == []
    assert leftovers(store) == []


def test_the_first_record_of_a_key_stays(store):
    assert store.record("outcome", b"k" * 32, b"first") == b"first"
    assert store.record("outcome", b"k" * 32, b"second") == b"first"
    assert store.recorded("outcome", b"k" * 32) == b"first"
    assert store.recorded("other", b"k" * 32) is None


def test_a_file_that_is_there_is_not_written_again(store, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    digest, _ = store.put_file(path)
    before = store.path_of(digest).stat()
    assert store.put_file(path) == (digest, 7)
    assert store.path_of(digest).stat().st_ino == before.st_ino


def test_objects_cannot_be_written_by_accident(store):
    digest, _ = store.put([b"x"])
    assert store.path_of(digest).stat().st_mode & 0o222 == 0


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(store, tmp_path: Path):
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pipeline.store import FolderStore
def slow():
    yield b'half'
    print('ready', flush=True)
    time.sleep(60)
FolderStore(Path({str(store.folder)!r})).put(slow())
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert len(leftovers(store)) == 2
        store.put([b"another process works on"])
        assert len(leftovers(store)) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    assert store.sweep() == 1


def _full(folder: str, pipe) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    store = FolderStore(Path(folder))
    try:
        store.put(b"z" * 10_000 for _ in range(50))
    except DiskFull as error:
        pipe.send((error.code, list(store.list()), leftovers(store)))
    else:
        pipe.send(None)


def test_a_full_disk_is_told_and_nothing_is_left(store):
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_full, args=(str(store.folder), there))
    process.start()
    assert here.recv() == ("RVP-2103", [], [])
    process.join()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_space_is_the_same_error_as_a_full_quota(store, monkeypatch):
    def full(_room):
        return Path("/dev/full").open("wb", buffering=0), store.folder / "none"

    monkeypatch.setattr("pipeline.store._create_locked", full)
    with pytest.raises(DiskFull):
        store.put([b"x"])


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotWritable):
        FolderStore(tmp_path / "file" / "store").put([b"x"])


def _fill(folder: str, seed: int) -> None:
    store = FolderStore(Path(folder))
    for number in range(60):
        store.put([f"{number}".encode() * 100])
        store.record("outcome", hashlib.sha256(b"%d" % number).digest(), b"%d %d" % (number, seed))


def test_two_processes_share_a_store(store):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(str(store.folder), seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(store.list())) == 60
    assert leftovers(store) == []
    for digest in store.list():
        with store.get(digest) as stream:
            assert hashlib.file_digest(stream, "sha256").digest() == digest


def test_killing_a_writer_at_any_moment_leaves_only_whole_objects(store):
    context = multiprocessing.get_context("fork")
    for pause in (0.005, 0.01, 0.02, 0.04):
        process = context.Process(target=_fill, args=(str(store.folder), 0))
        process.start()
        time.sleep(pause)
        process.kill()
        process.join()
    for digest in store.list():
        with store.get(digest) as stream:
            assert hashlib.file_digest(stream, "sha256").digest() == digest
    _fill(str(store.folder), 0)
    assert len(list(store.list())) == 60
    assert leftovers(store) == []


def test_a_sweeper_that_wins_the_race_for_a_new_file_does_no_harm(store, monkeypatch):
    real, calls = fcntl.flock, []

    def flock(stream, operation):
        if not calls:
            calls.append(operation)
            for path in (store.folder / "temporary").iterdir():
                path.unlink()  # what a sweeper does between creation and lock
        return real(stream, operation)

    monkeypatch.setattr("pipeline.store.fcntl.flock", flock)
    store._swept = True
    digest, _ = store.put([b"still here"])
    assert store.has(digest)


def change(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [b"hellp", b"hel", b""])
def test_a_damaged_object_is_not_read_and_can_be_put_again(store, damage: bytes):
    digest, _ = store.put([b"hello"])
    change(store.path_of(digest), damage)
    later = FolderStore(store.folder)  # as another process sees it
    with pytest.raises(ObjectDamaged, match=digest.hex()):
        later.get(digest)
    assert not later.has(digest)
    later.put([b"hello"])
    assert later.file_of(digest).read_bytes() == b"hello"


@pytest.mark.parametrize("keep", [0, 5, 31, 33, -1])
def test_a_damaged_record_is_none_and_is_recorded_again(store, keep: int):
    store.record("outcome", b"k" * 32, b"first")
    (path,) = (path for path in (store.folder / "records").rglob("*") if path.is_file())
    change(path, path.read_bytes()[:keep])
    assert store.recorded("outcome", b"k" * 32) is None
    assert store.record("outcome", b"k" * 32, b"again") == b"again"
    assert store.recorded("outcome", b"k" * 32) == b"again"


def test_a_damaged_record_gives_way_to_a_new_one(store):
    store.record("outcome", b"k" * 32, b"first")
    (path,) = (path for path in (store.folder / "records").rglob("*") if path.is_file())
    change(path, b"noise")
    assert store.record("outcome", b"k" * 32, b"second") == b"second"


def test_a_store_may_be_reached_through_a_link(store, tmp_path: Path):
    digest, _ = store.put([b"hello"])
    (tmp_path / "link").symlink_to(store.folder)
    assert FolderStore(tmp_path / "link").file_of(digest).read_bytes() == b"hello"
