"""Open Enclave files, against a second implementation that was written from the facts alone.

No real file is committed: the files are built by tests/fakes/open_enclave_elf.py.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.measured import SIGNATURE_CHECKS
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import hash_plainly, mrenclave
from pipeline.measure.sgx.open_enclave.config import BadOpenEnclaveConfig, read_conf
from pipeline.measure.sgx.open_enclave.properties import BadOpenEnclave
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import Sigstruct, sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from tests.fakes.open_enclave_elf import MORE_NUMBERS, NUMBERS, number, open_enclave_elf, properties
from tests.fakes.open_enclave_loader import straight

OLD = (*NUMBERS, "_tbss_size", "_tbss_align")


@functools.cache
def owner() -> RSAPrivateKey:
    """Make the owner's key once: that takes a second."""
    return read_private_key(new_key())


def value_of(tmp_path: Path, data: bytes, *, generation: str = "") -> bytes:
    path = tmp_path / "enclave"
    path.write_bytes(data)
    (enclave,) = lay_out(path, MeasureOptions(generation=generation))
    assert mrenclave(enclave.image) == hash_plainly(enclave.image)
    return mrenclave(enclave.image)


TLS = {"tdata": b"thread" * 5, "tbss": 0x1100, "tls_align": 16}


def test_the_newest_form_without_thread_locals(tmp_path: Path) -> None:
    data = open_enclave_elf(properties())
    assert value_of(tmp_path, data) == straight(data)


def test_thread_locals_take_pages_of_every_thread(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(), **TLS)
    assert value_of(tmp_path, data) == straight(data)


def test_zeros_alone_are_thread_locals_too(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(), tbss=0x30)
    assert value_of(tmp_path, data) == straight(data)


def test_a_thread_local_relocation_gets_the_value_of_its_symbol(tmp_path: Path) -> None:
    first = open_enclave_elf(properties(), defined={"counter": 0x77})
    where = number(first, "counter") << 32 | 18
    data = open_enclave_elf(properties(), defined={"counter": 0x77}, relocations=((0x10, where, 5),))
    assert value_of(tmp_path, data) == straight(data)
    unresolved = open_enclave_elf(properties(), defined={"counter": 0x78}, relocations=((0x10, where, 5),))
    assert value_of(tmp_path, unresolved) != straight(data)


def test_the_second_table_of_relocations_follows_the_first(tmp_path: Path) -> None:
    many = tuple((8 * index, 8, index) for index in range(300))
    data = open_enclave_elf(properties(), relocations=many, plt=((0x30, 8, 1), (0x38, 8, 2)))
    assert value_of(tmp_path, data) == straight(data)
    assert straight(data) != straight(data, with_plt=False)


def test_a_file_without_relocations_has_no_page_of_them(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(), relocations=())
    assert value_of(tmp_path, data) == straight(data)


def test_a_zero_based_enclave_begins_at_its_start_address(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(flags=2, start=0x21000), **TLS)
    assert value_of(tmp_path, data) == straight(data)
    assert straight(data) != straight(open_enclave_elf(properties(start=0x21000), **TLS))


def test_an_executable_heap_of_edgeless_rt(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(flags=4))
    assert value_of(tmp_path, data) == straight(data)


def test_release_0_16_has_no_start_address(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(1952), **TLS)
    assert value_of(tmp_path, data) == straight(data)


def test_releases_up_to_0_15_clear_the_section_table_and_know_no_plt(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(1952), module_info=0, plt=((0x30, 8, 1),), **TLS)
    assert value_of(tmp_path, data) == straight(data, clear=True, with_plt=False)


def test_release_0_12(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(1920), module_info=0, **TLS)
    assert value_of(tmp_path, data) == straight(data, clear=True, with_plt=False)


def test_release_0_11_counts_six_pages_whatever_the_thread_locals(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(1920, threads=2), module_info=0, **TLS)
    expected = straight(data, clear=True, with_plt=False, six_pages=True)
    assert value_of(tmp_path, data, generation="0.11.0") == expected


