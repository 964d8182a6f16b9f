"""ELF: names the section, the offset in it and the function around the first differing byte.

Header, segments, sections by name, the build id, the compilers' comment, symbols, strings; compressed debug
sections are unpacked. Positions in the file follow from sizes and are not listed.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline.difference.causes import causes_of_lines
from pipeline.difference.compressed import compare_payload, unpack_zlib
from pipeline.difference.content import Content, first_difference, window
from pipeline.difference.elf_file import (
    COMPRESSED,
    DYNSYM,
    NOTE,
    STRINGS,
    STRTAB,
    SYMTAB,
    ElfFile,
    Section,
    Symbol,
    notes,
    section_attributes,
)
from pipeline.difference.look import Found, Look, OutOfTime
from pipeline.difference.members import compare_attributes
from pipeline.difference.model import Cause, Difference

_BUILD_ID: Final = 3
_STRING: Final = re.compile(rb"[\x20-\x7e\t]{4,}")
_STRING_BYTES: Final = 4 << 20
_SHOWN: Final = 6


def detect(head: bytes, path: str) -> bool:
    """Tell an ELF file by its magic."""
    del path
    return head.startswith(b"\x7fELF")


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two ELF files."""
    one, other = ElfFile(left, look), ElfFile(right, look)
    details = compare_attributes(path, one.header, other.header)
    comments: list[str] = []
    details += _compare_sections(path, one, other, look, comments)
    if look.is_late() and details:
        return Found(details=tuple(details[: look.limits.details]), comments=tuple(comments))
    if not one.sections or not other.sections:
        details += _compare_segments(path, one, other, look)
    details += _compare_symbols(path, one, other, look)
    if not details:
        details += _outside(path, one, other, look)
    shown = details[: look.limits.details]
    if len(details) > len(shown):
        comments.append(f"{len(details) - len(shown)} more differences")
    return Found(details=tuple(shown), comments=tuple(comments))


def _compare_sections(
    path: str, left: ElfFile, right: ElfFile, look: Look, comments: list[str]
) -> list[Difference]:
    ones = {section.label: section for section in left.sections}
    others = {section.label: section for section in right.sections}
    details = [
        Difference(path=path, kind="missing", where=f"section {name}", left="there", right="not there")
        for name in ones
        if name not in others
    ] + [
        Difference(path=path, kind="extra", where=f"section {name}", left="not there", right="there")
        for name in others
        if name not in ones
    ]
    common = [name for name in ones if name in others]
    if common != [name for name in others if name in ones]:
        details.append(
            Difference(path=path, kind="order", where="order of sections", causes=(Cause.FILE_ORDER,))
        )
    for name in common:
        try:
            details += _compare_section(path, left, right, ones[name], others[name], look)
        except OutOfTime:
            comments.append(f"the time limit ended the look at section {name}; later ones were not compared")
            break
    return details


def _compare_section(
    path: str, left: ElfFile, right: ElfFile, one: Section, other: Section, look: Look
) -> list[Difference]:
    attributes = compare_attributes(f"{path}/{one.label}", section_attributes(one), section_attributes(other))
    contents = left.bytes_of(one), right.bytes_of(other)
    first = first_difference(*contents, tick=look.tick)
    if first is None:
        # A size that only moves what follows is no news; a header that changes the meaning is.
        return [detail for detail in attributes if detail.where != "address"]
    found = _explain(path, one, contents, look, wide=left.wide)
    symbol = left.symbol_at(one, first)
    place = f"section {one.label} + {first:#x}" + (f", in {symbol}" if symbol else "")
    details = [
        *(detail for detail in attributes if detail.where in {"type", "flags", "size"}),
        *found.details,
    ]
    return [
        Difference(
            path=path,
            kind="section",
            where=f"{place} (file offset {one.offset + first:#x})",
            left=found.left or window(contents[0], first),
            right=found.right or window(contents[1], first),
            offset=one.offset + first,
            causes=found.causes,
            comments=found.comments,
            details=tuple(details),
        )
    ]


def _explain(
    path: str, section: Section, contents: tuple[Content, Content], look: Look, *, wide: bool
) -> Found:
    """Say in words what differs in a section whose kind is known."""
    label = f"{path}/{section.label}"
    if section.kind == NOTE:
        ones, others = (notes(side.read(0, 1 << 16)) for side in contents)
        ids = [
            next((text.hex() for owner, kind, text in found if (owner, kind) == ("GNU", _BUILD_ID)), "")
            for found in (ones, others)
        ]
        if ids[0] != ids[1]:
            return Found(left=ids[0] or "(none)", right=ids[1] or "(none)", causes=(Cause.BUILD_ID,))
        return Found()
    if section.flags & COMPRESSED and all(side.read(0, 4) in {b"\1\0\0\0", b"\0\0\0\1"} for side in contents):
        skip = 24 if wide else 12  # Elf64_Chdr, Elf32_Chdr
        return compare_payload(
            label,
            contents[0].part(skip, contents[0].size),
            contents[1].part(skip, contents[1].size),
            look,
            unpack=unpack_zlib,
            name=f"{label}/(unpacked)",
        )
    texts = (
        section.kind == STRTAB
        or section.flags & STRINGS
        or section.name.startswith((".rodata", ".data", ".comment", ".debug_str", ".debug_line"))
    )
    return _compare_strings(label, contents, section) if texts else Found()


