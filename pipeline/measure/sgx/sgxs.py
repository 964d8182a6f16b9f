"""SGXS: a file that is the measured stream itself.

Records of 64 bytes (ECREATE, EADD, EEXTEND), an EEXTEND followed by its 256 bytes. `UNMEASRD` records are
loaded but not measured; a file that begins with `UNSIZED` has no size yet, and so no MRENCLAVE.

A canonical file has one ECREATE, first; page offsets that rise; TCS pages without permissions; each chunk
once, inside the page that was added last.

Source: Fortanix, sgxs-tools, "SGXS format".
Cost: runs of whole pages are found and read with numpy; only partly measured pages are looked at one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import map_file
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import CHUNK, PAGE, SECINFO_TCS, Chunks, EnclaveImage, Pages, Part
from pipeline.measure.sgx.hashing import (
    EADD,
    ECREATE,
    EEXTEND,
    HEADER,
    MEASURED_PAGE,
    write_stream,
)
from pipeline.measure.sgx.sigstruct_file import companion
from provenance.errors import UsageError

UNMEASURED: Final = b"UNMEASRD"
UNSIZED: Final = b"UNSIZED\0"
_BATCH_PAGES: Final = 1024


class BadSgxs(UsageError):
    """A file is not a canonical SGXS stream.

    Cure: check that the file is complete; a stream without a size is finished with `sgxs-append`.
    """

    code = "RVP-5003"


def lay_out_sgxs(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Read an SGXS file; its SIGSTRUCT lies beside it, as FILE.sig or with the suffix .sig.

    Raises:
        BadSgxs: RVP-5003. BadSigstruct: RVP-5004.
    """
    signed = companion(path) if options.companions and options.sigstruct is None else None
    return (Enclave(layout="SGXS", image=read_sgxs(map_file(path), name=str(path)), sigstruct=signed),)


def read_sgxs(data: memoryview, *, name: str = "") -> EnclaveImage:
    """Read a stream: its parts are found while they are iterated, each time.

    Raises:
        BadSgxs: RVP-5003, now or while the parts are iterated.
    """
    if len(data) < HEADER:
        raise BadSgxs(f"{len(data)} bytes", place=name)
    tag = bytes(data[:8])
    if tag == UNSIZED:
        raise BadSgxs(
            "the stream has no size yet, so it has no MRENCLAVE",
            place=name,
            hint="finish it with sgxs-append",
        )
    if tag != ECREATE:
        raise BadSgxs(f"the stream begins with {tag!r}, expected ECREATE", place=name)
    frame, size = struct.unpack_from("<IQ", data, 8)
    if any(data[20:HEADER]) or size & (size - 1) or size < 2 * PAGE or not frame:
        raise BadSgxs(f"ECREATE has size {size:#x} and an SSA frame of {frame} pages", place=name)
    return EnclaveImage(size_bytes=size, ssa_frame_size=frame, parts=_Parts(data, size, name))


class _Parts:
    def __init__(self, data: memoryview, size: int, name: str) -> None:
        self._arguments = (data, size, name)

    def __iter__(self) -> Iterator[Part]:
        return _parts(*self._arguments)


def _parts(data: memoryview, size: int, name: str) -> Iterator[Part]:
    at, next_page = HEADER, 0
    while at < len(data):
        address, flags = _page_header(data, at, next_page, size, name)
        label = describe_page(flags)
        whole = _whole_pages(data, at, address, flags)
        if whole:
            content = _content(data, at, whole)
            yield Pages(address=address, count=whole, flags=flags, content=content, label=label)
            at += whole * MEASURED_PAGE
            next_page = address + whole * PAGE
            continue
        bare = _bare_pages(data, at, address, flags)
        yield Pages(address=address, count=bare, flags=flags, label=label)
        at += bare * HEADER
        next_page = address + bare * PAGE
        chunks, at = _loose_chunks(data, at, next_page - PAGE, label, name)
        yield from chunks
    if next_page > size:
        raise BadSgxs(f"pages end at {next_page:#x}, beyond the enclave's size {size:#x}", place=name)


def describe_page(flags: int) -> str:
    """Name a page by its type; an SGXS file says no more."""
    return "TCS" if flags >> 8 & 0xFF == SECINFO_TCS >> 8 else "pages"


