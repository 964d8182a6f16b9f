"""Writes Nitro enclave images, section by section, and signs them as `nitro-cli` does."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import zlib

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

Sections = tuple[tuple[int, bytes], ...]


def plain(*ramdisks: bytes, metadata: bytes = b'{"BuildTime":"now"}') -> Sections:
    """Sections in the order in which `eif_build` writes them."""
    return ((1, b"kernel" * 50), (2, b"console=ttyS0"), (5, metadata), *((3, one) for one in ramdisks))


def write_eif(sections: Sections, *, version: int = 4, flags: int = 0) -> bytes:
    """Write an image; big-endian, CRC over header without itself and the rest."""
    body, offsets, sizes = b"", [0] * 32, [0] * 32
    for index, (kind, content) in enumerate(sections[:32]):
        offsets[index], sizes[index] = 548 + len(body), len(content)
        body += struct.pack(">HHQ", kind, 0, len(content)) + content
    header = struct.pack(">4sHHQQHH", b".eif", version, flags, 1 << 30, 2, 0, len(sections))
    header += struct.pack(">32Q32QI", *offsets, *sizes, 0)
    return header + struct.pack(">I", zlib.crc32(header + body)) + body


def certificate_and_key() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A P-384 key that is the same every time, and a certificate for it."""
    key = ec.derive_private_key(0x5EED, ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(day).not_valid_after(day + dt.timedelta(days=3650))
    return made.sign(key, hashes.SHA384(), ecdsa_deterministic=True), key


def sign_eif(sections: Sections, *, value: bytes | None = None, as_lists: bool = False) -> Sections:
    """Add the signature section: a COSE_Sign1 over PCR 0, or over another value."""
    certificate, key = certificate_and_key()
    measured = b"".join(content for kind, content in sections if kind in {1, 2})
    measured += b"".join(content for kind, content in sections if kind == 3)
    pcr0 = hashlib.sha384(bytes(48) + hashlib.sha384(measured).digest()).digest()
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    register = pcr0 if value is None else value
    payload = cbor2.dumps({"register_index": 0, "register_value": list(register) if as_lists else register})
    protected = cbor2.dumps({1: -35})
    signed = key.sign(
        cbor2.dumps(["Signature1", protected, b"", payload]),
        ec.ECDSA(hashes.SHA384(), deterministic_signing=True),
    )
    signature = b"".join(number.to_bytes(48) for number in decode_dss_signature(signed))
    cose = cbor2.dumps([protected, {}, payload, signature])
    entry = {
        "signing_certificate": list(pem) if as_lists else pem,
        "signature": list(cose) if as_lists else cose,
    }
    return (*sections, (4, cbor2.dumps([entry])))
