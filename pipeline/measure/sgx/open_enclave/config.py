r"""The `.conf` file of Open Enclave's signer: `NAME=VALUE` lines that override an enclave's properties.

| key | value |
|---|---|
| Debug | 0 or 1: whether the loader may launch it for debugging |
| NumHeapPages, NumStackPages | pages; the stack is each thread's |
| NumTCS | threads, up to 32 (1024 from 0.17.7 on) |
| ProductID, SecurityVersion | 0 to 65534 |
| FamilyID, ExtendedProductID | a UUID; from 0.13 on; either turns KSS on |
| CapturePFGPExceptions | 0 or 1; from 0.17 on |
| CreateZeroBaseEnclave, StartAddress | 0 or 1; an address in whole pages; from 0.17.1 on |
| ExecutableHeap | 0 or 1; Edgeless RT's |

Source: Open Enclave, `oesign.c`; Edgeless RT's patch of it.

Example:
    >>> read_conf(b"Debug=1\nNumTCS = 4 \n# comment\n", name="a.conf").threads
    4
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.open_enclave.properties import (
    CAPTURE_PF_GP,
    DEBUG,
    EXECUTABLE_HEAP,
    KSS,
    MODE64BIT,
    ZERO_BASE,
    Generation,
    Properties,
)
from provenance.errors import SpecError

_MAX_BYTES: Final = 1 << 16
_UNSET_16: Final = 0xFFFF
_MAX_64: Final = (1 << 64) - 1
_UUID_LETTERS: Final = 36


class BadOpenEnclaveConfig(SpecError):
    """The `.conf` of an Open Enclave enclave is malformed, or asks for what its signer refuses.

    The place names the line. Cure: the keys and their ranges are in docs/reference/sgx-open-enclave.md.
    """

    code = "RVP-5032"


class Conf(msgspec.Struct, frozen=True, kw_only=True):
    """What a `.conf` says; None: the enclave's own value stays."""

    debug: int | None = None
    heap_pages: int | None = None
    stack_pages: int | None = None
    threads: int | None = None
    product_id: int | None = None
    security_version: int | None = None
    family_id: bytes | None = None
    extended_product_id: bytes | None = None
    capture_pf_gp: int | None = None
    zero_base: int | None = None
    start_address: int | None = None
    executable_heap: int | None = None


def _number(text: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,20}", text) or int(text) > _MAX_64:
        raise ValueError("not a 64-bit number in decimal digits")
    return int(text)


