"""RTMR3: what applications extend after the start, from a list in the conventions of those who extend it.

    [[event]]
    convention = "dstack"             # SHA-384 of type, ":", event, ":", payload
    event = "compose-hash"
    payload = "3763bc34…"             # hex

    [[event]]
    convention = "image"              # SHA-384 of the text "sha256:…" (Confidential Containers)
    digest = "sha256:…"

    [[event]]
    convention = "digest"             # the digest itself; a shorter one is filled up with zeros
    digest = "…"
    label = "rootfs"

RTMR3 is a policy input as long as there is no such list: whoever writes the workload knows its events.

Source: dstack, cc-eventlog (event type 0x08000001); Confidential Containers' measured images.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

import msgspec

from pipeline.measure.tdx.rtmr import SIZE, RtmrEvent
from provenance.errors import UsageError
from provenance.strict import read_toml

DSTACK_TYPE: Final = 0x08000001
_MAX_BYTES: Final = 1 << 20
_IMAGE: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HEX: Final = re.compile(r"([0-9a-f]{2})*")


class BadRuntimeEvent(UsageError):
    """An event of a list of runtime events lacks what its convention needs, or has what it does not know.

    `dstack`: `event` and `payload` (hex) · `image`: `digest` as sha256:… · `digest`: 1 to 48 bytes as hex.
    Cure: docs/reference/tdx.md shows one of each.
    """

    code = "RVP-5208"


class RuntimeEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event, as a person writes it."""

    convention: Literal["dstack", "image", "digest"]
    event: str | None = None
    payload: str | None = None
    digest: str | None = None
    label: str = ""


class RuntimeEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The list that `rvp measure tdx --runtime-events` reads."""

    event: tuple[RuntimeEvent, ...]


def read_runtime_events(data: bytes, name: str) -> tuple[RtmrEvent, ...]:
    """Read a list of runtime events.

    Raises:
        BadRuntimeEvent: RVP-5208. NotWellFormed: RVP-1011. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    listed = read_toml(data, RuntimeEvents, name=name, limit_bytes=_MAX_BYTES)
    return tuple(_event(one, f"{name}: event {number}") for number, one in enumerate(listed.event, 1))


def dstack_digest(event: str, payload: bytes) -> bytes:
    """Compute the digest of a runtime event of dstack."""
    return hashlib.sha384(DSTACK_TYPE.to_bytes(4, "little") + b":" + event.encode() + b":" + payload).digest()


def _event(one: RuntimeEvent, place: str) -> RtmrEvent:
    has_event = one.event is not None or one.payload is not None
    match one.convention:
        case "dstack":
            if one.event is None or one.payload is None or one.digest is not None:
                raise BadRuntimeEvent("the convention dstack has `event` and `payload`", place=place)
            if not _HEX.fullmatch(one.payload):
                raise BadRuntimeEvent(f'the payload "{one.payload[:80]}" is not lowercase hex', place=place)
            digest = dstack_digest(one.event, bytes.fromhex(one.payload))
            return RtmrEvent(kind=DSTACK_TYPE, digest=digest, label=one.label or one.event)
        case "image":
            if one.digest is None or has_event or not _IMAGE.fullmatch(one.digest):
                raise BadRuntimeEvent(
                    "the convention image has `digest`: sha256: and 64 hex digits", place=place
                )
            digest = hashlib.sha384(one.digest.encode()).digest()
            return RtmrEvent(kind=0, digest=digest, label=one.label or one.digest)
        case "digest":
            if one.digest is None or has_event or not _HEX.fullmatch(one.digest):
                raise BadRuntimeEvent("the convention digest has `digest`: lowercase hex", place=place)
            if not 2 <= len(one.digest) <= 2 * SIZE:
                raise BadRuntimeEvent(
                    f"the digest has {len(one.digest) // 2} bytes, 1 to 48 are possible", place=place
                )
            return RtmrEvent(
                kind=0, digest=bytes.fromhex(one.digest).ljust(SIZE, b"\0"), label=one.label or "digest"
            )
