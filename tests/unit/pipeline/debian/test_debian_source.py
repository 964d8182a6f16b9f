from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from archive import make_tar

from pipeline.debian.patch import PatchFails
from pipeline.debian.source import SourceFile, SourceFormatUnknown, SourcePackage, unpack_source
from pipeline.store import FolderStore

DIFF = b"""Description: text before the diff is no part of it
--- a/main.c
+++ b/main.c
@@ -2,3 +2,3 @@
 two
-three
+THREE
 four
--- /dev/null
+++ b/new.txt
@@ -0,0 +1 @@
+new
\\ No newline at end of file
--- a/old.txt
+++ /dev/null
@@ -1 +0,0 @@
-old
"""


def package(store: FolderStore, kind: str, files: dict[str, bytes]) -> SourcePackage:
    named = files | {"p_1.dsc": f"-----BEGIN PGP SIGNED MESSAGE-----\n\nFormat: {kind}\nSource: p\n".encode()}
    listed = []
    for name, data in sorted(named.items()):
        store.put([data])
        listed.append(SourceFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    return SourcePackage(name="p", version="1", suite="s", folder="pool", files=tuple(listed))


def content(store: FolderStore, found: SourcePackage) -> dict[str, bytes]:
    tree = unpack_source(found, store)
    result = {}
    for entry in tree.entries:
        with store.get(bytes.fromhex(entry.sha256)) as stream:
            result[entry.path] = stream.read()
    return result


def quilt(diff: bytes, *, main: bytes = b"zero\none\ntwo\nthree\nfour\n") -> dict[str, bytes]:
    return {
        "p_1.orig.tar.gz": gzip.compress(
            make_tar({"p-1/main.c": main, "p-1/old.txt": b"old\n", "p-1/debian/upstream": b"gone"})
        ),
        "p_1.orig-part.tar.gz": gzip.compress(make_tar({"part-3/x": b"x"})),
        "p_1-1.debian.tar.gz": gzip.compress(
            make_tar({"debian/patches/series": b"# none\nfix.patch -p1\n", "debian/patches/fix.patch": diff})
        ),
    }


def test_upstream_debian_and_patches_are_laid_over_each_other(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert content(store, package(store, "3.0 (quilt)", quilt(DIFF))) == {
        "debian/patches/fix.patch": DIFF,
        "debian/patches/series": b"# none\nfix.patch -p1\n",
        "main.c": b"zero\none\ntwo\nTHREE\nfour\n",
        "new.txt": b"new",
        "part/x": b"x",
    }


def test_a_patch_whose_context_differs_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    found = package(store, "3.0 (quilt)", quilt(DIFF, main=b"two\nthree\nfive\n"))
    with pytest.raises(PatchFails, match=r"main\.c"):
        unpack_source(found, store)


def test_a_patch_of_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    found = package(store, "3.0 (quilt)", quilt(DIFF.replace(b"main.c", b"none.c")))
    with pytest.raises(PatchFails, match=r"none\.c"):
        unpack_source(found, store)


def test_an_old_package_has_one_diff_and_its_rules_are_executable(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    diff = b"--- p-1.orig/debian/rules\n+++ p-1/debian/rules\n@@ -0,0 +1,2 @@\n+#!/usr/bin/make -f\n+all:\n"
    orig = gzip.compress(make_tar({"p-1/a": b"a"}))
    found = package(store, "1.0", {"p_1.orig.tar.gz": orig, "p_1-1.diff.gz": gzip.compress(diff)})
    rules = unpack_source(found, store).find("debian/rules")
    assert rules is not None
    assert rules.executable
    assert content(store, found)["debian/rules"] == b"#!/usr/bin/make -f\nall:\n"


def test_another_format_is_told(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(SourceFormatUnknown, match="git"):
        unpack_source(package(store, "3.0 (git)", {}), store)


def test_a_link_in_a_source_that_leads_out_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("p-1/evil")
        info.type, info.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("p-1/a"))
    store = FolderStore(tmp_path)
    found = package(store, "3.0 (native)", {"p_1.tar.gz": gzip.compress(buffer.getvalue())})
    with pytest.raises(Exception, match="evil"):
        unpack_source(found, store)
