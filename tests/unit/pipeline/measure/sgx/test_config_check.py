"""A configuration given with a file that is laid out already is compared with it, never passed over."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.measured import OptionNotTaken
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.claims import Check
from provenance.errors import RvpError
from tests.fakes.build_folder import sgxs_enclave
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.images import file, layer, write_image
from tests.fakes.libpal import libpal, manifest
from tests.fakes.open_enclave_elf import ego_program, open_enclave_elf, properties
from tests.fakes.sdk_elf import sdk_elf

XML = (
    b"<EnclaveConfiguration><ProdID>4</ProdID><TCSNum>3</TCSNum>"
    b"<HeapMaxSize>0x40000</HeapMaxSize></EnclaveConfiguration>"
)
CONF = b"Debug=0\nNumHeapPages=9\nNumStackPages=2\nNumTCS=2\nProductID=4\nSecurityVersion=1\n"
TOML = b'schema = "rvp/enclave/v1"\nisvprodid = 4\nheap = "64KiB"\nthreads = 2\n'
EGO = b'{"exe":"hello","heapSize":2,"productID":3,"securityVersion":4}'


@functools.cache
def owner() -> RSAPrivateKey:
    """Make the owner's key once: that takes a second."""
    return read_private_key(new_key())


def signed(folder: Path, elf: bytes, config: bytes, *, generation: str = "") -> Path:
    path = folder / "enclave"
    path.write_bytes(elf)
    unsigned = lay_out_unsigned(path, MeasureOptions(config=config, generation=generation))
    path.write_bytes(unsigned.write(sign(to_be_signed(unsigned.fields), owner())))
    return path


def checked(path: Path, config: bytes, **options: str) -> Check:
    given = MeasureOptions(config=config, config_name="config", **options)  # type: ignore[arg-type]
    (measurement,) = measure_file(path, options=given).measurements
    own = measure_file(path).measurements[0]
    assert measurement.claims == own.claims  # the file is measured, not the configuration
    (found,) = [one for one in measurement.checks if one.id == "config-gives-this-enclave"]
    return found


def ego_room(folder: Path) -> bytes:
    runtime = open_enclave_elf(properties(), module_info=144, defined={"ert_reserved_tls": 0}, tbss=0x1100)
    (folder / "ego-enclave").write_bytes(runtime)
    return ego_program(EGO)


