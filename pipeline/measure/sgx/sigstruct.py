"""SIGSTRUCT: the 1808 bytes with which an enclave's owner signs it.

The signature covers 256 of them (`to_be_signed`): the header part and the body part. It is
RSASSA-PKCS1-v1_5 with SHA-256, RSA-3072 and e = 3, so that equal keys, dates and fields give equal bytes;
q1 and q2 are quotients that spare the CPU two divisions. All numbers are little-endian.

MRSIGNER is the SHA-256 of the modulus as it is stored.

Source: Intel SDM vol. 3D, "Enclave Signature Structure (SIGSTRUCT)"; EINIT.

Example:
    >>> fields = SigstructFields(mrenclave=bytes(32), isvprodid=7, date=(2026, 2, 4))
    >>> tbs = to_be_signed(fields)
    >>> len(tbs), tbs[20:24].hex()
    (256, '04022620')
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.measure.file_kind import seen
from provenance.claims import Check, ClaimValue
from provenance.errors import MeasurementMismatch, SignatureFailure, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

SIGSTRUCT_SIZE: Final = 1808
KEY_BYTES: Final = 384
VENDOR_INTEL: Final = 0x8086
RESERVED: Final = ((44, 84), (910, 2), (992, 16), (1028, 12))  # offset, size; zero, or EINIT refuses
KEY_BITS: Final = 3072
EXPONENT: Final = 3
TBS_SIZE: Final = 256
HEADER_1: Final = bytes.fromhex("06000000e100000000000100")  # bytes 12 to 15 are TYPE
HEADER_2: Final = bytes.fromhex("01010000600000006000000001000000")
_BODY: Final = (900, 1028)
_MODULUS, _SIGNATURE, _Q1, _Q2 = 128, 516, 1040, 1424
_DIGEST_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")
_ALL_BITS_64: Final = 0xFFFFFFFFFFFFFFFF
_ALL_BITS_32: Final = 0xFFFFFFFF
# ATTRIBUTES.FLAGS, Intel SDM vol. 3D
DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKENKEY, KSS, AEXNOTIFY = 0x2, 0x4, 0x10, 0x20, 0x80, 0x400


class BadSigstruct(UsageError):
    """A file is not a SIGSTRUCT: another size or header.

    Cure: a SIGSTRUCT is exactly 1808 bytes, as `rvp sgx sign`, `sgxs-sign` or the metadata of a signed
    enclave have it.
    """

    code = "RVP-5004"


class SigstructMismatch(MeasurementMismatch):
    """A SIGSTRUCT does not belong to this enclave: it signs another MRENCLAVE, or other fields.

    Either the enclave was rebuilt differently than its owner signed it, or the configuration changed.
    Cure: compare the two values; if the new ones are right, the owner signs again.
    """

    code = "RVP-5005"


class SigstructNotVerified(SignatureFailure):
    """A SIGSTRUCT is not a signature: RSA does not verify, or the quotients or the header are wrong.

    Cure: it was changed after it was made, or made with another key; take it from its owner again.
    """

    code = "RVP-5012"


class BadEnclaveKey(UsageError):
    """A key cannot sign enclaves: SGX needs RSA with 3072 bits and the public exponent 3.

    Cure: `rvp sgx key new` makes one; so does `openssl genrsa -3 3072`.
    """

    code = "RVP-5006"


class SigstructFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of an enclave states when signing it.

    Attributes:
        date: year, month, day; written in BCD.
        vendor: 0x8086 for Intel, 0 for others.
        header_type: bit 31 says that this is a debug release.
        attributes: flags and xfrm; the bits under `attributes_mask` are required of the platform.
    """

    mrenclave: bytes
    isvprodid: int = 0
    isvsvn: int = 0
    attributes: tuple[int, int] = (MODE64BIT, 3)
    attributes_mask: tuple[int, int] = (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    miscselect: int = 0
    miscselect_mask: int = 0xFFFFFFFF
    isvextprodid: bytes = bytes(16)
    isvfamilyid: bytes = bytes(16)
    date: tuple[int, int, int] = (1970, 1, 1)
    vendor: int = 0
    swdefined: int = 0
    cet_attributes: int = 0
    cet_attributes_mask: int = 0
    header_type: int = 0


class Sigstruct:
    """A SIGSTRUCT as it stands: its bytes, and its fields by name."""

    def __init__(self, raw: bytes, *, name: str = "") -> None:
        """Keep the bytes.

        Raises:
            BadSigstruct: RVP-5004 for another size.
        """
        if len(raw) != SIGSTRUCT_SIZE:
            found = seen(raw[:4096], len(raw))
            raise BadSigstruct(
                f"{len(raw)} bytes, a SIGSTRUCT has {SIGSTRUCT_SIZE}; this is {found.what}", place=name
            )
        self.raw = raw

    @property
    def has_header(self) -> bool:
        """Tell whether the two constant headers, a known vendor and the exponent are there."""
        return (
            has_sigstruct_header(self.raw) and self.vendor in {0, VENDOR_INTEL} and self.exponent == EXPONENT
        )

    @property
    def vendor(self) -> int:
        """0x8086 for Intel, 0 for others."""
        return int.from_bytes(self.raw[16:20], "little")

    @property
    def exponent(self) -> int:
        """The public exponent as it stands there."""
        return int.from_bytes(self.raw[512:516], "little")

    @property
    def is_empty(self) -> bool:
        """Tell whether nobody has signed yet: all bytes are zero."""
        return not any(self.raw)

    @property
    def mrsigner(self) -> bytes:
        """The SHA-256 of the modulus."""
        return hashlib.sha256(self.raw[_MODULUS : _MODULUS + KEY_BYTES]).digest()

    @property
    def mrenclave(self) -> bytes:
        """ENCLAVEHASH: the MRENCLAVE that is signed."""
        return self.raw[960:992]

    @property
    def to_be_signed(self) -> bytes:
        """The 256 bytes under the signature."""
        return self.raw[:128] + self.raw[_BODY[0] : _BODY[1]]

    @property
    def date(self) -> str:
        """The date as its four BCD bytes say it (old tools wrote it as a plain number)."""
        value = f"{struct.unpack_from('<I', self.raw, 20)[0]:08x}"
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"

    def claims(self) -> dict[str, ClaimValue]:
        """Give the claims of design section 5, MRENCLAVE left out."""
        miscselect, miscselect_mask = struct.unpack_from("<II", self.raw, 900)
        flags, xfrm, flags_mask, xfrm_mask = struct.unpack_from("<QQQQ", self.raw, 928)
        isvprodid, isvsvn = struct.unpack_from("<HH", self.raw, 1024)
        return {
            "mrsigner": self.mrsigner.hex(),
            "isvprodid": isvprodid,
            "isvsvn": isvsvn,
            "attributes": attributes_claim(flags, xfrm),
            "attributes_mask": attributes_claim(flags_mask, xfrm_mask),
            "miscselect": f"0x{miscselect:08x}",
            "miscselect_mask": f"0x{miscselect_mask:08x}",
            "isvextprodid": self.raw[1008:1024].hex(),
            "isvfamilyid": self.raw[912:928].hex(),
        }

    @property
    def left_to_the_host(self) -> tuple[str, ...]:
        """Name the fields with bits outside their masks: there the host chooses at launch."""
        _, misc_mask = struct.unpack_from("<II", self.raw, 900)
        flags_mask, xfrm_mask = struct.unpack_from("<QQ", self.raw, 944)
        masks = {
            "attributes": flags_mask & xfrm_mask == _ALL_BITS_64,
            "miscselect": misc_mask == _ALL_BITS_32,
        }
        return tuple(name for name, whole in masks.items() if not whole)

    def _number(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + KEY_BYTES], "little")

    def checks(self) -> tuple[Check, ...]:
        """Check what EINIT checks: header, reserved bytes, modulus, RSA signature, quotients.

        Each check stands for itself: a wrong modulus does not hide wrong quotients.

        Source: Intel SDM vol. 3D, EINIT, "Verify SIGSTRUCT header", "Verify signature".
        """
        modulus, signature = self._number(_MODULUS), self._number(_SIGNATURE)
        small = signature < modulus
        signed = modulus > 0 and pow(signature, EXPONENT, modulus) == _encoded(self.to_be_signed)
        quotients = modulus > 0 and _quotients(signature, modulus) == (self._number(_Q1), self._number(_Q2))
        header = "" if self.has_header else f"{self.raw[:44].hex()}, e = {self.exponent}"
        reserved = ", ".join(
            f"{self.raw[at : at + size].hex()} at byte {at}"
            for at, size in RESERVED
            if any(self.raw[at : at + size])
        )
        return (
            _check("header", "the constants of SIGSTRUCT, a vendor of the SDM, e = 3", header),
            _check("reserved", "zeros in the reserved bytes", reserved),
            _check("modulus", f"an odd number of {KEY_BITS} bits", _modulus_fault(modulus)),
            _check(
                "signature-in-range",
                "a number below the modulus",
                "" if small else f"a number of {signature.bit_length()} bits that is not below it",
            ),
            _check(
                "signature",
                "RSA-3072, e = 3, PKCS #1 v1.5, SHA-256",
                "" if signed else "does not verify",
                good="verified",
                hint="SIGSTRUCT was changed after it was signed",
            ),
            _check("q1q2", "the quotients of signature and modulus", "" if quotients else "other numbers"),
        )


