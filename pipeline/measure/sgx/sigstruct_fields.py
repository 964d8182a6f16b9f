"""The fields of a SIGSTRUCT by name, with what they mean in words: what a person reads before signing.

Numbers are little-endian in the file and are written here as numbers; identities and digests are hex in the
order of the file.

Source: Intel SDM vol. 3D, "Enclave Signature Structure (SIGSTRUCT)", "ATTRIBUTES", "MISCSELECT"; vol. 1,
XCR0.

Example:
    >>> from pipeline.measure.sgx.sigstruct import SigstructFields, to_be_signed
    >>> rows = fields_of(of_tbs(to_be_signed(SigstructFields(mrenclave=bytes(32), date=(2026, 2, 4)))))
    >>> [(one.name, one.value, one.words) for one in rows if one.name in ("date", "attributes.flags")]
    [('date', '0x20260204', '2026-02-04'), ('attributes.flags', '0x0000000000000004', 'MODE64BIT')]
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from pipeline.measure.measured import hex_check
from pipeline.measure.sgx.sigstruct import (
    DEBUG,
    HEADER_1,
    HEADER_2,
    SIGSTRUCT_SIZE,
    TBS_SIZE,
    VENDOR_INTEL,
    BadSigstruct,
    Sigstruct,
    SigstructFields,
    SigstructMismatch,
    has_sigstruct_header,
    to_be_signed,
)
from provenance.claims import Check

FLAGS: Final = {
    0: "INIT",
    1: "DEBUG",
    2: "MODE64BIT",
    4: "PROVISIONKEY",
    5: "EINITTOKENKEY",
    6: "CET",
    7: "KSS",
    10: "AEXNOTIFY",
}
XFRM: Final = {
    0: "x87",
    1: "SSE",
    2: "AVX",
    3: "MPX-BNDREGS",
    4: "MPX-BNDCSR",
    5: "AVX512-opmask",
    6: "AVX512-ZMM-Hi256",
    7: "AVX512-Hi16-ZMM",
    9: "PKRU",
    11: "CET-U",
    12: "CET-S",
    17: "AMX-TILECFG",
    18: "AMX-TILEDATA",
}
MISC: Final = {0: "EXINFO", 1: "CPINFO"}
CET: Final = {
    0: "SH_STK_EN",
    1: "WR_SHSTK_EN",
    2: "ENDBR_EN",
    3: "LEG_IW_EN",
    4: "NO_TRACK_EN",
    5: "SUPPRESS_DIS",
}
_SIGNED_ENDS: Final = 128
_BODY: Final = range(900, 1028)


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field.

    Attributes:
        name: as the SDM calls it, in lower case.
        offset: in the SIGSTRUCT, bytes.
        size: bytes.
        value: a number as `0x…`, bytes as hex.
        words: what it means; may be empty.
        signed: whether the signature covers it.
    """

    name: str
    offset: int
    size: int
    value: str
    words: str = ""
    signed: bool = True


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A signed field that two SIGSTRUCTs state differently."""

    name: str
    offset: int
    old: str
    new: str


Words = Callable[[Sigstruct, bytes], str]


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def bit_names(value: int, names: Mapping[int, str]) -> str:
    """Name the bits of a number; bits without a name are `bit N`.

    Example:
        >>> bit_names(0x8000_0000_0000_0006, FLAGS)
        'DEBUG MODE64BIT bit 63'
    """
    found = [names.get(bit, f"bit {bit}") for bit in range(value.bit_length()) if value >> bit & 1]
    return " ".join(found) or "none"


def _free(mask: int, bits: int, names: Mapping[int, str]) -> str:
    """Say which bits a mask leaves to the host."""
    free = ~mask & ((1 << bits) - 1)
    named = [name for bit, name in names.items() if free >> bit & 1]
    others = free.bit_count() - len(named)
    if not free:
        return "all bits are required as signed"
    if others:
        named.append(f"{others} reserved bit{'s' if others > 1 else ''}")
    return f"the host chooses {', '.join(named)}"


def _bits(names: Mapping[int, str]) -> Words:
    return lambda _, data: bit_names(_number(data), names)


def _mask(names: Mapping[int, str]) -> Words:
    return lambda _, data: _free(_number(data), 8 * len(data), names)


def _vendor(_: Sigstruct, data: bytes) -> str:
    return {0: "not Intel", VENDOR_INTEL: "Intel"}.get(_number(data), "neither Intel nor 0")


def _type(_: Sigstruct, data: bytes) -> str:
    known = {0: "production", 1 << 31: "debug release (the SDM's EINIT wants 0 here)"}
    return known.get(_number(data), "not 0, as the SDM wants it")


def _date(_: Sigstruct, data: bytes) -> str:
    """Read a date in BCD, or as old tools wrote it: as plain numbers."""
    value = _number(data)
    text = f"{value:08x}"
    for year, month, day, note in (
        (text[:4], text[4:6], text[6:], ""),
        (str(value >> 16), str(value >> 8 & 0xFF), str(value & 0xFF), " (as plain numbers, not in BCD)"),
    ):
        try:
            return f"{dt.date(int(year), int(month), int(day)).isoformat()}{note}"
        except ValueError:
            continue
    return "not a date"


def _constant(expected: bytes) -> Words:
    return lambda _, data: "the constant" if data == expected else f"not the constant {expected.hex()}"


def _mrsigner(signed: Sigstruct, _: bytes) -> str:
    return f"mrsigner {signed.mrsigner.hex()}"


def _nothing(_: Sigstruct, __: bytes) -> str:
    return ""


def _decimal(_: Sigstruct, data: bytes) -> str:
    return str(_number(data))


def _not_zero(_: Sigstruct, data: bytes) -> str:
    return "" if any(data) else "not set"


# name, offset, size, whether it is a number, words
_TABLE: Final[tuple[tuple[str, int, int, bool, Words], ...]] = (
    ("header", 0, 12, False, _constant(HEADER_1)),
    ("type", 12, 4, True, _type),
    ("vendor", 16, 4, True, _vendor),
    ("date", 20, 4, True, _date),
    ("header2", 24, 16, False, _constant(HEADER_2)),
    ("swdefined", 40, 4, True, _not_zero),
    ("modulus", 128, 384, False, _mrsigner),
    ("exponent", 512, 4, True, _decimal),
    ("signature", 516, 384, False, _nothing),
    ("miscselect", 900, 4, True, _bits(MISC)),
    ("miscmask", 904, 4, True, _mask(MISC)),
    ("cet_attributes", 908, 1, True, _bits(CET)),
    ("cet_attributes_mask", 909, 1, True, _bits(CET)),
    ("isvfamilyid", 912, 16, False, _not_zero),
    ("attributes.flags", 928, 8, True, _bits(FLAGS)),
    ("attributes.xfrm", 936, 8, True, _bits(XFRM)),
    ("attributemask.flags", 944, 8, True, _mask(FLAGS)),
    ("attributemask.xfrm", 952, 8, True, _mask(XFRM)),
    ("enclavehash", 960, 32, False, lambda _signed, _data: "mrenclave"),
    ("isvextprodid", 1008, 16, False, _not_zero),
    ("isvprodid", 1024, 2, True, _decimal),
    ("isvsvn", 1026, 2, True, _decimal),
    ("q1", 1040, 384, False, _nothing),
    ("q2", 1424, 384, False, _nothing),
)
_RESERVED: Final = (
    ("reserved", 44, 84),
    ("reserved2", 910, 2),
    ("reserved3", 992, 16),
    ("reserved4", 1028, 12),
)


def fields_of(signed: Sigstruct) -> tuple[Field, ...]:
    """Name every field, in the order of the file; reserved bytes only where they are not zero."""
    rows = list(_TABLE)
    rows += [
        (name, at, size, False, lambda _signed, _data: "not zero: EINIT refuses it")
        for name, at, size in _RESERVED
        if any(signed.raw[at : at + size])
    ]
    made = []
    for name, at, size, is_number, words in sorted(rows, key=lambda row: row[1]):
        data = signed.raw[at : at + size]
        value = f"0x{_number(data):0{2 * size}x}" if is_number else data.hex()
        made.append(
            Field(
                name=name,
                offset=at,
                size=size,
                value=value,
                words=words(signed, data),
                signed=at < _SIGNED_ENDS or at in _BODY,
            )
        )
    return tuple(made)


def of_tbs(tbs: bytes, *, name: str = "") -> Sigstruct:
    """Put the 256 bytes to be signed where they belong; key and signature are zeros.

    Raises:
        BadSigstruct: RVP-5004 for another size or header.
    """
    if len(tbs) != TBS_SIZE or not has_sigstruct_header(tbs):
        raise BadSigstruct(
            f"{len(tbs)} bytes to be signed, expected the {TBS_SIZE} that `rvp sgx digest` writes", place=name
        )
    hole = SIGSTRUCT_SIZE - TBS_SIZE - (SIGSTRUCT_SIZE - 1028)
    return Sigstruct(tbs[:128] + bytes(hole) + tbs[128:] + bytes(SIGSTRUCT_SIZE - 1028))


def changes(old: Sigstruct, new: Sigstruct) -> tuple[Change, ...]:
    """Name the signed fields that differ; a changed key is named when both have one."""
    before = {one.name: one for one in fields_of(old)}
    after = {one.name: one for one in fields_of(new)}
    found = []
    for name in sorted(before.keys() | after.keys(), key=lambda one: (after.get(one) or before[one]).offset):
        left, right = before.get(name), after.get(name)
        place = right or left
        if place is None or not place.signed or (left and left.value) == (right and right.value):
            continue
        found.append(Change(name=name, offset=place.offset, old=_shown(left), new=_shown(right)))
    keys = (old.raw[128:516], new.raw[128:516])
    if keys[0] != keys[1] and all(any(key) for key in keys):
        found.append(Change(name="mrsigner", offset=128, old=old.mrsigner.hex(), new=new.mrsigner.hex()))
    return tuple(found)


def _shown(field: Field | None) -> str:
    if field is None:
        return "zeros"
    if field.words.isdecimal():
        return field.words
    return f"{field.value} ({field.words})" if field.words and field.size <= 16 else field.value


def debug_launch(signed: Sigstruct) -> str:
    """Say whether the host may launch the enclave for debugging: then its memory can be read."""
    flags, mask = _number(signed.raw[928:936]), _number(signed.raw[944:952])
    if not mask & DEBUG:
        return "the host may choose it"
    return "required" if flags & DEBUG else "forbidden"


def mrsigner_check(signed: Sigstruct, wanted: bytes | None) -> Check:
    """Check whose signature it is, when somebody was named."""
    got = signed.mrsigner
    if wanted is None:
        return Check(id="mrsigner", status="skipped", got=f"nobody was named; it is {got.hex()}")
    return hex_check(
        "mrsigner",
        expected=wanted,
        got=got,
        source="the owner that was named",
        hint="another key signed this enclave",
        code=SigstructMismatch.code,
    )


def configuration_check(signed: Sigstruct, fields: SigstructFields) -> Check:
    """Compare what was signed with a configuration; MRENCLAVE, date and vendor are compared elsewhere."""
    wanted = of_tbs(to_be_signed(fields))
    found = [one for one in changes(wanted, signed) if one.offset >= 128 and one.name != "enclavehash"]
    return Check(
        id="configuration",
        status="failed" if found else "passed",
        expected="; ".join(f"{one.name} {one.old}" for one in found) or "the fields of the configuration",
        got="; ".join(f"{one.name} {one.new}" for one in found) or "as expected",
        source="the configuration",
        hint="make the configuration what its owner signed, or let the owner sign again" if found else "",
        code=SigstructMismatch.code if found else "",
    )
