"""One operand of an explanation: an enclave in a file, its log, or nothing but MRENCLAVE.

Whatever it came from, a side gives runs (`walk.Run`), parameters by name, and places in words.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pipeline.explain.model import Side
from pipeline.explain.walk import Bytes, Run
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import CHUNK, PAGE, SECINFO_TCS, Chunks, EnclaveImage
from pipeline.measure.sgx.labels import Labels, Place
from pipeline.measure.sgx.log import ADDED, EXTENDED, MEASURED, REPEAT
from pipeline.measure.sgx.sigstruct import Sigstruct
from provenance.measurement_log import MeasurementLog

_SEGMENT: Final = re.compile(r"segment \d+ [-rwx]+")
_NUMBER: Final = re.compile(r" \d+$")
# Intel SDM vol. 3D, "Thread Control Structure (TCS)"
_TCS_FIELDS: Final = (
    (0, "STAGE"),
    (8, "FLAGS (AEX-notify, debug)"),
    (16, "OSSA (where the SSA frames are)"),
    (24, "CSSA"),
    (28, "NSSA (number of SSA frames)"),
    (32, "OENTRY (entry point)"),
    (40, "AEP"),
    (48, "OFSBASE (FS base: thread data)"),
    (56, "OGSBASE (GS base: thread data)"),
    (64, "FSLIMIT"),
    (68, "GSLIMIT"),
    (72, "reserved"),
)
# System V ABI, "ELF Header" and "Program Header"
_EHDR_BYTES, _PHDR_BYTES = 64, 56
_EHDR_FIELDS: Final = (
    (0, "identification"),
    (16, "type"),
    (18, "machine"),
    (20, "version"),
    (24, "entry point"),
    (32, "where the program headers are"),
    (40, "where the section headers are"),
    (48, "flags and sizes of headers"),
)
_PHDR_FIELDS: Final = (
    (0, "kind"),
    (4, "permissions"),
    (8, "offset in the file"),
    (16, "address"),
    (24, "physical address"),
    (32, "size in the file"),
    (40, "size in memory"),
    (48, "alignment"),
)
# the first words of g_global_data: of Intel's SDK, and of freestanding enclaves (marker rvpencl1)
_GLOBAL_DATA: Final = {
    False: (
        (0, "SDK version"),
        (8, "enclave size"),
        (16, "heap offset"),
        (24, "heap size"),
        (32, "reserved memory: offset"),
        (40, "reserved memory: size"),
        (48, "reserved memory, thread policy, thread numbers, thread template or layout table"),
    ),
    True: (
        (0, "marker"),
        (8, "enclave size"),
        (16, "heap offset"),
        (24, "heap size"),
        (32, "stack size of a thread"),
        (40, "number of threads"),
        (48, "reserved"),
    ),
}


class EnclaveSide:
    """A side whose pages are known, with their content (a file) or by their digests (a log)."""

    def __init__(
        self,
        side: Side,
        *,
        enclave: Enclave | None = None,
        log: MeasurementLog | None = None,
        signed: Sigstruct | None = None,
        path: Path | None = None,
        symbols_from: Elf | None = None,
    ) -> None:
        self.side = side
        self.enclave = enclave
        self.log = log
        self.signed = signed
        self.path = path
        self.labels = Labels(enclave.elves if enclave else (), symbols_from=symbols_from)
        self.runs: tuple[Run, ...] = tuple(
            runs_of_image(enclave.image) if enclave else runs_of_log(log) if log else ()
        )
        by_address = sorted(self.runs, key=lambda run: run.address)
        self._by_address = tuple(run for run in by_address if run.op != EXTENDED) or tuple(by_address)
        self._starts = [run.address for run in self._by_address]

    @property
    def has_content(self) -> bool:
        """Tell whether the bytes are at hand."""
        return self.enclave is not None

    @property
    def frame(self) -> tuple[int, int]:
        """SECS.SIZE and SSAFRAMESIZE."""
        if self.enclave is not None:
            return self.enclave.image.size_bytes, self.enclave.image.ssa_frame_size
        if self.log is not None and self.log.events:
            return self.log.events[0].length, self.log.events[0].flags
        return 0, 0

    def run_at(self, address: int) -> Run | None:
        """Find the run that covers an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._by_address[index].end:
            return self._by_address[index]
        return None

    def read(self, address: int, size: int) -> bytes:
        """Read measured content; what is not measured reads as nothing, and ends the read."""
        found = b""
        while size > 0 and (run := self.run_at(address)) is not None and run.content:
            inside = (address - run.address) % run.unit if run.is_filled else address - run.address
            piece = bytes(run.content[inside : inside + size])[: run.end - address]
            if not piece:
                break
            found += piece
            address, size = address + len(piece), size - len(piece)
        return found

    def place(self, address: int) -> Place:
        """Name section and symbol of an address."""
        return self.labels.place(address)

    def words(self, address: int, run: Run | None = None) -> str:
        """Say what an address belongs to: symbol, field, section, segment, stack, heap."""
        run = run or self.run_at(address)
        label = run.label if run else ""
        inside = address - run.address if run else 0
        if run and is_tcs(run):
            return f"{label or 'TCS'}: {field_name(_TCS_FIELDS, inside % PAGE)}"
        place = self.place(address)
        said = place.words()
        if place.symbol == "g_global_data":
            said += f" ({self._global_data_field(address, place)})"
        if place.section == ".oeinfo":
            said += " (properties of Open Enclave: heap, stacks, threads, identity)"
        if said:
            segment = _SEGMENT.match(label)
            return f"{said}, {segment[0] if segment else label}".rstrip(", ")
        header = self._header_field(address)
        if header:
            return f"{header}, {label}".rstrip(", ")
        if label and run and run.count > 1:
            return f"{label}, page {inside // run.unit + 1} of {run.count}"
        return label

    def _header_field(self, address: int) -> str:
        """Name the field of an ELF header, where its segment holds the file's beginning."""
        for one in self.enclave.elves if self.enclave else ():
            for load in one.elf.loads:
                inside = address - one.base - load.address + load.offset
                table = one.elf.phoff, one.elf.phoff + one.elf.phnum * _PHDR_BYTES
                if not 0 <= inside - load.offset < load.file_size:
                    continue
                if inside < _EHDR_BYTES:
                    return f"ELF header: {field_name(_EHDR_FIELDS, inside)}"
                if table[0] <= inside < table[1]:
                    number, at = divmod(inside - table[0], _PHDR_BYTES)
                    return f"program header {number}: {field_name(_PHDR_FIELDS, at)}"
        return ""

    def _global_data_field(self, address: int, place: Place) -> str:
        start = address - place.symbol_offset
        freestanding = self.read(start, 8) == b"rvpencl1"
        return field_name(_GLOBAL_DATA[freestanding], place.symbol_offset)