def _page_header(data: memoryview, at: int, next_page: int, size: int, name: str) -> tuple[int, int]:
    place = f"{name}: byte {at:#x}" if name else f"byte {at:#x}"
    if at + HEADER > len(data):
        raise BadSgxs("the stream ends inside a record", place=place)
    tag = bytes(data[at : at + 8])
    if tag != EADD:
        raise BadSgxs(f"{tag!r} stands where a page should begin", place=place)
    address, flags = struct.unpack_from("<QQ", data, at + 8)
    if any(data[at + 24 : at + HEADER]):
        raise BadSgxs("EADD has bits in its reserved bytes", place=place)
    if address % PAGE or address < next_page or address >= size:
        raise BadSgxs(f"a page at {address:#x} after {next_page:#x} of {size:#x}", place=place)
    if flags >> 8 & 0xFF == SECINFO_TCS >> 8 and flags & 7:
        raise BadSgxs(f"a TCS with SECINFO flags {flags:#x}: the CPU hashes 0x100", place=place)
    return address, flags


def _whole_pages(data: memoryview, at: int, address: int, flags: int) -> int:
    """Count the pages from here on that follow each other, have equal flags, and are measured in order."""
    import numpy as np

    most = min((len(data) - at) // MEASURED_PAGE, _BATCH_PAGES)
    if most == 0:
        return 0
    pages = np.frombuffer(data[at : at + most * MEASURED_PAGE], np.uint8).reshape(most, MEASURED_PAGE)
    chunks = pages[:, HEADER:].reshape(most, PAGE // CHUNK, HEADER + CHUNK)
    expected = np.zeros(most * HEADER // 8, "<u8").reshape(most, HEADER // 8)
    expected[:, 0] = int.from_bytes(EADD, "little")
    expected[:, 1] = address + np.arange(most, dtype="<u8") * PAGE
    expected[:, 2] = flags
    good = (pages[:, :HEADER] == expected.view(np.uint8).reshape(most, HEADER)).all(axis=1)
    headers = np.zeros((most, PAGE // CHUNK, HEADER // 8), "<u8")
    headers[:, :, 0] = int.from_bytes(EEXTEND, "little")
    headers[:, :, 1] = expected[:, 1:2] + np.arange(PAGE // CHUNK, dtype="<u8") * CHUNK
    good &= (chunks[:, :, :HEADER] == headers.view(np.uint8)).all(axis=(1, 2))
    return most if good.all() else int(good.argmin())


def _content(data: memoryview, at: int, count: int) -> bytes:
    import numpy as np

    pages = np.frombuffer(data[at : at + count * MEASURED_PAGE], np.uint8).reshape(count, MEASURED_PAGE)
    return pages[:, HEADER:].reshape(count, PAGE // CHUNK, HEADER + CHUNK)[:, :, HEADER:].tobytes()


def _bare_pages(data: memoryview, at: int, address: int, flags: int) -> int:
    """Count the EADD records from here on that follow each other (at least one)."""
    import numpy as np

    most = min((len(data) - at) // HEADER, _BATCH_PAGES * 16)
    found = np.frombuffer(data[at : at + most * HEADER], "<u8").reshape(most, HEADER // 8)
    expected = np.zeros_like(found)
    expected[:, 0] = int.from_bytes(EADD, "little")
    expected[:, 1] = address + np.arange(most, dtype="<u8") * PAGE
    expected[:, 2] = flags
    good = (found == expected).all(axis=1)
    return most if good.all() else max(1, int(good.argmin()))


def _loose_chunks(data: memoryview, at: int, page: int, label: str, name: str) -> tuple[list[Chunks], int]:
    """Read the chunks of one page in the order in which they stand; unmeasured ones are left out."""
    found: list[Chunks] = []
    seen: set[int] = set()
    while at + 8 <= len(data) and bytes(data[at : at + 8]) in {EEXTEND, UNMEASURED}:
        place = f"{name}: byte {at:#x}" if name else f"byte {at:#x}"
        if at + HEADER + CHUNK > len(data):
            raise BadSgxs("the stream ends inside a chunk", place=place)
        address = struct.unpack_from("<Q", data, at + 8)[0]
        if any(data[at + 16 : at + HEADER]):
            raise BadSgxs("a chunk has bits in its reserved bytes", place=place)
        if address % CHUNK or not page <= address < page + PAGE or address in seen:
            raise BadSgxs(f"a chunk at {address:#x} that is not once in the page {page:#x}", place=place)
        seen.add(address)
        if bytes(data[at : at + 8]) == EEXTEND:
            found.append(
                Chunks(address=address, content=data[at + HEADER : at + HEADER + CHUNK], label=label)
            )
        at += HEADER + CHUNK
    return found, at


def write_sgxs(image: EnclaveImage) -> bytes:
    """Write an enclave as an SGXS file.

    Example:
        >>> import hashlib
        >>> pages = Pages(address=0, count=1, flags=0x201, content=bytes(4096))
        >>> image = EnclaveImage(size_bytes=0x2000, ssa_frame_size=1, parts=(pages,))
        >>> hashlib.sha256(write_sgxs(image)).digest() == mrenclave(image)
        True
    """
    out = bytearray()
    write_stream(image, lambda data: out.extend(memoryview(data)))
    return bytes(out)
