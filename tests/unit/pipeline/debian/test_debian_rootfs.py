from __future__ import annotations

import hashlib
import io
import random
import tarfile
from typing import Any

import pytest
from archive import make_deb

from pipeline.debian.deb import NotADeb
from pipeline.debian.rootfs import FilesOverlap, NotUnpackable, assemble
from pipeline.debian.table import finish


def tar_of(*packages: bytes) -> bytes:
    out: list[bytes] = []
    named = [(f"p{n}", lambda data=data: io.BytesIO(data)) for n, data in enumerate(packages)]
    assemble(named, finish, lambda chunks: out.append(b"".join(chunks)))
    return out[0]


def members(*packages: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar_of(*packages))) as tar:
        return {member.name: member for member in tar}


def content(name: str, *packages: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar_of(*packages))) as tar:
        return (tar.extractfile(name) or io.BytesIO()).read()


def deb(name: str, files: dict[str, bytes | str], control: str = "", **more: Any) -> bytes:
    return make_deb(f"Package: {name}\nVersion: 1\nArchitecture: amd64\n{control}", files, **more)


def test_files_of_the_old_folders_lie_below_usr_and_links_lead_there() -> None:
    found = members(deb("a", {"bin": "dir", "bin/sh": b"#!", "lib64/ld.so": b"", "usr/bin/env": b""}))
    assert {"usr/bin/sh", "usr/bin/env", "usr/lib64/ld.so"} <= set(found)
    assert [found[name].linkname for name in ("bin", "sbin", "lib", "lib64")] == [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ]
    assert "libx32" not in found


def test_entries_are_sorted_and_the_order_of_packages_changes_nothing() -> None:
    packages = [deb(f"p{n}", {f"opt/{n}": b"x", f"bin/{n}": b"y"}) for n in range(6)]
    named = {hashlib.sha256(one).hexdigest(): one for one in packages}
    digests = set()
    for seed in range(3):
        order = sorted(named)
        random.Random(seed).shuffle(order)
        out: list[bytes] = []
        assemble(
            [(name, lambda name=name: io.BytesIO(named[name])) for name in order],
            finish,
            lambda chunks, out=out: out.append(b"".join(chunks)),
        )
        digests.add(hashlib.sha256(out[0]).digest())
    assert len(digests) == 1
    names = list(members(*packages))
    assert names == sorted(names)


def test_modes_with_setuid_and_times_are_kept() -> None:
    found = members(deb("a", {"usr/bin/su": b"x"}, modes={"usr/bin/su": 0o4755}))
    assert found["usr/bin/su"].mode == 0o4755
    assert found["usr/bin/su"].mtime == 1_700_000_000
    assert found["etc/passwd"].mtime == 1_700_000_000


def test_of_hard_links_the_first_path_is_the_file() -> None:
    package = deb("a", {"usr/bin/perl": b"perl", "usr/bin/a-perl": "= usr/bin/perl"})
    found = members(package)
    assert found["usr/bin/a-perl"].isreg()
    assert found["usr/bin/perl"].linkname == "usr/bin/a-perl"
    assert content("usr/bin/perl", package) == b"perl"


def test_two_packages_with_different_files_of_one_path_are_refused() -> None:
    with pytest.raises(FilesOverlap, match="/etc/x"):
        tar_of(deb("a", {"etc/x": b"1"}), deb("b", {"etc/x": b"2"}))


def test_equal_files_of_two_packages_are_one() -> None:
    assert content("etc/x", deb("a", {"etc/x": b"1"}), deb("b", {"etc/x": b"1"})) == b"1"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_package_that_replaces_another_wins_in_any_order(*, swapped: bool) -> None:
    packages = [deb("a", {"etc/x": b"1"}, "Replaces: b (<< 2), c\n"), deb("b", {"etc/x": b"2"})]
    assert content("etc/x", *(reversed(packages) if swapped else packages)) == b"1"


def test_a_device_node_is_refused() -> None:
    with pytest.raises(NotUnpackable, match="/dev/mem"):
        tar_of(deb("a", {"dev/mem": "device"}))


def test_a_file_below_a_link_to_a_folder_goes_where_the_link_leads() -> None:
    found = members(deb("a", {"usr/doc": "-> share/doc"}), deb("b", {"usr/doc/b": b"b"}))
    assert "usr/share/doc/b" in found
    assert "usr/doc/b" not in found


def test_a_path_that_climbs_out_is_refused() -> None:
    with pytest.raises(NotUnpackable, match="climbs"):
        tar_of(deb("a", {"../evil": b"x"}))


@pytest.mark.parametrize("damage", [b"no deb at all", b"!<arch>\n" + b"x" * 60])
def test_what_is_no_package_is_refused(damage: bytes) -> None:
    with pytest.raises(NotADeb):
        tar_of(damage)


def test_a_package_cut_short_is_refused() -> None:
    with pytest.raises(NotADeb):
        tar_of(deb("a", {"etc/x": bytes(range(256)) * 50})[:-60])


def test_no_script_is_run_or_kept_and_dpkg_knows_the_package() -> None:
    package = deb("a", {"etc/x": b"1"}, scripts={"postinst": b"#!/bin/sh\n", "md5sums": b"0  etc/x\n"})
    found = members(package)
    assert "var/lib/dpkg/info/a.md5sums" in found
    assert "var/lib/dpkg/info/a.postinst" not in found
    assert b"Package: a\nStatus: install ok installed\n" in content("var/lib/dpkg/status", package)
    assert content("var/lib/dpkg/info/a.list", package) == b"/etc/x\n"


def test_the_alternative_of_the_highest_priority_wins() -> None:
    found = members(deb("a", {"usr/bin/mawk": b"", "usr/bin/gawk": b"", "usr/bin/gcc": b""}))
    assert found["etc/alternatives/awk"].linkname == "/usr/bin/gawk"
    assert found["usr/bin/cc"].linkname == "/etc/alternatives/cc"
    assert "usr/bin/c++" not in found


def test_accounts_have_the_builder_and_no_passwords() -> None:
    master = b"root:*:0:0:root:/root:/bin/bash\n"
    found = content("etc/passwd", deb("base-passwd", {"usr/share/base-passwd/passwd.master": master}))
    assert found == master + b"builder:*:1000:1000:builder:/home/builder:/bin/sh\n"
    assert members(deb("a", {"x": b""}))["home/builder"].uid == 1000
