"""What a look inside two things that differ has found: a tree of differences.

A difference says where (a path inside, then a place in the words of the format), what stands on each side,
and, when it is obvious, the likely cause in one of the words of `Cause`. Sides are "left" and "right" in
the model; what they are called ("run 1" and "run 2", "published" and "rebuilt") is the caller's choice and
stands in `Report`.

Invariants: equal inputs have no difference; inputs that differ have one, whatever they are.

Example:
    >>> changed = Difference(path="app.tar", kind="attribute", where="mtime of bin/app", left="1", right="2")
    >>> changed.all_causes()
    ()
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

DEFAULT_LABELS: Final = ("run 1", "run 2")


class Cause(StrEnum):
    """Causes that can be told from the bytes alone; in the order in which they are shown."""

    TIMESTAMP = "timestamp"
    BUILD_PATH = "build path"
    FILE_ORDER = "file order"
    BUILD_ID = "build id"
    OWNER = "uid/gid"
    MODE = "umask or mode"
    COMPRESSION = "compression level"
    KERNEL_RELEASE = "kernel release"
    TEMPORARY_NAME = "temporary file name"
    RANDOM = "random identifier"
    INODE = "inode or device number"
    LINE_ENDINGS = "line endings"
    TOOL = "tool version"


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One difference, and what is found further inside.

    Attributes:
        path: the path inside, from the outermost name: `app.deb/data.tar.xz/usr/bin/app`.
        kind: the format that was looked into (tar, elf, text …), or what differs (attribute, order, missing,
            extra, section, strings, binary …).
        where: the place in words: "mtime", "section .text + 0x12, in main + 0x2", "line 3".
        left: the value on the left side, or a hex window of it; empty when there is none.
        right: the value on the right side.
        offset: of the first differing byte in what `path` names; None when bytes are not what is compared.
        causes: likely causes, when they are obvious.
        comments: what else is to be known: limits that were reached, archives that are broken.
        text: a unified diff, or another tool's report.
        details: differences further inside.
    """

    path: str
    kind: str
    where: str = ""
    left: str = ""
    right: str = ""
    offset: int | None = None
    causes: tuple[Cause, ...] = ()
    comments: tuple[str, ...] = ()
    text: str = ""
    details: tuple[Difference, ...] = ()

    def walk(self) -> Iterator[Difference]:
        """Yield this difference and all that are inside it, outermost first."""
        yield self
        for detail in self.details:
            yield from detail.walk()

    def all_causes(self) -> tuple[Cause, ...]:
        """Return the causes of this difference and of all inside, each once, in the order of `Cause`."""
        found = {cause for difference in self.walk() for cause in difference.causes}
        return tuple(cause for cause in Cause if cause in found)


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON document: what the sides are called, and the differences."""

    schema: Literal["rvp/difference/v1"] = "rvp/difference/v1"
    labels: tuple[str, str] = DEFAULT_LABELS
    differences: tuple[Difference, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How far a look goes; what lies beyond is named in a comment, never silently skipped.

    Units: bytes, seconds, counts.

    Attributes:
        depth: containers inside containers.
        members: members of one archive, sections or symbols of one object.
        details: differences listed in one container.
        inner_bytes: of a compressed payload that is held in memory at once, a side.
        memory_bytes: of all payloads held at once, both sides.
        stream_bytes: of a compressed payload that is compared as a stream.
        text_bytes: of a text that is compared by lines.
        text_lines: lines that the line matcher sees, after equal beginnings and ends are taken off.
        diff_lines: lines of a unified diff that are kept.
        time_s: for the whole look.
        diffoscope_s: for diffoscope; 0 leaves it out.
    """

    depth: int = 8
    members: int = 50_000
    details: int = 40
    inner_bytes: int = 32 << 20
    memory_bytes: int = 96 << 20
    stream_bytes: int = 8 << 30
    text_bytes: int = 2 << 20
    text_lines: int = 1000
    diff_lines: int = 60
    time_s: float = 120.0
    diffoscope_s: float = 60.0


DEFAULT_LIMITS: Final = Limits()


def to_json(differences: tuple[Difference, ...], *, labels: tuple[str, str] = DEFAULT_LABELS) -> bytes:
    """Write the report as one JSON document; the same differences give the same bytes."""
    return msgspec.json.encode(Report(labels=labels, differences=differences)) + b"\n"


def from_json(data: bytes) -> Report:
    """Read a report that `to_json` wrote.

    Raises:
        UsageError: RVP-1011 to RVP-1014, as the strict reader says.
    """
    from provenance.strict import read_json

    document: Any = read_json(data, Report, name="difference report")
    report: Report = document
    return report
