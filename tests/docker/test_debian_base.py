"""A base of Debian packages is a working system although no maintainer script ever ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.base import build_rootfs, lock_base
from pipeline.sandbox import Rootfs, load_rootfs
from pipeline.spec import Base, DebianBase
from pipeline.store import FolderStore
from provenance.events import ignore

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.xdist_group("debian-base")]
PACKAGES = (
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "perl",
    "python3",
    "git",
    "ca-certificates",
    "fakeroot",
    "zlib1g-dev",
)


@pytest.fixture(scope="module")
def rootfs(shared_store: FolderStore) -> Rootfs:
    base = Base(debian=DebianBase(suites=("bookworm",), packages=PACKAGES))
    locked = lock_base("b", base, folder=Path(), store=shared_store, observer=ignore)
    return build_rootfs(locked, folder=Path(), store=shared_store, observer=ignore)


@pytest.fixture(scope="module")
def run(docker_engine: Any, rootfs: Rootfs, shared_store: FolderStore) -> Any:
    image = load_rootfs(docker_engine, rootfs, shared_store)

    def inside(script: str, *, user: str = "root") -> str:
        out = docker_engine.client.containers.run(
            image, ["/bin/sh", "-euc", script], network_mode="none", remove=True, user=user, stderr=True
        )
        return str(out.decode())

    return inside


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("echo 'int main(void){return 0;}' > /tmp/a.c; cc /tmp/a.c -o /tmp/a; /tmp/a; echo ok", "ok\n"),
        ("printf 'all:\\n\\t@echo made\\n' | make -f -", "made\n"),
        ("perl -MFile::Temp -MPOSIX -e 'print 6*7, qq(\\n)'", "42\n"),
        (
            "python3 -c 'import ssl, json, sqlite3; print(len(ssl.create_default_context().get_ca_certs()) > 50)'",
            "True\n",
        ),
        (
            "cd /tmp; git init -q x; cd x; git -c user.name=a -c user.email=b commit -qm m --allow-empty; git log --format=%s",
            "m\n",
        ),
        ("echo a b | awk '{print $2}'; readlink -f /usr/bin/awk", "b\n/usr/bin/mawk\n"),
        ("fakeroot sh -c 'chown 0:0 /tmp; id -u'", "0\n"),
        ("id -un; cd; pwd; touch here; echo ok", "builder\n/home/builder\nok\n"),
        (
            "dpkg --audit; dpkg -S /usr/bin/make; getent passwd root | cut -d: -f1",
            "make: /usr/bin/make\nroot\n",
        ),
        ("find / -xdev -xtype l ! -path '/proc/*' ! -path '/dev/*'", ""),
    ],
)
def test_what_scripts_would_have_made_is_there(run: Any, script: str, printed: str) -> None:
    assert run(script, user="builder" if "builder" in printed else "root") == printed


def test_a_program_finds_a_shared_library_of_the_multiarch_folder(run: Any) -> None:
    source = "#include <stdio.h>\n#include <zlib.h>\nint main(void){puts(zlibVersion());return 0;}"
    printed = run(
        f"cat > /tmp/z.c <<'E'\n{source}\nE\ncc /tmp/z.c -lz -o /tmp/z; rm /etc/ld.so.cache; /tmp/z"
    )
    assert printed.startswith("1.2.13")


def test_the_cache_of_the_loader_has_what_ldconfig_would_write(run: Any) -> None:
    ours, theirs = run(
        "ldconfig -p | sort; ldconfig; echo ====; ldconfig -p | grep -v '^Cache generated' | sort"
    ).split("====\n")
    assert ours == theirs
    assert "libz.so.1" in ours


def test_setuid_bits_and_owners_are_kept(run: Any) -> None:
    assert run("stat -c '%a %u:%g' /usr/bin/su /tmp /home/builder /var/mail") == (
        "4755 0:0\n1777 0:0\n755 1000:1000\n2775 0:8\n"
    )