def _check(check_id: str, expected: str, fault: str, *, good: str = "as expected", hint: str = "") -> Check:
    if not fault:
        return Check(id=check_id, status="passed", expected=expected, got=good)
    return Check(
        id=check_id,
        status="failed",
        expected=expected,
        got=fault,
        hint=hint,
        code=SigstructNotVerified.code,
    )


def _modulus_fault(modulus: int) -> str:
    if modulus == 0:
        return "zero"
    if modulus.bit_length() != KEY_BITS:
        return f"a number of {modulus.bit_length()} bits"
    return "" if modulus & 1 else "an even number"


def attributes_claim(flags: int, xfrm: int) -> str:
    """Write ATTRIBUTES as a claim: the two 64-bit numbers, flags first, each as a number (not byte order).

    Example:
        >>> attributes_claim(4, 3)
        '0x00000000000000040000000000000003'
    """
    return f"0x{flags:016x}{xfrm:016x}"


def has_sigstruct_header(data: bytes) -> bool:
    """Tell whether bytes look like a SIGSTRUCT."""
    return len(data) >= 40 and data[:12] == HEADER_1 and data[24:40] == HEADER_2


def to_be_signed(fields: SigstructFields) -> bytes:
    """Write the 256 bytes that the owner signs.

    Raises:
        BadSigstruct: RVP-5004 for a field that does not fit.
    """
    try:
        year, month, day = fields.date
        date = int(f"{year:04d}{month:02d}{day:02d}", 16)
        head = (
            HEADER_1
            + struct.pack("<III", fields.header_type, fields.vendor, date)
            + HEADER_2
            + struct.pack("<I", fields.swdefined)
        ).ljust(128, b"\0")
        body = struct.pack(
            "<IIBB2x16sQQQQ32s16x16sHH",
            fields.miscselect,
            fields.miscselect_mask,
            fields.cet_attributes,
            fields.cet_attributes_mask,
            fields.isvfamilyid,
            *fields.attributes,
            *fields.attributes_mask,
            fields.mrenclave,
            fields.isvextprodid,
            fields.isvprodid,
            fields.isvsvn,
        )
    except (struct.error, ValueError) as error:
        raise BadSigstruct(f"a field does not fit: {error}") from error
    return head + body


