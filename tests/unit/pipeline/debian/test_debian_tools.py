from __future__ import annotations

from pathlib import Path

from archive import make_deb

from pipeline.debian.locked import LockedPackage
from pipeline.debian.tools import read_tools
from pipeline.store import FolderStore


def test_a_locale_is_whole_although_the_package_links_its_files_to_other_locales(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    deb = make_deb(
        "Package: locales-all\n",
        {
            "usr/lib/locale/aa_DJ.utf8/LC_COLLATE": b"collate",
            "usr/lib/locale/fr_CH.utf8/LC_TIME": b"time",
            "usr/lib/locale/fr_CH.utf8/LC_COLLATE": "-> ../aa_DJ.utf8/LC_COLLATE",
            "usr/lib/locale/xx_XX.utf8/LC_TIME": b"other",
            "usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1": b"\x7fELF",
        },
    )
    digest, size = store.put([deb])
    package = LockedPackage(
        name="locales-all", version="1", architecture="amd64", suite="s", size=size, sha256=digest.hex()
    )
    tree = read_tools([package], store)
    assert [entry.path for entry in tree.entries] == [
        "libfaketime.so.1",
        "locale/fr_CH.utf8/LC_COLLATE",
        "locale/fr_CH.utf8/LC_TIME",
    ]
    collate = tree.find("locale/fr_CH.utf8/LC_COLLATE")
    assert collate is not None
    with store.get(bytes.fromhex(collate.sha256)) as stream:
        assert stream.read() == b"collate"
