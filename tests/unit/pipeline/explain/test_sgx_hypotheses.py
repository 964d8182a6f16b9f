"""A planted single change is found and named; two changes are not, and what was tried is said."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipeline.explain.explain import Operand, explain, side_of
from pipeline.explain.model import Explained, Side
from pipeline.explain.sgx.configurations import changed_configurations
from pipeline.explain.sgx.hypotheses import PrefixHash, Searched, search
from pipeline.explain.sgx.recovered import configured
from pipeline.explain.sgx.side import EnclaveSide
from pipeline.explain.sgx.variants import Variant, page_variants
from pipeline.measure import MeasureOptions
from pipeline.measure.sgx.enclave import Enclave, lay_out
from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages, Part
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import measure_packed, pack_enclave
from pipeline.measure.sgx.hashing import hash_plainly, mrenclave
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.errors import RvpError
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.images import file, layer, write_image
from tests.fakes.libpal import libpal, manifest
from tests.fakes.open_enclave_elf import ego_program, open_enclave_elf, properties
from tests.fakes.sdk_elf import sdk_elf
from tests.fakes.symbol_elf import READ, READ_EXECUTE, READ_WRITE, enclave, segment

STEP = 0x40000


def threads(count: int) -> list[Part]:
    parts: list[Part] = []
    for number in range(count):
        at = 0x200000 + number * STEP
        tcs = (b"".ljust(16, b"\0") + (at + 0x21000).to_bytes(8, "little")).ljust(PAGE, b"\0")
        tcs = bytearray(tcs)  # type: ignore[assignment]
        tcs[48:64] = (at + 0x30000).to_bytes(8, "little") * 2  # type: ignore[index]
        parts += [
            Pages(address=at, count=16, flags=READ_WRITE, content=b"\xcc" * PAGE, label=f"stack {number}"),
            Pages(address=at + 0x20000, count=1, flags=0x100, content=bytes(tcs), label=f"TCS {number}"),
            Pages(
                address=at + 0x21000, count=2, flags=READ_WRITE, content=bytes(PAGE), label=f"SSA {number}"
            ),
        ]
    return parts


def made(count: int = 4) -> Enclave:
    return enclave(
        segment(0, 0, READ, b"constants"),
        segment(1, 0x1000, READ_EXECUTE, b"\x0f\x0b" * 3000),
        Pages(address=0x10000, count=16, flags=READ_WRITE, label="heap"),
        *threads(count),
        size=1 << 25,
        layout="page list",
    )


def side(one: Enclave) -> EnclaveSide:
    value = mrenclave(one.image).hex()
    return EnclaveSide(Side(name="x", kind="file", value=value, what=one.layout), enclave=one)


def searched(one: Enclave, target: bytes, budget_s: float = 60.0) -> Searched:
    return search(
        side(one),
        target,
        MeasureOptions(),
        changed="left",
        budget_s=budget_s,
        clock=time.monotonic,
        observer=lambda _: None,
    )


def variants(image: EnclaveImage) -> Iterator[Variant]:
    return itertools.chain(*page_variants(image))


KINDS = sorted({one.kind for one in variants(made().image)})


def test_the_declared_set_has_these_kinds() -> None:
    assert KINDS == [
        "SSA frame (ECREATE alone)",
        "TCS flags",
        "enclave size (ECREATE alone)",
        "heap size (pages added, not measured)",
        "measured or not",
        "page flags",
        "page order",
        "stack size (pages alone)",
        "threads (pages alone)",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_change_of_each_kind_is_found(kind: str) -> None:
    planted = [one for one in variants(made().image) if one.kind == kind]
    for variant in (planted[0], planted[-1]):
        found = searched(made(), hash_plainly(variant.make()))
        (hypothesis,) = found.hypotheses
        assert (hypothesis.change, hypothesis.changed) == (variant.change, "left")


def test_more_threads_are_what_the_layout_itself_would_add() -> None:
    found = searched(made(4), mrenclave(made(9).image))
    assert [one.change for one in found.hypotheses] == ["9 threads instead of 4"]


def test_two_changes_are_not_found_and_what_was_tried_is_said() -> None:
    image = made(5).image
    found = searched(made(4), hash_plainly(msgspec.structs.replace(image, ssa_frame_size=3)))
    assert found.hypotheses == ()
    assert all(one.tried == one.declared > 0 for one in found.tried)
    assert {one.kind for one in found.tried} == set(KINDS)
    assert any("not in MRENCLAVE" in note for note in found.notes)


def test_the_budget_ends_the_search_and_says_so() -> None:
    ticks = itertools.count()
    found = search(
        side(made()),
        bytes(32),
        MeasureOptions(),
        changed="right",
        budget_s=5,
        clock=lambda: float(next(ticks)),
        observer=lambda _: None,
    )
    assert sum(one.tried for one in found.tried) == 4
    assert max(one.tried for one in found.tried) == 1  # one of each kind in turn
    assert sum(one.declared for one in found.tried) > 50
    assert any("--budget" in note for note in found.notes)


def test_what_enclaves_have_in_common_is_hashed_once_and_rightly() -> None:
    base = made(6).image
    hashed = PrefixHash(base)
    assert hashed.value == hash_plainly(base)
    for variant in variants(base):
        if variant.kind in {"TCS flags", "page flags", "page order"}:
            assert hashed.mrenclave(variant.make()) == hash_plainly(variant.make())


# ---- configurations --------------------------------------------------------------------------------------------


def explained(left: Path | str, right: Path | str, options: MeasureOptions | None = None) -> Explained:
    return explain(
        Operand(text=str(left), options=options or MeasureOptions()),
        Operand(text=str(right)),
        budget_s=60,
        clock=time.monotonic,
    )


def packed(**config: object) -> bytes:
    settings = {"threads": 3, "stack": "16KiB", "heap": "64KiB", **config}
    return pack_enclave(enclave_elf(), EnclaveConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ({"heap": "128KiB"}, 'heap "131072B" instead of "65536B"'),
        ({"heap": "3MiB"}, 'heap "3145728B" instead of "65536B"'),
        ({"stack": "32KiB"}, 'stack "32768B" instead of "16384B"'),
        ({"threads": 17}, "threads 17 instead of 3"),
    ],
)
def test_a_changed_configuration_of_a_packed_enclave_is_found(
    tmp_path: Path, config: dict[str, object], change: str
) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(packed())
    found = explained(path, measure_packed(packed(**config)).hex())
    assert [one.change for one in found.hypotheses] == [change]
    assert not found.equal


def test_two_changed_keys_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(packed())
    found = explained(path, measure_packed(packed(heap="128KiB", threads=4)).hex())
    assert found.hypotheses == ()
    assert {one.kind for one in found.tried} >= {"configuration: heap", "configuration: threads"}


def test_another_program_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(packed())
    other = pack_enclave(enclave_elf(seed=b"DATA"), EnclaveConfig(threads=3, stack="16KiB", heap="64KiB"))
    assert explained(path, measure_packed(other).hex()).hypotheses == ()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (b"<EnclaveConfiguration><TCSNum>1</TCSNum></EnclaveConfiguration>", b"<TCSNum>0x7</TCSNum>"),
        (b"<EnclaveConfiguration></EnclaveConfiguration>", b"<TCSNum>0x7</TCSNum></EnclaveConfiguration>"),
        (b"NumTCS=1\n", b"NumTCS=7\n"),
        (b"# none\n", b"NumTCS=7\n"),
        (b'schema = "rvp/enclave/v1"\nthreads = 1\n', b"threads = 7\n"),
        (b'schema = "rvp/enclave/v1"\n', b"threads = 7\n"),
        (b"sgx.max_threads = 4\nloader.log = 1\n", b"sgx.max_threads = 7\n"),
        (b"loader.log = 1\n", b"sgx.max_threads = 7\n"),
    ],
)
def test_each_syntax_of_a_configuration_is_changed_in_one_key(config: bytes, key: bytes) -> None:
    changed = [one for one in itertools.chain(*changed_configurations(config)) if key in one.config]
    assert len(changed) == 1
    assert "7" in changed[0].change
    assert config not in {one.config for one in itertools.chain(*changed_configurations(config))}


SDK = {
    "c01_default": ("StackMaxSize", 0x80000),
    "c02_tcs10": ("TCSNum", 9),
    "c03_pool": ("TCSMinPool", 1),
    "c07_rsrv": ("ReservedMemMaxSize", 0x40000),
    "c08_elrange": ("HeapMaxSize", 0x200000),
    "c10_aex_pkru": ("EnableAEXNotify", 0),
    "c11_amx": ("AMX", 0),
    "c12_tcs1_nopool": ("TCSPolicy", 0),
}


@pytest.mark.vectors
@pytest.mark.parametrize(
    "name", [*SDK, "c04_dyn_both", "c05_dyn_sgx2only", "c06_userregion", "c13_elr_dyn", "c14_fips"]
)
def test_a_configuration_that_was_read_back_gives_the_signed_value_again(
    vectors: Path, tmp_path: Path, name: str
) -> None:
    found = side_of(Operand(text=str(vectors / "sgx" / "oracle" / f"{name}.signed.so")))
    base = configured(found, MeasureOptions(), tmp_path)
    assert base is not None
    for generation, config in base.candidates():
        with contextlib.suppress(RvpError):  # a candidate that its SDK would refuse
            if mrenclave(base.lay_out(config, generation)).hex() == found.side.value:
                return
    pytest.fail("no candidate gives the signed value")


@pytest.mark.vectors
@pytest.mark.parametrize("name", SDK)
def test_a_key_of_a_signed_sdk_enclave_is_found_from_its_layout_alone(vectors: Path, name: str) -> None:
    """The configuration is read back from the signed file; the planted change is made in the original XML."""
    oracle = vectors / "sgx" / "oracle"
    config = (oracle / f"{name}.xml").read_bytes()
    key, value = SDK[name]
    without = re.sub(rf"<{key}>[^<]*</{key}>".encode(), b"", config)
    element = f"<{key}>{value:#x}</{key}></EnclaveConfiguration>".encode()
    planted = without.replace(b"</EnclaveConfiguration>", element)
    image: EnclaveImage = lay_out(oracle / "basic.so", MeasureOptions(config=planted))[0].image
    found = explained(oracle / f"{name}.signed.so", mrenclave(image).hex())
    assert [one.change.split(" ")[:2] for one in found.hypotheses] == [[key, f"{value:#x}"]]


@pytest.mark.vectors
def test_a_key_of_a_given_configuration_is_found(vectors: Path) -> None:
    oracle = vectors / "sgx" / "oracle"
    given = (oracle / "c10_aex_pkru.xml").read_bytes().replace(b"0x10000", b"0x20000")
    found = explained(oracle / "basic.so", oracle / "c10_aex_pkru.css", MeasureOptions(config=given))
    assert found.right.what == "SIGSTRUCT"
    assert [one.change for one in found.hypotheses] == ["HeapMaxSize 0x10000 instead of 0x20000"]
    assert not found.equal


@pytest.mark.parametrize(
    ("generation", "version"),
    [
        ("1.6", None),
        ("1.9", None),
        ("2.0", None),
        ("2.4", None),
        ("2.13", (2, 13, 100)),
        ("2.26", (2, 26, 100)),
    ],
)
def test_configurations_of_each_generation_are_read_back(
    tmp_path: Path, generation: str, version: tuple[int, int, int] | None
) -> None:
    config = (
        b"<EnclaveConfiguration><TCSNum>3</TCSNum><StackMaxSize>0x20000</StackMaxSize>"
        b"<HeapMaxSize>0x40000</HeapMaxSize></EnclaveConfiguration>"
    )
    (tmp_path / "enclave.so").write_bytes(sdk_elf(version))
    options = MeasureOptions(config=config, generation=generation)
    unsigned = lay_out_unsigned(tmp_path / "enclave.so", options)
    laid_out = tmp_path / "laid_out.so"
    laid_out.write_bytes(unsigned.write(None))
    planted = config.replace(b"0x40000", b"0x80000")
    other = lay_out_unsigned(tmp_path / "enclave.so", msgspec.structs.replace(options, config=planted))
    found = explained(laid_out, mrenclave(other.enclave.image).hex())
    assert [one.change for one in found.hypotheses] == ["HeapMaxSize 0x80000 instead of 0x40000"]


def test_the_properties_of_an_open_enclave_file_are_changed(tmp_path: Path) -> None:
    path = tmp_path / "enclave.signed"
    path.write_bytes(open_enclave_elf(properties()))
    planted = lay_out(path, MeasureOptions(config=b"NumTCS=7\n"))[0].image
    found = explained(path, mrenclave(planted).hex())
    assert [one.change for one in found.hypotheses] == ["NumTCS 7 instead of the default"]


# ---- Gramine, EGo, images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "change"),
    [
        ("max_threads", 7, "max_threads 7 instead of 2"),
        ("enclave_size", "16M", 'enclave_size "16M" instead of "8M"'),
        ("enclave_size", "1G", 'enclave_size "1G" instead of "8M"'),
        ("edmm_enable", True, "edmm_enable true instead of false"),
        ("debug", True, "debug true instead of false"),
    ],
)
def test_a_key_of_a_gramine_manifest_is_found(
    tmp_path: Path, key: str, value: str | int, change: str
) -> None:
    (tmp_path / "libpal.so").write_bytes(libpal())
    path, planted = tmp_path / "app.manifest.sgx", tmp_path / "planted.manifest.sgx"
    path.write_bytes(manifest())
    planted.write_bytes(manifest(**{key: value}))
    found = explained(path, mrenclave(lay_out(planted)[0].image).hex())
    assert [one.change for one in found.hypotheses] == [change]
    assert not found.equal


def test_another_release_of_gramine_is_found(tmp_path: Path) -> None:
    (tmp_path / "libpal.so").write_bytes(libpal())
    path = tmp_path / "app.manifest.sgx"
    path.write_bytes(manifest())
    other = lay_out(path, MeasureOptions(generation="1.4"))[0]
    found = explained(path, mrenclave(other.image).hex())
    assert [one.change.split(" instead")[0] for one in found.hypotheses] == ["Gramine 1.4"]


def test_the_properties_of_an_ego_program_are_changed(tmp_path: Path) -> None:
    runtime = open_enclave_elf(properties(), module_info=144, defined={"ert_reserved_tls": 0}, tbss=0x1100)
    (tmp_path / "ego-enclave").write_bytes(runtime)
    conf = b"Debug=1\nNumHeapPages=9\nNumStackPages=2\nNumTCS=2\nProductID=1\nSecurityVersion=1\n"
    path = tmp_path / "hello"
    path.write_bytes(ego_program(b'{"exe":"hello","heapSize":2}'))
    laid_out = lay_out_unsigned(path, MeasureOptions(config=conf))
    planted = conf.replace(b"NumTCS=2", b"NumTCS=5")
    value = mrenclave(lay_out_unsigned(path, MeasureOptions(config=planted)).enclave.image)
    found = explained(path, value.hex(), MeasureOptions(config=conf))
    assert [one.change for one in found.hypotheses] == ["NumTCS 5 instead of 2"]
    assert found.left.value == mrenclave(laid_out.enclave.image).hex()


def _image(folder: Path, name: str, config: bytes, *more: tuple[str, bytes]) -> Path:
    members = [file(name, config), *(file(*one) for one in more)]
    return write_image(folder / f"{len(list(folder.iterdir()))}.tar", layer(*members))


def test_enclaves_in_images_are_compared_on_both_sides(tmp_path: Path) -> None:
    one = _image(tmp_path, "opt/e.so", packed())
    other = _image(tmp_path, "opt/e.so", packed(heap="128KiB"))
    (tmp_path / "a.so").write_bytes(packed())
    for left, right in ((one, f"{other}!/opt/e.so"), (f"{one}!/opt/e.so", other), (tmp_path / "a.so", other)):
        found = explained(left, right)
        assert not found.equal
        assert found.first is not None
        heaps = [(row.left, row.right) for row in found.parameters if row.name == "heap_bytes"]
        assert len(heaps) == 1
        assert "64 KiB" in heaps[0][0]
        assert "128 KiB" in heaps[0][1]
    assert explained(f"{one}!/opt/e.so", tmp_path / "a.so").equal


def test_changes_are_tried_on_enclaves_in_images(tmp_path: Path) -> None:
    image = _image(tmp_path, "opt/e.so", packed())
    found = explained(f"{image}!/opt/e.so", measure_packed(packed(heap="128KiB")).hex())
    assert [one.change for one in found.hypotheses] == ['heap "131072B" instead of "65536B"']
    (tmp_path / "libpal.so").write_bytes(libpal())
    (tmp_path / "planted.manifest.sgx").write_bytes(manifest(max_threads=7))
    value = mrenclave(lay_out(tmp_path / "planted.manifest.sgx")[0].image).hex()
    where = ("usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so", libpal())
    gramine = _image(tmp_path, "app/app.manifest.sgx", manifest(), where)
    for operand in (gramine, f"{gramine}!/app/app.manifest.sgx"):
        found = explained(operand, value)
        assert [one.change for one in found.hypotheses] == ["max_threads 7 instead of 2"]
    right = explain(
        Operand(text=value), Operand(text=f"{gramine}!/app/app.manifest.sgx"), clock=time.monotonic
    )
    assert [(one.changed, one.change) for one in right.hypotheses] == [
        ("right", "max_threads 7 instead of 2")
    ]
