"""Whether the data of an event are what was hashed, decided by hashing them.

A digest is what went into the register; the data beside it are what somebody wrote. The outcomes:

    matches        the data, or the named part of them, hash to the digest in every bank that can be computed
    description    data of this type only describe what was hashed (a file, a table, a PE image)
    not hashed     data of this type should be what was hashed, and are not: do not believe the words
    undecided      the data were left out, or no bank can be computed here

Source: TCG PFP 1.05, table 9 (what each type measures); facts of GRUB, Linux, systemd-stub and td-shim as in
event_words.py. Cost: at most four hashes of the data for each bank.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from verifier.evidence.event_log import Algorithm, Event
from verifier.evidence.event_words import RUNTIME, blob_of_shim, grub_text, ipl_text, variable_of

Outcome = Literal["matches", "description", "not hashed", "not extended", "undecided"]

# Data of these types describe; that no part of them hashes to the digest says nothing.
_DESCRIBES: Final = frozenset(
    {
        0x0, 0x1, 0x2, 0x6, 0x7, 0x9, 0xA, 0xB, 0xC, 0xD, 0xE, 0xF, 0x13,
        0x8000_0003, 0x8000_0004, 0x8000_0005, 0x8000_0008, 0x8000_0009, 0x8000_000A, 0x8000_000B,
        0x8000_0010, 0x8000_00E1, 0x8000_00E2,
    }
)  # fmt: skip


class Preimage(msgspec.Struct, frozen=True):
    """What came out, and which part of the data it is about; the part is empty for all of them."""

    outcome: Outcome
    part: str = ""


@functools.cache
def is_computable(algorithm: str) -> bool:
    """Tell whether digests of an algorithm can be computed here."""
    try:
        hashlib.new(algorithm)
    except ValueError:
        return False
    return True


def check_preimage(event: Event, banks: tuple[Algorithm, ...]) -> Preimage:
    """Compare the data of an event with its digests."""
    if not event.is_extended:
        return Preimage("not extended")
    pairs = [(one.name, digest) for one, digest in zip(banks, event.digests, strict=True)]
    if not event.data and event.offset < 0 and event.type != RUNTIME:
        return Preimage("undecided")  # JSON logs leave data out
    known = [(name, digest) for name, digest in pairs if is_computable(name)]
    if not known:
        return Preimage("undecided")
    for part, data in _candidates(event):
        if all(hashlib.new(name, data).digest() == digest for name, digest in known):
            return Preimage("matches", part)
    return Preimage("description" if _describes(event) else "not hashed")


def _describes(event: Event) -> bool:
    """Tell whether data need not be what was hashed; GRUB's commands must be."""
    match event.type:
        case 0xD:
            return grub_text(ipl_text(event.data)) is None
        case 0xA:
            return blob_of_shim(event.data) is None
        case _:
            return event.type in _DESCRIBES


def runtime_digest(event: Event) -> bytes:
    """Hash a runtime event as dstack does: type as u32, colon, name, colon, payload."""
    content = struct.pack("<I", event.type) + b":" + event.name.encode() + b":" + event.data
    return hashlib.sha384(content).digest()


def _candidates(event: Event) -> Iterator[tuple[str, bytes]]:
    data = event.data
    if event.type == RUNTIME:
        yield (
            "type, name and payload",
            struct.pack("<I", event.type) + b":" + event.name.encode() + b":" + data,
        )
        return
    yield "", data
    match event.type:
        case 0x8000_0001 | 0x8000_0002 | 0x8000_000C | 0x8000_00E0:
            if (found := variable_of(data)) is not None:
                yield "the value of the variable", found[2]
        case 0xA:
            if (shim := blob_of_shim(data)) is not None:
                yield "the blob", shim[1]
        case 0x6 if len(data) >= 8:
            yield "the tagged data", data[8:]
        case 0xD:
            text = ipl_text(data)
            if (command := grub_text(text)) is not None:
                yield "the text after grub's prefix", command.encode()
                yield "the text after grub's prefix, with its NUL", command.encode() + b"\0"  # RHEL 8
                return
            yield "the text", text.encode()
            yield "the text with its NUL", text.encode() + b"\0"
        case 0x4 if len(data) == 4:
            pass
        case _:
            if data.endswith(b"\0"):
                yield "the data without NULs at the end", data.rstrip(b"\0")
