"""Causes that a build puts into an enclave: times, paths, strings, compilers, ids."""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Callable, Iterator
from typing import Final

from pipeline.difference.causes import causes_of_texts
from pipeline.difference.model import Cause
from pipeline.explain.model import LikelyCause
from pipeline.explain.sgx.evidence import Evidence

Rule = Callable[[Evidence], LikelyCause | None]
_PAIRS: Final = 40
_SHOWN: Final = 4
_PIECES: Final = 400
_EPOCHS: Final = (1_420_070_400, 2_051_222_400)  # 2015 to 2035
_COMPILER: Final = re.compile(
    r"GCC: \(|^GNU [CAM]|clang version \d|rustc version \d|LLD \d|^Go build ID|Intel\(R\) .*Compiler"
)

STRINGS: Final = {
    Cause.TIMESTAMP: (
        "timestamp",
        "a time of building is in the enclave (`__DATE__`, `__TIME__`, or a version string)",
        "build with SOURCE_DATE_EPOCH and -Wdate-time, or take the time out of the source",
    ),
    Cause.BUILD_PATH: (
        "build-path",
        "the path of the build folder is in the enclave (`__FILE__`, assertions, debug strings)",
        "compile with -ffile-prefix-map=$PWD=. (Rust: --remap-path-prefix)",
    ),
    Cause.TEMPORARY_NAME: (
        "temporary-name",
        "the name of a temporary file or folder is in the enclave",
        "build in a folder of a fixed name",
    ),
    Cause.RANDOM: (
        "random",
        "a random identifier (UUID) is in the enclave",
        "derive it from the source, or leave it out",
    ),
}


def string_rule(cause: Cause) -> Rule:
    """Make the rule of strings that are equal but for a time or a path."""
    ident, words, remedy = STRINGS[cause]

    def rule(evidence: Evidence) -> LikelyCause | None:
        seen = [
            f"{one[:120]!r} and {other[:120]!r}" for one, other, found in _pairs(evidence) if cause in found
        ]
        if not seen:
            return None
        return LikelyCause(id=ident, words=words, evidence=tuple(seen[:_SHOWN]), remedy=remedy)

    return rule


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str, tuple[Cause, ...]]]:
    """Pair strings that are equal but for a time or a path."""
    gone, new = evidence.strings
    left = list(new[:_PAIRS])
    for one in gone[:_PAIRS]:
        for other in left:
            found = causes_of_texts(one, other)
            if found:
                left.remove(other)
                yield one, other, found
                break


def compiler(evidence: Evidence) -> LikelyCause | None:
    """Tell other compilers by their version strings."""
    gone, new = ([one for one in side if _COMPILER.search(one)] for side in evidence.strings)
    if not gone or not new:
        return None
    return LikelyCause(
        id="compiler",
        words="different compilers or linkers made them",
        evidence=(f"{gone[0][:120]!r} and {new[0][:120]!r}",),
        remedy="pin the toolchain: `rvp lock` pins a base by content",
    )


def text(evidence: Evidence) -> LikelyCause | None:
    """Tell other strings that no other rule explains."""
    explained = {one for pair in _pairs(evidence) for one in pair[:2]}
    gone, new = (
        [one for one in side if one not in explained and not _COMPILER.search(one) and _is_text(one)]
        for side in evidence.strings
    )
    gone, new = _without_pieces(gone, new), _without_pieces(new, gone)
    if not gone and not new:
        return None
    seen = [f"only left: {one[:120]!r}" for one in gone[:_SHOWN]]
    seen += [f"only right: {one[:120]!r}" for one in new[:_SHOWN]]
    return LikelyCause(
        id="text",
        words="strings of the program differ: the source, its version or a build option is another one",
        evidence=tuple(seen),
        remedy="compare sources and build options",
    )


def _without_pieces(lines: list[str], others: list[str]) -> list[str]:
    """Leave out what is the other side's string with another byte before or behind it."""
    known = [one for one in others if len(one) > _SHOWN][:_PIECES]
    return [line for line in lines[:_PIECES] if not any(line in one or one in line for one in known)]


def _is_text(line: str) -> bool:
    """Tell words from bytes that happen to be printable."""
    return sum(one.isalnum() or one == " " for one in line) >= len(line) * 0.7 and len(set(line)) > 3


def epoch(evidence: Evidence) -> LikelyCause | None:
    """Tell a number that is a plausible time on both sides."""
    seen = []
    for page in evidence.pages:
        ranges = page.ranges()
        if page.is_code or page.is_tcs or not 0 < len(ranges) <= _SHOWN:
            continue
        for at in {start & -8 for start, _ in ranges}:
            one, other = (struct.unpack_from("<Q", side, at)[0] for side in (page.left, page.right))
            if all(_EPOCHS[0] <= value < _EPOCHS[1] for value in (one, other)):
                seen.append(f"at {page.address + at:#x}: {_date(one)} and {_date(other)}")
    if not seen:
        return None
    return LikelyCause(
        id="epoch",
        words="a 64-bit number differs that is a plausible time on both sides",
        evidence=tuple(seen[:_SHOWN]),
        remedy="build with SOURCE_DATE_EPOCH",
    )


def _date(seconds: int) -> str:
    return f"{seconds} ({dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S} UTC)"


def build_id(evidence: Evidence) -> LikelyCause | None:
    """Tell the linker's build id."""
    if not any(page.section == ".note.gnu.build-id" for page in evidence.pages) and not any(
        side.place(page.address + start).section == ".note.gnu.build-id"
        for side in (evidence.left,)
        for page in evidence.pages
        for start, _ in page.ranges()[:64]
    ):
        return None
    return LikelyCause(
        id="build-id",
        words="the build id differs; it is a hash of the linked file, debug information included",
        evidence=("section .note.gnu.build-id",),
        remedy="it follows from another difference, which may be in what is not measured; "
        "link with -Wl,--build-id=none to be independent of it",
    )
