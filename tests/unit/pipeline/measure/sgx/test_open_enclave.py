"""Open Enclave files, against a second implementation that was written from the facts alone.

No real file is committed. The loader here is straight: one dict of bytes for the memory, one list of what is
added, one hash.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.measured import SIGNATURE_CHECKS
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import hash_plainly, mrenclave
from pipeline.measure.sgx.open_enclave_config import BadOpenEnclaveConfig, read_conf
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import Sigstruct, sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from tests.fakes.open_enclave_elf import MORE_NUMBERS, NUMBERS, number, open_enclave_elf, properties

PAGE = 4096
OWNER: list[RSAPrivateKey] = []
OLD = (*NUMBERS, "_tbss_size", "_tbss_align")


def up(value: int, unit: int = PAGE) -> int:
    return (value + unit - 1) // unit * unit


def owner() -> RSAPrivateKey:
    """Make the owner's key once: that takes a second."""
    if not OWNER:
        OWNER.append(read_private_key(new_key()))
    return OWNER[0]


class File:
    """An ELF file as the straight loader reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.entry, phoff, shoff = struct.unpack_from("<QQQ", data, 24)
        phnum, _, shnum, names = struct.unpack_from("<HHHH", data, 56)
        self.programs = [struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * i) for i in range(phnum)]
        rows = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + 64 * i) for i in range(shnum)]
        self.sections = {data[rows[names][4] + row[0] :].split(b"\0", 1)[0].decode(): row for row in rows}
        self.loads = [one for one in self.programs if one[0] == 1]
        self.size = up(max(one[3] + one[6] for one in self.loads))
        self.memory = bytearray(self.size)
        for _, _, offset, address, _, file_size, _, _ in self.loads:
            self.memory[address : address + file_size] = data[offset : offset + file_size]

    def content(self, name: str) -> bytes:
        row = self.sections.get(name)
        return b"" if row is None else self.data[row[4] : row[4] + row[5]]

    def symbol(self, index: int) -> tuple[str, int, int, int]:
        at, _, _, section, value, size = struct.unpack_from("<IBBHQQ", self.content(".dynsym"), 24 * index)
        return self.content(".dynstr")[at:].split(b"\0", 1)[0].decode(), section, value, size

    @property
    def symbols(self) -> dict[str, tuple[int, int, int]]:
        every = [self.symbol(index) for index in range(1, len(self.content(".dynsym")) // 24)]
        return {name: (section, value, size) for name, section, value, size in every}

    def put(self, name: str, value: int) -> None:
        if name in self.symbols:
            struct.pack_into("<Q", self.memory, self.symbols[name][1], value)


def straight(
    data: bytes,
    *,
    tls_pages: bool = True,
    clear: bool = False,
    six_pages: bool = False,
    end_not_size: bool = False,
    gs_first: bool = False,
    with_plt: bool = True,
    align: int = 0,
) -> bytes:
    """MRENCLAVE of an enclave without modules, from the facts."""
    file = File(data)
    relocations = bytearray(file.content(".rela.dyn") + (file.content(".rela.plt") if with_plt else b""))
    for at in range(0, len(relocations), 24):
        info = struct.unpack_from("<Q", relocations, at + 8)[0]
        if info & 0xFFFFFFFF == 18:
            struct.pack_into("<Q", relocations, at + 16, file.symbol(info >> 32)[2])
    relocations += bytes(-len(relocations) % PAGE)

    info_at = file.sections[".oeinfo"][3]
    size, _, heap, stack, threads, _, _, flags = struct.unpack_from("<IIQQQHHI", file.memory, info_at)
    start = struct.unpack_from("<Q", file.memory, info_at + 88)[0] if size == 1960 and flags & 2 else 0
    image_info = info_at + {1960: 96, 1952: 88, 1920: 56}[size]

    tdata, tbss = file.sections.get(".tdata"), file.sections.get(".tbss")
    align = align or (tdata[8] if tdata else 1)
    tls = up(up(tdata[5], align) if tdata else 0) if not tbss else 0
    if tbss:
        tls = up((up(tdata[5], align) if tdata else 0) + up(tbss[5], tbss[8]))
    tls = tls // PAGE if tls_pages else 1

    total = file.size + len(relocations) + heap * PAGE
    total += threads * PAGE * (stack + 2 + (6 if six_pages else 5 + tls))
    enclave_size = 1
    while enclave_size < total:
        enclave_size *= 2
    if clear:
        file.memory[40:48] = bytes(8)
        file.memory[60:64] = bytes(4)
    struct.pack_into(
        "<QQQQQQ",
        file.memory,
        image_info,
        *(info_at, size, file.size, len(relocations), file.size + len(relocations)),
        total if end_not_size else enclave_size,
    )
    file.memory[image_info + 48 : image_info + 48 + 1808] = bytes(1808)
    file.put("_enclave_rva", file.symbols["_enclave_rva"][1])
    file.put("_reloc_rva", file.size)
    file.put("_reloc_size", len(relocations))
    if tdata:
        file.put("_tdata_rva", tdata[3])
        file.put("_tdata_size", tdata[5])
        file.put("_tdata_align", align)
    if tbss:
        file.put("_tbss_size", tbss[5])
        file.put("_tbss_align", tbss[8])
    file.put("_td_from_tcs_offset", (tls + 4) * PAGE)

    secs_size = enclave_size
    while start and secs_size < total + start:
        secs_size *= 2
    stream = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ", 1, secs_size) + bytes(44))

    def add(address: int, flags: int, content: bytes | None) -> None:
        address += start
        stream.update(b"EADD\0\0\0\0" + struct.pack("<QQ", address, flags) + bytes(40))
        for at in range(0, PAGE if content is not None else 0, 256):
            stream.update(b"EEXTEND\0" + struct.pack("<Q", address + at) + bytes(48))
            stream.update((content or b"")[at : at + 256])

    for _, bits, _, address, _, _, memory_size, _ in file.loads:
        flags_of = 0x200 | (bits >> 2 & 1) | (bits & 2) | (bits & 1) << 2
        for page in range(address // PAGE * PAGE, address + memory_size, PAGE):
            add(page, flags_of, bytes(file.memory[page : page + PAGE]))
    at = file.size
    for page in range(0, len(relocations), PAGE):
        add(at, 0x201, bytes(relocations[page : page + PAGE]))
        at += PAGE
    for _ in range(heap):
        add(at, 0x207 if flags & 4 else 0x203, None)
        at += PAGE
    for _ in range(threads):
        at += PAGE
        for _ in range(stack):
            add(at, 0x203, b"\xcc" * PAGE)
            at += PAGE
        at += PAGE
        fs = start + at + (tls + 4) * PAGE
        gs = start + at + 4 * PAGE if gs_first else fs
        tcs = struct.pack("<QQQII", 0, 0, start + at + PAGE, 0, 2)
        tcs += struct.pack("<QQQQII", start + file.entry, 0, fs, gs, 0xFFFFFFFF, 0xFFFFFFFF)
        add(at, 0x100, tcs.ljust(PAGE, b"\0"))
        for extra in (1, 2, *range(4, 5 + tls)):
            add(at + extra * PAGE, 0x203, bytes(PAGE))
        at += (5 + tls) * PAGE
    return stream.digest()


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


def test_the_alignment_of_the_program_header_counts_from_0_17_7_on(tmp_path: Path) -> None:
    data = open_enclave_elf(properties(), tdata=b"x" * 0xFF0, tls_align=8, header_align=0x2000)
    assert value_of(tmp_path, data) == straight(data, align=0x2000)
    assert value_of(tmp_path, data, generation="0.17.5") == straight(data)


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
