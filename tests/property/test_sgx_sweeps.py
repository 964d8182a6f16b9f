"""Small enclave files, truncated everywhere and with each byte flipped.

What may come of a damaged file: our error, with its place and the name of a field or table; another value; a failed check. The value may only
stay the same when the byte is not measured, which an independent look at the file says.

The normal run takes each byte of headers and tables and a stride elsewhere. `--full` takes every byte of these
files, and of the shared ones every byte of headers and tables and each 11th elsewhere (RVP_SWEEP_STRIDE).
"""

from __future__ import annotations

import os
import re
import signal
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import pack_enclave
from pipeline.measure.sgx.sdk.metadata import read_metadata
from provenance.errors import SignatureFailure, UsageError
from tests.conftest import ROOT, vectors_folder
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.libpal import libpal, manifest
from tests.fakes.open_enclave_elf import MORE_NUMBERS, NUMBERS, number, open_enclave_elf, properties

# What an error names, beside the file: the field, or the table, as the format calls it. A text has lines and keys.
_UNKNOWN = r"nothing here measures this: "
_ELF = r"program headers: |field [ersp]\w*_\w+ of |ELF header|relocation table|[esprdtn]\w*_\w+(, \w+)*: |p_offset 0x"
_TEXT = r"not TOML: |byte \d+ is not UTF-8|run\[\d+\]|`\w+`|^(sgx|loader|libos)\.\w+|^\w+(, \w+)*: "
NAMES: dict[str, str] = {
    "SDK file": rf"{_ELF}|field \w+(\[\d+\](\.\w+)?)? |layout table|program headers|layout entry|\.note\.sgxmeta",
    "SGXS": r"EADD|EEXTEND|ECREATE|UNMEASRD|inside a (record|chunk)|where a page should begin",
    "SIGSTRUCT": r"bytes, a SIGSTRUCT has 1808",
    "Open Enclave file": rf"{_ELF}|(size|type): |symbol \w+",
    "Gramine manifest": _TEXT,
    "libpal.so": rf"{_ELF}|program headers|sgx\.\w+ ",
    "page list": _TEXT,
    "file of a page list": r"run\[\d+\]",
}
STRIDE = 61
SHARED_STRIDE = int(os.environ.get("RVP_SWEEP_STRIDE", "11"))
LONGEST_S = 20  # for one file of a few pages: a hang, not a slow machine
PAGE = 4096
Ranges = list[range]


class Victim(msgspec.Struct, frozen=True):
    """A small file that is swept.

    Attributes:
        data: the file.
        must_count: bytes whose change must be seen: what is measured, and what is signed.
        dense: bytes that the normal run takes one by one.
        name: of the file, when its format asks for it.
        beside: files that lie beside it.
        measured: the file to measure, when that is one of those beside it.
        full_stride: of `--full`.
        names: what a message must name: a row of NAMES.
    """

    data: bytes
    must_count: Ranges
    dense: Ranges
    name: str = "enclave"
    beside: dict[str, bytes] = {}
    measured: str = ""
    full_stride: int = 1
    names: str = ""


def _loads(data: bytes) -> Ranges:
    """The bytes of the file that loadable segments have: read without our ELF reader."""
    at, size, count = (
        struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54),
    )  # fmt: skip
    rows = (struct.unpack_from("<IIQQQQQQ", data, at + size * index) for index in range(count))
    return [range(row[2], row[2] + row[5]) for row in rows if row[0] == 1]


def _headers(data: bytes) -> Ranges:
    sections, names = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<HH", data, 60)
    programs = struct.unpack_from("<H", data, 56)[0]
    return [range(64 + 56 * programs), range(sections, sections + 64 * names[0])]


def _without(ranges: Ranges, *others: range) -> Ranges:
    taken = {byte for other in others for byte in other}
    return [range(byte, byte + 1) for one in ranges for byte in one if byte not in taken]


def sdk(data: bytes) -> Victim:
    """An SDK file: measured are its segments but for what its records patch; signed is the SIGSTRUCT."""
    patched, tables, signed = [], [], []
    records = read_metadata(Elf(memoryview(data)))
    at = data.index(b"sgx_metadata\0") + 13
    for record in records:
        patched += [range(one.file_offset, one.file_offset + len(one.content)) for one in record.patches]
        tables += [range(at, at + 64), range(at + 64 + 1808, at + record.size_bytes)]
        signed.append(range(at + 64, at + 64 + 1808))
        at += record.size_bytes
    return Victim(
        data, [*_without(_loads(data), *patched), *signed], [*_headers(data), *tables], "enclave.so"
    )


