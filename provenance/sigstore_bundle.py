"""The Sigstore bundle v0.3: one signed statement in one file, which the tools of the field also read.

A bundle made with a key has `verificationMaterial.publicKey.hint` (base64 of the SHA-256 of the key's DER
SubjectPublicKeyInfo) and `tlogEntries: []`: an empty list must be there, or other readers refuse the file.
The hint helps to find a key and proves nothing: the signature decides. Bundles with a certificate (keyless)
are read, and are verified elsewhere.

Source: sigstore protobuf-specs, sigstore_bundle.proto (v0.3); JSON as proto3 maps it.

Example:
    >>> bundle = SigstoreBundle(envelope=Envelope(payload=b"{}", payload_type=IN_TOTO,
    ...     signatures=(Signature(sig=b"x"),)), hint="aGludA==")
    >>> read_bundle(bundle.to_json()).hint
    'aGludA=='
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from provenance.dsse import (
    IN_TOTO,
    Envelope,
    NotVerified,
    Signature,
    SignsBytes,
    decode_base64,
    read_envelope,
    sign_payload,
    verify_signature,
)
from provenance.errors import SignatureFailure
from provenance.public_key import PublicKey
from provenance.statement import Statement, read_statement
from provenance.strict import convert, parse_json

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUFFIX: Final = ".sigstore.json"
MAX_BUNDLE_BYTES: Final = 32 << 20
MAX_LOG_ENTRIES: Final = 32  # the bounds of sigstore-python
MAX_TIMESTAMPS: Final = 32

# The spelling of v0.3 before it had its final name.
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")

__all__ = [
    "IN_TOTO",
    "MEDIA_TYPE",
    "SUFFIX",
    "BundleMalformed",
    "Envelope",
    "Signature",
    "SigstoreBundle",
    "VerifiedStatement",
    "read_bundle",
    "sign_statement",
    "verify_envelope",
]


class BundleMalformed(SignatureFailure):
    """A file is not a Sigstore bundle v0.3 with a statement in it.

    Cure: the message says which part is wrong; fetch the file again, or have its signer write v0.3.
    """

    code = "RVP-6104"


class SigstoreBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One envelope and what helps to verify it.

    Attributes:
        envelope: the signed statement.
        hint: of a key-signed bundle: which key, unprotected.
        certificate: of a keyless bundle: the leaf certificate, DER.
        log_entries: transparency-log entries, as plain values.
        timestamps: RFC 3161 responses, DER.
    """

    envelope: Envelope
    hint: str = ""
    certificate: bytes | None = None
    log_entries: tuple[dict[str, Any], ...] = ()
    timestamps: tuple[bytes, ...] = ()

    def to_json(self) -> bytes:
        """Write a key-signed bundle: one line, keys sorted, so that equal bundles are equal bytes."""
        document = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.hint}, "tlogEntries": list(self.log_entries)},
            "dsseEnvelope": self.envelope.to_document(),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


class VerifiedStatement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement whose signature was verified, and the key that did."""

    statement: Statement
    key: PublicKey


class _PublicKeyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hint: str = ""


class _CertificateDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    raw_bytes: str


class _TimestampDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    signed_timestamp: str


class _TimestampsDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    rfc3161_timestamps: tuple[_TimestampDocument, ...] = msgspec.field(name="rfc3161Timestamps", default=())


class _MaterialDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    tlog_entries: tuple[dict[str, Any], ...]
    public_key: _PublicKeyDocument | None = None
    certificate: _CertificateDocument | None = None
    timestamp_verification_data: _TimestampsDocument | None = None


class _BundleDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    media_type: str
    verification_material: _MaterialDocument
    dsse_envelope: dict[str, Any]


def read_bundle(data: bytes, *, name: str = "") -> SigstoreBundle:
    """Read a bundle; nothing is verified yet.

    Args:
        data: the file.
        name: what to call it in an error, usually its path.

    Raises:
        BundleMalformed: RVP-6104. EnvelopeMalformed: RVP-6101.
        NotWellFormed: RVP-1011. DuplicateKey: RVP-1012. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    document = parse_json(data, name=name, limit_bytes=MAX_BUNDLE_BYTES)
    if not isinstance(document, dict) or "mediaType" not in document:
        raise BundleMalformed("not a Sigstore bundle: it has no mediaType", place=name)
    if document["mediaType"] not in _MEDIA_TYPES:
        raise BundleMalformed(f"mediaType is {document['mediaType']!r}, expected {MEDIA_TYPE!r}", place=name)
    if "messageSignature" in document:
        raise BundleMalformed("the bundle signs an artifact's digest, not a statement", place=name)
    material = document.get("verificationMaterial")
    if isinstance(material, dict) and "tlogEntries" not in material:
        raise BundleMalformed(
            "verificationMaterial has no tlogEntries",
            place=name,
            hint="a bundle that is in no log has an empty list; other tools refuse the file without it",
        )
    raw = convert(document, _BundleDocument, name=name)
    found = raw.verification_material
    if (found.public_key is None) == (found.certificate is None):
        raise BundleMalformed(
            "verificationMaterial has not exactly one of publicKey and certificate", place=name
        )
    stamps = found.timestamp_verification_data
    timestamps = stamps.rfc3161_timestamps if stamps else ()
    if len(found.tlog_entries) > MAX_LOG_ENTRIES or len(timestamps) > MAX_TIMESTAMPS:
        raise BundleMalformed(
            f"{len(found.tlog_entries)} log entries and {len(timestamps)} timestamps; "
            f"{MAX_LOG_ENTRIES} and {MAX_TIMESTAMPS} are allowed",
            place=name,
        )
    return SigstoreBundle(
        envelope=read_envelope(raw.dsse_envelope, name=name),
        hint=found.public_key.hint if found.public_key else "",
        certificate=decode_base64(found.certificate.raw_bytes, name=name) if found.certificate else None,
        log_entries=found.tlog_entries,
        timestamps=tuple(decode_base64(stamp.signed_timestamp, name=name) for stamp in timestamps),
    )


def sign_statement(statement: Statement, signer: SignsBytes) -> SigstoreBundle:
    """Sign a statement; equal statement and key give equal bytes."""
    return SigstoreBundle(envelope=sign_payload(statement.payload, signer), hint=signer.public_key.hint)


def verify_envelope(
    bundle: SigstoreBundle, public_keys: Sequence[PublicKey], *, name: str = ""
) -> VerifiedStatement:
    """Verify a key-signed bundle with the keys that the caller trusts, and read its statement.

    The signature is checked first; only then is the payload parsed. Which statements count for what is not
    decided here.

    Raises:
        NotVerified: RVP-6103. PayloadTypeUnexpected: RVP-6102. EnvelopeMalformed: RVP-6101.
        StatementMalformed: RVP-6110. NotWellFormed: RVP-1011. DuplicateKey: RVP-1012. WrongType: RVP-1014.
    """
    if bundle.certificate is not None:
        raise NotVerified(
            "the bundle was signed with a certificate; a public key cannot verify it",
            place=name,
            hint="a keyless signer is named by issuer and identity, not by a key",
        )
    likely_first = sorted(public_keys, key=lambda key: key.hint != bundle.hint)
    key = verify_signature(bundle.envelope, likely_first, name=name)
    return VerifiedStatement(statement=read_statement(bundle.envelope.payload, name=name), key=key)
