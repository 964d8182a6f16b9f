"""EGo programs: runtime, program and configuration are one enclave; against the second loader."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pipeline.measure import MeasureOptions, detect, measure_file
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import hash_plainly, mrenclave
from pipeline.measure.sgx.open_enclave.config import BadOpenEnclaveConfig
from pipeline.measure.sgx.open_enclave.ego import is_ego_file
from pipeline.measure.sgx.open_enclave.link import MissingModule
from pipeline.measure.sgx.open_enclave.properties import BadOpenEnclave
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.errors import UsageError
from tests.fakes.open_enclave_elf import ego_program, number, open_enclave_elf, properties
from tests.fakes.open_enclave_loader import straight

JSON = b'{"exe":"hello","key":"private.pem","debug":true,"heapSize":2,"productID":3,"securityVersion":4}'
CONF = b"Debug=1\nNumHeapPages=9\nNumStackPages=2\nNumTCS=2\nProductID=1\nSecurityVersion=1\n"


@functools.cache
def owner() -> RSAPrivateKey:
    """Make the owner's key once: that takes a second."""
    return read_private_key(new_key())


def program(config: bytes = JSON, **how: Any) -> bytes:
    """Write a program that calls the runtime's printf."""
    names = {"undefined": ("printf", "weak_one"), "defined": {"own": 0x321}, "needed": "libc.so.6"}
    first = ego_program(**names)

    def one(name: str, kind: int) -> int:
        return number(first, name) << 32 | kind

    relocations = ((8, 8, 64), (16, one("printf", 1), 2), (24, one("own", 6), 1), (32, one("weak_one", 6), 2))
    return ego_program(config, **names, **how, relocations=relocations, plt=((48, one("printf", 7), 0),))


def runtime(record: int = 144, size: int = 1960) -> bytes:
    """Write `ego-enclave`: of Edgeless RT 0.5 (144), 0.2.10 to 0.4 (72), 0.2.4 (48)."""
    return open_enclave_elf(
        properties(size),
        module_info=record,
        defined={"printf": 0x5040, "ert_reserved_tls": 0},
        tdata=b"thread",
        tbss=0x1100,
    )


def signed(folder: Path, *, main: bytes, goes: bytes, conf: bytes = CONF, generation: str = "") -> bytes:
    """Sign a program with its runtime; both then lie in the folder."""
    (folder / "ego-enclave").write_bytes(main)
    (folder / "hello").write_bytes(goes)
    unsigned = lay_out_unsigned(folder / "hello", MeasureOptions(config=conf, generation=generation))
    data = unsigned.write(sign(to_be_signed(unsigned.fields), owner()))
    (folder / "hello").write_bytes(data)
    return data


@pytest.mark.parametrize("config", [JSON, JSON.ljust(4096), JSON.ljust(9000)])
def test_runtime_program_and_configuration_are_measured(tmp_path: Path, config: bytes) -> None:
    data = signed(tmp_path, main=runtime(), goes=program(config))
    assert detect(tmp_path / "hello").name == "sgx-ego"
    (measurement,) = measure_file(tmp_path / "hello").measurements
    assert {one.status for one in measurement.checks} == {"passed"}
    expected = straight(runtime(), data, payload=config, record=72)
    assert measurement.claims["mrenclave"] == expected.hex()
    (enclave,) = lay_out(tmp_path / "hello")
    assert hash_plainly(enclave.image) == expected
    assert enclave.facts["payload_bytes"] == len(config)


@pytest.mark.parametrize(
    ("record", "size", "generation"), [(72, 1960, "0.18"), (72, 1960, "0.17.5"), (48, 1952, "0.16")]
)
def test_the_runtimes_of_earlier_releases(tmp_path: Path, record: int, size: int, generation: str) -> None:
    data = signed(tmp_path, main=runtime(record, size), goes=program(), generation=generation)
    (enclave,) = lay_out(tmp_path / "hello")
    got = generation == "0.18"
    assert mrenclave(enclave.image) == straight(
        runtime(record, size), data, payload=JSON, record=record, got=got
    )


