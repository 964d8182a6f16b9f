r"""A raw page list: the pages of an enclave one by one, for loaders that nobody else knows.

A TOML text of our own, `rvp/enclave-pages/v1`: the parameters of ECREATE, then runs of pages in the order in
which they are added. Contents are constants, hex digits, the fields of a TCS, or a part of a file that lies
beside the list or below it. Any enclave that can be measured can be written as such (`page_list_writer`).

Units: addresses are offsets from the enclave's base in bytes; runs are counted in pages, or in chunks of 256.
Cost: files are mapped, not read.

Example:
    >>> text = b'''
    ... schema = "rvp/enclave-pages/v1"
    ... size = 0x10000
    ... ssa_frame_size = 1
    ... [[run]]
    ... address = 0x1000
    ... pages = 2
    ... access = "rw-"
    ... fill = "cc"
    ... '''
    >>> read_page_list(text).image.parts[0].content[:2]
    b'\xcc\xcc'
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import map_file
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import (
    CHUNK,
    PAGE,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    Bytes,
    Chunks,
    EnclaveImage,
    Pages,
    Part,
)
from pipeline.measure.sgx.hashing import HEADER, MEASURED_PAGE
from pipeline.measure.sgx.page_list.document import PAGE_TYPES, BadPageList, PageList, Run
from pipeline.measure.sgx.segment_pages import ZERO_PAGE
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct
from pipeline.measure.sgx.sigstruct_file import companion
from provenance.strict import line_in_toml, read_file, read_toml

MAX_BYTES: Final = 16 << 20
MAX_STREAM: Final = 64 << 30  # bytes to hash
_MAX_FILES: Final = 1024
_SCHEMA_LINE: Final = re.compile(rb'^[ \t]*schema[ \t]*=[ \t]*["\']rvp/enclave-pages/', re.MULTILINE)
_LETTERS: Final = (("r", SECINFO_R), ("w", SECINFO_W), ("x", SECINFO_X))


def looks_like_page_list(data: bytes) -> bool:
    """Tell whether a text says that it is a page list."""
    return _SCHEMA_LINE.search(data) is not None


def lay_out_page_list(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Read a page list, for the table of formats; the SIGSTRUCT is named in it or lies beside it.

    Raises:
        BadPageList: RVP-5045. NotWellFormed, UnknownKey, WrongType: RVP-1011, 1013, 1014.
        NotReadable: RVP-1010. BadSigstruct: RVP-5004.
    """
    enclave = read_page_list(read_file(path, limit_bytes=MAX_BYTES), folder=path.parent, name=str(path))
    if enclave.sigstruct is None and options.sigstruct is None and options.companions:
        enclave = msgspec.structs.replace(enclave, sigstruct=companion(path))
    return (enclave,)


def read_page_list(data: bytes, *, folder: Path | None = None, name: str = "") -> Enclave:
    """Read a page list.

    Args:
        data: the text.
        folder: where the files lie that it names; without one it must name none.
        name: what to call it in errors.

    Raises:
        BadPageList: RVP-5045. NotWellFormed, UnknownKey, WrongType: RVP-1011, 1013, 1014.
        NotReadable: RVP-1010, for a file that it names.
    """
    document = read_toml(data, PageList, name=name, limit_bytes=MAX_BYTES)
    reader = _Reader(data, document, folder, name)
    parts = tuple(reader.parts())
    measured = sum(part.count for part in parts if isinstance(part, Pages) and part.is_measured)
    return Enclave(
        layout="page list",
        image=EnclaveImage(size_bytes=document.size, ssa_frame_size=document.ssa_frame_size, parts=parts),
        sigstruct=reader.sigstruct(),
        facts={
            "enclave_size": document.size,
            "pages": sum(part.count for part in parts if isinstance(part, Pages)),
            "measured_pages": measured,
        },
    )


