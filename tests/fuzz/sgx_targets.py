"""Fuzz targets of the SGX readers. What holds for all: our error with its place, or an enclave that is sound.

Sound: the pages lie inside the enclave, and the log, folded over them, gives the value that was measured.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import Enclave, lay_out, measure_enclave
from pipeline.measure.sgx.enclave_image import PAGE, Pages
from pipeline.measure.sgx.hashing import MAX_STREAM, MEASURED_PAGE
from pipeline.measure.sgx.log import LogDoesNotFold, content_of, fold_log, write_log
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.errors import InternalError, RvpError
from provenance.measurement_log import MeasurementLog
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.open_enclave_elf import open_enclave_elf, properties
from tests.fakes.sdk_elf import sdk_elf

CONFIG = b"<EnclaveConfiguration><TCSNum>2</TCSNum><HeapMaxSize>0x10000</HeapMaxSize></EnclaveConfiguration>"
OE_CONFIG = b"Debug=1\nNumHeapPages=16\nNumStackPages=4\nNumTCS=2\nProductID=1\nSecurityVersion=1\n"
MOST = 1 << 25  # hash input of one mutation: larger enclaves are laid out and not hashed


@contextlib.contextmanager
def refused_or(place: str = "") -> Iterator[None]:
    """Let our errors pass that say where they stand."""
    try:
        yield
    except InternalError:
        raise
    except RvpError as error:
        if not error.place or (place and error.place != place):
            raise AssertionError(f"an error without its place: {error}") from error


def _inside(enclave: Enclave) -> None:
    for part in enclave.image.parts:
        size = part.count * PAGE if isinstance(part, Pages) else len(part.content)
        assert part.address + size <= enclave.image.size_bytes


def _stream_bytes(enclave: Enclave) -> int:
    return sum(
        part.count * (MEASURED_PAGE if part.is_measured else 64)
        for part in enclave.image.parts
        if isinstance(part, Pages)
    )


def _measured(data: bytes, name: str, **beside: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for other, content in beside.items():
            (Path(folder) / other).write_bytes(content)
        with refused_or():
            enclaves = lay_out(path)
            for one in enclaves:
                _inside(one)
            if max(map(_stream_bytes, enclaves)) > MOST:
                assert max(map(_stream_bytes, enclaves)) <= MAX_STREAM
                return
            for log in measure_enclave(path, MeasureOptions()).logs:
                assert fold_log(log, content_of(enclaves[0].image)).hex() == log.value


def _unsigned(data: bytes, name: str, config: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with refused_or():
            _inside(lay_out_unsigned(path, MeasureOptions(config=config, config_name="config")).enclave)


def elf(data: bytes) -> None:
    """ELF tables: BadElf with its place; or sections, segments and symbols lie inside the file."""
    with refused_or("e"):
        found = Elf(memoryview(data), name="e")
        _ = found.dynamic
        found.symbol("g_global_data")
        for segment in found.loads:
            assert segment.offset + segment.file_size <= len(data)
            assert segment.file_size <= segment.memory_size


def sdk_enclave(data: bytes) -> None:
    """A signed SDK enclave, metadata and layout: our error with its place, or a sound enclave."""
    _measured(data, "e.so")


def open_enclave(data: bytes) -> None:
    """An Open Enclave file: our error with its place, or a sound enclave."""
    _measured(data, "e.so")


def sgxs_stream(data: bytes) -> None:
    """An SGXS stream: our error with its place, or a sound enclave."""
    _measured(data, "e.sgxs")


def sdk_config(data: bytes) -> None:
    """Enclave.config.xml: our error with its place, or a layout inside the enclave."""
    _unsigned(SDK, "e.so", data)


def sdk_unsigned(data: bytes) -> None:
    """An enclave that the SDK has not signed: our error with its place, or a layout inside the enclave."""
    _unsigned(data, "e.so", CONFIG)


def open_enclave_config(data: bytes) -> None:
    """Open Enclave's .conf: our error with its place, or a layout inside the enclave."""
    _unsigned(OE, "e.so", data)


def measurement_log(data: bytes) -> None:
    """A measurement log, read and folded over the enclave it is of: an error of ours, or the enclave's value."""
    try:
        log = msgspec.json.decode(data, type=MeasurementLog)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    try:
        value = fold_log(log, content_of(LOGGED.image))
    except LogDoesNotFold:
        return
    assert value.hex() == log.value


def _packed() -> bytes:
    from pipeline.measure.sgx.freestanding.config import EnclaveConfig
    from pipeline.measure.sgx.freestanding.pack import pack_enclave

    return pack_enclave(enclave_elf(), EnclaveConfig(threads=3, stack="16KiB", heap="64KiB"))


def _laid_out(data: bytes, name: str) -> Enclave:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return lay_out(path)[0]


def _streams() -> list[bytes]:
    from pipeline.measure.sgx.sgxs import write_sgxs

    stream = bytes(write_sgxs(LOGGED.image))
    return [stream, stream[:64], stream.replace(b"EEXTEND\0", b"UNMEASRD", 3)]


def _signed_by_the_sdk() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.so"
        path.write_bytes(SDK)
        found = lay_out_unsigned(path, MeasureOptions(config=CONFIG, config_name="config"))
        return [found.write(None)]


SDK = sdk_elf()
OE = open_enclave_elf(properties(), tdata=b"tls" * 9, tbss=64, plt=((0x30, 8, 1),))
LOGGED = _laid_out(_packed(), "e.so")
SGX_SEEDS: dict[str, list[bytes]] = {
    "elf": [SDK, OE, enclave_elf()],
    "sdk_enclave": [_packed(), *_signed_by_the_sdk()],
    "open_enclave": [OE],
    "sgxs_stream": _streams(),
    "sdk_config": [CONFIG],
    "sdk_unsigned": [SDK],
    "open_enclave_config": [OE_CONFIG],
    "measurement_log": [msgspec.json.encode(write_log(LOGGED.image, bytes(32), elves=LOGGED.elves))],
}
SGX_TARGETS: dict[str, Callable[[bytes], None]] = {name: globals()[name] for name in SGX_SEEDS}
