"""Causes that lie in the configuration or in the tool that laid out the enclave."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Final

from pipeline.explain.model import LikelyCause
from pipeline.explain.sgx.evidence import Evidence, PageDiff
from pipeline.explain.sgx.side import EnclaveSide, shown
from pipeline.measure.sgx.enclave_image import describe_flags

Rule = Callable[[Evidence], LikelyCause | None]
_SHOWN: Final = 4
_GENERATION: Final = ("metadata", "sdk", "sdk_version", "gramine", "open_enclave", "generation")
_CONFIGURED_SYMBOLS: Final = frozenset({"g_global_data", "_enclave_rva", "_reloc_rva", "_reloc_size"})
_SDK_VERSION: Final = re.compile(r"SGX_\w+_VERSION_\d+\.\d")
_TCS_FLAGS: Final = range(8, 16)


def parameter(names: tuple[str, ...], ident: str, words: str, remedy: str) -> Rule:
    """Make the rule of a parameter that differs."""

    def rule(evidence: Evidence) -> LikelyCause | None:
        for name in names:
            values = evidence.number(name)
            if values is not None:
                one, other = (shown(name, value) for value in values)
                return LikelyCause(
                    id=ident, words=words, evidence=(f"{name}: {one} and {other}",), remedy=remedy
                )
        return None

    return rule


def enclave_size(evidence: Evidence) -> LikelyCause | None:
    """Tell that only the size of the address range differs."""
    values = evidence.number("enclave_size_bytes")
    others = ("heap_bytes", "added_not_measured_bytes", "stack_bytes", "threads", "reserved_memory_bytes")
    if values is None or any(evidence.number(name) for name in others) or generation(evidence):
        return None
    one, other = (shown("bytes", value) for value in values)
    return LikelyCause(
        id="enclave-size",
        words="the address ranges have different sizes, and heap, stacks and threads do not say why",
        evidence=(f"enclave size: {one} and {other}",),
        remedy="look for sgx.enclave_size, an EL-range or a user region in the configuration",
    )


def generation(evidence: Evidence) -> LikelyCause | None:
    """Tell another generation of the SDK, by what it writes."""
    seen = [
        f"{name}: {evidence.values[0].get(name)} and {evidence.values[1].get(name)}"
        for name in _GENERATION
        if name in evidence.changed and _are_generations(name, *(side.get(name) for side in evidence.values))
    ]
    seen += [
        f"g_global_data: {one.size} and {other.size} bytes"
        for one, other in evidence.symbols.resized
        if one.name == "g_global_data"
    ]
    versions = [sorted(filter(_SDK_VERSION.match, side))[:_SHOWN] for side in evidence.strings]
    if all(versions):
        seen += [f"{one} and {other}" for one, other in zip(*versions, strict=False)]
    kinds = {str(side.get("layout", "")).split(" ")[0] for side in evidence.values}
    if not seen or len(kinds) > 1:  # SGXS and ELF are two ways to write one enclave
        return None
    return LikelyCause(
        id="sdk-generation",
        words="the enclaves were laid out by different generations of the SDK or its signing tool",
        evidence=tuple(seen),
        remedy="build and sign with the same version, or name it: --generation",
    )


def _are_generations(name: str, one: str | int | None, other: str | int | None) -> bool:
    """Tell versions that differ; metadata 11.5 is what 1.5 is, for an enclave with a range of its own."""
    if not one or not other:
        return False
    if name != "metadata":
        return one != other
    (major, minor), (other_major, other_minor) = ((*f"{each}.".split(".")[:2],) for each in (one, other))
    return (major[-1:], minor) != (other_major[-1:], other_minor)


def enclave_range(evidence: Evidence) -> LikelyCause | None:
    """Tell that the whole enclave lies elsewhere in its range."""
    if not evidence.common_move:
        return None
    return LikelyCause(
        id="enclave-range",
        words="the image of one enclave lies further by one distance: its address in the range differs",
        evidence=(f"all segments are moved by {evidence.common_move:+#x} bytes",),
        remedy="compare EnclaveImageAddress and ELRangeStartAddress of the configurations",
    )


def aex_notify(evidence: Evidence) -> LikelyCause | None:
    """Tell AEX-notify by the FLAGS of the TCS."""
    pages = [page for page in evidence.pages if page.is_tcs]
    first = [page for page in pages if any(start in _TCS_FLAGS for start, _ in page.ranges())]
    if not first:
        return None
    one, other = (struct.unpack_from("<Q", side, 8)[0] for side in (first[0].left, first[0].right))
    return LikelyCause(
        id="aex-notify",
        words="the TCS pages differ in FLAGS: AEX-notify (bit 1) is on in one configuration only",
        evidence=(f"TCS.FLAGS: {one:#x} and {other:#x}",),
        remedy="set EnableAEXNotify alike",
    )


def configuration_only(evidence: Evidence) -> LikelyCause | None:
    """Tell that code and data are the same, and only what a configuration writes differs."""
    if not evidence.pages or len(evidence.pages) < evidence.content_pages or not evidence.changed:
        return None
    if evidence.flag_changes or not all(_is_configured(page, evidence.left) for page in evidence.pages):
        return None
    return LikelyCause(
        id="configuration-only",
        words="code and data are the same: all that differs is written from the configuration",
        evidence=tuple(dict.fromkeys(page.symbol or page.section or page.label for page in evidence.pages))[
            :_SHOWN
        ],
        remedy="sign both with the same configuration",
    )


def _is_configured(page: PageDiff, side: EnclaveSide) -> bool:
    if page.is_tcs or (not page.section and page.label and not page.label.startswith("segment")):
        return True
    for start, end in page.ranges():
        for at in (start, end - 1):
            place = side.place(page.address + at)
            if place.symbol not in _CONFIGURED_SYMBOLS and place.section != ".oeinfo":
                return False
    return True


def page_flags(evidence: Evidence) -> LikelyCause | None:
    """Tell other permissions of pages."""
    if not evidence.flag_changes:
        return None
    seen = []
    for change in evidence.flag_changes[:_SHOWN]:
        if change.left and change.right:
            address = change.left.address + change.left_index * change.left.unit
            kinds = [
                describe_flags(run.flags) + ("" if run.is_measured else ", not measured")
                for run in (change.left, change.right)
            ]
            seen.append(f"{change.count} pages from {address:#x}: {kinds[0]} and {kinds[1]}")
    return LikelyCause(
        id="page-flags",
        words="pages have other permissions, or are measured on one side only",
        evidence=tuple(seen),
        remedy="compare the linker's flags (-z relro, -z separate-code, -z text) and the program headers",
    )


def page_order(evidence: Evidence) -> LikelyCause | None:
    """Tell the same pages in another order."""
    if evidence.split is None or evidence.split.kind != "address" or evidence.regions or evidence.pages:
        return None
    sides = evidence.left.runs, evidence.right.runs
    if sum(run.count for run in sides[0]) != sum(run.count for run in sides[1]):
        return None
    return LikelyCause(
        id="page-order",
        words="both have the same pages, added in another order; MRENCLAVE is a hash of a stream",
        evidence=(f"page {evidence.split.number} is the first that is another one",),
        remedy="use the same tool to lay both out; for SGXS keep its order",
    )
