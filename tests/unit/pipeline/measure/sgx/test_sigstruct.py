"""SIGSTRUCT: what is read, what is checked, what is named, what is signed."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measure.measured import (
    SIGNATURE_CHECKS,
    CheckFailed,
    SignatureCheckFailed,
    require_passed,
    subject_of,
)
from pipeline.measure.sgx.enclave_measurement import enclave_measurement, sigstruct_checks
from pipeline.measure.sgx.owner_key import OwnerKeyFile, read_private_key
from pipeline.measure.sgx.signer import read_signature, sign_enclave
from pipeline.measure.sgx.sigstruct import (
    DEBUG,
    BadSigstruct,
    Sigstruct,
    SigstructFields,
    SigstructMismatch,
    SigstructNotVerified,
    assemble,
    check_fields,
    sign,
    to_be_signed,
)
from pipeline.measure.sgx.sigstruct_fields import (
    changes,
    configuration_check,
    debug_launch,
    fields_of,
    mrsigner_check,
    of_tbs,
)
from pipeline.measure.sgx.sigstruct_file import read_sigstruct, read_stated

FIELDS = SigstructFields(
    mrenclave=bytes(range(32)),
    isvprodid=7,
    isvsvn=3,
    attributes=(0x84, 3),
    isvextprodid=b"\1" * 16,
    isvfamilyid=b"\2" * 16,
    date=(2026, 2, 4),
)


@pytest.fixture(scope="module")
def owner() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


@pytest.fixture(scope="module")
def signed(owner: rsa.RSAPrivateKey) -> Sigstruct:
    return sign_enclave(FIELDS, OwnerKeyFile(owner, "owner.pem"))


def failing(raw: bytes | bytearray) -> set[str]:
    return {check.id for check in Sigstruct(bytes(raw)).checks() if check.status == "failed"}


def build(tbs: bytes, modulus: int, signature: int, q1: int, q2: int) -> bytes:
    return (
        tbs[:128]
        + modulus.to_bytes(384, "little")
        + struct.pack("<I", 3)
        + signature.to_bytes(384, "little")
        + tbs[128:]
        + bytes(12)
        + q1.to_bytes(384, "little")
        + q2.to_bytes(384, "little")
    )


def quotients(signature: int, modulus: int) -> tuple[int, int]:
    q1 = signature * signature // modulus
    return q1, signature * (signature * signature - q1 * modulus) // modulus


def encoded(tbs: bytes) -> int:
    """EMSA-PKCS1-v1_5, written out once more."""
    import hashlib

    tail = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(tbs).digest()
    return int.from_bytes(b"\0\1" + b"\xff" * (384 - 3 - len(tail)) + b"\0" + tail, "big")


# ---- checks


def test_what_was_signed_here_passes_every_check(signed: Sigstruct) -> None:
    assert failing(signed.raw) == set()
    assert {check.id for check in signed.checks()} == SIGNATURE_CHECKS


def test_only_the_header_check_sees_another_exponent(signed: Sigstruct) -> None:
    raw = bytearray(signed.raw)
    raw[512:516] = struct.pack("<I", 65537)
    assert failing(raw) == {"header"}


def test_only_the_reserved_check_sees_bytes_that_nobody_signs(signed: Sigstruct) -> None:
    raw = bytearray(signed.raw)
    raw[1030] = 1
    assert failing(raw) == {"reserved"}


def test_only_the_quotient_check_sees_another_quotient(signed: Sigstruct) -> None:
    for at in (1040, 1424):
        raw = bytearray(signed.raw)
        raw[at] ^= 1
        assert failing(raw) == {"q1q2"}


def test_only_the_modulus_check_sees_a_key_of_another_size() -> None:
    key = rsa.generate_private_key(public_exponent=3, key_size=3064)
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    tbs = to_be_signed(FIELDS)
    signature = pow(encoded(tbs), numbers.d, modulus)
    assert failing(build(tbs, modulus, signature, *quotients(signature, modulus))) == {"modulus"}


def test_only_the_range_check_sees_a_signature_that_the_modulus_was_added_to() -> None:
    for _ in range(100):
        key = rsa.generate_private_key(public_exponent=3, key_size=3072)
        numbers = key.private_numbers()
        modulus = numbers.public_numbers.n
        if modulus >> 3068 > 10:
            continue  # a large modulus leaves no room in 384 bytes
        for day in range(1, 29):
            tbs = to_be_signed(msgspec.structs.replace(FIELDS, date=(2026, 2, day)))
            signature = pow(encoded(tbs), numbers.d, modulus) + modulus
            q1, q2 = quotients(signature, modulus)
            if signature.bit_length() <= 3072 and q1.bit_length() <= 3072:
                assert failing(build(tbs, modulus, signature, q1, q2)) == {"signature-in-range"}
                return
    pytest.fail("no key with room was found")


def test_an_even_and_a_zero_modulus_are_named(signed: Sigstruct) -> None:
    raw = bytearray(signed.raw)
    raw[128] &= 0xFE
    checks = {check.id: check for check in Sigstruct(bytes(raw)).checks()}
    assert (checks["modulus"].status, checks["modulus"].got) == ("failed", "an even number")
    raw[128:512] = bytes(384)
    checks = {check.id: check for check in Sigstruct(bytes(raw)).checks()}
    assert checks["modulus"].got == "zero"


def test_a_vendor_that_the_sdm_does_not_know_fails_the_header(owner: rsa.RSAPrivateKey) -> None:
    fields = msgspec.structs.replace(FIELDS, vendor=0x8086)
    assert failing(sign(to_be_signed(fields), owner).raw) == set()
    with pytest.raises(SigstructNotVerified, match="header"):
        sign(to_be_signed(msgspec.structs.replace(FIELDS, vendor=0x1234)), owner)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 1807), bit=st.integers(0, 7))
def test_no_flipped_bit_passes(at: int, bit: int) -> None:
    raw = bytearray(_known().raw)
    raw[at] ^= 1 << bit
    got = failing(raw)
    # TYPE is signed, so that a change of it is one of the signature
    assert got
    assert got <= SIGNATURE_CHECKS


_KNOWN: list[Sigstruct] = []


def _known() -> Sigstruct:
    if not _KNOWN:
        key = rsa.generate_private_key(public_exponent=3, key_size=3072)
        _KNOWN.append(sign(to_be_signed(FIELDS), key))
    return _KNOWN[0]


# ---- exit codes


def measured(raw: bytes, value: bytes) -> None:
    one = Sigstruct(raw)
    checks = sigstruct_checks(one, value)
    require_passed((enclave_measurement(subject_of(b"", "e"), value, one, checks),))


@pytest.mark.parametrize("at", [3, 50, 513, 600, 1029, 1040, 1424])
def test_a_sigstruct_that_does_not_verify_is_exit_10(signed: Sigstruct, at: int) -> None:
    raw = bytearray(signed.raw)
    raw[at] ^= 1
    with pytest.raises(SignatureCheckFailed) as caught:
        measured(bytes(raw), signed.mrenclave)
    assert caught.value.exit_code == 10


def test_a_sigstruct_of_another_enclave_is_exit_12_and_a_broken_one_first_exit_10(signed: Sigstruct) -> None:
    with pytest.raises(CheckFailed) as caught:
        measured(signed.raw, bytes(32))
    assert caught.value.exit_code == 12
    raw = bytearray(signed.raw)
    raw[600] ^= 1
    with pytest.raises(SignatureCheckFailed):
        measured(bytes(raw), bytes(32))


# ---- words


def words(stated: Sigstruct) -> dict[str, str]:
    return {one.name: one.words for one in fields_of(stated)}


def test_every_byte_belongs_to_a_field_or_is_reserved(signed: Sigstruct) -> None:
    raw = bytearray(signed.raw)
    for at, size in ((44, 84), (910, 2), (992, 16), (1028, 12)):
        raw[at : at + size] = b"\1" * size
    covered = [
        at for one in fields_of(Sigstruct(bytes(raw))) for at in range(one.offset, one.offset + one.size)
    ]
    assert covered == list(range(1808))


def test_what_is_signed_is_what_the_signature_covers(signed: Sigstruct) -> None:
    raw = bytearray(signed.raw)
    raw[44:128] = b"\1" * 84
    raw[910:912] = raw[992:994] = b"\1\1"
    fields = fields_of(Sigstruct(bytes(raw)))
    assert sum(one.size for one in fields if one.signed) == 256


def test_fields_are_said_in_words(signed: Sigstruct) -> None:
    said = words(signed)
    assert said["attributes.flags"] == "MODE64BIT KSS"
    assert said["attributemask.flags"] == "all bits are required as signed"
    assert said["date"] == "2026-02-04"
    assert (said["isvprodid"], said["isvsvn"]) == ("7", "3")
    assert said["modulus"] == f"mrsigner {signed.mrsigner.hex()}"
    assert debug_launch(signed) == "forbidden"


def test_whether_a_debug_launch_is_possible_is_said() -> None:
    free = msgspec.structs.replace(FIELDS, attributes_mask=(~DEBUG & (1 << 64) - 1, 3))
    assert debug_launch(of_tbs(to_be_signed(free))) == "the host may choose it"
    forced = msgspec.structs.replace(FIELDS, attributes=(6, 3))
    assert debug_launch(of_tbs(to_be_signed(forced))) == "required"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0x20260204, "2026-02-04"),
        (0x07E70B17, "2023-11-23 (as plain numbers, not in BCD)"),
        (0, "not a date"),
        (0x20261340, "not a date"),
        (0xFFFFFFFF, "not a date"),
    ],
)
def test_a_date_is_read_as_old_tools_wrote_it_too(signed: Sigstruct, value: int, said: str) -> None:
    raw = signed.raw[:20] + struct.pack("<I", value) + signed.raw[24:]
    assert words(Sigstruct(raw))["date"] == said


def test_fields_of_intels_own_signer_are_said(vectors: Path) -> None:
    oracle = vectors / "sgx" / "oracle"
    kss = Sigstruct((oracle / "c09_kss.css").read_bytes())
    assert words(kss)["attributes.flags"] == "MODE64BIT KSS"
    assert {one.name: one.value for one in fields_of(kss)}["isvfamilyid"] == kss.raw[912:928].hex()
    default = Sigstruct((oracle / "c01_default.css").read_bytes())
    assert debug_launch(default) == "the host may choose it"
    assert {one.name for one in changes(default, kss)} >= {"attributes.flags", "isvextprodid", "isvfamilyid"}
    dynamic = Sigstruct((oracle / "c04_dyn_both.css").read_bytes())
    assert "enclavehash" in {one.name for one in changes(default, dynamic)}


def test_every_sigstruct_of_intels_signer_passes_and_is_assembled_again(vectors: Path) -> None:
    """What gendata gives is signed by anybody; what catsig gives is what is assembled here."""
    oracle = vectors / "sgx" / "oracle"
    key = OwnerKeyFile(read_private_key((oracle / "key.pem").read_bytes()), "key.pem")
    found = sorted(oracle.glob("*.css"))
    assert len(found) >= 14
    for path in found:
        css = Sigstruct(path.read_bytes())
        assert failing(css.raw) == set()
        from provenance.signers.remote_key import Scheme

        signature = key.sign(css.to_be_signed, Scheme.RSA_PKCS1_SHA256)
        assert assemble(css.to_be_signed, key.public_key(), signature).raw == css.raw


def test_changes_are_named_with_both_values_and_the_key(signed: Sigstruct) -> None:
    other = sign(
        to_be_signed(msgspec.structs.replace(FIELDS, isvsvn=4, date=(2026, 3, 1))),
        rsa.generate_private_key(public_exponent=3, key_size=3072),
    )
    assert [(one.name, one.old, one.new) for one in changes(signed, other)] == [
        ("date", "0x20260204 (2026-02-04)", "0x20260301 (2026-03-01)"),
        ("isvsvn", "3", "4"),
        ("mrsigner", signed.mrsigner.hex(), other.mrsigner.hex()),
    ]
    assert changes(signed, signed) == ()
    assert [one.name for one in changes(of_tbs(to_be_signed(FIELDS)), other)] == ["date", "isvsvn"]


def test_expectations_are_checks(signed: Sigstruct) -> None:
    assert mrsigner_check(signed, None).status == "skipped"
    assert mrsigner_check(signed, signed.mrsigner).status == "passed"
    assert mrsigner_check(signed, bytes(32)).status == "failed"
    later = msgspec.structs.replace(FIELDS, date=(2030, 1, 1), vendor=0x8086, mrenclave=bytes(32))
    assert configuration_check(signed, later).status == "passed"
    failed = configuration_check(signed, msgspec.structs.replace(FIELDS, isvsvn=9))
    assert (failed.status, failed.expected, failed.got) == ("failed", "isvsvn 9", "isvsvn 3")


def test_a_cet_attribute_that_was_signed_is_not_hidden(owner: rsa.RSAPrivateKey) -> None:
    fields = msgspec.structs.replace(FIELDS, cet_attributes=4)
    with pytest.raises(SigstructMismatch, match=r"cet_attributes: signed 0x04 \(ENDBR_EN\)"):
        check_fields(sign(to_be_signed(fields), owner), FIELDS)


# ---- signatures from elsewhere


def test_a_signature_is_read_in_each_form_that_devices_write(owner: rsa.RSAPrivateKey) -> None:
    raw = bytes(range(256)) + bytes(128)
    text = base64.encodebytes(raw)
    assert read_signature(raw) == raw
    assert read_signature(text) == raw
    assert read_signature(base64.b64encode(raw)) == raw
    assert read_signature(raw.hex().encode() + b"\n") == raw
    assert read_signature(":".join(f"{one:02X}" for one in raw).encode()) == raw


@pytest.mark.parametrize(
    "data", [b"", bytes(383), bytes(385), b"g" * 768, b"!" * 512, b"QUJD", b"A" * 1_000_000, b"\xff" * 512]
)
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(BadSigstruct):
        read_signature(data)


def test_a_signature_in_the_wrong_byte_order_is_told(owner: rsa.RSAPrivateKey) -> None:
    from provenance.signers.remote_key import Scheme

    tbs = to_be_signed(FIELDS)
    signature = OwnerKeyFile(owner, "k").sign(tbs, Scheme.RSA_PKCS1_SHA256)
    with pytest.raises(SigstructNotVerified) as caught:
        assemble(tbs, owner.public_key(), signature[::-1])
    assert "little-endian" in caught.value.hint


def test_bytes_with_something_in_their_reserved_part_are_not_assembled(owner: rsa.RSAPrivateKey) -> None:
    from provenance.signers.remote_key import Scheme

    tbs = bytearray(to_be_signed(FIELDS))
    tbs[100] = 1
    signature = OwnerKeyFile(owner, "k").sign(bytes(tbs), Scheme.RSA_PKCS1_SHA256)
    with pytest.raises(SigstructNotVerified, match="reserved"):
        assemble(bytes(tbs), owner.public_key(), signature)


# ---- files


def test_the_sigstruct_of_a_file_is_found(signed: Sigstruct, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(signed.raw)
    assert read_sigstruct(tmp_path / "s").raw == signed.raw
    (tmp_path / "tbs").write_bytes(signed.to_be_signed)
    stated, is_signed = read_stated(tmp_path / "tbs")
    assert (stated.to_be_signed, is_signed) == (signed.to_be_signed, False)
    (tmp_path / "short").write_bytes(signed.raw[:1000])
    with pytest.raises(BadSigstruct):
        read_sigstruct(tmp_path / "short")