@pytest.mark.parametrize(("generation", "older", "oldest"), [("0.10", 0, 0), ("0.9", 1, 0), ("0.7", 1, 1)])
def test_releases_before_thread_local_pages(tmp_path: Path, generation: str, older: int, oldest: int) -> None:
    data = open_enclave_elf(properties(1920), module_info=0, symbols=OLD, tdata=b"some", tbss=8)
    expected = straight(
        data,
        tls_pages=False,
        clear=True,
        six_pages=True,
        with_plt=False,
        end_not_size=bool(older),
        gs_first=bool(oldest),
    )
    assert value_of(tmp_path, data, generation=generation) == expected


def test_of_several_releases_the_one_that_was_signed_is_taken(tmp_path: Path) -> None:
    key = owner()
    for generation, title in (("0.7", "0.5 to 0.7"), ("0.9", "0.8 to 0.9"), ("0.10", "0.10")):
        path = tmp_path / "enclave"
        path.write_bytes(open_enclave_elf(properties(1920), module_info=0, symbols=OLD))
        unsigned = lay_out_unsigned(path, MeasureOptions(config=b"NumTCS=3\n", generation=generation))
        path.write_bytes(unsigned.write(sign(to_be_signed(unsigned.fields), key)))
        (enclave,) = lay_out(path)
        assert enclave.layout == f"Open Enclave {title}"
        assert mrenclave(enclave.image) == unsigned.fields.mrenclave


def test_a_file_that_is_not_signed_says_that_its_release_is_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(1920), module_info=0, symbols=OLD))
    checks = {one.id: one for one in measure_file(path).measurements[0].checks}
    assert checks["open-enclave-release"].status == "warning"
    assert "0.5 to 0.7" in checks["open-enclave-release"].hint
    chosen = measure_file(path, options=MeasureOptions(generation="0.6"))
    assert "open-enclave-release" not in {one.id for one in chosen.measurements[0].checks}
    laid_out = lay_out_unsigned(path, MeasureOptions(config=b"NumTCS=3\n")).enclave
    assert [one.id for one in laid_out.checks] == ["open-enclave-release"]
    options = MeasureOptions(config=b"NumTCS=3\n", generation="0.6")
    assert not lay_out_unsigned(path, options).enclave.checks


def test_the_alignment_of_the_program_header_counts_from_0_17_7_on(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(), tdata=b"x" * 0xFF0, tls_align=8, header_align=0x2000)
    assert value_of(tmp_path, data) == straight(data, align=0x2000)
    assert value_of(tmp_path, data, generation="0.17.5") == straight(data)


def module(**how: Any) -> tuple[bytes, bytes]:
    """Write an enclave and the shared object that it needs, each with symbols of the other."""
    main = {"undefined": ("more", "weak_one", "back"), "defined": {"own": 0x5010}, "needed": "libmore.so"}
    theirs: dict[str, Any] = {
        "symbols": (),
        "module_info": 0,
        "undefined": ("own", "weak_two"),
        "seed": b"more",
    }
    theirs["defined"] = {"more": 0x123, "back": 0x456}
    first, second = open_enclave_elf(properties(), **main), open_enclave_elf(None, **theirs)

    def one(name: str, kind: int) -> int:
        return number(first, name) << 32 | kind

    def two(name: str, kind: int) -> int:
        return number(second, name) << 32 | kind

    return (
        open_enclave_elf(
            properties(),
            **main,
            relocations=(
                (8, 8, 16),
                (16, one("more", 7), 3),
                (24, one("weak_one", 6), 9),
                (32, one("own", 1), 5),
            ),
            plt=((72, one("back", 7), 0),),
        ),
        open_enclave_elf(
            None,
            **theirs,
            **how,
            relocations=(
                (8, 8, 4),
                (16, two("own", 1), 2),
                (24, two("more", 6), 1),
                (32, two("weak_two", 6), 2),
            ),
        ),
    )


