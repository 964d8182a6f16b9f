"""Register values that a log can be compared with, from wherever people have them.

    TDX quote        raw, hex or base64 text, or JSON with a "quote"
    PCR values       JSON {"pcrs": {"sha256": {"0": hex}}}, {"pcrs": {"0": hex}}, {"pcrs": [hex, …]},
                     {"sha256:0": hex}, "tpm_quote" with "pcrs" in it;
                     what tpm2_pcrread prints; lines "PCR-00: 3D 45 …", "0: hex", "sha256:0=hex"
    measurements     what `rvp measure --format json` prints, of tee tdx or tpm

A PCR whose bank is not named gets the one whose digest has its size: 20 bytes sha1, 32 sha256, 48 sha384.

Source: tpm2-tools (tpm2_pcrread), Linux (sysfs pcrs), provenance/claims.py.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from provenance.errors import UsageError
from provenance.strict import parse_json
from verifier.evidence.event_log_json import bytes_of_text
from verifier.evidence.tdx_quote import is_tdx_quote, read_registers

MAX_VALUES_BYTES: Final = 4 << 20
_BANK_OF_SIZE: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32, "sha3_256": 32,
                 "sha3_384": 48, "sha3_512": 64}  # fmt: skip
_BANK_LINE: Final = re.compile(r"\s*(?:pcrs\s*:|(sha\d_\d{3}|sha\d+|sm3_256)\s*:)\s*\Z", re.IGNORECASE)
_VALUE_LINE: Final = re.compile(
    r"\s*(?:(sha\d+)[:/])?(?:pcr[-_ ]?)?(\d{1,2})\s*[:=]\s*(?:0x)?([0-9a-f][0-9a-f ]*)\Z", re.IGNORECASE
)
_NAMED: Final = re.compile(r"(?:(sha\d+)[:/_-])?(?:pcr[-_ ]?)?(\d{1,2})\Z", re.IGNORECASE)


class ValuesNotRead(UsageError):
    """A file has no register values that can be compared with a log.

    Cure: give a TDX quote, what `tpm2_pcrread` prints, or JSON such as {"pcrs": {"sha256": {"0": "…"}}}.
    """

    code = "RVP-7002"


class Register(msgspec.Struct, frozen=True, order=True):
    """Which register: `rtmr0` of sha384, `pcr7` of sha256."""

    name: str
    bank: str


class RegisterValues(msgspec.Struct, frozen=True, kw_only=True):
    """Values to compare with, and what they are worth.

    Attributes:
        source: what they were read from, in words.
        trust: what was not checked of them, in words.
    """

    kind: Literal["tdx-quote", "pcrs", "measurements"]
    source: str
    trust: str
    values: dict[Register, bytes]


def read_register_values(data: bytes, *, name: str = "") -> RegisterValues:
    """Read the values that a file has.

    Raises:
        ValuesNotRead: RVP-7002. QuoteDamaged: RVP-7001. NotWellFormed: RVP-1011. DuplicateKey: RVP-1012.
    """
    if is_tdx_quote(data):
        return values_of_quote(data, name=name)
    if data.lstrip()[:1] == b"{":
        return _from_json(data, name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text:
        return values_of_quote(data, name=name)  # says what is wrong with it
    packed = bytes_of_text(text)
    if packed is not None and is_tdx_quote(packed):
        return values_of_quote(packed, name=name)
    return _pcrs(_from_lines(text, name), name)


def values_of_quote(quote: bytes, *, name: str = "") -> RegisterValues:
    """Take the RTMRs out of a TDX quote.

    Raises:
        QuoteDamaged: RVP-7001.
    """
    found = read_registers(quote, name=name)
    return RegisterValues(
        kind="tdx-quote",
        source=f"TDX quote, version {found.version}",
        trust="the signature of the quote was NOT verified",
        values={Register(f"rtmr{one}", "sha384"): found.registers[f"rtmr{one}"] for one in range(4)},
    )


def _pcrs(values: dict[Register, bytes], name: str) -> RegisterValues:
    if not values:
        raise ValuesNotRead("there are no register values in it", place=name)
    return RegisterValues(
        kind="pcrs", source="PCR values", trust="nothing says that a TPM signed them", values=values
    )


def _from_json(data: bytes, name: str) -> RegisterValues:
    document = parse_json(data, name=name, limit_bytes=MAX_VALUES_BYTES)
    if str(document.get("schema", "")).startswith("rvp/measurements/"):
        return _from_measurements(document, name)
    inner = document.get("tdx") if isinstance(document.get("tdx"), dict) else document
    if isinstance(inner, dict) and isinstance(inner.get("quote"), str):
        quote = bytes_of_text(inner["quote"])
        if quote is None:
            raise ValuesNotRead("the quote is neither hex nor base64", place=_at(name, "$.quote"))
        return values_of_quote(quote, name=_at(name, "$.quote"))
    if isinstance(document.get("tpm_quote"), dict):
        document = document["tpm_quote"]
    pcrs = document.get("pcrs", document)
    if isinstance(pcrs, list):
        pcrs = {str(number): value for number, value in enumerate(pcrs)}
    values: dict[Register, bytes] = {}
    for key, value, path in _flat(pcrs, name):
        named = _NAMED.match(key)
        if named is None:
            raise ValuesNotRead(f'"{key[:40]}" names no PCR', place=path, hint='"0", "pcr0", "sha256:0"')
        _put(values, named[1] or "", int(named[2]), value, path)
    return _pcrs(values, name)


def _flat(pcrs: Any, name: str) -> list[tuple[str, str, str]]:
    """List PCR, value, place; of banks that hold PCRs, each as `bank:PCR`."""
    if not isinstance(pcrs, dict):
        raise ValuesNotRead("pcrs must be an object", place=_at(name, "$.pcrs"))
    found = []
    for key, value in pcrs.items():
        inside = value if isinstance(value, dict) else {"": value}
        for one, text in inside.items():
            path = _at(name, f"$.{key}" + (f".{one}" if one else ""))
            if not isinstance(text, str):
                raise ValuesNotRead("a register value must be hex text", place=path)
            found.append((f"{key}:{one}" if one else key, text, path))
    return found


def _from_measurements(document: dict[str, Any], name: str) -> RegisterValues:
    """Take the registers that every measurement in the document agrees on, or that only one states."""
    values: dict[Register, bytes] = {}
    listed = document.get("measurements")
    for number, one in enumerate(listed if isinstance(listed, list) else []):
        path = _at(name, f"$.measurements[{number}]")
        claims = one.get("claims") if isinstance(one, dict) else None
        if not isinstance(claims, dict) or one.get("tee") not in {"tdx", "tpm"}:
            continue
        for claim, text in claims.items():
            if not isinstance(text, str) or not re.fullmatch(r"rtmr[0-3]|pcr\d{1,2}", claim):
                continue
            if claim.startswith("pcr"):
                _put(values, "", int(claim[3:]), text, f"{path}.claims.{claim}")
            else:
                _set(values, Register(claim, "sha384"), text, f"{path}.claims.{claim}")
    if not values:
        raise ValuesNotRead("no measurement in it has RTMRs or PCRs", place=name)
    return RegisterValues(
        kind="measurements", source="measurements", trust="nothing says who signed them", values=values
    )


def _from_lines(text: str, name: str) -> dict[Register, bytes]:
    values: dict[Register, bytes] = {}
    bank = ""
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{name}:{number}" if name else str(number)
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        if (heading := _BANK_LINE.match(line)) is not None:
            bank = (heading[1] or "").lower()
        elif (value := _VALUE_LINE.match(line.rstrip())) is not None:
            _put(values, (value[1] or bank).lower(), int(value[2]), value[3], place)
        else:
            raise ValuesNotRead(
                f"this is neither a bank nor a PCR: {line.strip()[:60]}",
                place=place,
                hint="give a TDX quote, or what tpm2_pcrread prints",
            )
    return values


def _put(values: dict[Register, bytes], bank: str, number: int, text: str, place: str) -> None:
    if number > 23:
        raise ValuesNotRead(f"there is no PCR {number} (0 to 23)", place=place)
    size = len("".join(text.removeprefix("0x").split())) // 2
    bank = {"sm3_256": "sm3"}.get(bank.lower(), bank.lower()) or _BANK_OF_SIZE.get(size, "")
    if _SIZES.get(bank) != size:
        wanted = f"a digest of {bank} has {_SIZES[bank]}" if bank in _SIZES else "no bank has such digests"
        raise ValuesNotRead(f"{size} bytes of value: {wanted}", place=place)
    _set(values, Register(f"pcr{number}", bank), text, place)


def _set(values: dict[Register, bytes], register: Register, text: str, place: str) -> None:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise ValuesNotRead(f"the value of {register.name} is not hex", place=place) from error
    if len(value) != _SIZES.get(register.bank):
        raise ValuesNotRead(f"{register.name} has {len(value)} bytes", place=place)
    if values.setdefault(register, value) != value:
        raise ValuesNotRead(f"{register.name} of {register.bank} has two values", place=place)


def _at(name: str, path: str) -> str:
    return f"{name}: {path}" if name else path
