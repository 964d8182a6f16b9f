"""The document of a page list, `rvp/enclave-pages/v1`: its keys, their types and ranges.

Units: addresses are offsets from the enclave's base in bytes.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final, Literal

import msgspec

from pipeline.measure.sgx.enclave_image import CHUNK, PAGE
from provenance.errors import UsageError

SCHEMA: Final = "rvp/enclave-pages/v1"
MAX_RUNS: Final = 1 << 17
MAX_SIZE: Final = 1 << 52
TCS_FIELDS: Final = struct.Struct("<QQQIIQQQQII")  # Intel SDM vol. 3D, "Thread Control Structure (TCS)"
PAGE_TYPES: Final = frozenset({1, 2, 5, 6})  # TCS, REG; the two of shadow stacks
_CHUNKS: Final = PAGE // CHUNK

U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]


class BadPageList(UsageError):
    """A page list describes no enclave: a value is out of its range, pages overlap, a content is not there.

    The message has the line and the run. Cure: docs/reference/sgx-page-list.md has every key.
    """

    code = "RVP-5045"


class Tcs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The fields of a TCS, as its page has them (offsets from the enclave's base)."""

    ossa: Offset
    nssa: U32
    entry: Offset
    flags: Offset = 0
    cssa: U32 = 0
    fs_base: Offset = 0
    gs_base: Offset = 0
    fs_limit: U32
    gs_limit: U32

    def page(self) -> bytes:
        """Write the page."""
        fields = TCS_FIELDS.pack(
            0,
            self.flags,
            self.ossa,
            self.cssa,
            self.nssa,
            self.entry,
            0,
            self.fs_base,
            self.gs_base,
            self.fs_limit,
            self.gs_limit,
        )
        return fields.ljust(PAGE, b"\0")


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pages that are added one after the other; or chunks of a page that was added before.

    Attributes:
        pages: how many pages; or
        chunks: how many chunks of 256 bytes, in one page.
        access: permissions of a page, `r-x`; or `tcs`; or
        flags: SECINFO.FLAGS, where `access` has no word for it.
        measured: false: added and not measured; then there is no content.
        fill: hex digits that fill the run.
        hex: the content, zeros follow.
        file: where the content lies; `offset`, `length` and `sha256` say what of it, zeros follow.
        repeat: every page has the one page of content in `file` or `hex`.
    """

    address: Offset
    pages: Offset = 0
    chunks: Annotated[int, msgspec.Meta(ge=0, le=_CHUNKS)] = 0
    access: str = ""
    flags: U32 = 0
    measured: bool = True
    fill: str = ""
    hex: str = ""
    file: str = ""
    offset: Offset = 0
    length: Offset | None = None
    sha256: Digest = ""
    repeat: bool = False
    tcs: Tcs | None = None
    label: Annotated[str, msgspec.Meta(max_length=200)] = ""


class PageList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document."""

    schema: Literal["rvp/enclave-pages/v1"]
    size: Offset
    ssa_frame_size: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
    sigstruct: str = ""
    run: Annotated[tuple[Run, ...], msgspec.Meta(max_length=MAX_RUNS)] = ()