@pytest.mark.parametrize("how", [{"tbss": 8}, {"tdata": b"12345678"}])
def test_the_programs_thread_locals_lie_in_what_the_runtime_reserved(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    data = signed(tmp_path, main=runtime(), goes=program(**how))
    (enclave,) = lay_out(tmp_path / "hello")
    assert mrenclave(enclave.image) == straight(runtime(), data, payload=JSON, record=72)


def test_enclave_json_asks_for_what_ego_asks_for(tmp_path: Path) -> None:
    (tmp_path / "ego-enclave").write_bytes(runtime())
    (tmp_path / "hello").write_bytes(program())
    unsigned = lay_out_unsigned(tmp_path / "hello", MeasureOptions(config=JSON))
    facts = unsigned.enclave.facts
    assert (facts["heap_pages"], facts["stack_pages"], facts["threads"]) == (512, 1024, 32)
    assert (unsigned.fields.isvprodid, unsigned.fields.isvsvn) == (3, 4)
    assert unsigned.fields.attributes == (6, 3)


@pytest.mark.parametrize(
    "config", [b"{", b'{"heapSize":"2"}', b'{"heapSize":0}', b'{"heapSize":1,"productID":70000}']
)
def test_a_damaged_enclave_json_is_refused(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "ego-enclave").write_bytes(runtime())
    (tmp_path / "hello").write_bytes(program())
    with pytest.raises(BadOpenEnclaveConfig):
        lay_out_unsigned(tmp_path / "hello", MeasureOptions(config=config))


def test_a_program_without_its_runtime_is_not_measured(tmp_path: Path) -> None:
    signed(tmp_path, main=runtime(), goes=program())
    (tmp_path / "ego-enclave").rename(tmp_path / "other")
    with pytest.raises(MissingModule, match="ego-enclave"):
        lay_out(tmp_path / "hello")
    (enclave,) = lay_out(tmp_path / "hello", MeasureOptions(libpal=tmp_path / "other"))
    assert enclave.sigstruct is not None
    assert mrenclave(enclave.image) == enclave.sigstruct.mrenclave


def test_another_runtime_is_another_enclave(tmp_path: Path) -> None:
    signed(tmp_path, main=runtime(), goes=program())
    (tmp_path / "ego-enclave").write_bytes(runtime().replace(b"codecode", b"codeCODE"))
    checks = {one.id: one.status for one in measure_file(tmp_path / "hello").measurements[0].checks}
    assert checks["mrenclave-equals-sigstruct"] == "failed"


def test_a_changed_configuration_is_another_enclave(tmp_path: Path) -> None:
    data = signed(tmp_path, main=runtime(), goes=program())
    (tmp_path / "hello").write_bytes(data.replace(b'"exe":"hello"', b'"exe":"jello"'))
    checks = {one.id: one.status for one in measure_file(tmp_path / "hello").measurements[0].checks}
    assert checks["mrenclave-equals-sigstruct"] == "failed"


def test_a_program_without_configuration_cannot_be_signed_yet(tmp_path: Path) -> None:
    (tmp_path / "ego-enclave").write_bytes(runtime())
    (tmp_path / "hello").write_bytes(program(b""))
    assert is_ego_file(tmp_path / "hello")
    with pytest.raises(BadOpenEnclaveConfig, match="no configuration embedded"):
        lay_out_unsigned(tmp_path / "hello", MeasureOptions(config=JSON))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0x800, 0, "payload offset"),
        (0x808, 0, "payload offset"),
        (0x800, 1 << 63, "payload:"),
        (0x808, 1 << 40, "payload:"),
    ],
)
def test_a_payload_that_lies_elsewhere_is_refused(tmp_path: Path, at: int, value: int, message: str) -> None:
    data = bytearray(signed(tmp_path, main=runtime(), goes=program()))
    place = data.index(struct.pack("<QQ", data.index(JSON), len(JSON))) - 0x800
    struct.pack_into("<Q", data, place + at, value)
    (tmp_path / "hello").write_bytes(data)
    with pytest.raises(BadOpenEnclave, match=message):
        lay_out(tmp_path / "hello")


def test_too_large_thread_locals_and_zero_base_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOpenEnclave, match="thread-local"):
        signed(tmp_path, main=runtime(), goes=program(tdata=b"x" * 64))
    zero = CONF + b"CreateZeroBaseEnclave=1\nStartAddress=135168\n"
    with pytest.raises(BadOpenEnclave, match="based at zero"):
        signed(tmp_path, main=runtime(), goes=program(), conf=zero)


def test_a_program_or_a_runtime_cut_anywhere_is_an_error_of_this_tree(tmp_path: Path) -> None:
    data = signed(tmp_path, main=runtime(), goes=program())
    for name, whole in (("hello", data), ("ego-enclave", runtime())):
        for size in range(0, len(whole) - 1, 977):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(UsageError):
                lay_out(tmp_path / "hello")
        (tmp_path / name).write_bytes(whole)
