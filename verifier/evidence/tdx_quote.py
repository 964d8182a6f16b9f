"""The registers of a TDX quote, versions 4 and 5: structure only, **no signature is looked at**.

    0    header 48: version u16, key type u16, TEE type u32 (0x81) …
    48   version 4: body, 584 bytes; version 5: body type u16, body size u32, body from 54
    …    size of the signature data u32, signature data

Whoever uses these values as evidence must verify the quote first; here they are read to be compared.

Units: offsets and sizes are bytes, integers little-endian, registers SHA-384.
Source: Intel TDX DCAP quoting library API, appendix A.3 (quote format), version 4 and 5.
"""

from __future__ import annotations

from typing import Final

import msgspec

from provenance.errors import UsageError

MAX_QUOTE_BYTES: Final = 1 << 20
_HEADER: Final = 48
_TDX: Final = 0x81
_BODY_SIZES: Final = {2: 584, 3: 648}  # TDX 1.0, TDX 1.5
_REGISTER: Final = 48
# Offsets in the body; both bodies begin alike.
_REGISTERS: Final = {
    "mrtd": 136,
    "mrconfigid": 184,
    "mrowner": 232,
    "mrownerconfig": 280,
    "rtmr0": 328,
    "rtmr1": 376,
    "rtmr2": 424,
    "rtmr3": 472,
}


class QuoteDamaged(UsageError):
    """A quote is truncated, or is no TDX quote of version 4 or 5.

    The message has the field and its offset.
    Cure: hand over the quote as the TEE made it, raw, or as hex or base64 text.
    """

    code = "RVP-7001"


class QuoteRegisters(msgspec.Struct, frozen=True, kw_only=True):
    """What a quote's body says of its registers; nothing of it was verified.

    Attributes:
        version: of the quote.
        registers: mrtd, rtmr0 … rtmr3, mrconfigid, mrowner, mrownerconfig.
    """

    version: int
    registers: dict[str, bytes]


def is_tdx_quote(data: bytes) -> bool:
    """Tell whether data begin as a TDX quote does."""
    return len(data) >= 8 and _u16(data, 0) in {4, 5} and _u32(data, 4) == _TDX


def read_registers(quote: bytes, *, name: str = "") -> QuoteRegisters:
    """Read the registers out of the body of a quote.

    Raises:
        QuoteDamaged: RVP-7001.
    """

    def need(end: int, field: str) -> None:
        if len(quote) < end:
            raise QuoteDamaged(
                f"the quote ends at {len(quote):#x}, {field} at {end:#x}: truncated", place=name
            )

    need(_HEADER, "its header")
    version, tee = _u16(quote, 0), _u32(quote, 4)
    if tee != _TDX:
        hint = "SGX quotes have no RTMRs" if tee == 0 and version in {3, 4, 5} else "is this a quote?"
        raise QuoteDamaged(f"TEE type {tee:#x} at offset 4 is not TDX ({_TDX:#x})", place=name, hint=hint)
    start, size = _HEADER, _BODY_SIZES[2]
    if version == 5:
        start += 6
        need(start, "the type of its body")
        kind, stated = _u16(quote, _HEADER), _u32(quote, _HEADER + 2)
        size = _BODY_SIZES.get(kind, 0)
        if not size or stated != size:
            raise QuoteDamaged(
                f"body of type {kind} with {stated} bytes at offset 0x30 (type 2 has 584, type 3 has 648)",
                place=name,
            )
    elif version != 4:
        raise QuoteDamaged(f"version {version} at offset 0 (4 and 5 are read)", place=name)
    need(start + size + 4, "its body")
    need(start + size + 4 + _u32(quote, start + size), "its signature data")
    found = {register: quote[start + at : start + at + _REGISTER] for register, at in _REGISTERS.items()}
    return QuoteRegisters(version=version, registers=found)


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
