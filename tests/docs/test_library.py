"""The page about the library is run as it stands."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from tests.conftest import ROOT
from tests.fakes.enclave_elf import enclave_elf

PAGE = ROOT / "docs" / "how-to" / "library.md"
CONFIG = b'schema = "rvp/enclave/v1"\nisvprodid = 7\nheap = "64KiB"\nstack = "64KiB"\n'


def test_the_page_about_the_library_does_what_it_says(tmp_path: Path) -> None:
    key = read_private_key(new_key())

    def ask_the_owner(message: bytes) -> tuple[bytes, RSAPublicKey]:
        return key.sign(message, PKCS1v15(), hashes.SHA256()), key.public_key()

    (tmp_path / "enclave.so").write_bytes(enclave_elf())
    (tmp_path / "enclave.toml").write_bytes(CONFIG)
    unsigned = lay_out_unsigned(tmp_path / "enclave.so", MeasureOptions(config=CONFIG))
    (tmp_path / "enclave.signed.so").write_bytes(unsigned.write(sign(to_be_signed(unsigned.fields), key)))
    names = {"ask_the_owner": ask_the_owner}
    found = doctest.DocTestParser().get_doctest(PAGE.read_text(), names, "library", str(PAGE), 0)
    assert len(found.examples) > 15
    said: list[str] = []
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    finally:
        os.chdir(before)
    assert (failed, tried) == (0, len(found.examples)), "".join(said)