def _encoded(tbs: bytes) -> int:
    """Encode a digest for RSASSA-PKCS1-v1_5 (RFC 8017, section 9.2)."""
    tail = b"\0" + _DIGEST_INFO + hashlib.sha256(tbs).digest()
    return int.from_bytes(b"\0\1" + b"\xff" * (KEY_BYTES - 2 - len(tail)) + tail, "big")


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    q1, rest = divmod(signature * signature, modulus)
    return q1, signature * rest // modulus


def assemble(tbs: bytes, public_key: RSAPublicKey, signature: bytes, *, name: str = "") -> Sigstruct:
    """Put a signature that was made elsewhere (a key in hardware, a key ceremony) into a SIGSTRUCT.

    Args:
        tbs: the 256 bytes that were signed.
        public_key: RSA-3072 with e = 3.
        signature: 384 bytes, big-endian, as `openssl dgst -sha256 -sign` writes it.
        name: what to call the 256 bytes in an error, usually their path.

    Raises:
        BadSigstruct: RVP-5004 for other sizes. BadEnclaveKey: RVP-5006.
        SigstructNotVerified: RVP-5012.
    """
    numbers = public_key.public_numbers()
    if public_key.key_size != KEY_BITS or numbers.e != EXPONENT:
        raise BadEnclaveKey(f"RSA with {public_key.key_size} bits and e = {numbers.e}")
    if len(tbs) != TBS_SIZE or not has_sigstruct_header(tbs):
        raise BadSigstruct(
            f"not the {TBS_SIZE} bytes that are to be signed; this is {seen(tbs[:4096], len(tbs)).what}",
            place=name,
            hint="`rvp sgx digest` writes them; the signature goes after --signature",
        )
    if len(signature) != KEY_BYTES:
        raise BadSigstruct(f"a signature of {len(signature)} bytes, expected {KEY_BYTES}")
    value = int.from_bytes(signature, "big")
    if value >= numbers.n or pow(value, EXPONENT, numbers.n) != _encoded(tbs):
        reversed_value = int.from_bytes(signature, "little")
        little = reversed_value < numbers.n and pow(reversed_value, EXPONENT, numbers.n) == _encoded(tbs)
        raise SigstructNotVerified(
            "the signature does not verify with this key over these bytes",
            place=name,
            hint="its bytes are in little-endian order: reverse them" if little else "",
        )
    q1, q2 = _quotients(value, numbers.n)
    raw = (
        tbs[:128]
        + numbers.n.to_bytes(KEY_BYTES, "little")
        + struct.pack("<I", EXPONENT)
        + value.to_bytes(KEY_BYTES, "little")
        + tbs[128:]
        + bytes(12)
        + q1.to_bytes(KEY_BYTES, "little")
        + q2.to_bytes(KEY_BYTES, "little")
    )
    made = Sigstruct(raw)
    for check in made.checks():
        if check.status == "failed":
            raise SigstructNotVerified(f"what would be assembled is not valid: {check.id}: {check.got}")
    return made