def open_enclave() -> Victim:
    """An Open Enclave file: its loader writes numbers into the image, and clears the SIGSTRUCT."""
    info = properties(sigstruct=KEYSERVICE)
    data = open_enclave_elf(info, tdata=b"tls" * 9, tbss=64)
    at = data.index(info)
    written = [range(at + 96, at + len(info) - 8), range(40, 48), range(60, 64), *_numbers(data)]
    dense = _without([range(at, at + len(info))], range(at + 144, at + 144 + 1808))
    return Victim(data, _without(_loads(data), *written), [*_headers(data), *dense], "e.so")


def _numbers(data: bytes) -> Ranges:
    """Where the symbols lie that the loader writes to."""
    (sections,) = struct.unpack_from("<Q", data, 40)
    symbols = struct.unpack_from("<Q", data, sections + 64 + 24)[0]
    found = []
    for name in (*NUMBERS, *MORE_NUMBERS):
        (address,) = struct.unpack_from("<Q", data, symbols + 24 * number(data, name) + 8)
        for index in range(struct.unpack_from("<H", data, 56)[0]):
            kind, _, offset, start, _, size = struct.unpack_from("<IIQQQQ", data, 64 + 56 * index)
            if kind == 1 and start <= address < start + size:
                found.append(range(address - start + offset, address - start + offset + 8))
    return found


KEYSERVICE = (ROOT / "examples" / "keyservice" / "keyservice.sig").read_bytes()


def sgxs_stream() -> bytes:
    header = struct.pack("<8sIQ44x", b"ECREATE", 1, 1 << 16)
    pages = []
    for index, count in enumerate((16, 5)):
        pages.append(struct.pack("<8sQQ40x", b"EADD", index * PAGE, 0x205))
        headers = [struct.pack("<8sQ48x", b"EEXTEND", index * PAGE + chunk * 256) for chunk in range(count)]
        pages += [head + bytes([chunk]) * 256 for chunk, head in enumerate(headers)]
    bare = b"".join(struct.pack("<8sQQ40x", b"EADD", PAGE * (2 + index), 0x203) for index in range(6))
    return header + b"".join(pages) + bare


def everything(data: bytes) -> Ranges:
    return [range(len(data))]


def packed() -> bytes:
    return pack_enclave(enclave_elf(), EnclaveConfig(threads=2, stack="16KiB", heap="64KiB"))


def _gramine_manifest() -> Victim:
    text = manifest()
    return Victim(text, everything(text), everything(text), "app.manifest.sgx", {"libpal.so": libpal()})


def _gramine_libpal() -> Victim:
    data = libpal()
    return Victim(
        data,
        _loads(data),
        [range(64 + 56 * 4)],
        "libpal.so",
        {"app.manifest.sgx": manifest()},
        "app.manifest.sgx",
    )


def _stream() -> Victim:
    data = sgxs_stream()
    headers = [range(at, at + 64) for at in (0, 64, 128, 448, 64 + 5184, 128 + 5184, len(data) - 64)]
    return Victim(data, everything(data), headers, "e.sgxs")


def _signature() -> Victim:
    return Victim(KEYSERVICE, everything(KEYSERVICE), everything(KEYSERVICE), "e.sig")


PAGE_LIST = b"""schema = "rvp/enclave-pages/v1"
size = 0x10000
ssa_frame_size = 1
[[run]]
address = 0x1000
pages = 2
access = "rw-"
fill = "cc"
[[run]]
address = 0x4000
pages = 1
access = "r-x"
file = "code.bin"
"""


def _page_list() -> Victim:
    # Not each byte of a text counts: a label, or 0x10 for 0X10; but no byte may end in anything but an outcome of ours.
    return Victim(PAGE_LIST, [], everything(PAGE_LIST), "pages.toml", {"code.bin": b"\x90" * PAGE})


def _page_list_content() -> Victim:
    code = bytes(range(256)) * 16
    return Victim(code, everything(code), [], "code.bin", {"pages.toml": PAGE_LIST}, "pages.toml")


VICTIMS: dict[str, Callable[[], Victim]] = {
    "SDK file": lambda: sdk(packed()),
    "SGXS": _stream,
    "SIGSTRUCT": _signature,
    "Open Enclave file": open_enclave,
    "Gramine manifest": _gramine_manifest,
    "libpal.so": _gramine_libpal,
    "page list": _page_list,
    "file of a page list": _page_list_content,
}


def _shared(path: Path) -> Victim:
    data = path.read_bytes()
    found = sdk(data) if path.suffix == ".so" else Victim(data, everything(data), [], path.name)
    names = {".so": "SDK file", ".sgxs": "SGXS"}[path.suffix]
    return msgspec.structs.replace(found, full_stride=SHARED_STRIDE, names=names)


