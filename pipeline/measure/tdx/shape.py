"""The shapes of a trust domain: what is the same for all of them, and what each adds.

A shape is a memory size and a number of vCPUs. MRTD depends on neither; RTMR0 on both (TD HOB, ACPI data).
What is captured of a VMM belongs to one shape: for several shapes a folder has one for each, called after
memory and vCPUs (`2GiB-4`), or after the memory (`2GiB`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pipeline.measure.tdx.fw_cfg import FwCfg, read_fw_cfg
from provenance.errors import UsageError

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class ContradictoryShape(UsageError):
    """What was said of a trust domain contradicts itself, its firmware or its VMM.

    The message names both. Cure: `rvp measure tdx --help` lists what belongs together.
    """

    code = "RVP-5203"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One shape; None for what was not said."""

    memory_bytes: int | None = None
    vcpus: int | None = None

    def variant(self) -> dict[str, str | int]:
        """Name it as measurements do."""
        said: dict[str, str | int] = {}
        if self.memory_bytes is not None:
            said["memory"] = memory_text(self.memory_bytes)
        if self.vcpus is not None:
            said["vcpus"] = self.vcpus
        return said


def memory_text(size_bytes: int) -> str:
    """Write a size with its largest whole unit.

    Example:
        >>> memory_text(2 << 30), memory_text(2900 << 20)
        ('2GiB', '2900MiB')
    """
    for unit, factor in _UNITS:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def shapes_of(memory: Sequence[int], vcpus: Sequence[int]) -> Iterator[Shape]:
    """Combine memory sizes and vCPUs."""
    for size in memory or (None,):
        for count in vcpus or (None,):
            yield Shape(memory_bytes=size, vcpus=count)


def captured(folder: Path | None, shape: Shape, *, alone: bool) -> FwCfg | None:
    """Read what was captured of a VMM of one shape.

    Args:
        folder: as given.
        shape: which one.
        alone: whether it is the only one, to which the folder itself may belong.

    Raises:
        ContradictoryShape: RVP-5203, when the folder does not say which shape it belongs to.
        BadFwCfg: RVP-5206.
    """
    if folder is None:
        return None
    memory = "" if shape.memory_bytes is None else memory_text(shape.memory_bytes)
    named = [f"{memory}-{shape.vcpus}"] if shape.vcpus is not None else []
    for name in (*named, *([memory] if memory else [])):
        if (folder / name).is_dir():
            return read_fw_cfg(folder / name)
    if not alone:
        raise ContradictoryShape(
            f"ACPI data belong to one shape, and {folder} has no folder {' or '.join((*named, memory))}",
            hint="give each shape a folder in it, or measure one shape at a time",
        )
    return read_fw_cfg(folder)