def field_name(fields: tuple[tuple[int, str], ...], offset: int) -> str:
    """Name the field of a structure that an offset lies in."""
    return next(name for start, name in reversed(fields) if offset >= start)


def is_tcs(run: Run) -> bool:
    """Tell a TCS page."""
    return run.flags >> 8 & 0xFF == SECINFO_TCS >> 8 and run.op in {ADDED, MEASURED}


def runs_of_image(image: EnclaveImage) -> Iterator[Run]:
    """Give the runs of an enclave whose pages are at hand."""
    for part in image.parts:
        if isinstance(part, Chunks):
            count = len(part.content) // CHUNK
            yield Run(
                op=EXTENDED,
                address=part.address,
                count=count,
                unit=CHUNK,
                content=part.content,
                label=part.label,
            )
        else:
            yield Run(
                op=MEASURED if part.is_measured else ADDED,
                address=part.address,
                count=part.count,
                unit=PAGE,
                flags=part.flags,
                content=part.content,
                label=part.label,
            )


def runs_of_log(log: MeasurementLog) -> Iterator[Run]:
    """Give the runs of a log: their digests, no content."""
    for event in log.events[1:]:
        if event.op == REPEAT:
            digest = f"{event.content}:{event.count}:{event.length}"
            yield Run(
                op=REPEAT,
                address=event.address,
                count=1,
                unit=event.length * event.count,
                flags=event.flags,
                digest=digest,
                label=event.label,
            )
        else:
            yield Run(
                op=event.op,
                address=event.address,
                count=event.count,
                unit=event.length,
                flags=event.flags,
                digest=event.content,
                label=event.label,
            )


def key_of(run: Run) -> str:
    """Return what a run belongs to, so that both sides can be laid over each other: segment, stack, TCS."""
    segment = _SEGMENT.match(run.label)
    return segment[0].rsplit(" ", 1)[0] if segment else run.label


def stem_of(label: str) -> str:
    """Return a label without the thread's number.

    Example:
        >>> stem_of("stack 12"), stem_of("heap"), stem_of("segment 1")
        ('stack', 'heap', 'segment 1')
    """
    return label if label.startswith("segment") else _NUMBER.sub("", label)


Order = Literal["bytes", "number", "text"]


def parameters(side: EnclaveSide) -> dict[str, str | int]:
    """Collect the parameters of a layout: what its pages show, then what its configuration says."""
    size, ssa = side.frame
    found: dict[str, str | int] = {
        "layout": side.side.what,
        "enclave_size_bytes": size,
        "ssa_frame_pages": ssa,
    }
    threads = sum(run.count for run in side.runs if is_tcs(run))
    threads += sum(_threads_of_repeat(side.log) if side.log else ())
    found["threads"] = threads
    sums: dict[str, int] = {}
    for run in side.runs:
        stem = stem_of(run.label)
        of_first = stem == run.label or run.label.endswith(" 0")
        group = next((one for one in ("heap", "stack", "reserved memory") if stem.startswith(one)), "")
        if group and of_first:
            sums[group] = sums.get(group, 0) + run.count * run.unit
    if side.runs and any(run.label for run in side.runs):
        sums = {"heap": 0, "stack": 0, "reserved memory": 0} | sums
    for group, total in sums.items():
        found[f"{group.replace(' ', '_')}_bytes"] = total
    if "heap" not in sums:
        found["added_not_measured_bytes"] = sum(run.count * run.unit for run in side.runs if run.op == ADDED)
    facts = side.enclave.facts if side.enclave else {}
    known = {"enclave_size"} | set(found)
    return found | {name: value for name, value in facts.items() if name not in known}


def _threads_of_repeat(log: MeasurementLog) -> Iterator[int]:
    for index, event in enumerate(log.events):
        if event.op == REPEAT:
            block = log.events[max(index - event.flags, 0) : index]
            yield event.count * sum(one.flags == SECINFO_TCS for one in block)


def shown(name: str, value: str | int | None) -> str:
    """Write a parameter for people: sizes with their unit.

    Example:
        >>> shown("heap_bytes", 0x100000), shown("threads", 3)
        ('0x100000 (1 MiB)', '3')
    """
    if value is None:
        return ""
    if isinstance(value, str) or not name.endswith(("bytes", "size")):
        return str(value)
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value and value % (1 << power) == 0:
            return f"{value:#x} ({value >> power} {unit})"
    return f"{value:#x}"


def content_page(run: Run, index: int) -> Bytes:
    """Return one unit of a run."""
    return run.content_at(index)
