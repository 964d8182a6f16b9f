"""Checkouts: made once, and made again when somebody changed them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import inputs
from pipeline.inputs import checkout, small_file
from pipeline.store import FolderStore
from pipeline.tree import Tree, read_folder

EPOCH = 1_700_000_000


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path, store: FolderStore) -> Tree:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "a").write_text("A")
    (source / "tool").write_text("#!/bin/sh")
    (source / "tool").chmod(0o755)
    (source / "link").symlink_to("sub/a")
    return read_folder(source, store)


def rewrite(place: Path) -> None:
    (place / "sub" / "a").write_text("B")


def rewrite_with_the_old_time(place: Path) -> None:
    (place / "sub" / "a").write_text("longer")
    os.utime(place / "sub" / "a", (EPOCH, EPOCH))


def swap_link(place: Path) -> None:
    (place / "link").unlink()
    (place / "link").symlink_to("tool")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": rewrite,
    "content, time kept": rewrite_with_the_old_time,
    "mode": lambda place: (place / "sub" / "a").chmod(0o755),
    "one less": lambda place: (place / "tool").unlink(),
    "one more": lambda place: (place / "sub" / "more").touch(),
    "link": swap_link,
}


def test_a_checkout_is_made_once(store: FolderStore, tree: Tree, tmp_path: Path, monkeypatch) -> None:
    place = checkout(tree, store, tmp_path / "scratch", epoch=EPOCH)
    made = place.stat().st_ino
    monkeypatch.setattr(inputs, "_SEEN", set())  # as another process sees it
    assert checkout(tree, store, tmp_path / "scratch", epoch=EPOCH).stat().st_ino == made


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkout_that_somebody_changed_is_made_again(
    store: FolderStore, tree: Tree, tmp_path: Path, monkeypatch, change: str
) -> None:
    place = checkout(tree, store, tmp_path / "scratch", epoch=EPOCH)
    CHANGES[change](place)
    monkeypatch.setattr(inputs, "_SEEN", set())
    again = checkout(tree, store, tmp_path / "scratch", epoch=EPOCH)
    assert read_folder(again, store) == tree


def test_a_small_file_that_somebody_changed_is_written_again(tmp_path: Path) -> None:
    path = small_file("127.0.0.1 localhost\n", tmp_path)
    path.write_text("10.0.0.1 evil\n")
    assert small_file("127.0.0.1 localhost\n", tmp_path).read_text() == "127.0.0.1 localhost\n"
