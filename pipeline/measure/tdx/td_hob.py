"""The TD HOB: the list of memory that a VMM hands to the firmware, and that the firmware measures first.

    PHIT       56 bytes: version 9, where the list ends
    RESOURCE   48 bytes each: kind, attributes, start, length of a range of memory
    END        8 bytes, not measured

QEMU lists RAM alone, in the order of addresses, cut where sections of the firmware begin and end: memory that
it added is system memory (0), the rest is unaccepted (7). Ranges that touch stay apart. GCE lists all
sections of the firmware in the order of the metadata, the flash included, and then the rest of RAM.

Units: addresses are guest-physical, sizes are bytes.
Source: UEFI PI specification 1.7, volume 3, chapter 5 (HOBs); QEMU, hw/i386/tdvf-hob.c and pc_q35.c. GCE:
    from the event log of a c3 machine of 16 GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.measure.ovmf import PAGE
from pipeline.measure.tdx.tdvf import BadTdvf, Section, SectionKind, Tdvf
from pipeline.measure.tdx.vmm import Vmm
from provenance.errors import UsageError

_PHIT: Final = struct.Struct("<HHIII4QQ")
_RESOURCE: Final = struct.Struct("<HHI16sIIQQ")
_END_BYTES: Final = 8
_FOUR_GIB: Final = 1 << 32
_SYSTEM_MEMORY: Final = 0
_UNACCEPTED: Final = 7
_PRESENT: Final = 7  # present, initialized, tested
_MAX_MEMORY: Final = 1 << 46

Range = tuple[int, int]  # start, end


class MemoryNotPossible(UsageError):
    """A memory size that no trust domain can have with this firmware.

    Memory is whole pages, holds the sections that the firmware wants, and has 64 TiB at most.
    Cure: give the size that the VMM is told, with a unit: `--memory 2GiB`.
    """

    code = "RVP-5204"


def td_hob(tdvf: Tdvf, memory_bytes: int, vmm: Vmm) -> bytes:
    """Write the part of the TD HOB that is measured: all but the END.

    Args:
        tdvf: the metadata of the firmware.
        memory_bytes: of the machine.
        vmm: who writes the list.

    Raises:
        MemoryNotPossible: RVP-5204. BadTdvf: RVP-5201, when the list does not fit into its section.
    """
    place = tdvf.only(SectionKind.TD_HOB)
    if place is None:
        raise BadTdvf("the firmware has no section TD_HOB")
    ram = _ram(memory_bytes, vmm)
    sections = [one for one in tdvf.sections if one.size and one.kind is not SectionKind.TD_INFO]
    in_ram = [one for one in sections if one.kind not in {SectionKind.BFV, SectionKind.CFV}]
    for one in in_ram:
        if not any(start <= one.address and one.address + one.size <= end for start, end in ram):
            raise MemoryNotPossible(
                f"section {one.kind.name} ({one.address:#x}+{one.size:#x}) does not lie in memory of "
                f"{memory_bytes:#x} bytes"
            )
    if vmm.hob_lists_flash:
        resources = [
            _resource(_SYSTEM_MEMORY, vmm.added_attributes, one.address, one.size) for one in sections
        ]
        resources += [
            _resource(_UNACCEPTED, vmm.unaccepted_attributes, start, end - start)
            for start, end, added in _cut(ram, in_ram)
            if not added
        ]
    else:
        resources = [
            _resource(
                _SYSTEM_MEMORY if added else _UNACCEPTED,
                vmm.added_attributes if added else vmm.unaccepted_attributes,
                start,
                end - start,
            )
            for start, end, added in _cut(ram, in_ram)
        ]
    length = _PHIT.size + len(resources) * _RESOURCE.size
    if length + _END_BYTES > place.size:
        raise BadTdvf(f"the TD HOB has {length + _END_BYTES:#x} bytes, its section {place.size:#x}")
    end = place.address + length + (_END_BYTES if vmm.hob_end_included else 0)
    return _PHIT.pack(1, _PHIT.size, 0, 9, 0, 0, 0, 0, 0, end) + b"".join(resources)


def _resource(kind: int, attributes: int, start: int, length: int) -> bytes:
    return _RESOURCE.pack(3, _RESOURCE.size, 0, bytes(16), kind, attributes, start, length)


def _ram(memory_bytes: int, vmm: Vmm) -> tuple[Range, ...]:
    if memory_bytes <= 0 or memory_bytes % PAGE or memory_bytes > _MAX_MEMORY:
        raise MemoryNotPossible(f"{memory_bytes:#x} bytes of memory are not possible")
    low = vmm.low_memory(memory_bytes)
    if memory_bytes <= low:
        return ((0, memory_bytes),)
    return ((0, low), (_FOUR_GIB, _FOUR_GIB + memory_bytes - low))


def _cut(ram: Sequence[Range], sections: Sequence[Section]) -> Iterator[tuple[int, int, bool]]:
    """Cut memory at the sections: start, end, whether the VMM added it."""
    placed = sorted(sections, key=lambda one: one.address)
    for start, end in ram:
        at = start
        for one in placed:
            if not start <= one.address < end:
                continue
            if one.address > at:
                yield at, one.address, False
            at = one.address + one.size
            yield one.address, at, True
        if at < end:
            yield at, end, False
