"""Causes that are seen in what moved, was permuted, or is not used: functions, addresses, padding."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final

from pipeline.explain.model import LikelyCause
from pipeline.explain.sgx.evidence import Evidence, PageDiff, SymbolMoves

_SHOWN: Final = 4
_REACH: Final = 1 << 16


def symbol_order(evidence: Evidence) -> LikelyCause | None:
    """Tell the same symbols in another order."""
    symbols = evidence.symbols
    if len(symbols.reordered) < 2 or symbols.resized or symbols.gone or symbols.new:
        return None
    return LikelyCause(
        id="symbol-order",
        words="the same functions and objects stand in another order",
        evidence=(f"{len(symbols.reordered)} symbols, first {', '.join(symbols.reordered[:_SHOWN])}",),
        remedy="sort the linker's inputs (object files, archives) and what generates sources",
    )


def moved(evidence: Evidence) -> LikelyCause | None:
    """Tell what grew, and what it moved."""
    symbols = evidence.symbols
    resized = [pair for pair in symbols.resized if pair[0].name != "g_global_data"]
    if resized:
        one, other = resized[0]
        behind = Counter(move for span, move in symbols.moved if span.start > one.start).most_common(1)
        seen = [f"{a.name}: {a.size} and {b.size} bytes" for a, b in resized[:_SHOWN]]
        if behind:
            seen.append(f"{behind[0][1]} symbols behind {one.name} moved by {behind[0][0]:+#x} bytes")
        return LikelyCause(
            id="moved",
            words=f"{one.name} has another size ({one.size} and {other.size} bytes); what is behind it moved",
            evidence=tuple(seen),
            remedy=f"compare the source and the compiler's options of {one.name}",
        )
    if evidence.symbols != SymbolMoves():
        return None
    for page in evidence.pages:
        if page.is_code and (distance := _shift(page, evidence)):
            return LikelyCause(
                id="moved",
                words="the same code stands at another address: something before it grew or shrank",
                evidence=(
                    f"code behind {page.address:#x} is found {distance:+#x} bytes further on the right",
                ),
                remedy="an unstripped file names the function",
            )
    return None


def _shift(page: PageDiff, evidence: Evidence) -> int:
    """Find the one distance at which probes of the left page stand on the right; 0 when there is none."""
    run = evidence.right.run_at(page.address + page.moved_bytes)
    if run is None:
        return 0
    base = max(page.address - _REACH, run.address - page.moved_bytes)
    around = evidence.right.read(base + page.moved_bytes, 2 * _REACH)
    ranges = page.ranges()
    start = ranges[0][0] if ranges else 0
    distances = set()
    probes = 0
    for at in range(start + 64, len(page.left) - 24, 256):
        probe = page.left[at : at + 24]
        if len(set(probe)) < 8:
            continue
        found = around.find(probe)
        if found >= 0 and around.find(probe, found + 1) < 0:
            probes += 1
            distances.add(base + found - page.address - at)
    return distances.pop() if len(distances) == 1 and probes >= 3 else 0


def addresses(evidence: Evidence) -> LikelyCause | None:
    """Tell words that differ by one constant."""
    deltas: Counter[int] = Counter()
    size = max(side.frame[0] for side in (evidence.left, evidence.right))
    words = 0
    for page in evidence.pages:
        if page.is_code or page.is_tcs:
            continue
        for at in sorted({at & -8 for start, end in page.ranges() for at in (start, end - 1)}):
            one, other = (struct.unpack_from("<Q", side, at)[0] for side in (page.left, page.right))
            words += 1
            if 0 < one < size and 0 < other < size:
                deltas[other - one] += 1
    if not words or not deltas:
        return None
    distance, times = deltas.most_common(1)[0]
    if times < 3 or times < words * 2 // 3:
        return None
    return LikelyCause(
        id="addresses",
        words="data holds addresses that differ by one constant: what they point to moved",
        evidence=(f"{times} of {words} words differ by {distance:+#x}",),
        remedy="a section before it grew or shrank; the first other difference says which",
    )


def padding(evidence: Evidence) -> LikelyCause | None:
    """Tell bytes that nothing uses."""
    pages = evidence.pages
    if not pages or len(pages) < evidence.content_pages or not evidence.left.labels.sections:
        return None
    seen = []
    for page in pages:
        for start, end in page.ranges():
            for at in (start, end - 1):
                place = evidence.left.place(page.address + at)
                if place.section or not page.label.startswith("segment"):
                    return None
            seen.append(f"{page.address + start:#x} to {page.address + end - 1:#x}")
    return LikelyCause(
        id="padding",
        words="only bytes between sections differ, which nothing uses: padding that was not set",
        evidence=tuple(seen[:_SHOWN]),
        remedy="find the tool that writes the file without clearing it (packers, strip, objcopy)",
    )


def code(evidence: Evidence) -> LikelyCause | None:
    """Tell which functions have other code."""
    if evidence.symbols.resized or evidence.symbols.reordered or evidence.symbols.moved:
        return None
    names = dict.fromkeys(
        place.symbol
        for page in evidence.pages
        if page.is_code
        for start, _ in page.ranges()
        if (place := evidence.left.place(page.address + start)).symbol
    )
    if not names:
        return None
    return LikelyCause(
        id="code",
        words="functions of the same size have other instructions or constants",
        evidence=(", ".join(list(names)[: 2 * _SHOWN]),),
        remedy="compare their sources and the compilers' options",
    )
