"""The digest of a PE file, against tools that sign and verify; hostile files."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.measure.boot.pe import BadPe, Pe, authenticode
from tests.fakes.pe_file import write_pe


def random_pe(chance: random.Random, *, trailing: int = 0) -> bytes:
    sections = tuple(
        (f".s{number}", chance.randbytes(chance.randrange(1, 3000)))
        for number in range(chance.randrange(1, 5))
    )
    return write_pe(sections, trailing=chance.randbytes(trailing), directories=chance.choice((6, 16)))


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: osslsigncode, pesign, sbsigntool)")
    return found


def key(folder: Path) -> tuple[Path, Path]:
    made = (folder / "k.pem", folder / "c.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "9",
         "-keyout", made[0], "-out", made[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def test_osslsigncode_signs_the_digest_that_we_compute_before_and_after(tmp_path: Path) -> None:
    program = tool("osslsigncode")
    private, certificate = key(tmp_path)
    chance = random.Random(1)
    for number, algorithm in enumerate(("sha256", "sha384", "sha512", "sha1", "sha256", "sha384")):
        plain, signed = tmp_path / f"{number}.efi", tmp_path / f"{number}.signed.efi"
        plain.write_bytes(random_pe(chance, trailing=8 * (number % 3)))
        command = [program, "sign", "-certs", certificate, "-key", private, "-h", algorithm]
        subprocess.run([*command, "-in", plain, "-out", signed], check=True, capture_output=True)
        told = subprocess.run(
            [program, "verify", "-in", signed], check=False, capture_output=True, text=True
        ).stdout
        current = re.search(r"Current message digest\s*: ([0-9A-F]+)", told)
        assert current is not None
        assert authenticode(plain.read_bytes(), algorithm).hex().upper() == current[1]
        assert authenticode(signed.read_bytes(), algorithm).hex().upper() == current[1]


@pytest.mark.parametrize("trailing", [0, 1, 3, 8, 13])
def test_pesign_pads_an_unsigned_file_to_eight_bytes_where_firmware_does_not(
    tmp_path: Path, trailing: int
) -> None:
    data = random_pe(random.Random(trailing), trailing=trailing)
    file = tmp_path / "x.efi"
    file.write_bytes(data)
    told = subprocess.run(
        [tool("pesign"), "-h", "-P", "-i", file], check=True, capture_output=True, text=True
    ).stdout
    padded = data + bytes(-len(data) % 8)
    assert authenticode(padded, "sha256").hex() in told
    assert (authenticode(data, "sha256").hex() in told) == (trailing % 8 == 0)


def test_what_sbsign_signed_is_measured_as_sbverify_verifies_it(tmp_path: Path) -> None:
    private, certificate = key(tmp_path)
    for trailing in (0, 8, 16):
        plain, signed = tmp_path / "x.efi", tmp_path / "x.signed.efi"
        data = random_pe(random.Random(trailing), trailing=trailing)
        plain.write_bytes(data)
        command = [tool("sbsign"), "--key", private, "--cert", certificate, "--output", signed, plain]
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run([tool("sbverify"), "--cert", certificate, signed], check=True, capture_output=True)
        digest = authenticode(signed.read_bytes(), "sha256")
        assert digest in signed.read_bytes()  # what was signed stands in the signature
        assert digest == authenticode(data, "sha256")


def test_checksum_and_certificates_change_nothing_and_all_else_does() -> None:
    data = write_pe((("a", b"x" * 40), ("b", b"y" * 700)), trailing=b"end", certificates=b"C" * 16)
    digest = authenticode(data, "sha384")
    pe = Pe(data)
    free = set(range(pe.checksum_at, pe.checksum_at + 4)) | set(range(len(data) - 16, len(data)))
    free |= set(range(pe.certificate_entry_at, pe.certificate_entry_at + 4))
    size_field = range(pe.certificate_entry_at + 4, pe.certificate_entry_at + 8)  # says where hashing ends
    for at in sorted(set(range(len(data))) - set(size_field)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        try:
            same = authenticode(bytes(changed), "sha384") == digest
        except BadPe:
            continue
        assert same == (at in free), at


def test_content_ends_at_the_virtual_size_not_at_the_rounded_raw_size() -> None:
    pe = Pe(write_pe((("a", b"x" * 40),)))
    section = pe.section("a")
    assert section is not None
    assert (section.raw_size, bytes(pe.content(section))) == (512, b"x" * 40)
    assert pe.section("b") is None


def test_every_truncation_of_a_signed_file_is_one_error() -> None:
    data = write_pe((("a", b"x" * 40),), trailing=b"end", certificates=b"C" * 16)
    for size in range(len(data)):
        with pytest.raises(BadPe):
            authenticode(data[:size], "sha256", name="x.efi")


def _patched(at: int, layout: str, *values: int) -> bytes:
    data = bytearray(write_pe((("a", b"x" * 40), ("b", b"y" * 40)), certificates=b"C" * 16))
    struct.pack_into(layout, data, at, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "layout", "values", "words"),
    [
        (0, "<H", (0,), "MZ"),
        (0x3C, "<I", (0xFFFFFFF0,), "PE signature"),
        (64 + 24, "<H", (0x107,), "Magic"),
        (64 + 6, "<H", (0xFFFF,), "SizeOfHeaders"),
        (64 + 20, "<H", (0xFFFF,), "SizeOfHeaders"),
        (64 + 20, "<H", (100,), "SizeOfOptionalHeader"),
        (64 + 24 + 60, "<I", (0,), "SizeOfHeaders"),
        (64 + 24 + 60, "<I", (0xFFFFFFFF,), "SizeOfHeaders"),
        (64 + 24 + 108, "<I", (0xFFFFFFFF,), "NumberOfRvaAndSizes"),
        (64 + 24 + 112 + 32, "<II", (0x7FFFFFFF, 8), "certificate table"),
        (64 + 24 + 112 + 32, "<II", (0x600, 0x400), "certificate table"),
        (64 + 24 + 112 + 36, "<I", (0xFFFFFFFF,), "certificate table"),
        (64 + 24 + 240 + 16, "<I", (0xFFFFFFFF,), "past the end"),
        (64 + 24 + 240 + 20, "<I", (0xFFFFFFFF,), "past the end"),
        (64 + 24 + 240 + 20, "<I", (0x400,), "overlap"),
    ],
)
def test_a_field_that_points_elsewhere_is_named(
    at: int, layout: str, values: tuple[int, ...], words: str
) -> None:
    with pytest.raises(BadPe, match=words) as caught:
        Pe(_patched(at, layout, *values), name="x.efi")
    assert caught.value.place == "x.efi"
    assert "offset 0x" in caught.value.message
