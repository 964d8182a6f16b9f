"""DSSE: an envelope around bytes, and the signature over their type and content.

What is signed is the pre-authentication encoding (PAE) of payload type and payload, never JSON text; so
the payload's bytes are kept exactly and nothing is written again before a signature is checked.
A Sigstore bundle has exactly one signature in its envelope: several signers make several bundles.

Source: DSSE protocol v1.0.2 (secure-systems-lab/dsse, protocol.md and envelope.md).

Example:
    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from provenance.errors import SignatureFailure
from provenance.public_key import PublicKey
from provenance.strict import convert

IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_SIGNATURE_BYTES: Final = 16 << 10


class EnvelopeMalformed(SignatureFailure):
    """A DSSE envelope lacks a part, or a part is not what the format says.

    Bytes are base64 in its canonical spelling, and there is exactly one signature.

    Cure: fetch the file again; if it is as its signer wrote it, the signer's tool is at fault.
    """

    code = "RVP-6101"


class PayloadTypeUnexpected(SignatureFailure):
    """The envelope holds something else than an in-toto statement.

    Cure: give the file that has the statement; the payload type must be application/vnd.in-toto+json.
    """

    code = "RVP-6102"


class NotVerified(SignatureFailure):
    """No given key verifies the signature.

    Another key signed it, or the payload is not the one that was signed.

    Cure: check that the right public key is given (`rvp key show` prints fingerprints); fetch the file again.
    """

    code = "RVP-6103"


class SignsBytes(Protocol):
    """What can sign: a key file, a token, a service."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what this signs."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Sign bytes; DER (r, s) for ECDSA, 64 bytes for Ed25519."""
        ...


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of an envelope. `keyid` is a hint that nothing protects."""

    sig: bytes
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A payload, its type, its signatures."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def to_document(self) -> dict[str, Any]:
        """Write the envelope as plain values, ready for JSON."""
        return {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [
                {
                    "sig": base64.b64encode(one.sig).decode("ascii"),
                    **({"keyid": one.keyid} if one.keyid else {}),
                }
                for one in self.signatures
            ],
        }


class _SignatureDocument(msgspec.Struct, frozen=True):
    sig: str
    keyid: str = ""


class _EnvelopeDocument(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[_SignatureDocument, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a signature covers.

    Units: lengths are bytes, in ASCII decimal.
    Source: DSSE protocol v1.0.2, "PAE".
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def decode_base64(text: str, *, name: str = "", limit_bytes: int | None = None) -> bytes:
    """Decode standard base64 in its one canonical spelling.

    Raises:
        EnvelopeMalformed: RVP-6101.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise EnvelopeMalformed("not base64", place=name) from error
    if base64.b64encode(data).decode("ascii") != text:
        raise EnvelopeMalformed("base64 in a spelling that is not the canonical one", place=name)
    if limit_bytes is not None and len(data) > limit_bytes:
        raise EnvelopeMalformed(f"{len(data)} bytes, {limit_bytes} are allowed", place=name)
    return data


def read_envelope(document: Any, *, name: str = "") -> Envelope:
    """Read an envelope from parsed JSON; nothing is verified yet.

    Raises:
        EnvelopeMalformed: RVP-6101, also when there is not exactly one signature. WrongType: RVP-1014.
    """
    raw = convert(document, _EnvelopeDocument, name=name)
    if len(raw.signatures) != 1:
        raise EnvelopeMalformed(
            f"the envelope has {len(raw.signatures)} signatures, expected exactly 1",
            place=name,
            hint="every signer makes a bundle of their own",
        )
    return Envelope(
        payload=decode_base64(raw.payload, name=f"{name}: payload"),
        payload_type=raw.payload_type,
        signatures=tuple(
            Signature(
                sig=decode_base64(one.sig, name=f"{name}: signature", limit_bytes=MAX_SIGNATURE_BYTES),
                keyid=one.keyid,
            )
            for one in raw.signatures
        ),
    )


def sign_payload(payload: bytes, signer: SignsBytes, *, payload_type: str = IN_TOTO) -> Envelope:
    """Put a payload into an envelope and sign it. Equal payload and key give equal bytes."""
    signature = signer.sign(pae(payload_type, payload))
    keyid = signer.public_key.fingerprint.hex()
    return Envelope(
        payload=payload, payload_type=payload_type, signatures=(Signature(sig=signature, keyid=keyid),)
    )


def verify_signature(
    envelope: Envelope, keys: Sequence[PublicKey], *, payload_type: str = IN_TOTO, name: str = ""
) -> PublicKey:
    """Find the key that signed an envelope. Key ids and hints play no part: the signature decides.

    Returns:
        The one of `keys` that verifies the signature.

    Raises:
        EnvelopeMalformed: RVP-6101. PayloadTypeUnexpected: RVP-6102. NotVerified: RVP-6103.
    """
    if len(envelope.signatures) != 1:
        raise EnvelopeMalformed(
            f"the envelope has {len(envelope.signatures)} signatures, expected exactly 1", place=name
        )
    if envelope.payload_type != payload_type:
        raise PayloadTypeUnexpected(
            f"the payload type is {envelope.payload_type!r}, expected {payload_type!r}", place=name
        )
    signed = pae(envelope.payload_type, envelope.payload)
    for key in keys:
        if key.verifies(envelope.signatures[0].sig, signed):
            return key
    tried = ", ".join(f"{key.fingerprint.hex()[:16]}… ({key.type.value})" for key in keys) or "none"
    raise NotVerified(
        f"no given key verifies the signature (tried: {tried})",
        place=name,
        hint="another key signed it, or the payload was changed; `rvp key show` prints fingerprints",
    )
