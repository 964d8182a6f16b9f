"""Laying out an enclave: deterministic, bound to its configuration, and only its owner's signature fits."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pipeline.measure import measure_file
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.freestanding.config import BadEnclaveConfig, EnclaveConfig, read_config
from pipeline.measure.sgx.freestanding.pack import CannotPack, measure_packed, pack_enclave
from pipeline.measure.sgx.hashing import hash_plainly
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sdk.config import BadSdkConfig
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import read_metadata
from pipeline.measure.sgx.sigstruct import (
    Sigstruct,
    SigstructFields,
    SigstructMismatch,
    SigstructNotVerified,
    sign,
    to_be_signed,
)
from provenance.errors import UsageError
from tests.conftest import ROOT
from tests.fakes.enclave_elf import enclave_elf

CONFIG = EnclaveConfig(isvprodid=7, isvsvn=2, threads=3, stack="16KiB", heap="64KiB")


@functools.cache
def owner() -> RSAPrivateKey:
    return read_private_key(new_key())


def signature(elf: bytes, config: EnclaveConfig = CONFIG) -> bytes:
    return sign(to_be_signed(config.fields(measure_packed(pack_enclave(elf, config)))), owner()).raw


def test_packing_twice_gives_equal_bytes() -> None:
    assert pack_enclave(enclave_elf(), CONFIG) == pack_enclave(enclave_elf(), CONFIG)


def test_the_signature_changes_no_measured_byte() -> None:
    elf = enclave_elf()
    signed = pack_enclave(elf, CONFIG, signature(elf))
    assert measure_packed(signed) == measure_packed(pack_enclave(elf, CONFIG))


def test_a_packed_and_signed_enclave_passes_every_check(tmp_path: Path) -> None:
    elf = enclave_elf()
    path = tmp_path / "enclave.signed.so"
    path.write_bytes(pack_enclave(elf, CONFIG, signature(elf)))
    (measurement,) = measure_file(path).measurements
    assert {check.status for check in measurement.checks} == {"passed"}
    assert measurement.claims["isvprodid"] == 7
    assert measurement.claims["isvsvn"] == 2
    assert str(measurement.claims["attributes_mask"])[2:18] == "f" * 16  # no debug launch


def test_the_layout_has_heap_and_all_threads_between_guards() -> None:
    elf = Elf(memoryview(bytearray(pack_enclave(enclave_elf(), CONFIG))))
    image = enclave_image(elf, read_metadata(elf)[0])
    runs = list(image.parts)
    assert hash_plainly(image) == measure_packed(pack_enclave(enclave_elf(), CONFIG))
    labels = [run.label for run in runs]
    assert [label for label in labels if label.startswith("TCS")] == ["TCS 0", "TCS 1", "TCS 2"]
    heap = next(run for run in runs if run.label == "heap")
    assert (heap.address, heap.count, heap.is_measured) == (0x4000, 16, False)
    stack = next(run for run in runs if run.label.startswith("stack"))
    assert bytes(stack.content) == b"\xcc" * 4096
    assert stack.address == 0x4000 + (16 + 16) * 4096


@pytest.mark.parametrize(
    "other",
    [
        EnclaveConfig(isvprodid=7, isvsvn=2, threads=3, stack="16KiB", heap="68KiB"),
        EnclaveConfig(isvprodid=7, isvsvn=2, threads=3, stack="20KiB", heap="64KiB"),
        EnclaveConfig(isvprodid=7, isvsvn=2, threads=2, stack="16KiB", heap="64KiB"),
    ],
)
def test_memory_and_threads_are_in_the_measurement(other: EnclaveConfig) -> None:
    elf = enclave_elf()
    assert measure_packed(pack_enclave(elf, other)) != measure_packed(pack_enclave(elf, CONFIG))
    with pytest.raises(SigstructMismatch, match="signs another enclave"):
        pack_enclave(elf, other, signature(elf))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # AVX is the loader's choice in every mask that the packer writes, so attributes are always open
        (CONFIG, ("configid", "configsvn", "attributes")),
        (
            EnclaveConfig(stack="16KiB", heap="64KiB", miscselect_mask=0xFFFFFFFE),
            ("configid", "configsvn", "attributes", "miscselect"),
        ),
    ],
)
def test_what_the_masks_leave_open_is_an_input_of_the_policy(
    tmp_path: Path, config: EnclaveConfig, expected: tuple[str, ...]
) -> None:
    path = tmp_path / "e.so"
    path.write_bytes(pack_enclave(enclave_elf(), config, signature(enclave_elf(), config)))
    assert measure_file(path).measurements[0].policy_inputs == expected


def test_masks_that_are_whole_leave_only_configid_and_configsvn_to_the_host() -> None:
    whole = SigstructFields(mrenclave=bytes(32))
    assert sign(to_be_signed(whole), owner()).left_to_the_host == ()


def test_another_enclave_does_not_take_the_signature() -> None:
    with pytest.raises(SigstructMismatch) as error:
        pack_enclave(enclave_elf(seed=b"eve!"), CONFIG, signature(enclave_elf()))
    assert error.value.exit_code == 12
    assert "expected" in error.value.message


def test_a_signature_over_other_fields_is_refused_by_name() -> None:
    elf = enclave_elf()
    other = EnclaveConfig(isvprodid=7, isvsvn=3, threads=3, stack="16KiB", heap="64KiB")
    with pytest.raises(SigstructMismatch, match="isvsvn: signed 3, configured 2"):
        pack_enclave(elf, CONFIG, signature(elf, other))


@pytest.mark.parametrize(
    ("at", "check"), [(130, "signature"), (600, "signature"), (1100, "q1q2"), (5, "header")]
)
def test_a_damaged_signature_is_refused(at: int, check: str) -> None:
    elf = enclave_elf()
    raw = bytearray(signature(elf))
    raw[at] ^= 1
    with pytest.raises(SigstructNotVerified, match=check) as error:
        pack_enclave(elf, CONFIG, bytes(raw))
    assert error.value.exit_code == 10


def test_mrsigner_is_the_hash_of_the_little_endian_modulus() -> None:
    modulus = owner().public_key().public_numbers().n
    expected = hashlib.sha256(modulus.to_bytes(384, "little")).digest()
    assert Sigstruct(signature(enclave_elf())).mrsigner == expected


def test_what_is_no_freestanding_enclave_is_refused() -> None:
    with pytest.raises(CannotPack, match="begins with"):
        pack_enclave(enclave_elf(marker=b"sdk 2.26"), CONFIG)
    with pytest.raises(CannotPack, match="laid out already"):
        pack_enclave(pack_enclave(enclave_elf(), CONFIG), CONFIG)
    with pytest.raises(CannotPack, match="no section"):
        pack_enclave(enclave_elf().replace(b".note.sgxmeta", b".note.nothing"), CONFIG)


def test_a_cut_enclave_is_refused() -> None:
    elf = enclave_elf()
    for size in range(0, len(elf), 509):
        with pytest.raises(UsageError):
            pack_enclave(elf[:size], CONFIG)


def test_the_sdks_xml_gives_the_same_enclave_as_toml() -> None:
    xml = b"""<EnclaveConfiguration><ProdID>7</ProdID><ISVSVN>2</ISVSVN><TCSNum>3</TCSNum>
      <StackMaxSize>0x4000</StackMaxSize><HeapMaxSize>0x10000</HeapMaxSize><DisableDebug>1</DisableDebug>
    </EnclaveConfiguration>"""
    read = read_config(xml)
    assert read.fields(bytes(32)) == CONFIG.fields(bytes(32))
    assert pack_enclave(enclave_elf(), read) == pack_enclave(enclave_elf(), CONFIG)


@pytest.mark.parametrize(
    "text",
    [
        b'schema = "rvp/enclave/v1"\nisvsvn = 65536',
        b'schema = "rvp/enclave/v1"\nthreads = 0',
        b'schema = "rvp/enclave/v1"\nstack = "10000B"',
        b'schema = "rvp/enclave/v1"\nisvfamilyid = "00112233445566778899aabbccddeeff"',
        b"<EnclaveConfiguration><TCSNum>two</TCSNum></EnclaveConfiguration>",
        b"<EnclaveConfiguration><HeapMinSize>0x1000</HeapMinSize></EnclaveConfiguration>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><EnclaveConfiguration/>',
        b"<EnclaveConfiguration>",
    ],
)
def test_a_bad_configuration_is_refused(text: bytes) -> None:
    with pytest.raises((BadEnclaveConfig, BadSdkConfig)):
        read_config(text)


def test_the_documented_configuration_is_read() -> None:
    text = (ROOT / "docs/reference/sgx.md").read_text()
    lines = text.partition("## `enclave.toml`")[2].partition("| key |")[0].splitlines()
    sample = "\n".join(line.strip() for line in lines if line.startswith("    "))
    assert read_config(sample.encode()).heap_bytes == 256 << 10