def _compare_strings(path: str, contents: tuple[Content, Content], section: Section) -> Found:
    ones, others = (
        [match.decode("ascii") for match in _STRING.findall(side.read(0, _STRING_BYTES))] for side in contents
    )
    known, also_known = set(ones), set(others)
    gone = [text for text in ones if text not in also_known]
    new = [text for text in others if text not in known]
    if not gone and not new:
        moved = ones != others and sorted(ones) == sorted(others)
        return Found(causes=(Cause.FILE_ORDER,)) if moved else Found()
    causes = (Cause.TOOL,) if section.name == ".comment" else causes_of_lines(gone, new)
    return Found(
        causes=causes,
        details=(
            Difference(
                path=path,
                kind="strings",
                where=f"{len(gone)} strings against {len(new)}",
                left=_listed(gone),
                right=_listed(new),
            ),
        ),
    )


def _listed(texts: list[str]) -> str:
    shown = [text if len(text) <= 200 else text[:200] + "…" for text in texts[:_SHOWN]]
    return "\n".join(shown + ([f"… and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []))


def _compare_segments(path: str, left: ElfFile, right: ElfFile, look: Look) -> list[Difference]:
    details: list[Difference] = []
    if len(left.segments) != len(right.segments):
        details.append(
            Difference(
                path=path,
                kind="attribute",
                where="number of segments",
                left=str(len(left.segments)),
                right=str(len(right.segments)),
            )
        )
    for one, other in zip(left.segments, right.segments, strict=False):
        name = f"segment {one.index} ({one.kind})"
        details += compare_attributes(f"{path}/{name}", one.attributes, other.attributes)
        contents = left.content.part(one.offset, one.size), right.content.part(other.offset, other.size)
        first = first_difference(*contents, tick=look.tick)
        if first is not None:
            details.append(
                Difference(
                    path=path,
                    kind="segment",
                    where=f"{name} + {first:#x} (file offset {one.offset + first:#x})",
                    offset=one.offset + first,
                    left=window(contents[0], first),
                    right=window(contents[1], first),
                )
            )
    return details


def _compare_symbols(path: str, left: ElfFile, right: ElfFile, look: Look) -> list[Difference]:
    """Compare symbols by name: which are missing and extra, which changed their size."""
    for kind in (SYMTAB, DYNSYM):
        ones, others = _by_name(left.symbols(kind)), _by_name(right.symbols(kind))
        look.tick()
        gone = [name for name in ones if name not in others]
        new = [name for name in others if name not in ones]
        resized = [
            f"{name} ({ones[name].size} and {others[name].size} bytes)"
            for name in ones
            if name in others and ones[name].size != others[name].size
        ]
        if gone or new or resized:
            return [
                Difference(
                    path=path,
                    kind="symbols",
                    where=f"{len(gone)} symbols missing, {len(new)} extra, {len(resized)} of another size",
                    left=_listed(gone),
                    right=_listed(new),
                    comments=tuple(resized[:_SHOWN]),
                    causes=causes_of_lines(gone, new),
                )
            ]
        if ones or others:
            break
    return []


def _by_name(symbols: tuple[Symbol, ...]) -> dict[str, Symbol]:
    return {symbol.name: symbol for symbol in symbols if symbol.name}


def _outside(path: str, left: ElfFile, right: ElfFile, look: Look) -> list[Difference]:
    """Name a difference that lies in no section: headers, padding, what was appended."""
    first = first_difference(left.content, right.content, tick=look.tick)
    if first is None:
        return []
    ends = max((section.offset + section.size for section in left.sections if section.in_file), default=0)
    within = [segment for segment in left.segments if segment.offset <= first < segment.offset + segment.size]
    place = (
        "after the last section"
        if first >= ends
        else f"in segment {within[0].index} ({within[0].kind}), outside of all sections"
        if within
        else "outside of all sections and segments"
    )
    return [
        Difference(
            path=path,
            kind="binary",
            where=f"file offset {first:#x}, {place}",
            offset=first,
            left=window(left.content, first),
            right=window(right.content, first),
        )
    ]
