"""Enclaves that Intel's own tool signed measure to what it signed; damaged ones are told apart."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pipeline.measure import CheckFailed, MeasureOptions, UnknownFormat, detect, measure_file, require_passed
from pipeline.measure.measured import SIGNATURE_CHECKS
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.freestanding.config import read_config
from pipeline.measure.sgx.hashing import hash_plainly, mrenclave
from pipeline.measure.sgx.log import content_of, fold_log
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import BadSgxMetadata, read_metadata
from pipeline.measure.sgx.sgxs import read_sgxs, write_sgxs
from pipeline.measure.sgx.sigstruct import Sigstruct, attributes_claim, sign
from provenance.claims import check_claims
from provenance.errors import UsageError

pytestmark = pytest.mark.vectors
ORACLE = [
    "c01_default",
    "c02_tcs10",
    "c03_pool",
    "c04_dyn_both",
    "c05_dyn_sgx2only",
    "c06_userregion",
    "c07_rsrv",
    "c08_elrange",
    "c09_kss",
    "c10_aex_pkru",
    "c11_amx",
    "c12_tcs1_nopool",
    "c13_elr_dyn",
    "c14_fips",
    "t02_textrel",
]
MINI = "4a00571990efe88db91ff7920004f00a728d5d1de553ad7091f12acaf747eca3"


@pytest.fixture
def oracle(vectors: Path) -> Path:
    return vectors / "sgx" / "oracle"


@pytest.fixture
def mini(vectors: Path) -> Path:
    return vectors / "sgx" / "mini"


@pytest.mark.parametrize("name", ORACLE)
def test_an_enclave_measures_to_what_intels_tool_signed(oracle: Path, name: str) -> None:
    css = (oracle / f"{name}.css").read_bytes()
    (measurement,) = measure_file(oracle / f"{name}.signed.so").measurements
    assert measurement.claims["mrenclave"] == css[960:992].hex()
    assert measurement.claims["mrsigner"] == hashlib.sha256(css[128:512]).hexdigest()
    assert {check.status for check in measurement.checks} == {"passed"}
    assert {check.id for check in measurement.checks} - {"metadata-records-agree"} == {
        *SIGNATURE_CHECKS,
        "mrenclave-equals-sigstruct",
    }
    check_claims("sgx", dict(measurement.claims))


def test_all_metadata_records_of_a_file_are_measured(oracle: Path) -> None:
    records = read_metadata(Elf(map_file(oracle / "c04_dyn_both.signed.so")))
    assert [record.version for record in records] == ["3.3", "1.5"]


def test_the_batched_hash_equals_the_plain_one_on_every_record(oracle: Path) -> None:
    elf = Elf(map_file(oracle / "c03_pool.signed.so"))
    for record in read_metadata(elf):
        image = enclave_image(elf, record)
        assert mrenclave(image) == hash_plainly(image)


def test_kss_fields_are_claims(oracle: Path) -> None:
    claims = measure_file(oracle / "c09_kss.signed.so").measurements[0].claims
    assert claims["isvfamilyid"] == "00ffeeddccbbaa998877665544332211"
    assert claims["isvextprodid"] == "18171615141312110807060504030201"
    assert claims["attributes"] == "0x00000000000000840000000000000003"


@pytest.mark.parametrize("name", ORACLE)
def test_signing_again_gives_the_bytes_of_intels_tool(oracle: Path, name: str) -> None:
    key = load_pem_private_key((oracle / "key.pem").read_bytes(), None)
    css = Sigstruct((oracle / f"{name}.css").read_bytes())
    assert sign(css.to_be_signed, key).raw == css.raw  # type: ignore[arg-type]  # it is an RSA key


def test_three_forms_of_one_enclave_have_one_mrenclave(mini: Path) -> None:
    for name in ("keysvc.signed.so", "keysvc.sgxs", "keysvc.sig"):
        assert measure_file(mini / name).measurements[0].claims["mrenclave"] == MINI


def test_an_sgxs_file_is_checked_against_the_sigstruct_beside_it(mini: Path) -> None:
    options = MeasureOptions(sigstruct=(mini / "keysvc.sig").read_bytes())
    (measurement,) = measure_file(mini / "keysvc.sgxs", options=options).measurements
    require_passed((measurement,))
    assert measurement.claims["isvprodid"] == 1


def test_writing_sgxs_gives_the_stream_again(mini: Path) -> None:
    elf = Elf(map_file(mini / "keysvc.signed.so"))
    stream = write_sgxs(enclave_image(elf, read_metadata(elf)[0]))
    assert stream == (mini / "keysvc.sgxs").read_bytes()
    assert write_sgxs(read_sgxs(memoryview(stream))) == stream


def test_an_enclave_that_was_not_laid_out_says_so(mini: Path) -> None:
    with pytest.raises(BadSgxMetadata, match="has not been laid out"):
        measure_file(mini / "keysvc.so")


def test_the_log_of_a_real_enclave_folds_to_its_mrenclave(mini: Path) -> None:
    (log,) = measure_file(mini / "keysvc.sgxs").logs
    stream = read_sgxs(map_file(mini / "keysvc.sgxs"))
    assert fold_log(log, content_of(stream)).hex() == MINI


def test_a_laid_out_enclave_without_a_signature_still_measures(mini: Path, tmp_path: Path) -> None:
    signature = (mini / "keysvc.sig").read_bytes()
    path = tmp_path / "unsigned.so"
    path.write_bytes((mini / "keysvc.signed.so").read_bytes().replace(signature, bytes(1808)))
    (measurement,) = measure_file(path).measurements
    assert measurement.claims == {"mrenclave": MINI}
    assert ("signature", "skipped", "not signed") in {(c.id, c.status, c.got) for c in measurement.checks}


def test_a_flipped_byte_of_measured_content_fails_the_check(mini: Path, tmp_path: Path) -> None:
    data = bytearray((mini / "keysvc.signed.so").read_bytes())
    data[0x2100] ^= 1
    path = tmp_path / "flipped.so"
    path.write_bytes(data)
    measured = measure_file(path)
    assert measured.measurements[0].claims["mrenclave"] != MINI
    with pytest.raises(CheckFailed, match="mrenclave-equals-sigstruct") as error:
        require_passed(measured.measurements)
    assert error.value.exit_code == 12


@pytest.mark.parametrize(
    "name", ["mini/keysvc.signed.so", "mini/keysvc.sgxs", "oracle/c13_elr_dyn.signed.so"]
)
def test_damaged_files_end_in_our_errors_or_failed_checks(vectors: Path, tmp_path: Path, name: str) -> None:
    good = (vectors / "sgx" / name).read_bytes()
    value = measure_file(vectors / "sgx" / name).measurements[0].claims["mrenclave"]
    rng = random.Random(name)
    path = tmp_path / "damaged"
    for turn in range(150):
        data = bytearray(good)
        if turn % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            tables = [range(64 * 8), range(len(good))]
            at = rng.choice(tables[turn % 2])
            if turn % 2 and b"\x4c\x0e\x5d\x63\x94\x02\xa8\x86" in good and turn % 4 == 1:
                at = good.index(b"\x4c\x0e\x5d\x63\x94\x02\xa8\x86") + rng.randrange(0x900)
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            (measurement,) = measure_file(path, options=MeasureOptions(with_log=False)).measurements
        except UsageError:
            continue
        changed = measurement.claims["mrenclave"] != value
        failed = any(check.status == "failed" for check in measurement.checks)
        assert failed or not changed or name.endswith(".sgxs")


def test_what_is_no_enclave_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "readme"
    path.write_text("hello")
    with pytest.raises(UnknownFormat, match="a text file"):
        detect(path)
    with pytest.raises(UnknownFormat, match='did you mean "sgx"'):
        detect(path, tee="sgxx")


@pytest.mark.parametrize("name", ["c01_default", "c02_tcs10", "c09_kss"])
def test_an_xml_configuration_means_what_intels_tool_made_of_it(oracle: Path, name: str) -> None:
    fields = read_config((oracle / f"{name}.xml").read_bytes()).fields(bytes(32))
    signed = Sigstruct((oracle / f"{name}.css").read_bytes()).claims()
    assert (fields.isvprodid, fields.isvsvn) == (signed["isvprodid"], signed["isvsvn"])
    assert fields.isvfamilyid.hex() == signed["isvfamilyid"]
    assert fields.isvextprodid.hex() == signed["isvextprodid"]
    assert attributes_claim(*fields.attributes) == signed["attributes"]
    assert f"{fields.miscselect_mask:08x}" == str(signed["miscselect_mask"])[2:]
