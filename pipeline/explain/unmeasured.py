"""Two files with the same measurement: what in them differs and is not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.difference.compare import CannotCompare, compare_files
from pipeline.difference.model import Limits
from pipeline.measure.sgx.sigstruct import Sigstruct

_SHOWN: Final = 6
_LIMITS: Final = Limits(time_s=20, diffoscope_s=0, details=_SHOWN)


def file_differences(left: Path, right: Path) -> tuple[str, ...]:
    """Name what differs between two files: sections, symbols; nothing when they are equal."""
    try:
        found = compare_files(left, right, limits=_LIMITS)
    except CannotCompare as error:
        return (error.message,)
    if found is None:
        return ()
    if not found.details:
        return (found.where,)
    return tuple(
        detail.where if detail.where.startswith(detail.kind) else f"{detail.kind} {detail.where}".strip()
        for detail in found.details
    )


def signature_differences(left: Sigstruct | None, right: Sigstruct | None) -> tuple[str, ...]:
    """Name the fields of two SIGSTRUCTs that differ."""
    ones, others = (None if one is None or one.is_empty else one for one in (left, right))
    if ones is None or others is None:
        return () if ones is others else ("one side is signed, the other is not",)
    a, b = ones.claims(), others.claims()
    fields = [f"{name}: {a[name]} and {b.get(name)}" for name in a if a[name] != b.get(name)]
    if ones.date != others.date:
        fields.append(f"date: {ones.date} and {others.date}")
    if not fields and ones.raw != others.raw:
        fields.append("signature, or fields without a name")
    return tuple(fields)