@pytest.mark.parametrize("how", [{}, {"tdata": b"m" * 40, "tbss": 16}])
def test_a_shared_object_of_its_folder_is_part_of_the_enclave(tmp_path: Path, how: dict[str, Any]) -> None:
    main, more = module(**how)
    (tmp_path / "libmore.so").write_bytes(more)
    assert value_of(tmp_path, main) == straight(main, more)
    assert value_of(tmp_path, main, generation="0.17.7") == straight(main, more, got=False)
    (tmp_path / "libmore.so").write_bytes(more.replace(b"more" * 9, b"less" * 9))
    assert value_of(tmp_path, main) != straight(main, more)


def test_a_symbol_that_nobody_defines_is_refused_unless_it_is_weak(tmp_path: Path) -> None:
    main, more = module()
    (tmp_path / "libmore.so").write_bytes(more.replace(b"\0back\0", b"\0bark\0"))
    with pytest.raises(BadOpenEnclave, match="back is defined nowhere"):
        value_of(tmp_path, main)


# signing

CONF = b"""# an enclave
Debug=0
NumHeapPages = 11
NumStackPages\t2
NumTCS==3
ProductID=21
SecurityVersion=+22
"""


def test_a_signed_file_agrees_with_what_was_laid_out(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(threads=0xFFFF), **TLS))
    unsigned = lay_out_unsigned(path, MeasureOptions(config=CONF))
    signed = sign(to_be_signed(unsigned.fields), owner())
    path.write_bytes(unsigned.write(signed))
    (measurement,) = measure_file(path).measurements
    assert {one.id: one.status for one in measurement.checks} == dict.fromkeys(
        (*SIGNATURE_CHECKS, "mrenclave-equals-sigstruct"), "passed"
    )
    claims = measurement.claims
    assert claims["mrenclave"] == straight(path.read_bytes()).hex()
    assert (claims["isvprodid"], claims["isvsvn"]) == (21, 22)
    assert claims["attributes"] == "0x00000000000000040000000000000003"
    assert claims["attributes_mask"] == "0xffffffffffffff7bffffffffffffff1b"
    assert claims["miscselect_mask"] == "0xffffffff"


def test_debug_and_kss_and_page_faults_change_the_masks(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties()))
    conf = b"Debug=1\nFamilyID=00112233-4455-6677-8899-aabbccddeeff\nCapturePFGPExceptions=1\n"
    fields = lay_out_unsigned(path, MeasureOptions(config=conf)).fields
    assert fields.attributes == (0x86, 3)
    assert fields.attributes_mask == (0xFFFFFFFFFFFFFFF9, 0xFFFFFFFFFFFFFF1B)
    assert fields.miscselect_mask == 0xFFFFFFFE
    assert fields.isvfamilyid.hex() == "00112233445566778899aabbccddeeff"


def test_what_is_not_in_the_conf_stays_but_ids_and_zero_base_do_not(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(
        open_enclave_elf(properties(flags=3, start=0x5000, attributes=0x86, ids=b"\1" * 32, heap=77))
    )
    unsigned = lay_out_unsigned(path, MeasureOptions(config=b"Debug=0"))
    assert unsigned.fields.attributes == (4, 3)
    assert unsigned.fields.isvfamilyid == bytes(16)
    assert unsigned.enclave.facts["flags"] == "0x0"
    assert unsigned.enclave.facts["heap_pages"] == 77


def test_early_signers_leave_an_enclave_open_to_debugging(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(1920), module_info=0, symbols=OLD))
    early = lay_out_unsigned(path, MeasureOptions(config=b"Debug=0", generation="0.9")).fields
    later = lay_out_unsigned(path, MeasureOptions(config=b"Debug=0", generation="0.10")).fields
    assert (early.attributes, later.attributes) == ((6, 3), (4, 3))


def test_a_conf_measures_an_unsigned_file_as_it_would_be_signed(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(threads=0xFFFF)))
    options = MeasureOptions(config=b"NumTCS=1", config_name="a.conf")
    (measurement,) = measure_file(path, options=options).measurements
    path.write_bytes(lay_out_unsigned(path, options).write(None))
    assert measurement.claims["mrenclave"] == straight(path.read_bytes()).hex()


