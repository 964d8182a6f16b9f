"""Nitro enclave images: PCRs against a straight-line reader, signatures, damaged and hostile files."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pipeline.measure import CheckFailed, measure_file, require_passed
from pipeline.measure.boot.register import fold_log
from pipeline.measure.eif import BadEif, read_eif, read_signature
from pipeline.measure.measured import Measured, SignatureCheckFailed
from provenance.claims import check_claims
from provenance.errors import RvpError
from tests.fakes.eif_file import Sections, certificate_and_key, plain, sign_eif, write_eif


def straight(data: bytes) -> dict[str, str]:
    """PCR 0, 1 and 2 as the format's document says, with nothing of the reader under test."""
    count = int.from_bytes(data[26:28])
    parts: dict[int, list[bytes]] = {1: [], 2: [], 3: [], 4: [], 5: []}
    for index in range(count):
        at = int.from_bytes(data[28 + 8 * index : 36 + 8 * index])
        size = int.from_bytes(data[284 + 8 * index : 292 + 8 * index])
        parts[int.from_bytes(data[at : at + 2])].append(data[at + 12 : at + 12 + size])
    boot = b"".join(parts[1] + parts[2])

    def pcr(content: bytes) -> str:
        return hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).hexdigest()

    return {
        "pcr0": pcr(boot + b"".join(parts[3])),
        "pcr1": pcr(boot + parts[3][0]),
        "pcr2": pcr(b"".join(parts[3][1:])),
    }


def measured(folder: Path, sections: Sections, **options: int) -> Measured:
    file = folder / "enclave.eif"
    file.write_bytes(write_eif(sections, **options))
    return measure_file(file)


@pytest.mark.parametrize("ramdisks", [(b"a" * 900,), (b"a", b"b"), (b"a", b"b" * 5000, b"c")])
def test_pcrs_are_those_of_a_straight_line_reader(tmp_path: Path, ramdisks: tuple[bytes, ...]) -> None:
    found = measured(tmp_path, plain(*ramdisks))
    (one,) = found.measurements
    assert one.claims == straight((tmp_path / "enclave.eif").read_bytes())
    assert {fold_log(log).hex() for log in found.logs} == set(one.claims.values())
    assert (one.tee, one.unpredicted) == ("nitro", ())
    check_claims("nitro", dict(one.claims))
    require_passed(found.measurements)


def test_metadata_changes_the_file_and_no_register(tmp_path: Path) -> None:
    first = measured(tmp_path, plain(b"a", metadata=b'{"BuildTime":"1"}')).measurements[0]
    second = measured(tmp_path, plain(b"a", metadata=b'{"BuildTime":"2"}')).measurements[0]
    assert first.claims == second.claims
    assert first.subject.digest != second.subject.digest


@pytest.mark.parametrize("as_lists", [False, True])
def test_a_signed_image_has_pcr8_of_its_certificate_and_its_signature_is_checked(
    tmp_path: Path, *, as_lists: bool
) -> None:
    found = measured(tmp_path, sign_eif(plain(b"a", b"b"), as_lists=as_lists))
    (one,) = found.measurements
    der = certificate_and_key()[0].public_bytes(Encoding.DER)
    assert one.claims["pcr8"] == hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    assert {check.id: check.status for check in one.checks} == dict.fromkeys(
        ("crc", "signature", "signed-register"), "passed"
    )


def test_a_signature_over_another_value_fails_its_check(tmp_path: Path) -> None:
    found = measured(tmp_path, sign_eif(plain(b"a"), value=b"\1" * 48))
    with pytest.raises(CheckFailed, match="signed-register"):
        require_passed(found.measurements)


def test_a_forged_signature_fails_its_check(tmp_path: Path) -> None:
    sections = sign_eif(plain(b"a"))
    (entry,) = cbor2.loads(sections[-1][1])
    cose = cbor2.loads(entry["signature"])
    cose[3] = bytes([cose[3][0] ^ 1]) + cose[3][1:]
    forged = (4, cbor2.dumps([{**entry, "signature": cbor2.dumps(cose)}]))
    with pytest.raises(SignatureCheckFailed, match="signature"):
        require_passed(measured(tmp_path, (*sections[:-1], forged)).measurements)


def test_a_wrong_crc_fails_its_check_and_the_values_are_still_told(tmp_path: Path) -> None:
    data = bytearray(write_eif(plain(b"a")))
    data[548 + 12] ^= 1
    file = tmp_path / "x.eif"
    file.write_bytes(data)
    found = measure_file(file, tee="eif")
    assert found.measurements[0].claims == straight(bytes(data))
    with pytest.raises(CheckFailed, match="crc"):
        require_passed(found.measurements)


@pytest.mark.parametrize(
    ("at", "layout", "value", "words"),
    [
        (0, ">4s", b".elf", "begin"),
        (4, ">H", 9, "version"),
        (26, ">H", 33, "num_sections"),
        (26, ">H", 3, "follow"),
        (28, ">Q", 0, "before"),
        (28, ">Q", 1 << 63, "past the end"),
        (36, ">Q", 548, "before"),
        (284, ">Q", 1, "the header"),
        (548, ">H", 6, "kind"),
        (548, ">H", 2, "sections of kind"),
    ],
)
def test_a_field_that_says_what_cannot_be_is_named(at: int, layout: str, value: object, words: str) -> None:
    data = bytearray(write_eif(plain(b"a")))
    struct.pack_into(layout, data, at, value)
    with pytest.raises(BadEif, match=words) as caught:
        read_eif(bytes(data), name="x.eif")
    assert caught.value.place == "x.eif"


def test_an_image_without_ramdisk_is_refused() -> None:
    with pytest.raises(BadEif, match="no ramdisk"):
        read_eif(write_eif(plain()))


def test_every_truncation_is_refused_and_every_flip_is_seen() -> None:
    data = write_eif(sign_eif(plain(b"a", b"b")))
    for size in range(len(data)):
        with pytest.raises(BadEif):
            read_eif(data[:size])
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        try:
            eif = read_eif(bytes(changed))
        except BadEif:
            continue
        assert eif.crc != eif.computed_crc


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"\x9f" * 5000,
        cbor2.dumps([]),
        cbor2.dumps([{}]),
        cbor2.dumps([{"signing_certificate": 1 << 40, "signature": b""}]),
        cbor2.dumps([{"signing_certificate": b"x", "signature": cbor2.dumps([1, 2, 3, 4])}]),
        cbor2.dumps([{"signing_certificate": [300], "signature": b"\xa0"}]),
        b"\x81" + b"\x5b" + b"\xff" * 8,
    ],
)
def test_a_signature_section_that_is_none_is_one_error(content: bytes) -> None:
    with pytest.raises(BadEif, match="signature section"):
        read_signature(content, name="x.eif")


def test_every_flip_in_a_signature_is_an_error_of_ours_or_seen() -> None:
    content = sign_eif(plain(b"a"))[-1][1]
    good = read_signature(content)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        try:
            found = read_signature(bytes(changed))
        except RvpError:
            continue
        assert not found.verified or (found.register, found.value) == (good.register, good.value), at
