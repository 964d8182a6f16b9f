"""The launch digest: SHA-384 over SHA-384, one page after the other.

    LD' = SHA-384( LD | CONTENTS | u16 0x70 | u8 type | u8 0 (IMI) | 3 x u8 0 (VMPL 3, 2, 1) | u8 0 | u64
    GPA )

CONTENTS is SHA-384 of the page for NORMAL and VMSA, 48 zero bytes for the others. LD begins as zeros. A
digest is a chain, so guests that begin alike share the work: the digest so far is where the next fold starts.

Units: addresses are guest-physical, sizes bytes, digests SHA-384.
Source: AMD, SEV-SNP firmware ABI (56860), SNP_LAUNCH_UPDATE, table "Layout of the PAGE_INFO structure".
Cost: a page is 4096 + 112 bytes of hash input; a page that repeats the one before it, 112.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

from pipeline.measure.ovmf import PAGE
from provenance.measurement_log import LogEvent, MeasurementLog

START: Final = bytes(48)
# KVM adds a VMSA at the highest page of 48 bits, whatever the machine has. Source: Linux,
# arch/x86/kvm/svm/sev.c.
VMSA_GPA: Final = 0xFFFF_FFFF_F000

_NOTHING: Final = bytes(48)
_INFO: Final = struct.Struct("<H6B")
_GPA: Final = struct.Struct("<Q")
_LOG_PAGES: Final = 16  # of one event: an explanation names a place this exactly without the file


class PageType(IntEnum):
    """Page types of SNP_LAUNCH_UPDATE. Source: AMD, SEV-SNP firmware ABI (56860), PAGE_TYPE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """A run of pages of one type.

    Attributes:
        type: NORMAL and VMSA have content, the others have none.
        gpa: of the first one.
        content: of all of them, or of one that all are equal to.
        label: what they are, in words.
        count: how many.
        stride: bytes from one to the next; 0 for VMSAs.
    """

    type: PageType
    gpa: int
    content: bytes | memoryview = b""
    label: str = ""
    count: int = 1
    stride: int = PAGE


def pages_of(content: bytes | memoryview, gpa: int, label: str) -> Pages:
    """Make a run of NORMAL pages of bytes that fill them."""
    return Pages(type=PageType.NORMAL, gpa=gpa, content=content, label=label, count=len(content) // PAGE)


def fold(runs: Iterable[Pages], digest: bytes = START) -> bytes:
    """Fold pages into a launch digest.

    Args:
        runs: in the order in which the host adds them.
        digest: the digest so far.

    Returns:
        48 bytes.
    """
    sha384, pack = hashlib.sha384, _GPA.pack
    for run in runs:
        info = _INFO.pack(0x70, run.type, 0, 0, 0, 0, 0)
        gpa, stride = run.gpa, run.stride
        if len(run.content) == run.count * PAGE and run.count > 1:
            before, contents = b"", b""
            for at in range(0, len(run.content), PAGE):
                page = bytes(run.content[at : at + PAGE])
                if page != before:  # firmware is padded with equal pages
                    before, contents = page, sha384(page).digest() + info
                digest = sha384(digest + contents + pack(gpa)).digest()
                gpa += stride
        else:
            contents = (sha384(run.content).digest() if run.content else _NOTHING) + info
            for _ in range(run.count):
                digest = sha384(digest + contents + pack(gpa)).digest()
                gpa += stride
    return digest


def write_log(runs: Iterable[Pages], digest: bytes) -> MeasurementLog:
    """Write the log that folds to a digest; firmware in events of 64 KiB, equal pages as one event."""
    return MeasurementLog(
        tee="snp",
        register="measurement",
        algorithm="sha384",
        value=digest.hex(),
        events=tuple(event for run in runs for event in _events(run)),
    )


def _events(run: Pages) -> Iterator[LogEvent]:
    if run.type is PageType.NORMAL and run.count > 1:
        for start, end in _cut(run.content):
            yield _event(run, run.content[start:end], run.gpa + start, (end - start) // PAGE)
    elif run.count > 1 and run.content:
        content = hashlib.sha256()
        for _ in range(run.count):
            content.update(run.content)
        yield _with_content(run, run.gpa, run.count, content.hexdigest())
    else:
        yield _event(run, run.content, run.gpa, run.count)


def _cut(content: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Cut content into runs of equal pages, and pieces of 16 others."""
    start, equal = 0, False
    for at in range(PAGE, len(content), PAGE):
        same = bytes(content[at : at + PAGE]) == bytes(content[at - PAGE : at])
        if same and not equal:  # the page before begins the equal ones
            if at - PAGE > start:
                yield start, at - PAGE
                start = at - PAGE
            equal = True
        elif not same and (equal or at - start >= _LOG_PAGES * PAGE):
            yield start, at
            start, equal = at, False
    yield start, len(content)


def _event(run: Pages, content: bytes | memoryview, gpa: int, count: int) -> LogEvent:
    return _with_content(run, gpa, count, hashlib.sha256(content).hexdigest() if content else "")


def _with_content(run: Pages, gpa: int, count: int, content: str) -> LogEvent:
    return LogEvent(
        op="SNP_LAUNCH_UPDATE",
        address=gpa,
        length=PAGE,
        flags=int(run.type),
        content=content,
        label=run.label,
        count=count,
        stride=run.stride if count > 1 else 0,
    )


def runs_of_log(log: MeasurementLog, contents: dict[str, bytes]) -> Iterator[Pages]:
    """Read the runs back out of a log, with the contents that it names by SHA-256: to fold it again.

    Args:
        log: of a launch digest.
        contents: SHA-256 in hex: the bytes of the whole run.

    Raises:
        KeyError: for a content that is not given.
    """
    for event in log.events:
        yield Pages(
            type=PageType(event.flags),
            gpa=event.address,
            content=contents[event.content] if event.content else b"",
            label=event.label,
            count=event.count,
            stride=event.stride,
        )
