"""AWS Nitro enclave images (EIF): PCR 0, 1, 2 and 8, and the check of the file's CRC.

| register | SHA-384, extended once from zeros, of |
|---|---|
| PCR 0 | kernel, command line, all ramdisks |
| PCR 1 | kernel, command line, first ramdisk |
| PCR 2 | the other ramdisks |
| PCR 8 | the signing certificate (DER), when the image is signed |

The header and the **metadata section (build time, versions) are in no PCR**: two images with equal PCRs may
differ in them. Only the CRC covers them, and a CRC is no protection. The command line has no NUL.

Units: all integers are big-endian; sizes are bytes.
Source: aws-nitro-enclaves-image-format (`src/defs`, `utils/eif_reader.rs`, `utils/eif_signer.rs`), version 4.
Cost: one pass for the CRC, two for the PCRs; nothing but the signature section is copied.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import cbor2
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from pipeline.measure.boot.register import BootEvent, event, log_of
from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.sgx.elf import map_file
from provenance.claims import Check, Measurement
from provenance.errors import UsageError

MAGIC: Final = b".eif"
HEADER: Final = struct.Struct(">4sHHQQHH32Q32QII")
SECTION: Final = struct.Struct(">HHQ")
KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
_NAMES: Final = {
    KERNEL: "kernel",
    CMDLINE: "cmdline",
    RAMDISK: "ramdisk",
    SIGNATURE: "signature",
    METADATA: "metadata",
}
_VERSIONS: Final = (2, 3, 4)
_MAX_SECTIONS: Final = 32
_MAX_SIGNATURE_BYTES: Final = 1 << 15
_MAX_CMDLINE_BYTES: Final = 1 << 20
_CURVES: Final = {
    -7: (hashes.SHA256, 32),
    -35: (hashes.SHA384, 48),
    -36: (hashes.SHA512, 66),
}  # RFC 9053 ES256 …
_BANK: Final = ("sha384",)


class BadEif(UsageError):
    """A file is not a Nitro enclave image, or its sections point out of it.

    The message names the field, the value, and its offset.
    Cure: check that the file is complete; it is made by `nitro-cli build-enclave` or `eif_build`.
    """

    code = "RVP-5425"


class EifSection(msgspec.Struct, frozen=True, kw_only=True):
    """A section: its kind, its content, and where that stands."""

    kind: int
    offset: int
    content: memoryview


class Eif(msgspec.Struct, frozen=True, kw_only=True):
    """An enclave image.

    Attributes:
        version: of the format.
        flags: bit 0: for arm64.
        sections: in the order of the header.
        crc: as the header says it.
        computed_crc: of the file.
    """

    version: int
    flags: int
    sections: tuple[EifSection, ...]
    crc: int
    computed_crc: int

    def contents(self, kind: int) -> tuple[memoryview, ...]:
        """Give the contents of all sections of a kind, in order."""
        return tuple(one.content for one in self.sections if one.kind == kind)


def read_eif(data: bytes | memoryview, *, name: str = "") -> Eif:
    """Read an image.

    Raises:
        BadEif: RVP-5425.

    Cost: one pass over the file for the CRC; at most 32 sections.
    """
    view = memoryview(data)
    if bytes(view[:4]) != MAGIC:
        raise BadEif("the file does not begin with .eif", place=name)
    if len(view) < HEADER.size:
        raise BadEif(f"the file ends at {len(view)} bytes, in the header of {HEADER.size}", place=name)
    _, version, flags, _, _, _, count, *rest = HEADER.unpack_from(view)
    offsets, sizes, crc = rest[:32], rest[32:64], rest[65]
    if version not in _VERSIONS:
        raise BadEif(
            f"version is {version}, known are {_VERSIONS[0]} to {_VERSIONS[-1]} (offset 0x4)", place=name
        )
    if count > _MAX_SECTIONS:
        raise BadEif(f"num_sections is {count}, at most {_MAX_SECTIONS} can be (offset 0x1a)", place=name)
    sections = []
    free_from = HEADER.size
    for index in range(count):
        at = offsets[index]
        if at < free_from:
            raise BadEif(
                f"section {index} is said at {at:#x}, before {free_from:#x} where the one before it ends "
                f"(offset {28 + 8 * index:#x})",
                place=name,
            )
        if at + SECTION.size > len(view):
            raise BadEif(f"section {index} is said at {at:#x}, past the end of the file", place=name)
        kind, _, size = SECTION.unpack_from(view, at)
        if size != sizes[index]:
            raise BadEif(
                f"section {index} says {size} bytes, the header {sizes[index]} (offset {at + 4:#x})",
                place=name,
            )
        free_from = at + SECTION.size + size
        if free_from > len(view):
            raise BadEif(
                f"section {index} goes to {free_from:#x}, past the end of the file at {len(view):#x}",
                place=name,
            )
        if kind not in _NAMES:
            raise BadEif(
                f"section {index} is of kind {kind}, which is not known (offset {at:#x})", place=name
            )
        sections.append(EifSection(kind=kind, offset=at, content=view[at + SECTION.size : free_from]))
    if free_from != len(view):
        raise BadEif(f"{len(view) - free_from} bytes follow the last section", place=name)
    checked = zlib.crc32(view[HEADER.size :], zlib.crc32(view[: HEADER.size - 4]))
    found = Eif(version=version, flags=flags, sections=tuple(sections), crc=crc, computed_crc=checked)
    _require_parts(found, name)
    return found


def _require_parts(eif: Eif, name: str) -> None:
    for kind in (KERNEL, CMDLINE, METADATA, SIGNATURE):
        number = len(eif.contents(kind))
        if number > 1 or (number == 0 and kind in {KERNEL, CMDLINE}):
            raise BadEif(f"the image has {number} sections of kind {_NAMES[kind]}", place=name)
    if not eif.contents(RAMDISK):
        raise BadEif("the image has no ramdisk", place=name)
    if len(eif.contents(CMDLINE)[0]) > _MAX_CMDLINE_BYTES:
        raise BadEif("the command line is larger than 1 MiB", place=name)


def pcr_events(eif: Eif, certificate: bytes = b"") -> dict[str, tuple[BootEvent, ...]]:
    """Make the one event of each register."""
    ramdisks = eif.contents(RAMDISK)
    boot = (*eif.contents(KERNEL), *eif.contents(CMDLINE))
    events: dict[str, tuple[BootEvent, ...]] = {
        "pcr0": (event("EIF", "kernel, command line, all ramdisks", *boot, *ramdisks, banks=_BANK),),
        "pcr1": (event("EIF", "kernel, command line, first ramdisk", *boot, ramdisks[0], banks=_BANK),),
        "pcr2": (event("EIF", "the other ramdisks", *ramdisks[1:], banks=_BANK),),
    }
    if certificate:
        events["pcr8"] = (event("EIF", "signing certificate", certificate, banks=_BANK),)
    return events


class EifSignature(msgspec.Struct, frozen=True, kw_only=True):
    """The signature of an image.

    Attributes:
        certificate: DER.
        register: which PCR was signed (0).
        value: of that register, as signed.
        verified: whether the signature verifies under the certificate.
    """

    certificate: bytes
    register: int
    value: bytes
    verified: bool


def read_signature(content: bytes | memoryview, *, name: str = "") -> EifSignature:
    """Read a signature section: CBOR, a list of a certificate and a COSE_Sign1 over a register and its value.

    Raises:
        BadEif: RVP-5425.

    Source: RFC 9052, section 4.2 (COSE_Sign1); image-format `PcrSignature`, `PcrInfo`.
    """
    if len(content) > _MAX_SIGNATURE_BYTES:
        raise BadEif(f"the signature section has {len(content)} bytes", place=name)
    try:
        (entry,) = cbor2.loads(bytes(content))
        pem, signed = _octets(entry["signing_certificate"]), cbor2.loads(_octets(entry["signature"]))
        protected, _, payload, signature = signed.value if isinstance(signed, cbor2.CBORTag) else signed
        info = cbor2.loads(_octets(payload))
        register, value = int(info["register_index"]), _octets(info["register_value"])
        algorithm = cbor2.loads(protected)[1]
        certificate = x509.load_pem_x509_certificate(pem)
        verified = _verifies(certificate, algorithm, _octets(protected), _octets(payload), _octets(signature))
        der = certificate.public_bytes(Encoding.DER)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, EOFError) as error:
        raise BadEif(f"the signature section cannot be read: {error}", place=name) from error
    except (
        cbor2.CBORError,
        x509.InvalidVersion,
        UnsupportedAlgorithm,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise BadEif(f"the signature section cannot be read: {error}", place=name) from error
    return EifSignature(certificate=der, register=register, value=value, verified=verified)


def _octets(value: object) -> bytes:
    """Read bytes as serde writes them: a byte string, or a list of small integers."""
    if isinstance(value, (bytes, list)):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} where bytes are expected")


def _verifies(
    certificate: x509.Certificate, algorithm: object, protected: bytes, payload: bytes, signature: bytes
) -> bool:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm not in _CURVES:
        return False
    hashing, size = _CURVES[algorithm]
    if len(signature) != 2 * size:
        return False
    numbers = (int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    try:
        key.verify(encode_dss_signature(*numbers), to_be_signed, ec.ECDSA(hashing()))
    except InvalidSignature:
        return False
    return True


def measure_eif(path: Path, options: MeasureOptions) -> Measured:
    """Measure an enclave image; its CRC and, of a signed one, its signature are checks.

    Raises:
        NotReadable: RVP-1010. BadEif: RVP-5425.
    """
    data = map_file(path)
    place = str(path)
    eif = read_eif(data, name=place)
    signatures = eif.contents(SIGNATURE)
    signature = read_signature(signatures[0], name=place) if signatures else None
    registers = pcr_events(eif, signature.certificate if signature else b"")
    logs = tuple(log_of("nitro", register, events, "sha384") for register, events in registers.items())
    values = {one.register: one.value for one in logs}
    checks = [_check("crc", f"{eif.crc:08x}", f"{eif.computed_crc:08x}", "the EIF header", "RVP-5010")]
    if signature is not None:
        register = f"pcr{signature.register}"
        checks += [
            _check(
                "signature",
                "verifies",
                "verifies" if signature.verified else "does not",
                "the image",
                "RVP-5011",
            ),
            _check(
                "signed-register",
                signature.value.hex(),
                str(values.get(register, "")),
                f"signed {register}",
                "RVP-5010",
            ),
        ]
    return Measured(
        measurements=(
            Measurement(
                tee="nitro",
                subject=subject_of(data, options.name or path.name),
                claims=dict(values),
                checks=tuple(checks),
            ),
        ),
        logs=logs,
    )


def _check(check_id: str, expected: str, got: str, source: str, code: str) -> Check:
    if expected == got:
        return Check(id=check_id, status="passed", expected=expected, got=got, source=source)
    return Check(
        id=check_id,
        status="failed",
        expected=expected,
        got=got,
        source=source,
        hint="the image was damaged or changed after it was made; take it from its builder again",
        code=code,
    )