class _Reader:
    def __init__(self, data: bytes, document: PageList, folder: Path | None, name: str) -> None:
        self._data = data
        self._document = document
        self._folder = folder
        self._name = name
        self._files: dict[str, memoryview] = {}
        self._starts: list[int] = []  # the runs of pages, sorted by address
        self._runs: list[Run] = []
        self._chunks: set[int] = set()
        size = document.size
        if size & (size - 1) or size < 2 * PAGE:
            self._bad("size", f"{size:#x}, expected a power of two from {2 * PAGE:#x} on")

    def _bad(self, key: str, message: str) -> NoReturn:
        line = line_in_toml(self._data.decode(), f"$.{key}")
        place = f"{self._name}:{line}" if line else self._name
        raise BadPageList(f"{key}: {message}", place=place)

    def sigstruct(self) -> Sigstruct | None:
        """Read the SIGSTRUCT that the list names."""
        name = self._document.sigstruct
        if not name:
            return None
        path = self._path("sigstruct", name)
        return Sigstruct(read_file(path, limit_bytes=4 * SIGSTRUCT_SIZE), name=str(path))

    def parts(self) -> Iterator[Part]:
        """Check the runs, one after the other, and give what they describe."""
        stream = 0
        for index, run in enumerate(self._document.run):
            at = f"run[{index}]"
            if not run.label.isprintable():
                self._bad(f"{at}.label", "has characters that cannot be shown")
            if bool(run.pages) == bool(run.chunks):
                self._bad(at, "has pages or chunks, one of the two")
            if run.chunks:
                stream += run.chunks * (HEADER + CHUNK)
                yield self._chunk_run(run, at)
                continue
            self._place(run, at)
            stream += run.pages * (MEASURED_PAGE if run.measured else HEADER)
            if stream > MAX_STREAM:
                self._bad(f"{at}.pages", f"{stream:#x} bytes to hash until here, {MAX_STREAM:#x} allowed")
            yield from self._page_run(run, at)

    def _place(self, run: Run, at: str) -> None:
        """Check that pages lie inside the enclave, where no others are."""
        end = run.address + run.pages * PAGE
        if run.address % PAGE:
            self._bad(f"{at}.address", f"{run.address:#x} lies inside a page")
        if end > self._document.size:
            self._bad(f"{at}.pages", f"end at {end:#x}, beyond the enclave's size {self._document.size:#x}")
        index = bisect.bisect_left(self._starts, run.address)
        if index and self._end(index - 1) > run.address:
            self._bad(f"{at}.address", f"{run.address:#x} is in pages that were added before")
        if index < len(self._starts) and end > self._starts[index]:
            self._bad(f"{at}.pages", f"end at {end:#x}, over pages that were added before")
        self._starts.insert(index, run.address)
        self._runs.insert(index, run)

    def _end(self, index: int) -> int:
        return self._starts[index] + self._runs[index].pages * PAGE

    def _page_run(self, run: Run, at: str) -> Iterator[Pages]:
        flags = self._flags(run, at)
        if not run.measured:
            if self._content_keys(run):
                self._bad(
                    at, f"has {self._content_keys(run)[0]} and measured = false: not measured, no content"
                )
            yield Pages(address=run.address, count=run.pages, flags=flags, label=run.label)
            return
        address, left = run.address, run.pages
        for count, content in self._contents(run, at):
            if count:
                yield Pages(address=address, count=count, flags=flags, content=content, label=run.label)
                address, left = address + count * PAGE, left - count

    def _flags(self, run: Run, at: str) -> int:
        if bool(run.access) == bool(run.flags):
            self._bad(at, "has access or flags, one of the two")
        if run.flags:
            if run.flags & ~0xFF07 or run.flags >> 8 not in PAGE_TYPES:
                self._bad(f"{at}.flags", f"{run.flags:#x} are no SECINFO.FLAGS of a page that is added")
            return run.flags
        if run.access == "tcs":
            return SECINFO_TCS
        flags = SECINFO_REG
        for letter, (name, bit) in zip(run.access.ljust(3), _LETTERS, strict=False):
            if len(run.access) != len(_LETTERS) or letter not in {name, "-"}:
                self._bad(f"{at}.access", f'"{run.access[:20]}", expected "tcs" or permissions such as "r-x"')
            flags |= bit if letter == name else 0
        return flags

    @staticmethod
    def _content_keys(run: Run) -> list[str]:
        return [key for key in ("fill", "hex", "file", "tcs") if getattr(run, key)]

    def _one_content(self, run: Run, at: str) -> str:
        keys = self._content_keys(run)
        if len(keys) != 1:
            said = " and ".join(keys) or "no content"
            self._bad(at, f"has {said}; expected one of fill, hex, file, tcs, or measured = false")
        if keys[0] != "file" and (run.offset or run.length is not None or run.sha256):
            self._bad(at, "has offset, length or sha256 without file")
        if run.repeat and keys[0] not in {"file", "hex"}:
            self._bad(f"{at}.repeat", f"with {keys[0]}, expected file or hex")
        return keys[0]

    def _contents(self, run: Run, at: str) -> Iterator[tuple[int, Bytes]]:
        """Give the pages of a measured run: views of whole pages, a copy of the last, zeros."""
        match self._one_content(run, at):
            case "fill":
                yield run.pages, self._filled(run, at, PAGE)
                return
            case "tcs":
                if run.tcs is None or run.pages != 1 or self._flags(run, at) != SECINFO_TCS:
                    self._bad(f"{at}.tcs", 'is one page with access = "tcs"')
                yield 1, run.tcs.page()
                return
            case "hex":
                content: Bytes = self._digits(run.hex, f"{at}.hex")
            case _:
                content = self._part_of_file(run, at, PAGE if run.repeat else run.pages * PAGE)
        limit = PAGE if run.repeat else run.pages * PAGE
        if len(content) > limit:
            self._bad(at, f"has {len(content):#x} bytes for {limit:#x}")
        if run.repeat:
            yield run.pages, bytes(content).ljust(PAGE, b"\0")
            return
        whole, rest = divmod(len(content), PAGE)
        yield whole, content[: whole * PAGE]
        if rest:
            yield 1, bytes(content[whole * PAGE :]).ljust(PAGE, b"\0")
        yield run.pages - whole - bool(rest), ZERO_PAGE

    def _chunk_run(self, run: Run, at: str) -> Chunks:
        size = run.chunks * CHUNK
        end = run.address + size
        if run.access or run.flags or not run.measured or run.repeat or run.tcs is not None:
            self._bad(at, "of chunks has no access, flags, measured, repeat or tcs: their page has")
        if run.address % CHUNK or run.address // PAGE != (end - 1) // PAGE:
            self._bad(
                f"{at}.address", f"{run.address:#x}: the chunks do not lie in one page, 256 bytes apart"
            )
        index = bisect.bisect_right(self._starts, run.address) - 1
        if index < 0 or self._end(index) < end or self._runs[index].measured:
            self._bad(
                f"{at}.address", f"{run.address:#x} is in no page that was added without being measured"
            )
        again = self._chunks & set(range(run.address, end, CHUNK))
        if again:
            self._bad(f"{at}.address", f"the chunk at {min(again):#x} was measured before")
        self._chunks.update(range(run.address, end, CHUNK))
        match self._one_content(run, at):
            case "fill":
                content: Bytes = self._filled(run, at, CHUNK) * run.chunks
            case "hex":
                content = self._digits(run.hex, f"{at}.hex")
            case _:
                content = self._part_of_file(run, at, size)
        if len(content) > size:
            self._bad(at, f"has {len(content):#x} bytes for {size:#x}")
        return Chunks(address=run.address, content=bytes(content).ljust(size, b"\0"), label=run.label)

    def _filled(self, run: Run, at: str, size: int) -> bytes:
        pattern = self._digits(run.fill, f"{at}.fill")
        if size % len(pattern):
            self._bad(f"{at}.fill", f"{len(pattern)} bytes do not fill {size}")
        return pattern * (size // len(pattern))

    def _digits(self, text: str, key: str) -> bytes:
        if not re.fullmatch(r"([0-9a-fA-F]{2})+", text):
            self._bad(key, "is not an even number of hex digits")
        return bytes.fromhex(text)

    def _part_of_file(self, run: Run, at: str, size: int) -> memoryview:
        key = f"{at}.file"
        if run.file not in self._files:
            if len(self._files) == _MAX_FILES:
                self._bad(key, f"more than {_MAX_FILES} files")
            self._files[run.file] = map_file(self._path(key, run.file))
        data = self._files[run.file]
        length = size if run.length is None else run.length
        if run.offset + length > len(data):
            self._bad(
                key, f"{run.offset:#x} and {length:#x} bytes from there, the file has {len(data):#x} bytes"
            )
        part = data[run.offset : run.offset + length]
        if run.sha256 and hashlib.sha256(part).hexdigest() != run.sha256:
            self._bad(f"{at}.sha256", f"the content has {hashlib.sha256(part).hexdigest()}")
        return part

    def _path(self, key: str, name: str) -> Path:
        """Find a file: it lies beside the list or below, also when links are followed."""
        path = PurePosixPath(name)
        if self._folder is None:
            self._bad(key, f"{name[:80]!r}: the list lies in no folder")
        if path.is_absolute() or ".." in path.parts or "\0" in name or len(name) > 1000:
            self._bad(key, f"{name[:80]!r}: a file lies beside the list or below it")
        found = self._folder / path
        try:
            inside = found.resolve(strict=True).is_relative_to(self._folder.resolve(strict=True))
            regular = found.is_file()
        except (OSError, RuntimeError):
            inside, regular = True, False
        if not inside:
            self._bad(key, f"{name[:80]!r}: a link leads out of the list's folder")
        if not regular:
            self._bad(key, f"{name[:80]!r}: there is no such file")
        return found
