"""SGXS: a file that is the measured stream itself.

Records of 64 bytes (ECREATE, EADD, EEXTEND), an EEXTEND followed by its 256 bytes. `UNMEASRD` records are
loaded but not measured; a file that begins with `UNSIZED` has no size yet, and so no MRENCLAVE.

A canonical file has one ECREATE, first; page offsets that rise; TCS pages without permissions; each chunk
once, inside the page that was added last.

Source: Fortanix, sgxs-tools, "SGXS format".
Cost: all headers are checked once, runs of pages with numpy, only partly measured pages one by one. Where
nothing is UNMEASRD the file itself is what is hashed.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

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
    eadd_record,
    eextend_record,
    write_stream,
)
from pipeline.measure.sgx.sigstruct_file import companion
from provenance.errors import UsageError

UNMEASURED: Final = b"UNMEASRD"
UNSIZED: Final = b"UNSIZED\0"
_BATCH_PAGES: Final = 128
_FEW: Final = 4  # pages that are cheaper to look at without numpy
_PLAIN_BYTES: Final = 4 << 20  # a stream that is read before numpy is loaded


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
    """Read a stream: all of it is checked now, contents are read while the parts are iterated.

    Raises:
        BadSgxs: RVP-5003.
    """
    if len(data) < HEADER:
        raise BadSgxs(f"{len(data)} bytes are no ECREATE record", place=_place(name, 0))
    tag = bytes(data[:8])
    if tag == UNSIZED:
        raise BadSgxs(
            "the stream has no size yet, so it has no MRENCLAVE",
            place=_place(name, 0),
            hint="finish it with sgxs-append",
        )
    if tag != ECREATE:
        raise BadSgxs(f"the stream begins with {tag!r}, expected ECREATE", place=_place(name, 0))
    frame, size = struct.unpack_from("<IQ", data, 8)
    if any(data[20:HEADER]) or size & (size - 1) or size < 2 * PAGE or not frame:
        raise BadSgxs(f"ECREATE has size {size:#x} and an SSA frame of {frame} pages", place=_place(name, 8))
    unmeasured = sum(run.unmeasured for run in _runs(data, size, name))
    return EnclaveImage(
        size_bytes=size, ssa_frame_size=frame, parts=_Parts(data, size, name), is_file=not unmeasured
    )


class _Parts:
    def __init__(self, data: memoryview, size: int, name: str) -> None:
        self._arguments = (data, size, name)

    def __iter__(self) -> Iterator[Part]:
        data = self._arguments[0]
        for run in _runs(*self._arguments):
            label = describe_page(run.flags)
            for start in range(0, run.pages, _BATCH_PAGES):
                count = min(_BATCH_PAGES, run.pages - start)
                yield Pages(
                    address=run.address + start * PAGE,
                    count=count,
                    flags=run.flags,
                    content=_content(data, run.at + start * MEASURED_PAGE, count) if run.is_whole else b"",
                    label=label,
                )
            for address, at in run.chunks:
                yield Chunks(address=address, content=data[at : at + CHUNK], label=label)


class _Run(NamedTuple):
    """Pages that follow each other, in the stream and in the enclave.

    Attributes:
        at: where their first record is.
        pages: how many.
        is_whole: every page is measured whole and in order; else none is, but for `chunks` of the last one.
        chunks: address, and where the content is.
        unmeasured: how many chunks of the last page are loaded only.
    """

    at: int
    address: int
    pages: int
    flags: int
    is_whole: bool
    chunks: tuple[tuple[int, int], ...] = ()
    unmeasured: int = 0


def _runs(data: memoryview, size: int, name: str) -> Iterator[_Run]:
    """Find the runs of a stream, and refuse what is not canonical."""
    at, next_page = HEADER, 0
    while at < len(data):
        address, flags = _page_header(data, at, next_page, size, name)
        count = _whole_pages(data, at, address, flags)
        if count:
            run = _Run(at=at, address=address, pages=count, flags=flags, is_whole=True)
            at += count * MEASURED_PAGE
        else:
            count = _bare_pages(data, at, address, flags)
            chunks, unmeasured, end = _loose_chunks(
                data, at + count * HEADER, address + (count - 1) * PAGE, name
            )
            run = _Run(at, address, count, flags, is_whole=False, chunks=chunks, unmeasured=unmeasured)
            at = end
        next_page = address + count * PAGE
        if next_page > size:
            raise BadSgxs(
                f"pages end at {next_page:#x}, beyond the enclave's size {size:#x}",
                place=_place(name, run.at),
            )
        yield run


def _place(name: str, at: int) -> str:
    return f"{name}: byte {at:#x}" if name else f"byte {at:#x}"


def describe_page(flags: int) -> str:
    """Name a page by its type; an SGXS file says no more."""
    return "TCS" if flags >> 8 & 0xFF == SECINFO_TCS >> 8 else "pages"


def _page_header(data: memoryview, at: int, next_page: int, size: int, name: str) -> tuple[int, int]:
    if at + HEADER > len(data):
        raise BadSgxs("the stream ends inside a record", place=_place(name, at))
    tag = bytes(data[at : at + 8])
    if tag != EADD:
        raise BadSgxs(f"{tag!r} stands where a page should begin", place=_place(name, at))
    address, flags = struct.unpack_from("<QQ", data, at + 8)
    if any(data[at + 24 : at + HEADER]):
        raise BadSgxs("EADD has bits in its reserved bytes", place=_place(name, at + 24))
    if not address % PAGE and address < next_page and address < size:
        raise BadSgxs(
            f"EADD has a page at {address:#x} after {next_page:#x}: a canonical stream adds pages from the "
            "lowest up, each once",
            place=_place(name, at + 8),
            hint="the stream of a loader that adds them in another order (Gramine) is kept as a page list: "
            "rvp sgx pages ENCLAVE -o list.toml, then rvp measure list.toml",
        )
    if address % PAGE or address >= size:
        raise BadSgxs(
            f"EADD has a page at {address:#x} after {next_page:#x} of {size:#x}", place=_place(name, at + 8)
        )
    if flags >> 8 & 0xFF == SECINFO_TCS >> 8 and flags & 7:
        raise BadSgxs(
            f"EADD has a TCS with SECINFO flags {flags:#x}: the CPU hashes 0x100", place=_place(name, at + 16)
        )
    return address, flags


def _whole_pages(data: memoryview, at: int, address: int, flags: int) -> int:
    """Count the pages from here on that follow each other, have equal flags, and are measured in order.

    Cost: the first few are looked at one by one, then ever larger batches: linear for any stream.
    """
    most = (len(data) - at) // MEASURED_PAGE
    few = most if len(data) <= _PLAIN_BYTES else min(most, _FEW)
    count = 0
    while count < few and _is_whole(data, at + count * MEASURED_PAGE, address + count * PAGE, flags):
        count += 1
    if count < few:
        return count
    batch = good = few
    while count < most and good == batch:
        batch = min(4 * batch, most - count, _BATCH_PAGES)
        good = _count_whole(
            data[at + count * MEASURED_PAGE :][: batch * MEASURED_PAGE], address + count * PAGE, flags
        )
        count += good
    return count


def _is_whole(data: memoryview, at: int, address: int, flags: int) -> bool:
    return data[at : at + HEADER] == eadd_record(address, flags) and all(
        data[start : start + HEADER] == eextend_record(address + index * CHUNK)
        for index, start in enumerate(range(at + HEADER, at + MEASURED_PAGE, HEADER + CHUNK))
    )


def _count_whole(data: memoryview, address: int, flags: int) -> int:
    import numpy as np

    count = len(data) // MEASURED_PAGE
    inside = np.arange(PAGE // CHUNK, dtype="<u8") * CHUNK
    addresses = address + np.arange(count, dtype="<u8") * PAGE
    expected = np.zeros((count, 1 + PAGE // CHUNK, HEADER // 8), "<u8")
    expected[:, 0, 0] = int.from_bytes(EADD, "little")
    expected[:, 0, 1] = addresses
    expected[:, 0, 2] = flags
    expected[:, 1:, 0] = int.from_bytes(EEXTEND, "little")
    expected[:, 1:, 1] = addresses[:, None] + inside
    # A header is copied as one element of 64 bytes: comparing them where they lie takes five times as long.
    headers = np.empty((count, 1 + PAGE // CHUNK), f"V{HEADER}")
    headers[:, 0] = np.ndarray(count, f"V{HEADER}", data, 0, (MEASURED_PAGE,))
    strides = (MEASURED_PAGE, HEADER + CHUNK)
    headers[:, 1:] = np.ndarray((count, PAGE // CHUNK), f"V{HEADER}", data, HEADER, strides)
    differs = headers.view("<u8").reshape(expected.shape) != expected
    return int(differs.any(axis=(1, 2)).argmax()) if differs.any() else count


def _content(data: memoryview, at: int, count: int) -> bytes:
    if count <= _FEW:
        starts = range(at, at + count * MEASURED_PAGE, MEASURED_PAGE)
        return b"".join(
            data[chunk + HEADER : chunk + HEADER + CHUNK]
            for start in starts
            for chunk in range(start + HEADER, start + MEASURED_PAGE, HEADER + CHUNK)
        )
    import numpy as np

    pages = np.frombuffer(data[at : at + count * MEASURED_PAGE], np.uint8).reshape(count, MEASURED_PAGE)
    return pages[:, HEADER:].reshape(count, PAGE // CHUNK, HEADER + CHUNK)[:, :, HEADER:].tobytes()


def _bare_pages(data: memoryview, at: int, address: int, flags: int) -> int:
    """Count the EADD records from here on that follow each other (at least one)."""
    most = (len(data) - at) // HEADER
    few = most if len(data) <= _PLAIN_BYTES else min(most, _FEW)
    count = 1
    while count < few and data[at + count * HEADER :][:HEADER] == eadd_record(address + count * PAGE, flags):
        count += 1
    if count < few:
        return count
    batch = good = few
    while count < most and good == batch:
        batch = min(4 * batch, most - count, _BATCH_PAGES * 64)
        good = _count_bare(data[at + count * HEADER :][: batch * HEADER], address + count * PAGE, flags)
        count += good
    return count


def _count_bare(data: memoryview, address: int, flags: int) -> int:
    import numpy as np

    words = np.frombuffer(data, "<u8").reshape(-1, HEADER // 8)
    good = (words[:, 0] == int.from_bytes(EADD, "little")) & (words[:, 2] == flags)
    good &= words[:, 1] == address + np.arange(len(words), dtype="<u8") * PAGE
    good &= ~words[:, 3:].any(axis=1)
    return len(words) if good.all() else int(good.argmin())


def _loose_chunks(
    data: memoryview, at: int, page: int, name: str
) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Read the chunks of one page in the order in which they stand.

    Returns:
        Address and place of the measured ones, the number of the others, and where they end.
    """
    found: list[tuple[int, int]] = []
    seen: set[int] = set()
    while (tag := bytes(data[at : at + 8])) in {EEXTEND, UNMEASURED}:
        if at + HEADER + CHUNK > len(data):
            raise BadSgxs("the stream ends inside a chunk", place=_place(name, at))
        address = struct.unpack_from("<Q", data, at + 8)[0]
        if any(data[at + 16 : at + HEADER]):
            raise BadSgxs("EEXTEND has bits in its reserved bytes", place=_place(name, at + 16))
        if address % CHUNK or not page <= address < page + PAGE or address in seen:
            raise BadSgxs(
                f"EEXTEND has a chunk at {address:#x} that is not once in the page {page:#x}",
                place=_place(name, at + 8),
            )
        seen.add(address)
        if tag == EEXTEND:
            found.append((address, at + HEADER))
        at += HEADER + CHUNK
    return tuple(found), len(seen) - len(found), at


def pages_rise(image: EnclaveImage) -> bool:
    """Tell whether the pages are added from the lowest up, as a canonical stream has them.

    Loaders of Gramine, and of some page lists, begin elsewhere: their streams hash to MRENCLAVE, and readers
    that insist on the canonical form (this one, too) refuse them.
    """
    addresses = [part.address for part in image.parts if isinstance(part, Pages)]
    return all(one < other for one, other in itertools.pairwise(addresses))


def write_sgxs(image: EnclaveImage) -> bytes:
    """Write an enclave as an SGXS file.

    Example:
        >>> import hashlib
        >>> from pipeline.measure.sgx.hashing import mrenclave
        >>> pages = Pages(address=0, count=1, flags=0x201, content=bytes(4096))
        >>> image = EnclaveImage(size_bytes=0x2000, ssa_frame_size=1, parts=(pages,))
        >>> hashlib.sha256(write_sgxs(image)).digest() == mrenclave(image)
        True
    """
    out = bytearray()
    write_stream(image, lambda data: out.extend(memoryview(data)))
    return bytes(out)
