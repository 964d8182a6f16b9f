"""Likely causes of two enclaves' difference: one rule, one function, one line in the table.

A rule looks at the evidence and says nothing unless it fits: a wrong guess costs more than none. Each has a
test in which it speaks and one in which it does not. The most telling come first: what was configured, then
what the build put in, then what merely moved.

| id | sees |
|---|---|
| `heap-size`, `stack-size`, `threads`, `reserved-memory`, `ssa-frame`, `enclave-size` | numbers |
| `sdk-generation` | metadata version, size of g_global_data, version strings of the SDK's libraries |
| `enclave-range` | every page lies further by one distance |
| `aex-notify` | FLAGS of the TCS |
| `page-flags` | equal content, other permissions |
| `timestamp`, `build-path`, `temporary-name`, `random` | strings that are equal but for such a word |
| `epoch` | one 64-bit word that is a plausible time on both sides |
| `build-id` | the note of the linker |
| `compiler` | version strings of compilers and linkers |
| `symbol-order` | the same functions, permuted |
| `moved` | a function that grew or shrank, and all behind it moved by one distance |
| `addresses` | words that differ by one constant |
| `padding` | bytes that no symbol and no section owns |
| `text` | other strings |
| `code` | functions of the same size with other bytes |
| `configuration-only` | nothing but what a configuration writes |
| `page-order` | the same pages, added in another order |
"""

from __future__ import annotations

from typing import Final

from pipeline.explain.model import LikelyCause
from pipeline.explain.sgx.causes_build import STRINGS, build_id, compiler, epoch, string_rule, text
from pipeline.explain.sgx.causes_layout import (
    Rule,
    aex_notify,
    configuration_only,
    enclave_range,
    enclave_size,
    generation,
    page_flags,
    page_order,
    parameter,
)
from pipeline.explain.sgx.causes_moved import addresses, code, moved, padding, symbol_order
from pipeline.explain.sgx.evidence import Evidence

RULES: Final[tuple[Rule, ...]] = (
    generation,
    parameter(
        ("heap_bytes", "added_not_measured_bytes"),
        "heap-size",
        "the configurations give the heap different sizes",
        "set the heap alike (HeapMaxSize, HeapInitSize, NumHeapPages, sgx.enclave_size, heap)",
    ),
    parameter(
        ("stack_bytes",),
        "stack-size",
        "the configurations give the stacks different sizes",
        "set the stacks alike (StackMaxSize, StackMinSize, NumStackPages, stack)",
    ),
    parameter(
        ("threads",),
        "threads",
        "the configurations give different numbers of threads",
        "set the threads alike (TCSNum, TCSMaxNum, TCSMinPool, NumTCS, sgx.max_threads, threads)",
    ),
    parameter(
        ("reserved_memory_bytes",),
        "reserved-memory",
        "the configurations reserve different amounts of memory",
        "set ReservedMemMaxSize, ReservedMemInitSize and ReservedMemMinSize alike",
    ),
    parameter(
        ("ssa_frame_pages",),
        "ssa-frame",
        "the SSA frames have different sizes: other features (AMX) are allowed, or another SDK decided",
        "compare the XFRM settings (PKRU, AMX) and the SDK generations",
    ),
    enclave_range,
    enclave_size,
    aex_notify,
    configuration_only,
    page_flags,
    *map(string_rule, STRINGS),
    epoch,
    compiler,
    symbol_order,
    moved,
    text,
    code,
    addresses,
    padding,
    build_id,
    page_order,
)


def likely_causes(evidence: Evidence) -> tuple[LikelyCause, ...]:
    """Ask every rule."""
    return tuple(found for rule in RULES if (found := rule(evidence)) is not None)
