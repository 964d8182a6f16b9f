"""Gramine shielded containers: the manifest and libpal are found, trusted files are compared with the image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.measure import CheckFailed, measure_file, require_passed
from provenance.claims import Check
from tests.fakes.images import Member, file, layer, symlink, write_image
from tests.fakes.libpal import libpal, manifest

MANIFEST = "gramine/app_files/entrypoint.manifest.sgx"
DEBIAN = "gramine/meson_build_output/lib/x86_64-linux-gnu/gramine/sgx/libpal.so"
CENTOS = "gramine/meson_build_output/lib64/gramine/sgx/libpal.so"
FILES = {f"/usr/lib/lib{number}.so": f"library {number}".encode() for number in range(20)} | {
    "/app": b"application"
}


def shielded(trusted: dict[str, bytes]) -> bytes:
    """Write a manifest as GSC does: absolute paths, each with its SHA-256."""
    text = manifest().decode().partition("[[sgx.trusted_files]]")[0]
    for name, data in trusted.items():
        digest = hashlib.sha256(data).hexdigest()
        text += f'[[sgx.trusted_files]]\nuri = "file:{name}"\nsha256 = "{digest}"\n'
    return text.encode()


def image(
    folder: Path,
    files: dict[str, bytes],
    *more: Member,
    trusted: dict[str, bytes] | None = None,
    pal: str = DEBIAN,
) -> Path:
    members = [file(name[1:], data) for name, data in files.items()]
    text = shielded(FILES if trusted is None else trusted)
    return write_image(
        folder / "i.tar",
        layer(*members, *more),
        layer(file(MANIFEST, text), file(pal, libpal())),
        packing="tar+gzip",
    )


def trusted_files(path: Path) -> Check:
    enclave, _ = measure_file(path, tee="sgx").measurements
    assert enclave.subject.name == f"i.tar!/{MANIFEST}"
    (found,) = [one for one in enclave.checks if one.id == "trusted-files"]
    return found


def test_the_value_is_that_of_the_manifest_and_libpal_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "e.manifest.sgx").write_bytes(shielded(FILES))
    (tmp_path / "libpal.so").write_bytes(libpal())
    (alone,) = measure_file(tmp_path / "e.manifest.sgx").measurements
    for pal in (DEBIAN, CENTOS, "opt/other/gramine/sgx/libpal.so"):
        assert measure_file(image(tmp_path, FILES, pal=pal), tee="sgx").measurements[0].claims == alone.claims


def test_trusted_files_that_are_those_of_the_manifest_pass(tmp_path: Path) -> None:
    found = trusted_files(image(tmp_path, FILES))
    assert (found.status, found.got) == ("passed", "21 equal")


def test_trusted_files_are_found_through_links_and_hard_links(tmp_path: Path) -> None:
    trusted = {**FILES, "/lib/lib1.so": FILES["/usr/lib/lib1.so"], "/empty": b""}
    path = image(tmp_path, FILES, symlink("lib", "usr/lib"), file("empty"), trusted=trusted)
    assert trusted_files(path).status == "passed"


def test_a_trusted_file_that_differs_fails_and_is_named(tmp_path: Path) -> None:
    path = image(tmp_path, {**FILES, "/app": b"another application"})
    found = trusted_files(path)
    assert found.status == "failed"
    assert "1 differ: /app" in found.got
    with pytest.raises(CheckFailed, match="trusted-files") as error:
        require_passed(measure_file(path, tee="sgx").measurements)
    assert error.value.exit_code == 12


def test_many_that_differ_are_counted(tmp_path: Path) -> None:
    found = trusted_files(image(tmp_path, dict.fromkeys(FILES, b"other")))
    assert "21 differ" in found.got
    assert "and 13 more" in found.got


def test_what_could_not_be_compared_is_counted_and_never_passes(tmp_path: Path) -> None:
    trusted = {**FILES, "/gone": b"x", "relative": b"x"}
    found = trusted_files(image(tmp_path, FILES, trusted=trusted))
    assert found.status == "warning"
    assert "1 not in the image (/gone); 1 with relative paths, not looked up" in found.got


def test_a_manifest_without_libpal_is_told(tmp_path: Path) -> None:
    from pipeline.measure.sgx.in_image.enclave import NoEnclaveInImage

    path = write_image(tmp_path / "i.tar", layer(file(MANIFEST, shielded({}))))
    with pytest.raises(NoEnclaveInImage, match=r"libpal\.so"):
        measure_file(path, tee="sgx")
