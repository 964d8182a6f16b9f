"""One side is a bare MRENCLAVE: try a declared set of single changes of the other side, within a budget.

A match is a hypothesis: it says which one change gives the value, not that it is what happened. The set is
`sgx_variants` (pages) and `sgx_configurations` (one key of the configuration, laid out again). What was tried
is said, also when the time was over before all of it.

Cost: a change costs the hash of what lies behind it; a change of the enclave's size costs a whole hash.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.explain.model import Hypothesis, Tried
from pipeline.explain.sgx.configurations import ChangedConfiguration, changed_configurations
from pipeline.explain.sgx.recovered import Configured, configured
from pipeline.explain.sgx.side import EnclaveSide
from pipeline.explain.sgx.variants import Variant, page_variants
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.enclave_image import EnclaveImage
from pipeline.measure.sgx.hashing import common_parts, created, write_parts
from provenance.errors import RvpError
from provenance.events import Observer, Phase

_MAX_STATES: Final = 1 << 16
_MOST_RUNS: Final = 1 << 14
NOT_IN_MRENCLAVE: Final = (
    "not in MRENCLAVE, so no change of them is tried: the debug attribute and all ATTRIBUTES, product and "
    "security version, KSS, the signature, CONFIGID; of an SDK enclave section headers and debug sections"
)


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and what was tried."""

    hypotheses: tuple[Hypothesis, ...]
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]


class PrefixHash:
    """MRENCLAVE of enclaves that begin as a known one does: what they have in common is hashed once."""

    def __init__(self, base: EnclaveImage) -> None:
        self.base = base
        hashing = created(base)
        self._states: list[hashlib._Hash] = [hashing.copy()]
        for part in base.parts:
            write_parts((part,), hashing.update)
            if len(self._states) < _MAX_STATES:
                self._states.append(hashing.copy())
        self.value = hashing.digest()

    def mrenclave(self, image: EnclaveImage) -> bytes:
        """Compute MRENCLAVE of another enclave."""
        common = min(common_parts(self.base, image), len(self._states) - 1)
        hashing = self._states[common].copy() if common else created(image)
        write_parts(islice(iter(image.parts), common, None), hashing.update)
        return hashing.digest()


def search(
    side: EnclaveSide,
    target: bytes,
    options: MeasureOptions,
    *,
    changed: Literal["left", "right"],
    budget_s: float,
    clock: Callable[[], float],
    observer: Observer,
) -> Searched:
    """Try the declared set.

    Args:
        side: a file whose pages are at hand.
        target: the MRENCLAVE that is to be explained.
        options: with which the file was laid out.
        changed: "left" or "right": which side the file is.
        budget_s: seconds after which nothing more is tried.
        clock: monotonic seconds.
        observer: hears of each kind of change.
    """
    if side.enclave is None:
        return Searched(hypotheses=(), tried=(), notes=("a log has no content to try changes on",))
    end = clock() + budget_s
    notes: list[str] = []
    counts: dict[str, list[int]] = {}
    found: Hypothesis | None = None
    with tempfile.TemporaryDirectory(prefix="rvp-explain-") as folder:
        for variant in _declared(side, options, Path(folder), notes):
            seen = counts.setdefault(variant.kind, [0, 0])
            seen[1] += 1
            if found is not None or clock() >= end:
                continue
            if seen[0] == 0:
                observer(Phase(what=f"trying {variant.kind}"))
            seen[0] += 1
            if _gives(variant, target):
                found = Hypothesis(change=variant.change, changed=changed)
    tried = tuple(Tried(kind=kind, tried=one, declared=all_) for kind, (one, all_) in counts.items())
    if found is None and any(one.tried < one.declared for one in tried):
        notes.append(f"the time of {budget_s:g} s was over before all was tried; --budget gives more")
    notes.append(NOT_IN_MRENCLAVE)
    return Searched(hypotheses=(found,) if found else (), tried=tried, notes=tuple(notes))


class _Hashed(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    change: str
    value: Callable[[], bytes]


def _gives(variant: _Hashed, target: bytes) -> bool:
    try:
        return variant.value() == target
    except (RvpError, ValueError, OverflowError):  # a configuration that cannot be, tried and done with
        return False


def _declared(
    side: EnclaveSide, options: MeasureOptions, folder: Path, notes: list[str]
) -> Iterator[_Hashed]:
    """Give all changes: of each kind one, then of each the next, so that a small budget sees all kinds."""
    kinds: list[Iterator[_Hashed]] = []
    base = configured(side, options, folder)
    if base is None:
        notes.append("no configuration is at hand: only changes of pages were tried (--config gives one)")
    else:
        found = _settled(base, side.side.value, notes)
        if found is not None:
            kinds += _configurations(*found)
    if side.enclave is not None and len(side.runs) <= _MOST_RUNS:
        kinds += _pages(side.enclave.image)
    elif side.enclave is not None:
        notes.append(f"no change of pages was tried: the enclave has {len(side.runs)} runs of them")
    while kinds:
        for kind in tuple(kinds):
            one = next(kind, None)
            if one is None:
                kinds.remove(kind)
            else:
                yield one


def _pages(image: EnclaveImage) -> Iterator[Iterator[_Hashed]]:
    prefixes: list[PrefixHash] = []

    def value(variant: Variant) -> bytes:
        if not prefixes:
            prefixes.append(PrefixHash(image))
        return prefixes[0].mrenclave(msgspec.structs.replace(variant.make(), is_file=False))

    def hashed(variants: Iterator[Variant]) -> Iterator[_Hashed]:
        for one in variants:
            yield _Hashed(kind=one.kind, change=one.change, value=partial(value, one))

    yield from map(hashed, page_variants(image))


def _settled(base: Configured, value: str, notes: list[str]) -> tuple[Configured, PrefixHash] | None:
    """Find the configuration that gives the file's own value again."""
    reason = "laid out again as its layout shows, the enclave has another MRENCLAVE"
    for generation, config in base.candidates():
        try:
            hashed = PrefixHash(base.lay_out(config, generation))
        except RvpError as error:
            reason = error.message
            continue
        if hashed.value.hex() == value:
            return msgspec.structs.replace(base, config=config, generation=generation), hashed
    notes.append(f"no change of the configuration was tried: {reason} (--config gives another one)")
    return None


def _configurations(base: Configured, hashed: PrefixHash) -> Iterator[Iterator[_Hashed]]:
    def value(config: bytes, generation: str) -> bytes:
        return hashed.mrenclave(base.lay_out(config, generation))

    def generations() -> Iterator[_Hashed]:
        for generation in base.generations:
            if generation != base.generation:
                yield _Hashed(
                    kind=f"generation of {base.tool}",
                    change=f"{base.tool} {generation} instead of {base.generation or 'the one of the file'}",
                    value=partial(value, base.config, generation),
                )

    def changed(configurations: Iterator[ChangedConfiguration]) -> Iterator[_Hashed]:
        for one in configurations:
            yield _Hashed(kind=one.kind, change=one.change, value=partial(value, one.config, base.generation))

    yield from map(changed, changed_configurations(base.config))
    yield generations()