def check_fields(signed: Sigstruct, fields: SigstructFields) -> None:
    """Check that a SIGSTRUCT is a signature over these fields; date and vendor are the owner's.

    Raises:
        SigstructNotVerified: RVP-5012.
        SigstructMismatch: RVP-5005: it signs another enclave, or other fields.
    """
    for check in signed.checks():
        if check.status == "failed":
            raise SigstructNotVerified(f"the SIGSTRUCT's {check.id} {check.got}", hint=check.hint)
    if signed.mrenclave != fields.mrenclave:
        raise SigstructMismatch(
            f"the SIGSTRUCT signs another enclave\nexpected {signed.mrenclave.hex()}\n"
            f"     got {fields.mrenclave.hex()}",
            hint="why: `rvp explain FILE SIGSTRUCT`; then rebuild what its owner signed, or let the owner "
            "sign this one: `rvp sgx sign`",
        )
    expected = to_be_signed(fields)
    if signed.to_be_signed[128:] != expected[128:]:
        from pipeline.measure.sgx.sigstruct_fields import changes, of_tbs

        differing = [
            f"{one.name}: signed {one.old}, configured {one.new}"
            for one in changes(signed, of_tbs(expected))
            if one.offset >= 128
        ]
        raise SigstructMismatch(
            "the SIGSTRUCT states other fields than the configuration\n" + "\n".join(differing),
            hint="make the configuration what its owner signed, or let the owner sign again",
        )


def sign(tbs: bytes, key: RSAPrivateKey) -> Sigstruct:
    """Sign with a key at hand; equal inputs give equal bytes.

    Raises:
        BadSigstruct: RVP-5004. BadEnclaveKey: RVP-5006.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    return assemble(tbs, key.public_key(), key.sign(tbs, PKCS1v15(), hashes.SHA256()))
