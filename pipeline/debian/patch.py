r"""Unified diffs, applied strictly: the context must be there, line for line.

Only the position of the lines may have moved. That is what `dpkg-source` asks of the patches of a source
package (no fuzz), so the result is the same.

Source: POSIX diff -u; dpkg-source(1), format 3.0 (quilt).

Example:
    >>> text = b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n"
    >>> [(one.old, one.new, apply(one, b"x\n", place="p")) for one in parse(text, place="p")]
    [('f', 'f', b'y\n')]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from provenance.errors import SpecError

_HUNK: Final = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_NEWLINE: Final = b"\\ No newline"


class PatchFails(SpecError):
    """A patch of a source package does not fit the files that it changes, or is of a form that is not known.

    Cure: unpack the package with `dpkg-source -x` and use the folder as a source of kind `path`.
    """

    code = "RVP-1460"


class Hunk(msgspec.Struct, frozen=True):
    """Lines that stand at `start` (counted from 1) before, and what stands there after."""

    start: int
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


class FilePatch(msgspec.Struct, frozen=True):
    """The change of one file; an empty name: it is not there before, or not there after."""

    old: str
    new: str
    hunks: tuple[Hunk, ...]
    executable: bool | None = None


def parse(text: bytes, *, place: str) -> Iterator[FilePatch]:
    """Parse a patch file.

    Raises:
        PatchFails: RVP-1460.
    """
    lines = _split(text)
    at = 0
    executable: bool | None = None
    renamed: list[str] = []
    while at < len(lines):
        line = lines[at]
        if line.startswith(b"GIT binary patch"):
            raise PatchFails("a binary patch cannot be applied", place=place)
        if line.startswith((b"new file mode ", b"new mode ")):
            executable = line.rstrip().endswith(b"755")
        elif line.startswith((b"rename from ", b"rename to ")):
            renamed.append(line.split(b" ", 2)[2].strip().decode())
            if len(renamed) == 2 and not _has_hunks(lines, at + 1):
                yield FilePatch(renamed[0], renamed[1], ())
                renamed = []
        elif line.startswith(b"diff "):
            executable, renamed = None, []
        elif line.startswith(b"--- ") and at + 1 < len(lines) and lines[at + 1].startswith(b"+++ "):
            old, new = _name(line), _name(lines[at + 1])
            hunks, at = _hunks(lines, at + 2, place)
            yield FilePatch(old, new, tuple(hunks), executable)
            executable, renamed = None, []
            continue
        at += 1


def apply(change: FilePatch, content: bytes, *, place: str) -> bytes:
    """Apply the change of one file.

    Raises:
        PatchFails: RVP-1460 when the lines are not there.
    """
    lines = _split(content)
    shift = 0
    earliest = 0
    for hunk in change.hunks:
        expected = max(hunk.start - 1, 0) + shift
        found = _find(lines, hunk.before, expected, earliest)
        if found is None:
            raise PatchFails(f"the lines at {hunk.start} of {change.old or change.new} differ", place=place)
        lines[found : found + len(hunk.before)] = hunk.after
        shift += len(hunk.after) - len(hunk.before) + found - expected
        earliest = found + len(hunk.after)
    return b"".join(lines)


def _split(content: bytes) -> list[bytes]:
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _find(lines: list[bytes], wanted: tuple[bytes, ...], expected: int, earliest: int) -> int | None:
    """Find where lines stand, nearest to where they are expected."""
    last = len(lines) - len(wanted)
    for distance in range(len(lines) + 1):
        for at in dict.fromkeys((expected + distance, expected - distance)):
            if earliest <= at <= last and tuple(lines[at : at + len(wanted)]) == wanted:
                return at
    return None


def _name(line: bytes) -> str:
    """Read the name of a header line, without its first part (`-p1`)."""
    name = line[4:].split(b"\t")[0].strip().decode("utf-8", "surrogateescape").strip('"')
    if name == "/dev/null":
        return ""
    return name.partition("/")[2] or name


def _has_hunks(lines: list[bytes], at: int) -> bool:
    for line in lines[at:]:
        if line.startswith(b"diff "):
            return False
        if line.startswith(b"--- "):
            return True
    return False


def _hunks(lines: list[bytes], at: int, place: str) -> tuple[list[Hunk], int]:
    found: list[Hunk] = []
    while at < len(lines) and (header := _HUNK.match(lines[at])):
        before: list[bytes] = []
        after: list[bytes] = []
        old_count = 1 if header[2] is None else int(header[2])
        new_count = 1 if header[4] is None else int(header[4])
        at += 1
        while at < len(lines) and (len(before) < old_count or len(after) < new_count):
            line = lines[at]
            kind, rest = line[:1], line[1:]
            if line in {b"\n", b"\r\n"}:
                kind, rest = b" ", line
            if kind == b" ":
                before.append(rest)
                after.append(rest)
            elif kind == b"-":
                before.append(rest)
            elif kind == b"+":
                after.append(rest)
            elif not line.startswith(_NO_NEWLINE):
                raise PatchFails(f"line {at + 1} is no line of a hunk", place=place)
            at += 1
            if at < len(lines) and lines[at].startswith(_NO_NEWLINE):
                for side in {b" ": (before, after), b"-": (before,), b"+": (after,)}.get(kind, ()):
                    side[-1] = side[-1].removesuffix(b"\n")
                at += 1
        if len(before) != old_count or len(after) != new_count:
            raise PatchFails("a hunk ends too early", place=place)
        start = int(header[1]) + (1 if old_count == 0 and int(header[1]) else 0)
        found.append(Hunk(start, tuple(before), tuple(after)))
    return found, at
