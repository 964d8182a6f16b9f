"""The lock: equal bytes, edits told, stale parts named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.base import LockedArchive, LockedBase, LockedPackage
from pipeline.lock import (
    LocalFileChanged,
    LocalFileMissing,
    Lock,
    LockedFetch,
    LockEdited,
    LockMissing,
    LockNotReadable,
    LockStale,
    check_lock,
    hash_local_files,
    parse_lock,
    read_lock,
    spec_parts,
    stale_parts,
    write_lock,
    write_toml_lock,
)
from pipeline.spec import Spec, parse_spec

SPEC = """\
schema = "rvp/spec/v1"
[project]
name = "hello"
version = "1"
[base.t]
debian = { suites = ["bookworm"], packages = ["gcc"] }
[source.app]
path = "src"
[fetch.deps]
base = "t"
run = ["pip", "download"]
[[pack]]
id = "p"
kind = "sgx"
output = "e.so"
image = "base.t:/e.so"
config = "enclave.toml"
"""
GCC = LockedPackage(
    name="gcc", version="12.2.0-3", architecture="amd64", suite="bookworm", size=1, sha256="11" * 32
)
BASE = LockedBase(
    architecture="amd64",
    archives=(LockedArchive(suite="bookworm", components=("main",), release="22" * 32),),
    packages=(GCC, msgspec.structs.replace(GCC, name="make", version="4.3-4")),
)
FETCH = LockedFetch(key="33" * 32, tree="44" * 32, size=9, transcript="55" * 32)


def spec_of(text: str = SPEC) -> Spec:
    return parse_spec(text.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "enclave.toml").write_text("x")
    return tmp_path


def lock_of(spec: Spec, folder: Path) -> Lock:
    return Lock(
        parts=spec_parts(spec),
        files=hash_local_files(spec, folder),
        base={"t": BASE},
        fetch={"deps": FETCH},
    )


def test_a_lock_reads_back_and_equal_locks_give_equal_bytes(folder: Path) -> None:
    lock = lock_of(spec_of(), folder)
    data = write_toml_lock(lock)
    assert parse_lock(data) == lock
    assert write_toml_lock(parse_lock(data)) == data
    assert data.count(b"[[base.t.packages]]") == 2


def test_a_lock_answers_the_spec_that_it_was_made_for(folder: Path) -> None:
    check_lock(spec_of(), lock_of(spec_of(), folder), folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"4.3-4", b"4.4-1"),
        (b"11" * 32, b"12" * 32),
        (b"[fetch.deps]", b"# a remark\n[fetch.deps]"),
        (b"# Do not edit it", b"# Do edit it"),
    ],
)
def test_an_edit_by_hand_is_told(folder: Path, old: bytes, new: bytes) -> None:
    data = write_toml_lock(lock_of(spec_of(), folder))
    assert old in data
    with pytest.raises(LockEdited) as caught:
        parse_lock(data.replace(old, new))
    assert caught.value.exit_code == 3


def test_other_line_ends_are_no_edit(folder: Path) -> None:
    lock = lock_of(spec_of(), folder)
    assert parse_lock(write_toml_lock(lock).replace(b"\n", b"\r\n")) == lock


def test_marks_of_a_merge_are_told(folder: Path) -> None:
    data = write_toml_lock(lock_of(spec_of(), folder))
    with pytest.raises(LockNotReadable):
        parse_lock(b"<<<<<<< HEAD\n" + data)


def test_a_missing_lock_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LockMissing) as caught:
        read_lock(tmp_path / "rvp.lock")
    assert "rvp lock" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('"gcc"]', '"gcc", "make"]', {"base.t", "fetch.deps"}),
        ('"download"', '"install"', {"fetch.deps"}),
        ("[fetch.deps]", '[base.u]\nimage = "debian:12"\n[fetch.deps]', {"base.u"}),
        ('[fetch.deps]\nbase = "t"\nrun = ["pip", "download"]\n', "", {"fetch.deps"}),
        ('"src"', '"lib"', set()),
        ('version = "1"', 'version = "2"', set()),
    ],
)
def test_stale_parts_are_named(folder: Path, old: str, new: str, parts: set[str]) -> None:
    lock = lock_of(spec_of(), folder)
    assert old in SPEC
    changed = spec_of(SPEC.replace(old, new))
    assert set(stale_parts(changed, lock, folder)) == parts
    if parts:
        with pytest.raises(LockStale, match=min(parts)):
            check_lock(changed, lock, folder)


def test_a_changed_file_beside_the_spec_is_told_with_both_digests(folder: Path) -> None:
    lock = lock_of(spec_of(), folder)
    (folder / "enclave.toml").write_text("y")
    with pytest.raises(LocalFileChanged) as caught:
        check_lock(spec_of(), lock, folder)
    assert lock.files["enclave.toml"] in caught.value.message
    (folder / "enclave.toml").unlink()
    with pytest.raises(LocalFileMissing):
        check_lock(spec_of(), lock, folder)


def test_writing_an_equal_lock_leaves_the_file_alone(folder: Path) -> None:
    path, lock = folder / "rvp.lock", lock_of(spec_of(), folder)
    write_lock(lock, path)
    before = path.stat()
    write_lock(read_lock(path), path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(child.name for child in folder.iterdir()) == ["enclave.toml", "rvp.lock"]
