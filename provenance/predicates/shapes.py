"""The shapes that our predicates share: strict structs, digests, moments, names.

Example:
    >>> parse_moment("2026-11-23T05:00:00Z")
    1795410000
    >>> format_moment(1795410000)
    '2026-11-23T05:00:00Z'
"""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from provenance.errors import SignatureFailure, UsageError

MAX_INTEGER: Final = 2**53 - 1  # RFC 8785, section 3.2.2.3

# The bounds on length also keep out the newline that "$" lets pass in some regular expressions.
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
Sha384 = Annotated[str, Meta(pattern="^[0-9a-f]{96}$", min_length=96, max_length=96)]
# No control, bidirectional or invisible characters, no half of a surrogate pair: names are shown.
PLAIN: Final = (
    "^(?![\\s\\S]*[\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f"
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ud800-\\udfff])"
)
Name = Annotated[str, Meta(pattern=PLAIN, min_length=1, max_length=256)]
Text = Annotated[str, Meta(pattern=PLAIN, max_length=4096)]
Moment = Annotated[
    str,
    Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$", min_length=20, max_length=20),
]
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
Sequence = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class PredicateTypeUnexpected(SignatureFailure):
    """A statement is of another type than the one that is wanted.

    Cure: give the right statement; `rvp show` prints what a file says.
    """

    code = "RVP-6120"


class PredicateRefused(SignatureFailure):
    """A predicate breaks a rule of its type, so that what it says cannot be relied upon.

    Cure: the message has the rule. docs/reference/predicates has the rules of each type.
    """

    code = "RVP-6121"


class MomentMalformed(UsageError):
    """A moment is not one: RFC 3339 with its offset from UTC, or Unix seconds.

    Cure: write 2026-01-31T00:00:00Z.
    """

    code = "RVP-6122"


class Strict(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, rename="camel"
):
    """A part of our own predicates: unknown keys are refused, names are lowerCamelCase."""


class Sha256Digest(Strict, frozen=True, kw_only=True):
    """An in-toto DigestSet with a SHA-256 alone."""

    sha256: Sha256


class ArtifactDigest(Strict, frozen=True, kw_only=True):
    """An in-toto DigestSet with both digests of an artifact."""

    sha256: Sha256
    sha384: Sha384


class ArtifactSubject(Strict, frozen=True, kw_only=True):
    """An artifact: its name and its digests."""

    name: Name
    digest: ArtifactDigest


def is_plain(text: str) -> bool:
    """Tell whether a text is there and can be shown on a terminal as it is."""
    return bool(text) and re.match(PLAIN, text) is not None


def parse_moment(text: str) -> int:
    """Read a moment: RFC 3339 with its offset, or Unix seconds.

    Returns:
        Unix seconds, rounded down.

    Raises:
        MomentMalformed: RVP-6122.
    """
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    try:
        moment = dt.datetime.fromisoformat(text.upper() if _RFC3339.fullmatch(text) else "")
    except ValueError as error:
        raise MomentMalformed(
            f"{text!r} is not a moment", hint="for example 2026-01-31T00:00:00Z, or Unix seconds"
        ) from error
    return math.floor(moment.timestamp())


def format_moment(seconds: int) -> str:
    """Write Unix seconds as RFC 3339 in UTC.

    Raises:
        MomentMalformed: RVP-6122, before year 1 or after year 9999.
    """
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise MomentMalformed(f"{seconds} is not a moment") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
