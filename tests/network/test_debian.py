"""Against a real mirror, found through apt's configuration; apt, dpkg-source and ldconfig are the oracles."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.base import LockedBase, build_rootfs, lock_base
from pipeline.debian.mirror import Mirrors, has_apt, places_of
from pipeline.debian.source import fetch_source
from pipeline.sources import load_source
from pipeline.spec import Base, DebianBase, Source
from pipeline.store import FolderStore
from provenance.events import ignore

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not has_apt(), reason="apt names the mirror, and is not on this machine"),
]
SETS = (
    "gcc libc6-dev make",
    "python3",
    "build-essential",
    "git",
    "docbook-utils debhelper",
    "default-jdk-headless",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return FolderStore(tmp_path_factory.mktemp("store"))


def lock(store: FolderStore, packages: str, mirrors: Mirrors) -> LockedBase:
    base = Base(debian=DebianBase(suites=("bookworm",), packages=tuple(packages.split())))
    return lock_base("b", base, folder=Path(), store=store, observer=ignore, mirrors=mirrors)


def mirror_of_apt() -> str:
    return places_of("", "bookworm", origin="Debian", mirrors=Mirrors())[0]


@pytest.mark.parametrize("packages", SETS)
def test_without_apt_the_answer_is_apts(
    packages: str, store: FolderStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = mirror_of_apt()
    with_apt = lock(store, packages, Mirrors())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_apt()
    assert lock(store, packages, Mirrors(addresses={"": address})) == with_apt


def test_a_root_filesystem_is_the_same_from_another_store_in_another_order(
    store: FolderStore, tmp_path: Path
) -> None:
    locked = lock(store, "make", Mirrors())
    first = build_rootfs(locked, folder=tmp_path, store=store, observer=ignore)
    other = FolderStore(tmp_path / "other")
    for package in reversed(locked.packages):
        with store.get(bytes.fromhex(package.sha256)) as stream:
            other.put([stream.read()])
    again = build_rootfs(
        LockedBase(
            table=locked.table,
            archives=locked.archives,
            packages=tuple(reversed(locked.packages)),
            tools=locked.tools,
        ),
        folder=tmp_path,
        store=other,
        observer=ignore,
    )
    assert again == first


@pytest.mark.skipif(shutil.which("dpkg-source") is None, reason="dpkg-source is the oracle")
@pytest.mark.parametrize("package", ["hello", "make-dfsg", "zlib", "dash", "faketime", "tar"])
def test_a_source_package_unpacks_as_dpkg_source_does(
    package: str, store: FolderStore, tmp_path: Path
) -> None:
    found = fetch_source(
        package, suite="bookworm", store=store, observer=ignore, folder=tmp_path, mirrors=Mirrors()
    )
    for file in found.package.files:
        with store.get(bytes.fromhex(file.sha256)) as stream:
            (tmp_path / file.name).write_bytes(stream.read())
    dsc = next(file.name for file in found.package.files if file.name.endswith(".dsc"))
    subprocess.run(
        ["dpkg-source", "--no-check", "-x", dsc, "tree"], cwd=tmp_path, check=True, capture_output=True
    )
    expected = {}
    for folder, _, names in os.walk(tmp_path / "tree"):
        for name in names:
            path = Path(folder) / name
            relative = str(path.relative_to(tmp_path / "tree"))
            if not relative.startswith(".pc/"):
                expected[relative] = (
                    str(path.readlink())
                    if path.is_symlink()
                    else hashlib.sha256(path.read_bytes()).hexdigest()
                )
    got = {one.path: one.sha256 or one.target for one in found.tree.entries if one.kind != "dir"}
    assert got == expected


def test_a_debian_source_is_locked_and_loaded_again_from_the_lock_alone(
    store: FolderStore, tmp_path: Path
) -> None:
    source = Source(debian_source="hello", suite="bookworm")
    loaded = load_source("app", source, folder=tmp_path, store=store, locked=None, observer=ignore)
    other = FolderStore(tmp_path / "other")
    again = load_source("app", source, folder=tmp_path, store=other, locked=loaded.locked, observer=ignore)
    assert again.tree == loaded.tree
    assert loaded.locked is not None
    assert loaded.locked.version
