from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from archive import FakeArchive, keyring_of, make_key

from pipeline.base import LockedBase, build_rootfs, lock_base
from pipeline.debian.apt import NotResolvable
from pipeline.debian.mirror import FileGone, Mirrors, NoMirror, WrongBytes, has_apt
from pipeline.debian.packages import TableTooNew, UnknownSuite
from pipeline.debian.release import (
    KeyringMissing,
    NotInRelease,
    ReleaseExpired,
    ReleaseNotSigned,
    ReleaseRolledBack,
    WrongRelease,
)
from pipeline.spec import Base, DebianArchive, DebianBase
from pipeline.store import FolderStore
from provenance.events import ignore

KEY = make_key()
OTHER = make_key("Somebody Else <else@example.org>")


class Room:
    """A project folder with an archive, a store and a keyring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "archive.gpg").write_bytes(keyring_of(KEY))
        self.archive = FakeArchive(folder / "mirror")
        self.archive.add("Package: base-files\nEssential: yes\nPriority: required", {"etc/issue": b"Test\n"})
        self.archive.add("Package: tool\nDepends: libtool (>= 1.0)", {"usr/bin/tool": b"#!/bin/sh\n"})
        self.archive.add("Package: libtool", {"usr/lib/libtool.txt": b"text"})
        self.archive.publish(KEY)
        self.store = FolderStore(folder / "store")
        self.mirrors = Mirrors(addresses={"": f"file://{folder}/mirror"}, apt=True)

    def lock(self, *packages: str, **more: Any) -> LockedBase:
        wanted = {"suites": ("bookworm",), "keyring": "archive.gpg", "packages": packages or ("tool",)}
        settings = {key: more.pop(key) for key in ("previous", "now", "mirrors") if key in more}
        return lock_base(
            "toolchain",
            Base(debian=DebianBase(**wanted | more)),
            folder=self.folder,
            store=self.store,
            observer=ignore,
            **{"mirrors": self.mirrors} | settings,
        )

    def build(self, locked: LockedBase, **more: Any) -> bytes:
        settings = {"store": self.store, "mirrors": self.mirrors} | more
        return build_rootfs(locked, folder=self.folder, observer=ignore, **settings).digest


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_lock_pins_the_wanted_their_dependencies_and_the_essential_packages(room: Room) -> None:
    locked = room.lock()
    assert [one.name for one in locked.packages] == ["base-files", "libtool", "tool"]
    assert locked.archives[0].codename == "bookworm"
    assert locked.archives[0].signed_by == (KEY.extract_certificate().fingerprint,)


def test_lock_names_no_host_and_no_folder(room: Room) -> None:
    assert str(room.folder) not in repr(room.lock())


def test_detached_signatures_are_checked_too(room: Room) -> None:
    room.archive.publish(OTHER, KEY, detached=True)
    assert room.lock().archives[0].signed_by == (KEY.extract_certificate().fingerprint,)


def test_inrelease_and_detached_release_have_the_same_digest(room: Room) -> None:
    before = room.lock().archives[0].release
    room.archive.publish(KEY, detached=True)
    assert room.lock().archives[0].release == before


def test_text_around_the_signed_release_is_not_believed(room: Room) -> None:
    path = room.folder / "mirror/dists/bookworm/InRelease"
    path.write_bytes(b"Origin: Evil\n\n" + path.read_bytes() + b"\nCodename: evil\n")
    assert room.lock().archives[0].origin == "Debian"


def test_a_changed_release_is_refused(room: Room) -> None:
    path = room.folder / "mirror/dists/bookworm/InRelease"
    path.write_bytes(path.read_bytes().replace(b"Origin: Debian", b"Origin: Debias"))
    with pytest.raises(ReleaseNotSigned) as caught:
        room.lock()
    assert caught.value.exit_code == 10


def test_a_release_signed_by_somebody_else_is_refused(room: Room) -> None:
    room.archive.publish(OTHER)
    with pytest.raises(ReleaseNotSigned):
        room.lock()


def test_an_unsigned_release_is_refused(room: Room) -> None:
    room.archive.publish(KEY, detached=True)
    (room.folder / "mirror/dists/bookworm/Release.gpg").unlink()
    with pytest.raises(ReleaseNotSigned):
        room.lock()


def test_a_missing_keyring_is_told_with_its_path(room: Room) -> None:
    with pytest.raises(KeyringMissing, match=r"none\.gpg"):
        room.lock(keyring="none.gpg")


def test_a_keyring_may_be_armoured(room: Room) -> None:
    (room.folder / "two.asc").write_bytes(keyring_of(OTHER, KEY, armour=True))
    assert room.lock(keyring="two.asc").packages


def test_a_genuine_release_of_another_suite_is_refused(room: Room) -> None:
    (room.folder / "mirror/dists/bookworm").rename(room.folder / "mirror/dists/trixie")
    with pytest.raises(WrongRelease, match="trixie"):
        room.lock(suites=("trixie",))


def test_an_unknown_suite_is_told(room: Room) -> None:
    with pytest.raises(UnknownSuite, match="bookwurm"):
        room.lock(suites=("bookwurm",))


def test_an_unknown_component_is_told_with_those_there_are(room: Room) -> None:
    with pytest.raises(NotInRelease) as caught:
        room.lock(components=("main", "contrib"))
    assert "main" in caught.value.hint


def test_an_expired_release_is_refused_at_the_given_time(room: Room) -> None:
    room.archive.extra = "Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\n"
    room.archive.publish(KEY)
    assert room.lock(now=1_784_000_000).packages
    with pytest.raises(ReleaseExpired):
        room.lock(now=1_790_000_000)


def test_an_older_release_than_the_locked_one_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = room.lock()
    monkeypatch.setattr("archive.DATE", "Sat, 10 Jan 2026 10:16:37 UTC")
    room.archive.publish(KEY)
    with pytest.raises(ReleaseRolledBack):
        room.lock(previous=locked)


def test_an_index_that_is_not_the_signed_one_is_refused(room: Room) -> None:
    path = room.folder / "mirror/dists/bookworm/main/binary-amd64/Packages.xz"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(WrongBytes):
        room.lock()


def test_a_package_with_another_sha256_is_refused(room: Room) -> None:
    locked = room.lock()
    path = room.folder / "mirror/pool/tool_1.0_amd64.deb"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WrongBytes, match=r"tool_1\.0"):
        room.build(locked)


def test_a_version_that_left_its_mirror_is_told_with_the_cures(room: Room) -> None:
    locked = room.lock()
    (room.folder / "mirror/pool/tool_1.0_amd64.deb").unlink()
    with pytest.raises(FileGone) as caught:
        room.build(locked)
    assert caught.value.exit_code == 3
    assert "snapshot" in caught.value.hint
    assert "--upgrade" in caught.value.hint


def test_an_offline_folder_of_packages_is_enough_to_build(room: Room) -> None:
    locked = room.lock()
    (room.folder / "mirror/pool").rename(room.folder / "debs")
    offline = Mirrors(folders=(room.folder / "debs",), apt=False)
    other = FolderStore(room.folder / "other")
    assert room.build(locked, store=other, mirrors=offline)


def test_without_apt_and_without_a_mirror_the_error_says_what_to_set(room: Room) -> None:
    with pytest.raises(NoMirror) as caught:
        room.lock(mirrors=Mirrors(apt=False))
    assert "RVP_DEBIAN_MIRROR" in caught.value.hint


def test_without_apt_on_the_machine_the_lock_is_the_same(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    with_apt = room.lock()
    monkeypatch.setenv("PATH", str(room.folder))
    assert not has_apt()
    assert room.lock() == with_apt


def test_what_cannot_be_had_is_told_with_and_without_apt(room: Room) -> None:
    for apt in (True, False):
        with pytest.raises(NotResolvable, match="nothing-like-it"):
            room.lock("nothing-like-it", mirrors=msgspec.structs.replace(room.mirrors, apt=apt))


def test_two_stores_give_the_same_root_filesystem(room: Room) -> None:
    locked = room.lock()
    assert room.build(locked) == room.build(locked, store=FolderStore(room.folder / "other"))


def test_a_lock_of_another_table_is_refused(room: Room) -> None:
    locked = msgspec.structs.replace(room.lock(), table=999)
    with pytest.raises(TableTooNew, match="999"):
        room.build(locked)


def test_a_vendor_archive_has_its_own_keyring(room: Room) -> None:
    vendor = FakeArchive(room.folder / "vendor", suite="sgx", origin="Vendor")
    vendor.add("Package: sdk\nDepends: libtool", {"opt/sdk": b"sdk"})
    vendor.publish(OTHER)
    (room.folder / "vendor.asc").write_bytes(keyring_of(OTHER, armour=True))
    mirrors = Mirrors(addresses=room.mirrors.addresses | {"vendor": f"file://{room.folder}/vendor"})
    archive = DebianArchive(name="vendor", suites=("sgx",), keyring="vendor.asc", origin="Vendor")
    locked = room.lock("sdk", archives=(archive,), mirrors=mirrors)
    assert {one.name: one.archive for one in locked.packages}["sdk"] == "vendor"
    assert room.build(locked, mirrors=mirrors)
    wrong = DebianArchive(name="vendor", suites=("sgx",), keyring="archive.gpg", origin="Vendor")
    with pytest.raises(ReleaseNotSigned):
        room.lock("sdk", archives=(wrong,), mirrors=mirrors)
    other = DebianArchive(name="vendor", suites=("sgx",), keyring="vendor.asc", origin="Other")
    with pytest.raises(WrongRelease, match="Other"):
        room.lock("sdk", archives=(other,), mirrors=mirrors)
