"""A bounded reader of PE/COFF files (kernels, boot loaders, UKIs), and the digest that firmware measures.

Nothing is copied: the file is a memory view, and every offset, size and count of the file is checked against
it before it is used. What EDK II's loader refuses is refused: such a file never starts, so no register ever
has its digest.

*Authenticode as EDK II measures it* leaves out the CheckSum, the directory entry of the certificate table and
the certificates; it hashes everything else in file order, **without padding to 8 bytes** and **with the bytes
after the last section**, signed or not. Tools that sign say the digest of the file as they will write it,
padded to 8 bytes: the two are equal for a file whose size is a multiple of 8.

Units: offsets and sizes are bytes of the file; addresses are relative to the image base.
Source: Microsoft PE format; EDK II `DxeTpm2MeasureBootLib.c` (MeasurePeImageAndExtend) and `BasePeCoff.c`.
Cost: one pass over the file, no copies.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from provenance.errors import UsageError

MACHINES: Final = {0x8664: "x64", 0x014C: "ia32", 0xAA64: "aarch64", 0x5064: "riscv64", 0x6264: "loongarch64"}
_FILE_HEADER: Final = struct.Struct("<HHIIIHH")
_SECTION: Final = struct.Struct("<8sIIII")
_SECTION_BYTES: Final = 40
_MAGIC_32: Final = 0x10B
_MAGIC_64: Final = 0x20B
_DIRECTORIES: Final = {_MAGIC_32: 96, _MAGIC_64: 112}  # where they begin in the optional header
_MAX_DIRECTORIES: Final = 16  # EFI_IMAGE_NUMBER_OF_DIRECTORY_ENTRIES: EDK II's loader refuses more
_SECURITY: Final = 4  # EFI_IMAGE_DIRECTORY_ENTRY_SECURITY
_SIZE_OF_HEADERS_AT: Final = 60
_CHECKSUM_AT: Final = 64
_PE_OFFSET_AT: Final = 0x3C


class BadPe(UsageError):
    """A file is not a PE file that firmware would load, or its tables point out of it.

    The message names the field, the value, and its offset in the file.
    Cure: check that the file is complete, and that it is the kernel, boot loader or UKI that is meant.
    """

    code = "RVP-5420"


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A section header; `offset` and `raw_size` lie inside the file unless `raw_size` is 0."""

    name: str
    address: int
    virtual_size: int
    offset: int
    raw_size: int


