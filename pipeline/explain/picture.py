"""Both enclaves' address ranges as a picture: a band for each segment, stack, heap; marks where they differ.

Widths are logarithms of sizes, so that one page of TCS is seen beside gigabytes of heap; order is by address.
What differs has a mark and its words in the list below: nothing is said by colour alone. The same explanation
gives the same bytes.
"""

from __future__ import annotations

import math
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from pipeline.explain.model import Explained, Region
from pipeline.explain.sgx.side import EnclaveSide, key_of, stem_of
from pipeline.measure.sgx.enclave_image import SECINFO_W, SECINFO_X

_WIDTH: Final = 960
_LEFT: Final = 70
_ROOM: Final = _WIDTH - _LEFT - 20
_BAND: Final = 54
_INK, _LINE, _RED = "#22303c", "#6b7785", "#b3261e"
_COLOURS: Final = {
    "code": "#e3f1e3",
    "constants": "#e8eaf0",
    "data": "#fbe6c8",
    "added, not measured": "url(#bare)",
    "threads": "#dbe7f7",
}
_MOST_BANDS: Final = 24
_MOST_LINES: Final = 14
_FONT: Final = "font-family='DejaVu Sans, Verdana, sans-serif'"
_NARROW: Final = 56


class _Band(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: int
    pages: int
    kind: str


def draw(said: Explained, left: EnclaveSide, right: EnclaveSide) -> str:
    """Draw an explanation as SVG.

    Args:
        said: what `explain` said.
        left: its left side; a side without pages has an empty strip.
        right: its right side.
    """
    lines = _words(said)
    height = 2 * (_BAND + 66) + 90 + 18 * len(lines)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img"><title>{escape(_title(said))}</title>'
        f"<desc>{escape(' '.join(lines))}</desc>"
        '<defs><pattern id="bare" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" fill="#ffffff"/>'
        f'<line x1="0" y1="0" x2="0" y2="6" stroke="{_LINE}"/></pattern></defs>'
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>'
    )
    parts = [head, _text(20, 28, _title(said), size=15, bold=True)]
    differing = {region.name: region for region in said.regions}
    for index, (name, side) in enumerate((("left", left), ("right", right))):
        parts += _strip(name, side, differing, top=60 + index * (_BAND + 66))
    top = 60 + 2 * (_BAND + 66)
    parts += [_text(20, top + 18 * number, line) for number, line in enumerate(lines)]
    return "\n".join([*parts, *_legend(height - 24), "</svg>", ""])


def _legend(top: int) -> list[str]:
    parts = []
    for number, (kind, colour) in enumerate(_COLOURS.items()):
        x = 20 + number * 160
        parts.append(
            f'<rect x="{x}" y="{top}" width="14" height="14" fill="{colour}" stroke="{_LINE}"/>'
            + _text(x + 20, top + 11, kind, size=10)
        )
    return parts


def _title(said: Explained) -> str:
    return f"MRENCLAVE of {said.left.name} and {said.right.name}: {'equal' if said.equal else 'different'}"


def _strip(name: str, side: EnclaveSide, differing: dict[str, Region], *, top: int) -> list[str]:
    bands = _bands(side)
    parts = [
        _text(20, top + 30, name, bold=True),
        _text(_LEFT, top - 8, f"{side.side.what}  {side.side.value}", size=11),
    ]
    if not bands:
        return [*parts, _text(_LEFT, top + 30, "a bare value: its pages are not known")]
    weights = [1.5 + math.log2(band.pages + 1) for band in bands]
    scale = _ROOM / sum(weights)
    x = float(_LEFT)
    for band, weight in zip(bands, weights, strict=True):
        width = weight * scale
        hover = escape(f"{band.name}: {band.pages} pages from {band.address:#x}, {band.kind}")
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAND}" fill="{_COLOURS[band.kind]}" '
            f'stroke="{_LINE}"><title>{hover}</title></rect>'
        )
        if _differs(band.name, side, differing):
            parts.append(
                f'<rect x="{x + 2:.1f}" y="{top + 2}" width="{width - 4:.1f}" height="{_BAND - 4}" '
                f'fill="none" stroke="{_RED}" stroke-width="3"/>'
                + _text(x + width / 2, top + _BAND - 8, "≠", size=16, anchor="middle", bold=True)
            )
        letters = max(int(width / 6.5), 1)
        name = band.name.replace("segment", "seg.")
        shown = name if len(name) <= letters else name[: letters - 1] + "…"
        parts.append(_text(x + width / 2, top + 22, shown, size=10, anchor="middle"))
        if width >= _NARROW:
            parts.append(_text(x, top + _BAND + 13, f"{band.address:#x}", size=9))
        x += width
    return parts


def _bands(side: EnclaveSide) -> list[_Band]:
    found: dict[str, _Band] = {}
    for run in side.runs:
        name = stem_of(key_of(run)) or f"pages at {run.address:#x}"
        known = found.get(name)
        if known is None and len(found) >= _MOST_BANDS:
            name = "more"
            known = found.get(name)
        found[name] = _Band(
            name=name,
            address=run.address if known is None else min(known.address, run.address),
            pages=run.count + (0 if known is None else known.pages),
            kind=_kind(run.flags, is_segment=name.startswith("segment"), is_measured=run.is_measured),
        )
    return sorted(found.values(), key=lambda band: band.address)


def _kind(flags: int, *, is_segment: bool, is_measured: bool) -> str:
    if not is_measured:
        return "added, not measured"
    if not is_segment:
        return "threads"
    return "code" if flags & SECINFO_X else "data" if flags & SECINFO_W else "constants"


def _differs(name: str, side: EnclaveSide, differing: dict[str, Region]) -> bool:
    """Tell whether a band, or a section in it, has pages that differ; what only moved does not."""
    for region in differing.values():
        if not region.content and not region.flags and region.left == region.right:
            continue
        if region.name == name:
            return True
        if any(span.name == region.name for span in side.labels.sections):
            start = next(span.start for span in side.labels.sections if span.name == region.name)
            run = side.run_at(start)
            if run is not None and stem_of(key_of(run)) == name:
                return True
    return False


def _words(said: Explained) -> list[str]:
    lines = []
    if said.first is not None:
        at = f"{said.first.address + max(said.first.offset, 0):#x}"
        lines.append(
            f"First divergence, page {said.first.number}: {said.first.place or said.first.kind} ({at})"
        )
    for region in said.regions:
        if region.content or region.flags or region.left != region.right:
            counts = f"{region.left} and {region.right} pages"
            other = f", {region.content} with other content" if region.content else ""
            flags = f", {region.flags} with other flags" if region.flags else ""
            lines.append(f"≠ {region.name}: {counts}{other}{flags}")
    lines += [f"Likely cause: {cause.words}" for cause in said.causes]
    lines += [f"Hypothesis, not a pass: {one.change}" for one in said.hypotheses]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"and {len(lines) - _MOST_LINES + 1} more: see the text"]
    return lines


def _text(
    x: float, y: float, words: str, *, size: int = 12, bold: bool = False, anchor: str = "start"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    clean = "".join(one if one.isprintable() else "·" for one in words)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="{size}" text-anchor="{anchor}" '
        f'fill="{_INK}"{weight}>{escape(clean)}</text>'
    )
