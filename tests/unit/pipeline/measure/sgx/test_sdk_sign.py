"""Enclaves of Intel's SDK from the linker's file: what its signing tools made of the same files, byte by byte."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sdk.config import BadSdkConfig
from pipeline.measure.sgx.sdk.generation import (
    COMPARED,
    GENERATIONS,
    PUBLISHED,
    UnknownSdk,
    fitted,
    generation,
    generation_of,
)
from pipeline.measure.sgx.sdk.metadata import SIGSTRUCT_AT, metadata_block, read_metadata
from pipeline.measure.sgx.sdk.object import NotAnSdkEnclave
from pipeline.measure.sgx.sdk.record import fips_place
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, SigstructMismatch, sign, to_be_signed
from pipeline.measure.sgx.unsigned import Unsigned, lay_out_unsigned
from provenance.errors import RvpError
from tests.fakes.sdk_elf import sdk_elf

# What the signing tool of each release made of `sdk_elf(version, room=…)` with this configuration: MRENCLAVE,
# and the SHA-256 of the signed file with its SIGSTRUCTs zeroed.
KNOWN = [
    (
        "1.6",
        None,
        "<TCSNum>3</TCSNum>",
        "255e0fa2f0f7151906a120c2fd3eec222849dab44760de079d10ec6cc0ee6901",
        "c9915850142a2a6c11e9aff0af9b4143deee79f49f3a0c8e9862b6650e943722",
    ),
    (
        "1.9",
        None,
        "<TCSNum>2</TCSNum><StackMaxSize>0x10000</StackMaxSize><HeapMaxSize>0x20000</HeapMaxSize>",
        "ccaee4f2ea6f77983eb3a94448fc1b248e4f72d9c7fca9a862a857817a42abc6",
        "ae2aaf8443ecb69ff848d1564ddef5abc2528e5758a635e78c255979138e6aea",
    ),
    (
        "2.0",
        None,
        "<TCSNum>5</TCSNum><TCSMaxNum>7</TCSMaxNum><TCSMinPool>2</TCSMinPool><HeapMinSize>0x2000</HeapMinSize><HeapInitSize>0x4000</HeapInitSize><HeapMaxSize>0x8000</HeapMaxSize>",
        "883ecc80b54758963c9ae745a16904d9d57ed1b10f498a651f2e7233bc91d79c",
        "661b0977c21669e538da5c4f80e9f4bac66d4c0dbd2fb5742e9c1bd0eec81342",
    ),
    (
        "2.1",
        None,
        "<TCSNum>5</TCSNum><TCSMaxNum>7</TCSMaxNum><TCSMinPool>0</TCSMinPool>",
        "ad55525757a7cc0265926439a82b6c0192e5ce204276d7ee91ed92bc99957369",
        "34a2860663d1c80967b04708204bd07dc540eea4bc0078c65008350dfcc14087",
    ),
    (
        "2.1.3",
        None,
        "<TCSNum>5</TCSNum><TCSMaxNum>7</TCSMaxNum><TCSMinPool>2</TCSMinPool>",
        "ad5f3124c8fbc81412d44f092ac6882c8baf394663f3123efdce120de9b52107",
        "0f70169e210a815b437593ab98216c1d0696cc36ea5e67046de8497260c6e987",
    ),
    (
        "2.3",
        None,
        "<TCSNum>5</TCSNum>",
        "a74eb1595daf10038a97ff7a235d0ea67e9c8da9b223437b42eacdf4ef6b2f86",
        "a51f43583c7b8d7a6dcf9f559262068e7afebdbef8cb88ebf31de73bcf00f7a2",
    ),
    (
        "2.4",
        None,
        "<EnableKSS>1</EnableKSS><ISVFAMILYID_H>7</ISVFAMILYID_H><HeapMaxSize>0x100000</HeapMaxSize>",
        "705fa3900375f74d4b9734f089c4e3337d25d6035d6bd66baf6c8fae56cddb31",
        "297046ad07abef574f666491740ec33dad8ae806a205c207603a4bbd0e383623",
    ),
    (
        "2.5",
        None,
        "<TCSNum>2</TCSNum>",
        "4d07fca2e8137b367aed3b6de9bbc80c6f177f092e68a5e6814acd978f3c8684",
        "2b1cb689205b8c3b1a8161755eabfba30b690682727d5330f9ded848a5037130",
    ),
    (
        "2.6",
        None,
        "<RsrvMinSize>0x3000</RsrvMinSize><RsrvMaxSize>0x3000</RsrvMaxSize>",
        "5296c83c512edae6f182af7b7e7c224da7565ee81441234b143a855ca91228e1",
        "f667c9b4bf864fdcd4dcda67013e2cdd2b7106c949f65ccd376c9f06c25058f7",
    ),
    (
        "2.8",
        None,
        "<ReservedMemMaxSize>0x20000</ReservedMemMaxSize><ReservedMemInitSize>0x5000</ReservedMemInitSize><ReservedMemExecutable>1</ReservedMemExecutable>",
        "8d3245fefd14c08fe24817ea55772bca4fb4838549c96d32bd55724f222fbd32",
        "b676ff8eb6483b49bb22769f332636004b9fbf1f22ff64d7028a81ff0709afac",
    ),
    (
        "2.9.1",
        (2, 9, 101),
        "<TCSNum>3</TCSNum><ReservedMemMaxSize>0x20000</ReservedMemMaxSize>",
        "d29ebe79016d6972aec43343297cb92cb057cd0a92a14a8008c51d47d32436eb",
        "0026affaa13a60dc2da2383c05c5b53bd43cd664a1538ed2ba4d7b4770cec2f4",
    ),
    (
        "2.10",
        (2, 10, 102),
        "<TCSNum>3</TCSNum><ReservedMemMaxSize>0x20000</ReservedMemMaxSize>",
        "c436c5a6ceab8f96dfd779054fd8d1960bdd51a7eda3fddeb9dde20850d8b93c",
        "05f38e7697097c4a5dc2692ff8d17114dbeb2ee1fb472638cf2d684a5f19c240",
    ),
    (
        "2.13",
        (2, 13, 100),
        "<TCSNum>4</TCSNum>",
        "8d6dbd031a6792a078c03d8f0750d1957b745b5b5b2e0260c76068f3d17fecc0",
        "d4e63e14f26069d123ade0f1c5af63736c96a50c1af725f63d929c68c75e4090",
    ),
    (
        "2.14",
        (2, 14, 100),
        "<ELRangeSize>0x8000000</ELRangeSize><EnclaveImageAddress>0x100000</EnclaveImageAddress><TCSNum>3</TCSNum>",
        "d41c0561ab764c6a0240da71355237c1c03fb5e0ba83f290ae266d59a88935f7",
        "ee627487d551365aa40fc81cb84196dcd4e9a8b20701e588074a2f4115de2d38",
    ),
    (
        "2.16",
        (2, 16, 100),
        "<PKRU>1</PKRU>",
        "cb3b31b8181e6881a2477f0ea72afabf8fae64eb3c9e15f69acbc791530539cc",
        "a7c1d4ea2f8e9398944ba9b8571ef2e06bee414c3af8bb9e103bc69e466dc8e9",
    ),
    (
        "2.17",
        (2, 17, 100),
        "<TCSNum>3</TCSNum><TCSMaxNum>6</TCSMaxNum>",
        "617448ea7976e5c38b0868ededa97e5cdef26042935dbd05d8630d5559dde168",
        "c0461450c1bb61e0aaced9de85140fd717dff397ed1c20a98380f9e23e0836f5",
    ),
    (
        "2.18",
        (2, 18, 100),
        "<MiscSelect>1</MiscSelect><UserRegionSize>0x100000</UserRegionSize><TCSNum>4</TCSNum>",
        "5576868e502493eb3ebfbf7123fff79472a134e19c6cef39d16e4e0cc2aa06e5",
        "037e8a8c95f043444d51f00c05c8371830ca3b6016d553189d4d2690ccc3641f",
    ),
    (
        "2.19",
        (2, 19, 100),
        "<MiscSelect>1</MiscSelect><UserRegionSize>0x100000</UserRegionSize><TCSNum>4</TCSNum>",
        "bb92038a144ebe4cade865500550e8035dfecc1f1c3102a8f0011fab5dee5985",
        "bdc2139d9fb86bccad8bc7920f0d79cb45d7b1142c205498295546a9db5ac587",
    ),
    (
        "2.20",
        (2, 20, 100),
        "<MiscSelect>1</MiscSelect><UserRegionSize>0x100000</UserRegionSize><EnableAEXNotify>1</EnableAEXNotify>",
        "8d812ccffefd63df955b3a6a74921e3d636f68eac007bfdf0c22c250d33df44a",
        "c624160f56050b3dce08c59317baa2cc505b8d1d8abd28cce18dec2bbcaec44d",
    ),
    (
        "2.22",
        (2, 22, 100),
        "<MiscSelect>1</MiscSelect><MiscMask>0</MiscMask><TCSNum>3</TCSNum><AMX>2</AMX>",
        "3fa280000b741bbf6265ec168e449f2cad75d904262eaa41802306dc1ff941e4",
        "a33ad280be0a3481e1b04757ea4a0cacd73561eae49a27c8f286ddd655e0980b",
    ),
    (
        "2.24",
        (2, 24, 100),
        "<ELRangeSize>0x8000000</ELRangeSize><EnclaveImageAddress>0x100000</EnclaveImageAddress><ELRangeStartAddress>0</ELRangeStartAddress>",
        "48d26a410cef6e59da978b8258523e21c55b9d5cd8d8e8482b59233d19a5b778",
        "9ad20720d978cd59288c58da760d59c9b36a608184aa0b1e290b469ebc5126e3",
    ),
    (
        "2.25",
        (2, 25, 100),
        "<TCSNum>3</TCSNum><PKRU>2</PKRU>",
        "1979ed83cefbc174ad1482bb5bd9d8da30bf0e8ac3fa73abbb420261c72e3c15",
        "87412811913da1a83ea5a5f3410316474b61a7930ac242b7e79cd3b6ea6de272",
    ),
    (
        "2.26",
        (2, 26, 100),
        "<MiscSelect>1</MiscSelect><MiscMask>0</MiscMask><TCSNum>4</TCSNum><TCSMaxNum>9</TCSMaxNum><HeapInitSize>0x8000</HeapInitSize>",
        "3e5269e8f0de82eb6a23246006454b7117f39bf074e18bda4bcc1ee82c471e87",
        "d3decb81daf8a7c615a8e62d024072da2481af7dc5c69778e5bb0acd754de3c2",
    ),
    # what is left of 8 GiB, as those releases computed it: in 32 bits
    (
        "2.8",
        None,
        "<HeapMaxSize>0x100000000</HeapMaxSize><ReservedMemMaxSize>0x21000</ReservedMemMaxSize>",
        "eb3bed83d4bfc995173015462849a66cb039022248eaa301ca8decb4a218d2ee",
        "d12607a0bca58f15ff223573b108b0c82aab67b0abc0c46a27db5ea4228d9eb4",
    ),
]
# The same for files whose last segment begins inside a page (skew 0xea0), where SDK 1.8 adds a page.
KNOWN_SKEWED = [
    (
        "1.8",
        "<TCSNum>2</TCSNum>",
        "c029954e5ef5be64da7c848ffc8dcde0a28b38fe8cf6c4ca911d217ba11098b1",
        "4a582d9b5af11286b5cffa5acb83f97a8dc8ad6a42cad63e1567f4a263540237",
    ),
    (
        "1.9",
        "<TCSNum>2</TCSNum><StackMaxSize>0x10000</StackMaxSize><HeapMaxSize>0x20000</HeapMaxSize>",
        "83de38cc27b76ef409d21a07b61f3091e0651a5dc71d049def01a8f9ec92199f",
        "b17dd1b59e88165e5a07e5c34064ec2d49b39df24e50c12f05edb4cc3e72749c",
    ),
]
FIPS_BYTES = 772


def options(elements: str, sdk: str = "") -> MeasureOptions:
    xml = f"<EnclaveConfiguration>{elements}</EnclaveConfiguration>"
    return MeasureOptions(config=xml.encode(), config_name="Enclave.config.xml", generation=sdk)


def laid_out(tmp_path: Path, file: bytes, elements: str, sdk: str = "") -> Unsigned:
    path = tmp_path / "enclave.so"
    path.write_bytes(file)
    return lay_out_unsigned(path, options(elements, sdk))


@functools.cache
def owner() -> rsa.RSAPrivateKey:
    return read_private_key(new_key())


def without_sigstructs(file: bytes) -> bytes:
    elf = Elf(memoryview(file))
    found = metadata_block(elf)
    assert found is not None
    data = bytearray(file)
    at = found[0]
    for record in read_metadata(elf):
        data[at + SIGSTRUCT_AT : at + SIGSTRUCT_AT + SIGSTRUCT_SIZE] = bytes(SIGSTRUCT_SIZE)
        at += record.size_bytes
    return bytes(data)


@pytest.mark.parametrize(("sdk", "version", "elements", "mrenclave", "digest"), KNOWN)
def test_the_layout_is_that_of_the_signing_tool(
    sdk: str,
    version: tuple[int, int, int] | None,
    elements: str,
    mrenclave: str,
    digest: str,
    tmp_path: Path,
) -> None:
    file = sdk_elf(version, room=generation(sdk).block_bytes)
    unsigned = laid_out(tmp_path, file, elements, sdk)
    assert unsigned.fields.mrenclave.hex() == mrenclave
    assert hashlib.sha256(without_sigstructs(unsigned.write(None))).hexdigest() == digest


@pytest.mark.parametrize(("sdk", "elements", "mrenclave", "digest"), KNOWN_SKEWED)
def test_a_segment_that_begins_inside_a_page_is_rounded_as_the_release_does(
    sdk: str, elements: str, mrenclave: str, digest: str, tmp_path: Path
) -> None:
    file = sdk_elf(None, room=generation(sdk).block_bytes, skew=0xEA0)
    unsigned = laid_out(tmp_path, file, elements, sdk)
    assert unsigned.fields.mrenclave.hex() == mrenclave
    assert hashlib.sha256(without_sigstructs(unsigned.write(None))).hexdigest() == digest


@pytest.mark.parametrize(("sdk", "version", "elements"), [row[:3] for row in KNOWN])
def test_every_record_gives_the_same_enclave_before_and_after_signing(
    sdk: str, version: tuple[int, int, int] | None, elements: str, tmp_path: Path
) -> None:
    file = sdk_elf(version, room=generation(sdk).block_bytes)
    unsigned = laid_out(tmp_path, file, elements, sdk)
    before = measure_file(tmp_path / "enclave.so", options=options(elements, sdk))
    signed = tmp_path / "enclave.signed.so"
    signed.write_bytes(unsigned.write(sign(to_be_signed(unsigned.fields), owner())))
    after = measure_file(signed)
    (one,), (two,) = before.measurements, after.measurements
    assert one.claims["mrenclave"] == two.claims["mrenclave"]
    assert {check.id for check in two.checks if check.status == "failed"} == set()
    assert {check.id for check in one.checks if check.status == "failed"} == set()
    assert [log.value for log in before.logs] == [log.value for log in after.logs]


def test_all_generations_can_be_chosen_by_name() -> None:
    for one in GENERATIONS:
        assert generation(one.name) is one


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2.26.100.0", "2.26"),
        ("2.13.103.1", "2.13"),
        ("2.1", "2.1"),
        ("2.1.2", "2.1"),
        ("2.1.3.44322", "2.1.3"),
        ("2.9.100.2", "2.9"),
        ("2.9.101.2", "2.9.1"),
        ("2.0.40950", "2.0"),
    ],
)
def test_a_release_is_known_by_its_full_version(text: str, name: str) -> None:
    assert generation(text).name == name


@pytest.mark.parametrize("text", ["2.29", "3.0", "1.5", "two", "", "2", "2.26\n"])
def test_an_unknown_release_is_refused(text: str) -> None:
    with pytest.raises(UnknownSdk):
        generation(text)


def test_a_version_in_the_file_is_major_minor_revision() -> None:
    assert generation_of(2 << 32 | 24 << 16 | 100).name == "2.24"
    with pytest.raises(UnknownSdk, match=r"2\.99"):
        generation_of(2 << 32 | 99 << 16 | 100)


@pytest.mark.parametrize(
    ("sdk", "size"),
    [("2.11", 1656), ("2.13", 1656), ("2.17", 1688), ("2.25", 1768), ("2.26", 1768), ("1.9", 184)],
)
def test_global_data_has_the_size_of_real_enclaves(sdk: str, size: int) -> None:
    assert generation(sdk).global_data_bytes == size


def test_every_generation_was_compared_with_files_that_it_signed() -> None:
    assert {*COMPARED, *PUBLISHED} == {one.name for one in GENERATIONS}
    assert min([*COMPARED.values(), *PUBLISHED.values()]) > 0


@pytest.mark.parametrize(
    ("sdk", "size", "entries", "counts"),
    [
        ("2.16", 1680, 42, False),
        ("2.16", 1688, 42, True),
        ("2.18", 1688, 42, True),
        ("2.18", 1720, 43, True),
        ("2.26", 9999, 43, True),
    ],
)
def test_two_builds_of_a_release_are_told_apart_by_the_size_of_global_data(
    sdk: str, size: int, entries: int, counts: object
) -> None:
    found = fitted(generation(sdk), size)
    assert (found.layout_room, found.has_tcs_count) == (entries, counts)


def test_a_global_data_of_another_size_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "enclave.so"
    path.write_bytes(sdk_elf(global_data_bytes=1760))
    assert check_of(path, options(""), "global-data-size") == ("warning", "1760 bytes")


def check_of(path: Path, chosen: MeasureOptions, ident: str) -> tuple[str, str]:
    (measurement,) = measure_file(path, options=chosen).measurements
    (found,) = [one for one in measurement.checks if one.id == ident]
    return found.status, found.got


def test_a_generation_that_was_not_compared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "enclave.so"
    path.write_bytes(sdk_elf())
    assert check_of(path, options(""), "sdk-generation-proven")[0] == "passed"
    monkeypatch.delitem(COMPARED, "2.26")
    monkeypatch.delitem(PUBLISHED, "2.26")
    status, got = check_of(path, options(""), "sdk-generation-proven")
    assert (status, "not compared" in got) == ("warning", True)


def test_the_files_own_sdk_is_the_default_and_another_one_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "enclave.so"
    path.write_bytes(sdk_elf((2, 24, 100)))
    assert check_of(path, options(""), "sdk-version") == ("passed", "linked with SDK 2.24.100")
    assert check_of(path, options("", "2.26"), "sdk-version") == ("warning", "linked with SDK 2.24.100")
    (enclave, *_) = lay_out(path, options(""))
    assert enclave.facts["sdk"] == "2.24"


def test_a_file_without_a_version_names_the_releases_that_fit(tmp_path: Path) -> None:
    size = generation("2.7").global_data_bytes
    file = sdk_elf(None, global_data_bytes=size)
    with pytest.raises(NotAnSdkEnclave, match="does not say") as error:
        laid_out(tmp_path, file, "")
    assert "2.6, 2.7" in error.value.hint
    assert laid_out(tmp_path, file, "", "2.7").fields.mrenclave


def test_without_a_configuration_an_unsigned_enclave_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "enclave.so"
    path.write_bytes(sdk_elf())
    with pytest.raises(RvpError) as error:
        measure_file(path)
    assert "--config" in error.value.hint


def test_a_signed_enclave_is_laid_out_anew_for_another_signature(tmp_path: Path) -> None:
    first = laid_out(tmp_path, sdk_elf(), "<TCSNum>2</TCSNum>")
    file = first.write(sign(to_be_signed(first.fields), owner()))
    again = laid_out(tmp_path, file, "<TCSNum>3</TCSNum>")
    fresh = laid_out(tmp_path, sdk_elf(), "<TCSNum>3</TCSNum>")
    assert again.write(None) == fresh.write(None)


def test_a_sigstruct_for_another_configuration_is_refused(tmp_path: Path) -> None:
    first = laid_out(tmp_path, sdk_elf(), "<TCSNum>2</TCSNum>")
    signed = sign(to_be_signed(first.fields), owner())
    with pytest.raises(SigstructMismatch, match="another enclave"):
        laid_out(tmp_path, sdk_elf(), "<TCSNum>3</TCSNum>").write(signed)
    with pytest.raises(SigstructMismatch, match="isvsvn: signed 0, configured 4"):
        laid_out(tmp_path, sdk_elf(), "<TCSNum>2</TCSNum><ISVSVN>4</ISVSVN>").write(signed)


def test_the_signature_states_what_the_configuration_says(tmp_path: Path) -> None:
    fields = laid_out(
        tmp_path,
        sdk_elf(),
        "<ProdID>7</ProdID><ISVSVN>011</ISVSVN><DisableDebug>1</DisableDebug><EnableKSS>1</EnableKSS>"
        "<ISVFAMILYID_L>0x11</ISVFAMILYID_L><ISVFAMILYID_H>0x22</ISVFAMILYID_H><ReleaseType>1</ReleaseType>"
        "<IntelSigned>1</IntelSigned><MiscSelect>3</MiscSelect><MiscMask>2</MiscMask><AMX>1</AMX>",
    ).fields
    assert (fields.isvprodid, fields.isvsvn) == (7, 9)  # a leading zero is octal, as in C
    assert fields.attributes == (0x84, 0x60003)
    assert fields.attributes_mask == (0xFF00FFFFFFFFFFFF, 0xFFFFFFFFFFFFFF1B)
    assert fields.isvfamilyid == struct.pack("<QQ", 0x11, 0x22)
    assert (fields.miscselect, fields.miscselect_mask) == (2, 2)
    assert (fields.vendor, fields.header_type) == (0x8086, 1 << 31)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (sdk_elf(undefined=b"printf"), "printf is undefined"),
        (sdk_elf(relocation=37), "relocation type 37"),
        (sdk_elf(room=0x800), "room for 0x800"),
        (sdk_elf()[:16] + b"\x02\0" + sdk_elf()[18:], "expected a shared object"),
    ],
)
def test_what_the_signing_tool_refuses_is_refused(file: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RvpError, match=message):
        laid_out(tmp_path, file, "")


def test_a_file_that_is_cut_or_damaged_never_crashes(tmp_path: Path) -> None:
    file = sdk_elf(room=0x2000)
    for size in range(0, len(file), 997):
        with pytest.raises(RvpError):
            laid_out(tmp_path, file[:size], "<HeapMaxSize>0x1000</HeapMaxSize>")
    for at in [*range(0, 0x400, 7), *range(len(file) - 0x300, len(file), 7)]:
        damaged = file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :]
        with contextlib.suppress(RvpError):
            laid_out(tmp_path, damaged, "<HeapMaxSize>0x1000</HeapMaxSize>").write(None)


def cases() -> list[str]:
    return [
        *("c01_default", "c02_tcs10", "c03_pool", "c04_dyn_both", "c05_dyn_sgx2only", "c06_userregion"),
        *("c07_rsrv", "c08_elrange", "c09_kss", "c10_aex_pkru", "c11_amx", "c12_tcs1_nopool", "c13_elr_dyn"),
        *("c14_fips", "t02_textrel"),
    ]


@pytest.mark.parametrize("case", cases())
def test_signed_files_equal_those_of_the_signing_tool(case: str, vectors: Path) -> None:
    folder = vectors / "sgx/oracle"
    file, config = ("textrel.so", "c02_tcs10.xml") if case == "t02_textrel" else ("basic.so", f"{case}.xml")
    expected = (folder / f"{case}.signed.so").read_bytes()
    theirs = Sigstruct(read_metadata(Elf(memoryview(expected)))[0].sigstruct)
    unsigned = lay_out_unsigned(
        folder / file, MeasureOptions(config=(folder / config).read_bytes(), config_name=config)
    )
    year, month, day = (int(part) for part in theirs.date.split("-"))
    fields = msgspec.structs.replace(unsigned.fields, date=(year, month, day))
    signed = sign(to_be_signed(fields), read_private_key((folder / "key.pem").read_bytes()))
    assert signed.raw == theirs.raw
    got = unsigned.write(signed)
    if case == "c14_fips":  # its second signature is by a key that was thrown away
        got, expected = (blanked_fips(one) for one in (got, expected))
    assert got == expected


def fips_signature(file: bytes) -> tuple[int, bytes]:
    elf = Elf(memoryview(file))
    found = metadata_block(elf)
    assert found is not None
    at = found[0]
    inside = fips_place(file[at : at + read_metadata(elf)[0].size_bytes])
    assert inside is not None
    return at + inside, file[at + inside : at + inside + FIPS_BYTES]


def blanked_fips(file: bytes) -> bytes:
    at, _ = fips_signature(file)
    return file[:at] + bytes(FIPS_BYTES) + file[at + FIPS_BYTES :]


def verify_fips(file: bytes) -> None:
    _, raw = fips_signature(file)
    sigstruct = read_metadata(Elf(memoryview(file)))[0].sigstruct
    modulus, exponent = int.from_bytes(raw[:384], "little"), int.from_bytes(raw[384:388], "little")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    key.verify(raw[388:], sigstruct, padding.PKCS1v15(), hashes.SHA256())


def test_the_fips_signature_verifies_as_that_of_the_signing_tool_does(tmp_path: Path) -> None:
    unsigned = laid_out(tmp_path, sdk_elf(), "<EnableIPPFIPS>1</EnableIPPFIPS>")
    signed = sign(to_be_signed(unsigned.fields), owner())
    file = unsigned.write(signed)
    verify_fips(file)
    assert unsigned.write(signed) == file
    assert not any(fips_signature(unsigned.write(None))[1])


def test_the_signing_tools_fips_signature_is_read_alike(vectors: Path) -> None:
    verify_fips((vectors / "sgx/oracle/c14_fips.signed.so").read_bytes())


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ("<ELRangeSize>0x1000000</ELRangeSize><EnclaveImageAddress>0x1010</EnclaveImageAddress>", "multiple"),
        ("<ELRangeSize>0x3000000</ELRangeSize>", "not a power of two"),
        ("<ELRangeSize>0x1000000</ELRangeSize>", "is not in the range"),
        (
            "<ELRangeSize>0x8000000</ELRangeSize><ELRangeStartAddress>0x1000000</ELRangeStartAddress>",
            "not a multiple of 0x8000000",
        ),
        (
            "<ELRangeSize>0x8000000</ELRangeSize><ELRangeStartAddress>0x8000000</ELRangeStartAddress>",
            "is not in the range",
        ),
        ("<HeapMaxSize>0x1000000000000</HeapMaxSize>", "more than"),
        ("<TCSNum>0xffffffff</TCSNum>", "more than"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(elements: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadSdkConfig, match=message):
        laid_out(tmp_path, sdk_elf(), elements)