KINDS = {
    "SDK": (lambda _: sdk_elf(), XML),
    "Open Enclave": (lambda _: open_enclave_elf(properties()), CONF),
    "freestanding": (lambda _: enclave_elf(), TOML),
    "EGo": (ego_room, EGO),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_that_an_enclave_was_signed_with_passes(tmp_path: Path, kind: str) -> None:
    make, config = KINDS[kind]
    assert checked(signed(tmp_path, make(tmp_path), config), config).status == "passed"


@pytest.mark.parametrize(
    ("kind", "old", "new", "wanted", "got"),
    [
        ("SDK", b"0x40000", b"0x80000", "heap", "heap"),
        ("SDK", b"<TCSNum>3", b"<TCSNum>5", "threads 0x5", "threads 0x3"),
        ("SDK", b"<ProdID>4", b"<ProdID>5", "isvprodid 5", "isvprodid 4"),
        ("Open Enclave", b"NumHeapPages=9", b"NumHeapPages=11", "heap 0xb000 bytes", "heap 0x9000 bytes"),
        ("Open Enclave", b"NumTCS=2", b"NumTCS=3", "threads 0x3", "threads 0x2"),
        ("Open Enclave", b"SecurityVersion=1", b"SecurityVersion=2", "isvsvn 2", "isvsvn 1"),
        ("freestanding", b"64KiB", b"128KiB", "heap 0x20000 bytes", "heap 0x10000 bytes"),
        ("freestanding", b"threads = 2", b"threads = 4", "threads 0x4", "threads 0x2"),
        ("freestanding", b"isvprodid = 4", b"isvprodid = 5", "isvprodid 5", "isvprodid 4"),
        ("EGo", b'"heapSize":2', b'"heapSize":3', "heap 0x300000 bytes", "heap 0x200000 bytes"),
        ("EGo", b'"securityVersion":4', b'"securityVersion":5', "isvsvn 5", "isvsvn 4"),
    ],
)
def test_another_configuration_fails_and_what_differs_is_named(
    tmp_path: Path, kind: str, old: bytes, new: bytes, wanted: str, got: str
) -> None:
    make, config = KINDS[kind]
    found = checked(signed(tmp_path, make(tmp_path), config), config.replace(old, new))
    assert found.status == "failed"
    assert wanted in found.expected
    assert got in found.got
    assert found.code == "RVP-5005"


def test_a_release_that_the_file_does_not_tell_is_found_by_trying(tmp_path: Path) -> None:
    """Releases before 2.9.1 are told by the size of g_global_data alone, and several have the same."""
    for generation, size in (("2.0", 1488), ("2.4", 1488), ("2.6", 1632)):
        elf = sdk_elf(None, global_data_bytes=size)
        try:
            path = signed(tmp_path, elf, XML, generation=generation)
        except RvpError as error:
            pytest.fail(f"{generation}: {error}")
        found = checked(path, XML)
        assert found.status == "passed", (generation, found)


def test_a_release_that_is_named_is_the_only_one_tried(tmp_path: Path) -> None:
    path = signed(tmp_path, sdk_elf(), XML)
    assert checked(path, XML, generation="2.26").status == "passed"
    found = checked(path, XML, generation="2.19")
    assert found.status == "failed"
    assert "SDK 2.19" in found.source


@pytest.mark.parametrize("generation", ["0.16", "0.13"])
def test_releases_of_open_enclave_are_tried(tmp_path: Path, generation: str) -> None:
    elf = open_enclave_elf(properties(1952))
    path = signed(tmp_path, elf, CONF, generation=generation)
    assert checked(path, CONF).status == "passed"


@pytest.mark.vectors
def test_the_files_of_intels_signer_are_what_their_configurations_give(vectors: Path) -> None:
    oracle = vectors / "sgx" / "oracle"
    names = sorted(path.stem for path in oracle.glob("c*.xml"))
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        path = oracle / f"{name}.signed.so"
        assert checked(path, (oracle / f"{name}.xml").read_bytes()).status == "passed", name
        assert checked(path, (oracle / f"{other}.xml").read_bytes()).status == "failed", (name, other)


def test_a_sigstruct_beside_an_unsigned_file_is_compared_too(tmp_path: Path) -> None:
    raw = lay_out(signed(tmp_path, sdk_elf(), XML))[0].sigstruct
    assert raw is not None
    path = tmp_path / "linked.so"
    path.write_bytes(sdk_elf())
    options = MeasureOptions(config=XML.replace(b"<ProdID>4", b"<ProdID>5"), sigstruct=raw.raw)
    checks = {one.id: one for one in measure_file(path, options=options).measurements[0].checks}
    assert checks["mrenclave-equals-sigstruct"].status == "passed"
    assert checks["config-gives-this-enclave"].expected == "isvprodid 5"
    alone = measure_file(path, options=MeasureOptions(config=XML)).measurements[0]
    assert "config-gives-this-enclave" not in {one.id for one in alone.checks}


def test_a_configuration_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    path = signed(tmp_path, sdk_elf(), XML)
    with pytest.raises(RvpError, match="HeapMaxSiz"):
        checked(path, XML.replace(b"HeapMaxSize", b"HeapMaxSiz"))


# ---- options that a format has no use for ----------------------------------------------------------------------


def _room(folder: Path) -> dict[str, Path]:
    (folder / "e.sgxs").write_bytes(sgxs_enclave())
    (folder / "app.manifest.sgx").write_bytes(manifest())
    (folder / "libpal.so").write_bytes(libpal())
    write_image(folder / "image.tar", layer(file("e.sgxs", sgxs_enclave())))
    (folder / "oe").write_bytes(open_enclave_elf(properties()))
    sdk = signed(folder, sdk_elf(), XML)
    (folder / "free").write_bytes(enclave_elf())
    unsigned = lay_out_unsigned(folder / "free", MeasureOptions(config=TOML))
    (folder / "free").write_bytes(unsigned.write(None))
    raw = sign(to_be_signed(unsigned.fields), owner()).raw
    (folder / "s.sig").write_bytes(raw)
    return {
        "SGXS": folder / "e.sgxs",
        "Gramine": folder / "app.manifest.sgx",
        "image": folder / "image.tar",
        "file in an image": Path(f"{folder / 'image.tar'}!/e.sgxs"),
        "SDK": sdk,
        "Open Enclave": folder / "oe",
        "freestanding": folder / "free",
        "SIGSTRUCT": folder / "s.sig",
    }


TAKES = {
    "SGXS": {"sigstruct"},
    "Gramine": {"sigstruct", "libpal", "generation", "manifest"},
    "image": {"sigstruct", "image"},
    "file in an image": {"sigstruct", "image"},
    "SDK": {"sigstruct", "config"},
    "Open Enclave": {"sigstruct", "config", "generation"},
    "freestanding": {"sigstruct", "config"},
    "SIGSTRUCT": {"sigstruct"},
}


def test_an_option_without_a_use_is_refused_by_every_format(tmp_path: Path) -> None:
    room = _room(tmp_path)
    values = {
        "config": TOML,
        "libpal": tmp_path / "libpal.so",
        "generation": "2.26",
        "image": "test:1",
        "sigstruct": (tmp_path / "s.sig").read_bytes(),
    }
    for (kind, path), name in itertools.product(room.items(), values):
        options = MeasureOptions(**{name: values[name]})  # type: ignore[arg-type]
        if name in TAKES[kind]:
            continue
        with pytest.raises(OptionNotTaken, match=f"--{name}") as refused:
            measure_file(path, tee="sgx", options=options)
        assert refused.value.exit_code == 2
        assert refused.value.place, (kind, name)


def test_an_option_without_a_use_is_refused_when_signing(tmp_path: Path) -> None:
    room = _room(tmp_path)
    pal = tmp_path / "libpal.so"
    for kind, options in (
        ("Gramine", MeasureOptions(config=TOML)),
        ("SDK", MeasureOptions(config=XML, libpal=pal)),
        ("Open Enclave", MeasureOptions(config=CONF, libpal=pal)),
        ("freestanding", MeasureOptions(config=TOML, generation="2.26")),
    ):
        with pytest.raises(OptionNotTaken):
            lay_out_unsigned(room[kind], options)


def test_a_generation_alone_has_no_use_for_what_is_laid_out(tmp_path: Path) -> None:
    path = _room(tmp_path)["SDK"]
    with pytest.raises(OptionNotTaken, match="belongs to --config"):
        lay_out(path, MeasureOptions(generation="2.26"))
    assert mrenclave(lay_out(path)[0].image)


def test_a_configuration_is_for_one_enclave_of_an_image(tmp_path: Path) -> None:
    path = signed(tmp_path, sdk_elf(), XML)
    members = [file(name, path.read_bytes()) for name in ("a.so", "b.so")]
    image = write_image(tmp_path / "two.tar", layer(*members))
    with pytest.raises(OptionNotTaken, match="the image has 2"):
        measure_file(image, tee="sgx", options=MeasureOptions(config=XML))
    enclave = measure_file(Path(f"{image}!/a.so"), options=MeasureOptions(config=XML)).measurements[0]
    assert {one.id: one.status for one in enclave.checks}["config-gives-this-enclave"] == "passed"