def test_a_signature_over_another_enclave_is_not_grafted(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties()))
    unsigned = lay_out_unsigned(path, MeasureOptions(config=b"Debug=1"))
    other = msgspec.structs.replace(unsigned.fields, mrenclave=bytes(32))
    signed = sign(to_be_signed(other), owner())
    with pytest.raises(Exception, match="signs another enclave"):
        unsigned.write(signed)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties()))
    unsigned = lay_out_unsigned(path, MeasureOptions(config=b"Debug=1"))
    data = bytearray(unsigned.write(sign(to_be_signed(unsigned.fields), owner())))
    data[data.index(b"codecode")] ^= 1
    path.write_bytes(data)
    checks = {one.id: one.status for one in measure_file(path).measurements[0].checks}
    assert checks["mrenclave-equals-sigstruct"] == "failed"
    assert checks["signature"] == "passed"
    assert Sigstruct(lay_out(path)[0].sigstruct.raw).mrenclave == unsigned.fields.mrenclave  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (b"Debug=2", "neither 0 nor 1"),
        (b"Debug", "not NAME=VALUE"),
        (b"Debug=1\nDebug=1", "stands twice"),
        (b"Heap=1", "unknown setting"),
        (b"NumHeapPages=-1", "not a 64-bit number"),
        (b"NumHeapPages=0x10", "not a 64-bit number"),
        (b"NumHeapPages=18446744073709551615", "too large"),
        (b"NumTCS=1025", "above 1024"),
        (b"ProductID=65535", "above 65534"),
        (b"FamilyID=0011", "not a UUID"),
        (b"CreateZeroBaseEnclave=1\nStartAddress=100", "not a multiple of 4096"),
        (b"Debug=1 # comment", "not a 64-bit number"),
    ],
)
def test_a_conf_that_the_signer_refuses_is_refused_with_its_line(conf: bytes, message: str) -> None:
    with pytest.raises(BadOpenEnclaveConfig, match=message) as caught:
        read_conf(conf, name="enclave.conf")
    assert str(caught.value.place).startswith("enclave.conf:")


@pytest.mark.parametrize(
    ("size", "conf", "message"),
    [
        (1960, b"CreateZeroBaseEnclave=1", "StartAddress is 0x0"),
        (1952, b"StartAddress=4096", "has no StartAddress"),
        (1920, b"FamilyID=00112233-4455-6677-8899-aabbccddeeff", "has no FamilyID"),
        (1920, b"NumTCS=33", "NumTCS is 33, at most 32"),
    ],
)
def test_what_a_release_does_not_know_is_refused(
    tmp_path: Path, size: int, conf: bytes, message: str
) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(size), symbols=(*NUMBERS, *MORE_NUMBERS)))
    with pytest.raises(BadOpenEnclaveConfig, match=message):
        lay_out_unsigned(path, MeasureOptions(config=conf))


def test_properties_that_nobody_set_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "enclave"
    path.write_bytes(open_enclave_elf(properties(product=0xFFFF, threads=0xFFFF)))
    with pytest.raises(BadOpenEnclaveConfig, match=r"NumTCS is 65535.*give it in the"):
        lay_out_unsigned(path, MeasureOptions(config=b"Debug=1"))


def test_properties_that_the_loader_would_not_read_are_refused(tmp_path: Path) -> None:
    """The loader takes them from the segments, by sh_addr; a copy elsewhere in the file is not loaded."""
    good = open_enclave_elf(properties())
    elf = Elf(memoryview(good))
    index = next(number for number, one in enumerate(elf.sections) if one.name == ".oeinfo")
    section = elf.sections[index]
    path = tmp_path / "enclave"
    for more_heap in (0, 1):
        copy = bytearray(good[section.offset : section.offset + section.size])
        copy[8] += more_heap
        file = bytearray(good) + copy
        struct.pack_into("<Q", file, elf.shoff + 64 * index + 24, len(good))
        path.write_bytes(file)
        if not more_heap:
            assert measure_file(path).measurements[0].claims["mrenclave"]
            continue
        for options in (MeasureOptions(), MeasureOptions(config=b"NumTCS=1\n")):
            with pytest.raises(BadOpenEnclave, match="is not what the segments have"):
                measure_file(path, options=options)