class Pe:
    """A PE file: its header, its sections, what of it is hashed.

    Attributes:
        machine: IMAGE_FILE_MACHINE of the file header.
        sections: in the order of the section table.
        headers_size: SizeOfHeaders.
        certificates_size: bytes of the certificate table, 0 without one.
    """

    def __init__(self, data: bytes | memoryview, *, name: str = "") -> None:
        """Read the tables.

        Raises:
            BadPe: RVP-5420.

        Cost: at most 65 535 section headers are read.
        """
        self.data = memoryview(data)
        self.name = name
        if bytes(self.data[:2]) != b"MZ":
            raise self._bad("the file does not begin with MZ", 0)
        start = self._u32(_PE_OFFSET_AT, "e_lfanew")
        if bytes(self.data[start : start + 4]) != b"PE\0\0":
            raise self._bad(f"e_lfanew is {start:#x}, where no PE signature stands", _PE_OFFSET_AT)
        if start + 4 + _FILE_HEADER.size > len(self.data):
            raise self._bad("the file header goes past the end of the file", start)
        self.machine, count, _, _, _, optional_size, _ = _FILE_HEADER.unpack_from(self.data, start + 4)
        optional = start + 4 + _FILE_HEADER.size
        magic = self._u16(optional, "Magic")
        if magic not in _DIRECTORIES:
            raise self._bad(f"Magic is {magic:#x}, neither PE32 nor PE32+", optional)
        directories = optional + _DIRECTORIES[magic]
        self.directory_count = self._u32(directories - 4, "NumberOfRvaAndSizes")
        if self.directory_count > _MAX_DIRECTORIES:
            raise self._bad(
                f"NumberOfRvaAndSizes is {self.directory_count}, at most {_MAX_DIRECTORIES} can be",
                directories - 4,
            )
        if _DIRECTORIES[magic] + 8 * self.directory_count > optional_size:
            raise self._bad(
                f"SizeOfOptionalHeader is {optional_size}, too small for {self.directory_count} directories",
                start + 20,
            )
        self.checksum_at = optional + _CHECKSUM_AT
        self.headers_size = self._u32(optional + _SIZE_OF_HEADERS_AT, "SizeOfHeaders")
        table = optional + optional_size
        if not table + count * _SECTION_BYTES <= self.headers_size <= len(self.data):
            raise self._bad(
                f"SizeOfHeaders is {self.headers_size}; the headers end at "
                f"{table + count * _SECTION_BYTES}, the file at {len(self.data)}",
                optional + _SIZE_OF_HEADERS_AT,
            )
        self.sections = tuple(self._section(table + index * _SECTION_BYTES) for index in range(count))
        self.certificate_entry_at, self.certificates_size = self._certificates(directories)
        self._refuse_overlaps()

    def section(self, name: str) -> Section | None:
        """Find the first section of a name."""
        return next((one for one in self.sections if one.name == name), None)

    def content(self, section: Section) -> memoryview:
        """Give what is loaded of a section: its raw data, at most its VirtualSize.

        The raw size is rounded up to the file's alignment; the rounding is no content.
        """
        size = min(section.raw_size, section.virtual_size)
        return self.data[section.offset : section.offset + size] if size else memoryview(b"")

    def hashed_ranges(self) -> Iterator[tuple[int, int]]:
        """Give the ranges [start, end) that Authenticode hashes, in order."""
        yield 0, self.checksum_at
        after = self.checksum_at + 4
        if self.certificate_entry_at:
            yield after, self.certificate_entry_at
            after = self.certificate_entry_at + 8
        yield after, self.headers_size
        hashed = self.headers_size
        for one in self._in_file_order():
            yield one.offset, one.offset + one.raw_size
            hashed += one.raw_size
        end = len(self.data) - self.certificates_size
        if hashed < end:
            yield hashed, end

    def authenticode(self, algorithm: str) -> bytes:
        """Hash what EDK II measures of the file; see the module.

        Args:
            algorithm: a name that `hashlib` knows.
        """
        digest = hashlib.new(algorithm)
        for start, end in self.hashed_ranges():
            digest.update(self.data[start:end])
        return digest.digest()

    def _section(self, at: int) -> Section:
        raw_name, virtual_size, address, raw_size, offset = _SECTION.unpack_from(self.data, at)
        name = raw_name.split(b"\0", 1)[0].decode("latin-1")
        if raw_size and offset + raw_size > len(self.data):
            raise self._bad(
                f"section {name!r} goes to {offset + raw_size:#x}, past the end of the file at "
                f"{len(self.data):#x}",
                at + 16,
            )
        return Section(
            name=name, address=address, virtual_size=virtual_size, offset=offset, raw_size=raw_size
        )

    def _certificates(self, directories: int) -> tuple[int, int]:
        """Find the directory entry of the certificates: where it stands (0: there is none), their size."""
        if self.directory_count <= _SECURITY:
            return 0, 0
        at = directories + 8 * _SECURITY
        offset, size = self._u32(at, "certificate table"), self._u32(at + 4, "certificate table size")
        if size and not self.headers_size <= offset <= offset + size <= len(self.data):
            raise self._bad(
                f"the certificate table is said at {offset:#x} with {size} bytes, the file has "
                f"{len(self.data)} bytes and headers of {self.headers_size}",
                at,
            )
        hashed = self.headers_size + sum(one.raw_size for one in self.sections)
        if size and hashed > len(self.data) - size:
            raise self._bad("the certificate table lies in what is hashed", at)
        return at, size

    def _in_file_order(self) -> list[Section]:
        return sorted((one for one in self.sections if one.raw_size), key=lambda one: one.offset)

    def _refuse_overlaps(self) -> None:
        before: Section | None = None
        for one in self._in_file_order():
            if before is not None and one.offset < before.offset + before.raw_size:
                raise self._bad(f"sections {before.name!r} and {one.name!r} overlap", one.offset)
            before = one

    def _u16(self, at: int, field: str) -> int:
        return self._unsigned(at, 2, field)

    def _u32(self, at: int, field: str) -> int:
        return self._unsigned(at, 4, field)

    def _unsigned(self, at: int, size: int, field: str) -> int:
        if at + size > len(self.data):
            raise self._bad(f"{field} lies past the end of the file", at)
        return int.from_bytes(self.data[at : at + size], "little")

    def _bad(self, what: str, at: int) -> BadPe:
        return BadPe(
            f"{what} (offset {at:#x})", place=self.name, hint="take a complete kernel, boot loader or UKI"
        )


def authenticode(data: bytes | memoryview, algorithm: str, *, name: str = "") -> bytes:
    """Hash what EDK II measures of a PE file into PCR 4 or RTMR1.

    Args:
        data: the whole file.
        algorithm: a name that `hashlib` knows: `sha256`, `sha384`.
        name: of the file, for messages.

    Raises:
        BadPe: RVP-5420.
    """
    return Pe(data, name=name).authenticode(algorithm)
