"""Enclaves inside container images: found, measured, tied to the image, and what is not bound is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.measure import MeasureOptions, measure_file, require_passed
from pipeline.measure.image_files import NotInImage
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.in_image.enclave import NoEnclaveInImage
from provenance.claims import Check, Measurement
from provenance.errors import RvpError
from tests.fakes.build_folder import sgxs_enclave
from tests.fakes.images import file, folder, layer, oci_files, symlink, write_folder, write_image


def check(measurement: Measurement, name: str) -> Check:
    (found,) = [one for one in measurement.checks if one.id == name]
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    below = layer(
        folder("opt"), file("opt/b.sgxs", sgxs_enclave(b"old")), file("opt/a.sgxs", sgxs_enclave(b"a"))
    )
    above = layer(
        file("opt/b.sgxs", sgxs_enclave(b"new")), symlink("opt/link", "b.sgxs"), file("app", b"#!/bin/sh")
    )
    return write_image(tmp_path / "image.tar", below, above)


def test_the_enclave_at_a_path_has_the_values_of_the_file(image: Path, tmp_path: Path) -> None:
    (tmp_path / "b.sgxs").write_bytes(sgxs_enclave(b"new"))
    (alone,) = measure_file(tmp_path / "b.sgxs").measurements
    for path in (Path(f"{image}!/opt/b.sgxs"), Path(f"{image}!/opt/link")):
        enclave, oci = measure_file(path).measurements
        assert enclave.claims == alone.claims
        assert enclave.subject.digest == alone.subject.digest
        assert enclave.subject.name == path.name.join(("image.tar!/opt/", ""))
        assert oci.tee == "oci"
        assert oci.subject.name == "image.tar"


def test_the_image_and_the_enclave_are_tied_together(image: Path) -> None:
    (oci_alone,) = measure_file(image, tee="oci").measurements
    enclave, oci = measure_file(image, tee="sgx", options=MeasureOptions(inside="/opt/a.sgxs")).measurements
    assert (oci.subject, oci.claims) == (oci_alone.subject, oci_alone.claims)
    assert enclave.inside
    assert enclave.inside.image == oci.subject
    assert enclave.inside.manifest == oci.claims["manifest"]
    assert enclave.inside.path == "/opt/a.sgxs"


def test_every_enclave_is_measured_in_the_order_of_paths(image: Path) -> None:
    measured = measure_file(image, tee="sgx")
    names = [one.subject.name for one in measured.measurements]
    assert names == ["image.tar!/opt/a.sgxs", "image.tar!/opt/b.sgxs", "image.tar"]
    assert [log.value for log in measured.logs] == [
        one.claims["mrenclave"] for one in measured.measurements[:2]
    ]


def test_a_folder_is_an_image_too(tmp_path: Path) -> None:
    files = oci_files([layer(file("e.sgxs", sgxs_enclave()))])
    path = write_folder(tmp_path / "layout", files)
    enclave, oci = measure_file(Path(f"{path}!/e.sgxs")).measurements
    assert enclave.subject.name == "layout!/e.sgxs"
    assert enclave.inside
    assert f"sha256:{oci.subject.digest['sha256']}" == enclave.inside.manifest


def test_what_is_measured_does_not_depend_on_where_the_copy_lies(image: Path) -> None:
    assert measure_file(image, tee="sgx") == measure_file(image, tee="sgx")


def test_what_mrenclave_does_not_bind_is_said(image: Path) -> None:
    enclave = measure_file(Path(f"{image}!/opt/a.sgxs")).measurements[0]
    told = check(enclave, "binds-application")
    rest = len(sgxs_enclave()) + len(b"#!/bin/sh")
    assert told.status == "warning"
    assert "covers only these 4096 bytes of /opt/a.sgxs" in told.got
    assert f"(2 files, {rest} bytes) is bound by the image digest, not by MRENCLAVE" in told.got
    require_passed((enclave,))


def test_an_image_of_an_enclave_alone_is_bound(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.tar", layer(file("e.sgxs", sgxs_enclave())))
    assert check(measure_file(path, tee="sgx").measurements[0], "binds-application").status == "passed"


def test_a_runtime_that_is_shared_is_named(tmp_path: Path) -> None:
    shared = sgxs_enclave(b"wasm_runtime_load")
    path = write_image(tmp_path / "i.tar", layer(file("e.sgxs", shared), file("app.wasm", b"\0asm")))
    told = check(measure_file(path, tee="sgx").measurements[0], "binds-application")
    assert told.status == "warning"
    assert "WebAssembly Micro Runtime" in told.got


def test_an_image_without_an_enclave_is_told_what_was_looked_for(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.tar", layer(file("bin/sh", b"\x7fELF" + bytes(100)), file("x", b"x")))
    with pytest.raises(
        NoEnclaveInImage, match=r"among 2 files of 105 bytes; looked for: ELF .*\.oeinfo"
    ) as error:
        measure_file(path, tee="sgx")
    assert error.value.exit_code == 2


def test_an_image_of_scone_is_told_why_it_cannot_be_measured(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.tar", layer(file("opt/scone/lib/libscone.so", b"x")))
    with pytest.raises(NoEnclaveInImage) as error:
        measure_file(path, tee="sgx")
    assert "SCONE" in error.value.hint


def test_a_file_that_is_no_enclave_is_named_as_the_user_wrote_it(image: Path) -> None:
    with pytest.raises(RvpError) as error:
        measure_file(Path(f"{image}!/app"))
    assert error.value.place == f"{image}!/app"
    with pytest.raises(NotInImage):
        measure_file(Path(f"{image}!/opt/c.sgxs"))


def test_an_enclave_that_cannot_be_measured_does_not_hide_the_others(tmp_path: Path) -> None:
    damaged = sgxs_enclave()[:-100]
    path = write_image(tmp_path / "i.tar", layer(file("a", damaged), file("b", sgxs_enclave())))
    enclave, oci = measure_file(path, tee="sgx").measurements
    assert enclave.subject.name == "i.tar!/b"
    assert check(oci, "enclaves").status == "warning"
    assert "1 measured, 1 not: /a:" in check(oci, "enclaves").got
    assert str(tmp_path) not in check(oci, "enclaves").got
    assert measure_file(path, tee="sgx").measurements[1] == oci
    with pytest.raises(NoEnclaveInImage, match="none of 1"):
        measure_file(write_image(tmp_path / "j.tar", layer(file("a", damaged))), tee="sgx")


def test_an_enclave_in_an_image_can_be_laid_out_after_its_copy_is_gone(image: Path) -> None:
    (enclave,) = lay_out(Path(f"{image}!/opt/a.sgxs"))
    value = measure_file(Path(f"{image}!/opt/a.sgxs")).measurements[0].claims["mrenclave"]
    assert mrenclave(enclave.image).hex() == value
    with pytest.raises(NoEnclaveInImage, match="2 enclaves"):
        lay_out(image)


def test_a_path_with_an_exclamation_mark_is_a_file_when_it_is_there(tmp_path: Path) -> None:
    place = tmp_path / "a!" / "e.sgxs"
    place.parent.mkdir()
    place.write_bytes(sgxs_enclave())
    assert measure_file(place).measurements[0].subject.name == "e.sgxs"


def test_an_image_inside_an_image_is_refused(image: Path, tmp_path: Path) -> None:
    outer = write_image(tmp_path / "outer.tar", layer(file("inner.tar", image.read_bytes())))
    with pytest.raises(NoEnclaveInImage, match="image inside an image"):
        measure_file(Path(f"{outer}!/inner.tar"))


def test_names_that_could_steer_a_terminal_are_refused(tmp_path: Path) -> None:
    for name in ("\x1b[2J.sgxs", "\udcff.sgxs"):
        path = write_image(tmp_path / "i.tar", layer(file(name, sgxs_enclave())))
        with pytest.raises(NoEnclaveInImage, match="no statement can hold"):
            measure_file(path, tee="sgx")


def test_real_enclaves_in_an_image(vectors: Path, tmp_path: Path) -> None:
    mini = vectors / "sgx" / "mini"
    signed = (mini / "keysvc.signed.so").read_bytes()
    members = [
        file("opt/keysvc.signed.so", signed),
        file("opt/keysvc.so", (mini / "keysvc.so").read_bytes()),
        file("opt/keysvc.sgxs", (mini / "keysvc.sgxs").read_bytes()),
        file("opt/keysvc.sig", (mini / "keysvc.sig").read_bytes()),
    ]
    path = write_image(tmp_path / "i.tar", layer(*members), packing="tar+gzip")
    (alone,) = measure_file(mini / "keysvc.signed.so").measurements
    found = {one.subject.name: one for one in measure_file(path, tee="sgx").measurements}
    for name in ("i.tar!/opt/keysvc.signed.so", "i.tar!/opt/keysvc.sgxs"):
        assert found[name].claims == alone.claims
        require_passed((found[name],))
