"""What a bundle's statements say, once their signatures are verified against the keys of a policy.

The signature is looked at first; nothing of a payload is believed before. A statement by a key that the
policy does not name counts for nothing and harms nothing, however malformed it is: what anybody can add must
not be a veto. One that claims a key of the policy in its hint and is not signed by it is a forgery and is
told, and so is a malformed one that claims such a key or is signed by it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from provenance.bundle import Bundle
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.dsse import NotVerified, verify_signature
from provenance.errors import RvpError
from provenance.policy import TrustPolicy
from provenance.predicates import read_predicate
from provenance.predicates.core import Core
from provenance.predicates.reference_values import ReferenceValues
from provenance.predicates.release import Release
from provenance.public_key import PublicKey
from provenance.sigstore_bundle import (
    MAX_BUNDLE_BYTES,
    SigstoreBundle,
    VerifiedStatement,
    read_bundle,
    verify_envelope,
)
from provenance.statement import Statement
from provenance.strict import parse_json

# Types that say yes or no: the field, and what counts as yes. Of all others only the presence counts.
_RESULTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "https://in-toto.io/attestation/test-result/v0.1": ("result", ("PASSED", "WARNED")),
    "https://slsa.dev/verification_summary/v1": ("verificationResult", ("PASSED",)),
}


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """Reference values by an operator of the policy."""

    operator: str
    key: PublicKey
    predicate: ReferenceValues
    core: bytes

    @property
    def core_digest(self) -> str:
        """SHA-256 of the canonical core, hex."""
        return sha256(self.core).hex()


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """A release by one of the release signers, and the artifacts (name, SHA-256) that it is about."""

    key: PublicKey
    predicate: Release
    subjects: frozenset[tuple[str, str]]

    def releases(self, core: Core, digest: str) -> bool:
        """Tell whether it releases exactly this core: its digest, its product, its artifacts."""
        return (
            self.predicate.core_digest.sha256 == digest
            and self.predicate.product == core.product
            and self.subjects == {(one.name, one.digest.sha256) for one in core.subjects}
        )


class Required(msgspec.Struct, frozen=True, kw_only=True):
    """A statement of the type that a `[[require]]` asks for, by one of its signers.

    `is_negative`: its type has a result, and the result is not that it passed.
    """

    index: int
    key: PublicKey
    subjects: frozenset[str]
    is_negative: bool = False


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was said by somebody whom the policy names.

    Attributes:
        values: reference values by operators.
        releases: by release signers.
        required: by the signers of each `[[require]]`.
        forged: what is wrong with statements that claim a known key, or that a known key signed.
        strangers: how many statements are by keys that the policy does not name.
        malformed: how many statements by nobody whom the policy names cannot even be read.
        keyless: how many are signed with a certificate.
        other_builders: operators whose statement names another builder than the policy.
        unknown: predicate types that are not read here, signed by somebody known.
    """

    values: tuple[Values, ...] = ()
    releases: tuple[Released, ...] = ()
    required: tuple[Required, ...] = ()
    forged: tuple[str, ...] = ()
    strangers: int = 0
    malformed: int = 0
    keyless: int = 0
    other_builders: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def hear(bundle: Bundle, trust: TrustPolicy) -> Said:
    """Verify every statement of a bundle and sort out who said what."""
    keys = _known_keys(trust)
    hints = {key.hint for key in keys}
    operators = {key.fingerprint: name for name, key in trust.operator_keys.items()}
    builders = {operator.name: operator.builder_id for operator in trust.policy.operator}
    values: list[Values] = []
    releases: list[Released] = []
    required: list[Required] = []
    forged, unknown, other_builders = [], [], []
    strangers = malformed = keyless = 0
    for data in bundle.statements:
        name = f"statement sha256:{sha256(data).hex()}"
        try:
            envelope = read_bundle(data, name=name)
        except RvpError as error:
            if _claimed_hint(data) in hints:
                forged.append(str(error))
            else:
                malformed += 1
            continue
        if envelope.certificate is not None:
            keyless += 1
            continue
        try:
            verified = verify_envelope(envelope, keys, name=name)
        except RvpError as error:
            if envelope.hint in hints or _signed_by_any(envelope, keys):
                forged.append(str(error))
            elif error.code == NotVerified.code:
                strangers += 1
            else:
                malformed += 1
            continue
        try:
            predicate = read_predicate(verified.statement, name=name)
        except RvpError as error:
            forged.append(str(error))
            continue
        operator = operators.get(verified.key.fingerprint, "")
        required += _required(verified, trust)
        match predicate:
            case ReferenceValues() if operator:
                if builders[operator] not in {"", predicate.builder.id}:
                    other_builders.append(f"{operator}: {predicate.builder.id}")
                    continue
                core = canonical_json(predicate.core)
                values.append(Values(operator=operator, key=verified.key, predicate=predicate, core=core))
            case Release() if verified.key in trust.release_keys:
                subjects = frozenset((one.name, one.digest["sha256"]) for one in verified.statement.subjects)
                releases.append(Released(key=verified.key, predicate=predicate, subjects=subjects))
            case None:
                unknown.append(verified.statement.predicate_type)
            case _:
                pass
    return Said(
        values=tuple(sorted(values, key=lambda one: (one.operator, one.core, one.predicate.level))),
        releases=tuple(releases),
        required=tuple(required),
        forged=tuple(forged),
        strangers=strangers,
        malformed=malformed,
        keyless=keyless,
        other_builders=tuple(sorted(other_builders)),
        unknown=tuple(sorted(set(unknown))),
    )


def _known_keys(trust: TrustPolicy) -> tuple[PublicKey, ...]:
    keys = [*trust.operator_keys.values(), *trust.release_keys]
    keys += [key for group in trust.require_keys for key in group]
    return tuple({key.fingerprint: key for key in keys}.values())


def _claimed_hint(data: bytes) -> str:
    """Read which key a malformed Sigstore bundle claims; empty when that cannot be read either."""
    try:
        found = parse_json(data, limit_bytes=MAX_BUNDLE_BYTES)
    except RvpError:
        return ""
    for name in ("verificationMaterial", "publicKey", "hint"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _signed_by_any(bundle: SigstoreBundle, keys: tuple[PublicKey, ...]) -> bool:
    """Tell whether a known key signed the envelope, whatever is in it."""
    try:
        verify_signature(bundle.envelope, keys, payload_type=bundle.envelope.payload_type)
    except RvpError:
        return False
    return True


def _is_negative(statement: Statement) -> bool:
    field, good = _RESULTS.get(statement.predicate_type, ("", ()))
    return bool(field) and statement.predicate.get(field) not in good


def _required(verified: VerifiedStatement, trust: TrustPolicy) -> list[Required]:
    statement = verified.statement
    return [
        Required(
            index=index,
            key=verified.key,
            subjects=frozenset(subject.digest.get("sha256", "") for subject in statement.subjects),
            is_negative=_is_negative(statement),
        )
        for index, require in enumerate(trust.policy.require)
        if require.predicate_type == statement.predicate_type and verified.key in trust.require_keys[index]
    ]
