"""The in-toto Statement v1: what is said (a predicate of some type) about which artifacts (subjects).

The statement around a predicate is read leniently, as in-toto asks: unknown fields are ignored, so that
anybody's statements can be read. Duplicate keys are refused, sizes are bounded, digests have their shape.
The predicate stays plain values here; `provenance.predicates` reads the types that it knows, our own ones
strictly.
The bytes that were signed are kept beside the model and are never written again.

Source: in-toto attestation framework, spec v1 (statement.md, resource_descriptor.md, digest_set.md).

Example:
    >>> subject = ResourceDescriptor(name="a.bin", digest={"sha256": "00" * 32})
    >>> kind = "https://in-toto.io/attestation/test-result/v0.1"
    >>> statement = make_statement((subject,), kind, {"result": "PASSED"})
    >>> read_statement(statement.payload) == statement
    True
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from provenance.canonical import canonical_json
from provenance.digest import Digests, sha256
from provenance.errors import SignatureFailure, UsageError
from provenance.strict import convert, parse_json

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_PAYLOAD_BYTES: Final = 16 << 20
MAX_SUBJECTS: Final = 10_000

# Lengths of the digests whose shape is checked, in hex digits (digest_set.md; FIPS 180-4, FIPS 202).
_HEX_DIGITS: Final = {
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
    "sha3_256": 64,
    "sha3_384": 96,
    "sha3_512": 128,
    "gitCommit": 40,
}


class StatementMalformed(SignatureFailure):
    """A payload is not an in-toto Statement v1, or its subjects cannot be relied upon.

    Cure: the message has the place. Its signer must sign a correct one: nothing can be mended after signing.
    """

    code = "RVP-6110"


class StatementUnfit(UsageError):
    """A statement was to be made of parts that do not make one.

    Cure: the message has the part; every subject has a name of its own, a SHA-256 and a SHA-384.
    """

    code = "RVP-6111"


class ResourceDescriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An artifact, or where it is: at least one of name, uri, digest. Unknown fields are ignored.

    Attributes:
        name: what to call it, unique in its list.
        uri: where it is, or a package URL.
        digest: algorithm to lowercase hex.
        download_location: where to fetch it, if elsewhere than `uri`.
        media_type: IANA media type.
        annotations: further facts, as plain values.
    """

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    download_location: str = ""
    media_type: str = ""
    annotations: dict[str, Any] = {}


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement, and the bytes that were (or will be) signed.

    Attributes:
        subjects: the artifacts; never empty.
        predicate_type: the TypeURI of the predicate.
        predicate: plain values, as parsed.
        payload: the exact bytes.
    """

    subjects: tuple[ResourceDescriptor, ...]
    predicate_type: str
    predicate: dict[str, Any]
    payload: bytes

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the payload: the name of what was said, whoever signed it."""
        return sha256(self.payload)


class _StatementDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    type_: str = msgspec.field(name="_type")
    subject: tuple[ResourceDescriptor, ...]
    predicate_type: str
    predicate: dict[str, Any] = {}


def artifact(name: str, digests: Digests) -> ResourceDescriptor:
    """Make the subject of an artifact: its name, its SHA-256, its SHA-384."""
    return ResourceDescriptor(name=name, digest=digests.as_hex())


def make_statement(
    subjects: Iterable[ResourceDescriptor], predicate_type: str, predicate: msgspec.Struct | dict[str, Any]
) -> Statement:
    """Make a statement; its payload is canonical JSON, so equal content is equal bytes.

    Raises:
        StatementUnfit: RVP-6111.
    """
    plain = msgspec.to_builtins(predicate)
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [msgspec.to_builtins(subject) for subject in subjects],
        "predicateType": predicate_type,
        "predicate": plain,
    }
    try:
        payload = canonical_json(document)
    except (TypeError, ValueError) as error:
        raise StatementUnfit(f"the predicate has no canonical form: {error}") from error
    try:
        return read_statement(payload)
    except StatementMalformed as error:
        raise StatementUnfit(error.message, place=error.place) from error


def read_statement(payload: bytes, *, name: str = "") -> Statement:
    """Read a statement from the bytes of a payload. Verify the signature first.

    Raises:
        StatementMalformed: RVP-6110.
        NotWellFormed: RVP-1011. DuplicateKey: RVP-1012. WrongType: RVP-1014.
    """
    document = parse_json(payload, name=name, limit_bytes=MAX_PAYLOAD_BYTES)
    kind = document.get("_type") if isinstance(document, dict) else None
    if kind != STATEMENT_TYPE:
        raise StatementMalformed(f"_type is {kind!r}, expected {STATEMENT_TYPE!r}", place=name)
    raw = convert(document, _StatementDocument, name=name)
    _check_subjects(raw.subject, name)
    if not _is_uri(raw.predicate_type):
        raise StatementMalformed(f"predicateType {raw.predicate_type!r} is not a URI", place=name)
    return Statement(
        subjects=raw.subject, predicate_type=raw.predicate_type, predicate=raw.predicate, payload=payload
    )


def check_artifacts(statement: Statement, *, name: str = "") -> None:
    """Check that every subject is an artifact as rvp names them: a name of its own, SHA-256 and SHA-384.

    Raises:
        StatementMalformed: RVP-6110.
    """
    for number, subject in enumerate(statement.subjects):
        place = f"{name}: $.subject[{number}]" if name else f"$.subject[{number}]"
        if not subject.name:
            raise StatementMalformed("the subject has no name", place=place)
        for algorithm in ("sha256", "sha384"):
            if algorithm not in subject.digest:
                raise StatementMalformed(f'the subject "{subject.name}" has no {algorithm}', place=place)


def _check_subjects(subjects: tuple[ResourceDescriptor, ...], name: str) -> None:
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise StatementMalformed(
            f"the statement has {len(subjects)} subjects, expected 1 to {MAX_SUBJECTS}", place=name
        )
    seen: set[str] = set()
    for number, subject in enumerate(subjects):
        place = f"{name}: $.subject[{number}]" if name else f"$.subject[{number}]"
        if not subject.digest:
            raise StatementMalformed("the subject has no digest, so it is about nothing", place=place)
        if subject.name and subject.name in seen:
            raise StatementMalformed(f"the subject {subject.name!r} stands twice", place=place)
        seen.add(subject.name)
        for algorithm, value in subject.digest.items():
            digits = _HEX_DIGITS.get(algorithm)
            if digits and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                raise StatementMalformed(
                    f"{algorithm} is {value!r}, expected {digits} lowercase hex digits", place=place
                )


def _is_uri(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+", text) is not None