def _named(name: str, make: Callable[[], Victim]) -> Victim:
    return msgspec.structs.replace(make(), names=name)


class Swept:
    """A victim on disk, measured again and again."""

    def __init__(self, victim: Victim, folder: Path) -> None:
        self.victim = victim
        self.path = folder / victim.name
        for name, data in {**victim.beside, victim.name: victim.data}.items():
            (folder / name).write_bytes(data)
        self.measured = folder / (victim.measured or victim.name)
        self.good = self.outcome()
        assert isinstance(self.good, tuple), self.good
        self.must_count = {byte for one in victim.must_count for byte in one}

    def outcome(self) -> tuple[object, ...] | UsageError | SignatureFailure:
        """Give what is measured and which checks failed; or our error."""
        signal.alarm(LONGEST_S)  # nothing handles it: a hang ends the process
        try:
            measured = measure_file(self.measured, options=MeasureOptions(with_log=False)).measurements[0]
        except (UsageError, SignatureFailure) as error:
            found: tuple[object, ...] | UsageError | SignatureFailure = error
        else:
            failed = tuple(sorted(one.id for one in measured.checks if one.status == "failed"))
            found = (measured.claims.get("mrenclave"), measured.claims.get("mrsigner"), failed)
        finally:
            signal.alarm(0)
        if not isinstance(found, tuple):
            assert self.measured.parent.name in found.place, found  # the file, not only where in it
            in_place = re.search(r": \$\.\w", found.place)  # of a text: the key's path
            assert in_place or re.search(rf"{NAMES[self.victim.names]}|{_UNKNOWN}", found.message), found
        return found

    def flip(self, at: int, mask: int) -> None:
        data = self.victim.data
        handle = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(handle, bytes([data[at] ^ mask]), at)
            found = self.outcome()
            os.pwrite(handle, data[at : at + 1], at)
        finally:
            os.close(handle)
        if found == self.good:
            assert at not in self.must_count, (
                f"byte {at:#x} ^ {mask:#x} is measured or signed, and nothing was seen"
            )

    def cut(self, size: int) -> None:
        self.path.write_bytes(self.victim.data[:size])
        if self.outcome() == self.good:
            assert size > max(self.must_count, default=-1), (
                f"the first {size:#x} bytes pass for the whole file"
            )


@pytest.fixture
def swept(request: pytest.FixtureRequest, tmp_path: Path) -> Swept:
    return Swept(request.param(), tmp_path)


def places(victim: Victim, stride: int) -> Iterator[int]:
    dense = {byte for one in victim.dense for byte in one if byte < len(victim.data)}
    return iter(sorted(dense | set(range(0, len(victim.data), stride))))


def every(*, full: bool) -> pytest.MarkDecorator:
    found = [(name, partial(_named, name, make)) for name, make in VICTIMS.items()]
    shared = vectors_folder()
    if shared and full:
        files = sorted(shared.glob("sgx/*/*"))
        found += [
            (one.name, partial(_shared, one)) for one in files if one.name.endswith((".signed.so", ".sgxs"))
        ]
    return pytest.mark.parametrize(
        "swept", [pytest.param(make, id=name) for name, make in found], indirect=True
    )


@every(full=False)
def test_a_flipped_byte_is_seen_or_not_measured(swept: Swept) -> None:
    for at in places(swept.victim, STRIDE):
        swept.flip(at, 0xFF)
    assert swept.outcome() == swept.good


@every(full=False)
def test_a_truncated_file_is_refused_or_whole(swept: Swept) -> None:
    for size in sorted(places(swept.victim, STRIDE), reverse=True):
        swept.cut(size)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_names_nothing_is_found_out(name: str) -> None:
    for message in ("the file is damaged", "0x10 bytes from 0x20 on, the file has 0x10", "at byte 0x10: bad"):
        assert not re.search(rf"{NAMES[name]}|{_UNKNOWN}", message)


@pytest.mark.full
@every(full=True)
def test_every_byte_flipped_in_several_ways_is_seen_or_not_measured(swept: Swept) -> None:
    dense = {byte for one in swept.victim.dense for byte in one}
    for at in places(swept.victim, swept.victim.full_stride):
        for mask in (0xFF, 0x01, 0x80) if at in dense else (0xFF,):
            swept.flip(at, mask)


@pytest.mark.full
@every(full=True)
def test_every_truncation_is_refused_or_whole(swept: Swept) -> None:
    for size in sorted(places(swept.victim, swept.victim.full_stride), reverse=True):
        swept.cut(size)
