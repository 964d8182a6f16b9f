"""The machine that a `[[measure]]` describes: what is launched beside its firmware, in every shape.

A build and the signing of it ask the same function, each with its own way from a reference to a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.measure.machine import Machine
from pipeline.measure.snp.id_block import ID_AUTH_BYTES, ID_BLOCK_BYTES, read_binary
from pipeline.spec import Measure, size_bytes

VIRTUAL_MACHINES: Final = frozenset({"tdx", "snp"})
# TEEs that a build can be measured from firmware and the machine around it.
FROM_FIRMWARE: Final = frozenset({"snp"})


def machine_of(measure: Measure, path_of: Callable[[str], Path]) -> Machine | None:
    """Read the machine out of a measure; None when nothing is said of one.

    Args:
        measure: from the spec, checked.
        path_of: gives the file that a reference names.

    Raises:
        SpecError: RVP-11nn, for a size without a unit; and what `path_of` raises.
    """
    if not measure.firmware:
        return None
    memory = (measure.memory,) if isinstance(measure.memory, str) else measure.memory
    return Machine(
        kernel=path_of(measure.kernel) if measure.kernel else None,
        initrd=path_of(measure.initrd) if measure.initrd else None,
        cmdline=measure.cmdline or None,
        vcpus=(measure.vcpus,) if isinstance(measure.vcpus, int) else measure.vcpus,
        memory=tuple(size_bytes(text) for text in memory),
        vmms=_texts(measure.vmm),
        vcpu_types=_texts(measure.vcpu_type),
        host_data=bytes.fromhex(measure.host_data) if measure.host_data else None,
        policy=int(measure.policy, 16) if measure.policy else None,
        id_block=read_binary(path_of(measure.id_block), ID_BLOCK_BYTES) if measure.id_block else None,
        id_auth=read_binary(path_of(measure.id_auth), ID_AUTH_BYTES) if measure.id_auth else None,
        guest_features=tuple(int(text, 16) for text in _texts(measure.guest_features)),
    )


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