def _upto(limit: int, why: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = _number(text)
        if value > limit:
            raise ValueError(why)
        return value

    return read


def _address(text: str) -> int:
    value = _number(text)
    if value == 0 or value % PAGE:
        raise ValueError("not a multiple of 4096 above zero")
    return value


def _uuid(text: str) -> bytes:
    if len(text) == 1:  # the signer takes one character for the empty id
        return bytes(16)
    digits = text.replace("-", "")
    if len(text) != _UUID_LETTERS or not re.fullmatch(r"[0-9A-Fa-f]{32}", digits):
        raise ValueError("not a UUID of 36 characters")
    return bytes.fromhex(digits)


_BOOLEAN: Final = _upto(1, "neither 0 nor 1")
_ID: Final = _upto(_UNSET_16 - 1, "above 65534")
_PAGES: Final = _upto(_MAX_64 - 1, "too large")
_KEYS: Final[dict[str, tuple[str, Callable[[str], int | bytes]]]] = {
    "Debug": ("debug", _BOOLEAN),
    "NumHeapPages": ("heap_pages", _PAGES),
    "NumStackPages": ("stack_pages", _PAGES),
    "NumTCS": ("threads", _upto(1024, "above 1024")),
    "ProductID": ("product_id", _ID),
    "SecurityVersion": ("security_version", _ID),
    "FamilyID": ("family_id", _uuid),
    "ExtendedProductID": ("extended_product_id", _uuid),
    "CapturePFGPExceptions": ("capture_pf_gp", _BOOLEAN),
    "CreateZeroBaseEnclave": ("zero_base", _BOOLEAN),
    "StartAddress": ("start_address", _address),
    "ExecutableHeap": ("executable_heap", _BOOLEAN),
}


def read_conf(data: bytes, *, name: str = "") -> Conf:
    """Read a `.conf` as the signer does.

    Raises:
        BadOpenEnclaveConfig: RVP-5032.
    """
    if len(data) > _MAX_BYTES:
        raise BadOpenEnclaveConfig(f"{len(data)} bytes, at most {_MAX_BYTES}", place=name)
    found: dict[str, int | bytes] = {}
    for number, raw in enumerate(data.decode("latin-1").split("\n"), 1):
        line = raw.lstrip(" \t").rstrip(" \t\r")
        if not line or line.startswith("#"):
            continue

        def bad(message: str, *, number: int = number) -> NoReturn:
            raise BadOpenEnclaveConfig(message, place=f"{name}:{number}" if name else f"line {number}")

        key, *rest = re.split(r"[ \t=]+", line, maxsplit=1)
        if not key or not rest or not rest[0]:
            bad(f"{line!r} is not NAME=VALUE")
        if key not in _KEYS:
            bad(f"unknown setting {key!r}; known: {', '.join(_KEYS)}")
        field, read = _KEYS[key]
        if field in found:
            bad(f"{key} stands twice")
        try:
            found[field] = read(rest[0])
        except ValueError as error:
            bad(f"{key} is {rest[0]!r}: {error}")
    return msgspec.convert(found, Conf)


def merge(properties: Properties, conf: Conf, generation: Generation, *, name: str = "") -> Properties:
    """Override an enclave's properties with what a `.conf` says, as the signer of a release does.

    Raises:
        BadOpenEnclaveConfig: RVP-5032, when the result is not an enclave that the signer takes.
    """

    def bad(message: str) -> NoReturn:
        raise BadOpenEnclaveConfig(message, place=name)

    for key, value, there in (
        ("FamilyID", conf.family_id, properties.has_ids),
        ("ExtendedProductID", conf.extended_product_id, properties.has_ids),
        ("CapturePFGPExceptions", conf.capture_pf_gp, _has_flags(generation)),
        ("CreateZeroBaseEnclave", conf.zero_base, properties.has_start_address),
        ("StartAddress", conf.start_address, properties.has_start_address),
    ):
        if value is not None and not there:
            bad(f"Open Enclave {generation.title} has no {key}")
    debug = conf.debug or None if generation.keeps_debug else conf.debug
    attributes = _bit(properties.attributes, DEBUG, debug)
    has_id = conf.family_id is not None or conf.extended_product_id is not None
    if properties.has_ids:
        attributes = _bit(attributes, KSS, 1 if has_id else (None if generation.keeps_kss else 0))
    flags = properties.flags
    if _has_flags(generation):
        flags = _bit(flags, CAPTURE_PF_GP, conf.capture_pf_gp or 0)
    if properties.has_start_address:
        flags = _bit(flags, ZERO_BASE, conf.zero_base or 0)
    flags = _bit(flags, EXECUTABLE_HEAP, conf.executable_heap)
    no_id = b"" if generation.keeps_ids else bytes(16)
    merged = msgspec.structs.replace(
        properties,
        attributes=attributes,
        flags=flags,
        heap_pages=_or(conf.heap_pages, properties.heap_pages),
        stack_pages=_or(conf.stack_pages, properties.stack_pages),
        threads=_or(conf.threads, properties.threads),
        product_id=_or(conf.product_id, properties.product_id),
        security_version=_or(conf.security_version, properties.security_version),
        family_id=conf.family_id or no_id or properties.family_id,
        extended_product_id=conf.extended_product_id or no_id or properties.extended_product_id,
        start_address=conf.start_address
        if conf.zero_base and conf.start_address
        else properties.start_address,
    )
    _check(merged, generation, bad)
    return merged


def _has_flags(generation: Generation) -> bool:
    return not generation.flags_mask & KSS


def _bit(value: int, bit: int, wanted: int | None) -> int:
    if wanted is None:
        return value
    return value | bit if wanted else value & ~bit


def _or(wanted: int | None, own: int) -> int:
    return own if wanted is None else wanted


def _check(merged: Properties, generation: Generation, bad: Callable[[str], NoReturn]) -> None:
    unset = "the enclave does not set it: give it in the .conf"
    for key, value, most in (
        ("NumTCS", merged.threads, generation.max_threads),
        ("ProductID", merged.product_id, _UNSET_16 - 1),
        ("SecurityVersion", merged.security_version, _UNSET_16 - 1),
        ("NumHeapPages", merged.heap_pages, _MAX_64 - 1),
        ("NumStackPages", merged.stack_pages, _MAX_64 - 1),
    ):
        if value > most:
            bad(
                f"{key} is {value}, at most {most}; {unset}"
                if value >= _UNSET_16
                else f"{key} is {value}, at most {most}"
            )
    allowed = DEBUG | MODE64BIT | (KSS if merged.has_ids else 0)
    if merged.attributes & ~allowed or not merged.attributes & MODE64BIT:
        bad(f"attributes are {merged.attributes:#x}, allowed bits {allowed:#x} with {MODE64BIT:#x} set")
    if merged.flags & ZERO_BASE and (merged.start_address == 0 or merged.start_address % PAGE):
        bad(f"StartAddress is {merged.start_address:#x}: a zero-based enclave needs a multiple of 4096")
    if not merged.attributes & KSS and (any(merged.family_id) or any(merged.extended_product_id)):
        bad("FamilyID or ExtendedProductID without KSS")
