"""`.oeinfo`: the properties that Open Enclave's signer writes into an enclave, and its generations.

    u32 size, u32 type (2 = SGX), u64 heap pages, u64 stack pages, u64 threads
    u16 product, u16 security version, u32 flags, [16 family id, 16 extended product id,]
    u64 attributes, u64 xfrm, [u64 start address]
    48 bytes that the loader fills (addresses, sizes); 1808 bytes SIGSTRUCT; u64 end marker

The size tells which fields there are, and, with the symbols of the file, which releases can load it. Where
two releases lay the same file out differently and nothing in it tells them apart, both are candidates.

Source: Open Enclave, `sgxproperties.h` and `create.c` of the releases 0.5 to 0.19.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from provenance.errors import UsageError

SECTION: Final = ".oeinfo"
SGX_TYPE: Final = 2
IMAGE_INFO: Final = struct.Struct("<QQQQQQ")  # oeinfo address, size, reloc address, size, heap, enclave size
SIGSTRUCT_BYTES: Final = 1808
END_MARKER: Final = 0xECECECECECECECEC
CAPTURE_PF_GP, ZERO_BASE, EXECUTABLE_HEAP = 1, 2, 4  # flags; the last is Edgeless RT's
DEBUG, MODE64BIT, KSS = 0x2, 0x4, 0x80
_HEADER: Final = "<IIQQQHHI"
_FORMS: Final = {
    1960: struct.Struct(_HEADER + "16s16sQQQ"),
    1952: struct.Struct(_HEADER + "16s16sQQ"),
    1920: struct.Struct(_HEADER + "QQ"),
}
_OLD_SIZE: Final = 1856  # before 0.5: a table of entry points was part of the layout


class BadOpenEnclave(UsageError):
    """An Open Enclave file is malformed, or asks for an enclave that its loader would not build.

    The place is the file with the offset of the field. Cure: check that the file is complete, and that it is
    the file of the enclave and not of its host.
    """

    code = "RVP-5030"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """How the releases from one on lay an enclave out, and what their signer states.

    Attributes:
        name: the first release.
        last: the last one.
        size: of the properties in bytes.
        clears_section_table: the ELF header's three fields about sections are zero when measured.
        joins_plt: `.rela.plt` follows `.rela.dyn`; one more module may be linked in.
        relocates_got: a module's DT_PLTGOT gets a relocation as its other addresses do.
        tls_align_from_header: the alignment of `.tdata` is that of the program header.
        tls_pages: thread-local pages grow with the file; before that there was one.
        fixed_size: the size of a thread is always counted as 6 control pages.
        records_end: the enclave's end, not its size, is written into the image.
        gs_before_fs: GS points one page before FS.
        max_threads: more are refused.
        flags_mask: of ATTRIBUTES in SIGSTRUCT.
        xfrm_mask: of XFRM in SIGSTRUCT.
        id_bytes: how many bytes of family id and extended product id reach the SIGSTRUCT.
        keeps_ids: ids that the enclave has stay when the `.conf` gives none.
        keeps_kss: so does the attribute KSS.
        keeps_debug: an enclave that allows debugging does so even with `Debug=0`.
    """

    name: str
    last: str
    size: int
    clears_section_table: bool = False
    joins_plt: bool = False
    relocates_got: bool = False
    tls_align_from_header: bool = False
    tls_pages: bool = True
    fixed_size: bool = False
    records_end: bool = False
    gs_before_fs: bool = False
    max_threads: int = 32
    flags_mask: int = 0xFFFFFFFFFFFFFFFB
    xfrm_mask: int = 0xFFFFFFFFFFFFFF1B
    id_bytes: int = 16
    keeps_ids: bool = False
    keeps_kss: bool = False
    keeps_debug: bool = False

    @property
    def title(self) -> str:
        """The releases in words."""
        return self.name if self.name == self.last else f"{self.name} to {self.last}"


GENERATIONS: Final = (  # the newest first
    Generation(
        name="0.18",
        last="0.19",
        size=1960,
        joins_plt=True,
        relocates_got=True,
        tls_align_from_header=True,
        max_threads=1024,
        flags_mask=0xFFFFFFFFFFFFFF7B,
    ),
    Generation(
        name="0.17.7",
        keeps_ids=True,
        last="0.17.7",
        size=1960,
        joins_plt=True,
        tls_align_from_header=True,
        max_threads=1024,
        flags_mask=0xFFFFFFFFFFFFFF7B,
    ),
    Generation(
        name="0.17.1", keeps_ids=True, last="0.17.6", size=1960, joins_plt=True, flags_mask=0xFFFFFFFFFFFFFF7B
    ),
    Generation(
        name="0.17", keeps_ids=True, last="0.17.0", size=1952, joins_plt=True, flags_mask=0xFFFFFFFFFFFFFF7B
    ),
    Generation(name="0.16", keeps_ids=True, keeps_kss=True, last="0.16", size=1952, joins_plt=True),
    Generation(
        name="0.13",
        keeps_ids=True,
        keeps_kss=True,
        last="0.15",
        size=1952,
        clears_section_table=True,
        id_bytes=1,
    ),
    Generation(name="0.12", last="0.12", size=1920, clears_section_table=True),
    Generation(name="0.11", last="0.11", size=1920, clears_section_table=True, fixed_size=True),
    Generation(
        name="0.10",
        last="0.10",
        size=1920,
        clears_section_table=True,
        tls_pages=False,
        fixed_size=True,
        xfrm_mask=0,
    ),
    Generation(
        name="0.8",
        last="0.9",
        size=1920,
        clears_section_table=True,
        tls_pages=False,
        fixed_size=True,
        records_end=True,
        keeps_debug=True,
        xfrm_mask=0,
    ),
    Generation(
        name="0.5",
        last="0.7",
        size=1920,
        clears_section_table=True,
        tls_pages=False,
        fixed_size=True,
        records_end=True,
        keeps_debug=True,
        gs_before_fs=True,
        xfrm_mask=0,
    ),
)


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """The properties as they stand in the file.

    Attributes:
        size: in bytes; it tells which fields exist.
        flags: capture page faults, zero base, executable heap.
        start_address: where a zero-based enclave begins.
        sigstruct: 1808 bytes; zero when nobody has signed.
    """

    size: int
    heap_pages: int
    stack_pages: int
    threads: int
    product_id: int
    security_version: int
    flags: int = 0
    family_id: bytes = bytes(16)
    extended_product_id: bytes = bytes(16)
    attributes: int = MODE64BIT
    xfrm: int = 0
    start_address: int = 0
    image_info: bytes = bytes(IMAGE_INFO.size)
    sigstruct: bytes = bytes(SIGSTRUCT_BYTES)
    end_marker: int = END_MARKER

    @property
    def image_info_at(self) -> int:
        """The offset of what the loader fills."""
        return _FORMS[self.size].size

    @property
    def sigstruct_at(self) -> int:
        """The offset of SIGSTRUCT."""
        return self.image_info_at + IMAGE_INFO.size

    @property
    def has_ids(self) -> bool:
        """Tell whether there are a family id and an extended product id."""
        return self.size > min(_FORMS)

    @property
    def has_start_address(self) -> bool:
        """Tell whether the enclave may be based at zero."""
        return self.size == max(_FORMS)

    @property
    def start(self) -> int:
        """Where the image begins in the enclave: zero unless the enclave is based at address zero."""
        return self.start_address if self.flags & ZERO_BASE and self.has_start_address else 0

    def encode(self) -> bytes:
        """Write the properties as they stand in a file."""
        fields: list[int | bytes] = [
            *(self.size, SGX_TYPE, self.heap_pages, self.stack_pages, self.threads),
            *(self.product_id, self.security_version, self.flags),
        ]
        if self.has_ids:
            fields += [self.family_id, self.extended_product_id]
        fields += [self.attributes, self.xfrm]
        if self.has_start_address:
            fields.append(self.start_address)
        head = _FORMS[self.size].pack(*fields)
        return head + self.image_info + self.sigstruct + struct.pack("<Q", self.end_marker)


def read_properties(data: bytes, *, place: str = "") -> Properties:
    """Read the properties from the start of `.oeinfo`.

    Args:
        data: the section, or more.
        place: what to call it in messages: the file and the section's offset.

    Raises:
        BadOpenEnclave: RVP-5030.
    """
    if len(data) < min(_FORMS):
        raise BadOpenEnclave(
            f"sh_size: {SECTION} has {len(data)} bytes, expected {min(_FORMS)} or more", place=place
        )
    size, kind = struct.unpack_from("<II", data)
    if size == _OLD_SIZE:
        raise BadOpenEnclave(
            f"properties of {size} bytes: releases before 0.5 are not supported",
            place=place,
            hint="their layout has a table of entry points that later ones do not have; build it again",
        )
    form = _FORMS.get(size)
    if form is None or size > len(data):
        known = ", ".join(str(one) for one in _FORMS)
        raise BadOpenEnclave(f"size: properties of {size} bytes, expected one of {known}", place=place)
    if kind != SGX_TYPE:
        raise BadOpenEnclave(f"type: {kind}, an SGX enclave has {SGX_TYPE}", place=place)
    fields = list(form.unpack_from(data))
    heap, stack, threads, product, version, flags = fields[2:8]
    rest = fields[8:]
    family, extended = (rest.pop(0), rest.pop(0)) if size > min(_FORMS) else (bytes(16), bytes(16))
    at = form.size
    return Properties(
        size=size,
        heap_pages=heap,
        stack_pages=stack,
        threads=threads,
        product_id=product,
        security_version=version,
        flags=flags,
        family_id=family,
        extended_product_id=extended,
        attributes=rest[0],
        xfrm=rest[1],
        start_address=rest[2] if size == max(_FORMS) else 0,
        image_info=bytes(data[at : at + IMAGE_INFO.size]),
        sigstruct=bytes(data[at + IMAGE_INFO.size : size - 8]),
        end_marker=struct.unpack_from("<Q", data, size - 8)[0],
    )
