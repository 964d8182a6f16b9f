"""Unified kernel images: PCR 4, 9 and 11 of each bank, and RTMR1 and RTMR2 of a TD that boots the same file.

A UKI is a PE file: systemd-stub, with kernel, command line, initrd and more in sections. The firmware
measures the whole file (PCR 4), the stub each section (PCR 11: its name with a NUL, then its content), the
kernel its load options and its initrd (PCR 9). Which sections, and how the kernel starts, depends on the
stub's generation; see `stub_generation`.

Two ways to boot are told apart (variant `boot`): `disk`, by the boot manager; `direct`, by QEMU's `-kernel`.
PCR 11 goes on in userspace: systemd-pcrphase extends it with a word at each phase. There is one measurement
for each phase (variant `phase`); the other measurements hold before the first.

Assumed, and told in the reference page: the first boot option that is tried is this file, nothing beside it
is loaded (no addons, credentials, extensions), the firmware hands over no command line of its own.

Source: systemd `src/boot/stub.c`, `cpio.c`, `man/systemd-stub.xml`, `systemd-measure`; UAPI.5 (UKI).
Compared with live boots (252) and with systemd-measure of 252, 254 and 257.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.measure.boot.bzimage import read_header
from pipeline.measure.boot.direct_boot import (
    application,
    calling,
    exits,
    measured_pcrs,
    separator,
    stub_events,
    stub_measures,
)
from pipeline.measure.boot.pe import Pe, Section
from pipeline.measure.boot.register import BANKS, BootEvent, check_banks, event, log_of
from pipeline.measure.boot.stub_generation import StubGeneration, UnknownStub, generation, version_of
from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.sgx.elf import map_file
from provenance.claims import Measurement, Unpredicted
from provenance.errors import UsageError
from provenance.measurement_log import MeasurementLog

Boot = Literal["disk", "direct"]
PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready")
_CHOSEN_BY_HARDWARE: Final = (".dtbauto", ".efifw")
_MAX_CMDLINE_BYTES: Final = 1 << 20
_MAX_PACKED_BYTES: Final = 1 << 24
_BMP_END: Final = 0x10000
_FIRMWARES: Final = (("202302", False), ("202411", True))  # EDK II: where the separator of RTMR1 is


class BadUki(UsageError):
    """A PE file is not a UKI, or its sections are not what systemd-stub can start.

    The message names the section. Cure: make the file with ukify, or with objcopy as the manual of
    systemd-stub shows; a section's VirtualSize is the size of its content.
    """

    code = "RVP-5423"


class Uki(msgspec.Struct, frozen=True, kw_only=True):
    """A UKI: its file, its sections by name (of the first profile), its stub's generation.

    Attributes:
        pe: the whole file.
        sections: content by name.
        stub: the generation.
        version: of the stub, as the file says it.
    """

    pe: Pe
    sections: dict[str, memoryview]
    stub: StubGeneration
    version: str


def looks_like_uki(data: bytes | memoryview) -> bool:
    """Tell whether a PE file has a kernel in it."""
    names = {one.name for one in Pe(data).sections}
    return ".linux" in names


def read_uki(data: bytes | memoryview, *, stub: str = "", profile: int = 0, name: str = "") -> Uki:
    """Read a UKI.

    Args:
        data: the file.
        stub: version of the stub; empty: what the file says.
        profile: which one, of a file with several.
        name: of the file, for messages.

    Raises:
        BadPe: RVP-5420. BadUki: RVP-5423. UnknownStub: RVP-5424.
    """
    pe = Pe(data, name=name)
    magic = pe.section(".sdmagic")
    said = "" if magic is None else version_of(pe.content(magic))
    if not stub and not said:
        raise UnknownStub(
            "the file does not say its version of systemd-stub (no section .sdmagic)",
            place=name,
            hint="say it: --generation 257",
        )
    found = generation(stub or said, place=name)
    sections = {
        key: pe.content(one)
        for key, one in _of_profile(pe, found, profile, name).items()
        if found.measures_empty or one.virtual_size
    }
    if not sections.get(".linux"):
        raise BadUki("there is no section .linux with a kernel in it", place=name, hint="take the UKI")
    return Uki(pe=pe, sections=sections, stub=found, version=stub or said)


def _of_profile(pe: Pe, stub: StubGeneration, profile: int, name: str) -> dict[str, Section]:
    """Find the sections that the stub looks at: the common ones, then those of a profile."""
    known = {*stub.sections, ".pcrsig", *stub.first_initrds}
    groups: list[dict[str, Section]] = [{}]
    for one in pe.sections:
        if one.name == ".profile" and stub.has_profiles:
            groups.append({})
        if one.name not in known:
            if stub.by_prefix and one.name.startswith(tuple(known)):
                raise BadUki(f"section {one.name} counts as another one for this stub", place=name)
            continue
        if one.name in groups[-1] and one.name not in _CHOSEN_BY_HARDWARE:
            raise BadUki(f"section {one.name} is there twice", place=name)
        if one.virtual_size > one.raw_size:
            raise BadUki(
                f"section {one.name}: VirtualSize is {one.virtual_size}, of {one.raw_size} bytes of data",
                place=name,
            )
        groups[-1][one.name] = one
    _refuse_overlaps(pe, known, name)
    if profile and profile >= len(groups) - 1:
        raise BadUki(f"there is no profile {profile}; the file has {len(groups) - 1}", place=name)
    return groups[0] | (groups[profile + 1] if len(groups) > 1 else {})


def _refuse_overlaps(pe: Pe, known: set[str], name: str) -> None:
    """Refuse sections that lie over each other in memory: what the stub measures is not what the file has."""
    loaded = sorted((one for one in pe.sections if one.virtual_size), key=lambda one: one.address)
    for before, after in itertools.pairwise(loaded):
        if before.address + before.virtual_size > after.address and {before.name, after.name} & known:
            raise BadUki(
                f"sections {before.name} and {after.name} overlap in memory at {after.address:#x}",
                place=name,
                hint="give each section its own --change-section-vma",
            )


def pcr11_events(uki: Uki, banks: Sequence[str]) -> tuple[BootEvent, ...]:
    """Make the events of the stub: two for each section."""
    made = []
    for name in uki.stub.sections:
        content = uki.sections.get(name)
        if content is None:
            continue
        made.append(event("EV_IPL", f"{name}: name", name.encode() + b"\0", banks=banks))
        made.append(event("EV_IPL", f"{name}: content", content, banks=banks))
    return tuple(made)


def phase_events(phases: Sequence[str], banks: Sequence[str]) -> tuple[BootEvent, ...]:
    """Make the events of systemd-pcrphase: each word without a NUL."""
    return tuple(event("EV_EVENT_TAG", f"phase {one}", one.encode(), banks=banks) for one in phases)


def kernel_options(uki: Uki, *, name: str = "") -> bytes:
    """Write the load options that the stub gives to the kernel: UTF-16 with a NUL, empty without one.

    Raises:
        BadUki: RVP-5423.
    """
    content = uki.sections.get(".cmdline")
    if not content:
        return b""
    if len(content) > _MAX_CMDLINE_BYTES:
        raise BadUki(f"section .cmdline has {len(content)} bytes", place=name)
    try:
        text = bytes(content).split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise BadUki(f"section .cmdline is not UTF-8 (byte {error.start})", place=name) from error
    text = "".join(one for one in text if ord(one) < _BMP_END)
    if uki.stub.chops_start:
        text = "".join(" " if one <= " " or one == "\x7f" else one for one in text).strip(" ")
    else:
        text = "".join(max(one, " ") for one in text).rstrip(" ")
    return (text + "\0").encode("utf-16-le")


def kernel_initrd(uki: Uki, *, name: str = "") -> tuple[bytes | memoryview, ...]:
    """Give the initrd that the stub gives to the kernel, as parts in order.

    Sections that userspace wants to see are packed into cpio archives after it. Each part is padded to 4
    bytes when there is more than one.

    Raises:
        BadUki: RVP-5423.
    """
    parts: list[bytes | memoryview] = [
        uki.sections[one] for one in (*uki.stub.first_initrds, ".initrd") if one in uki.sections
    ]
    for section, file in uki.stub.packed:
        content = uki.sections.get(section)
        if content is None:
            continue
        if len(content) > _MAX_PACKED_BYTES:
            raise BadUki(f"section {section} has {len(content)} bytes", place=name)
        parts.append(_archive(file, bytes(content)))
    if len(parts) <= 1:
        return tuple(parts)
    padded: list[bytes | memoryview] = []
    for one in parts:
        padded += [one, bytes(-len(one) % 4)]
    return tuple(padded)


def _archive(file: str, content: bytes) -> bytes:
    """Write the cpio archive (newc) that the stub makes of one section."""

    def record(inode: int, mode: int, name: str, data: bytes = b"") -> bytes:
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(f"{one:08x}".encode() for one in fields) + name.encode() + b"\0"
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    trailer = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"
    return record(1, 0o40555, ".extra") + record(2, 0o100444, f".extra/{file}", content) + trailer


def uki_events(
    uki: Uki,
    *,
    boot: Boot = "disk",
    banks: Sequence[str] = BANKS,
    separator_in_rtmr1: bool = True,
    gpt: BootEvent | None = None,
    inner_kernel: bool | None = None,
    name: str = "",
) -> dict[str, tuple[BootEvent, ...]]:
    """Give the events of each register, in order.

    Args:
        uki: the file.
        boot: from a disk by the boot manager, or by QEMU's `-kernel`.
        banks: which digests; RTMRs need `sha384`.
        separator_in_rtmr1: EDK II 202411 on.
        gpt: the event of the partition table, for RTMR1 and PCR 5 of a disk.
        inner_kernel: whether firmware measures the kernel a second time; None: as the generation does.
        name: of the file, for messages.

    Returns:
        pcr4, pcr9, pcr11, rtmr2; pcr5 and rtmr1 when they are known: booted directly, or with `gpt`.

    Raises:
        BadPe: RVP-5420. BadKernel: RVP-5421. BadUki: RVP-5423. UnknownBank: RVP-5429.

    Cost: two passes over the file for each bank.
    """
    check_banks(banks)
    kernel = uki.sections[".linux"]
    whole = (application("UKI", uki.pe, banks),)
    inner: tuple[BootEvent, ...] = ()
    if uki.stub.loads_image if inner_kernel is None else inner_kernel:
        inner = (application("kernel in .linux", Pe(kernel, name=f"{name}:.linux"), banks),)
    begin, end = (calling(banks),), (separator(banks),)
    of_kernel = stub_events(kernel_options(uki, name=name), kernel_initrd(uki, name=name), banks)
    header = read_header(kernel, name=f"{name}:.linux")
    sections = pcr11_events(uki, banks)
    between = end if separator_in_rtmr1 else ()
    table = () if gpt is None else (gpt,)
    last = exits(banks)
    events = {
        "pcr4": (*begin, *end, *whole, *inner) if boot == "disk" else (*whole, *begin, *end, *inner),
        "pcr9": of_kernel if stub_measures(header, td=False) else (),
        "pcr11": sections,
        "rtmr2": (
            *(sections if uki.stub.measures_in_a_td else ()),
            *(of_kernel if stub_measures(header, td=True) else ()),
        ),
    }
    if boot == "direct" or gpt is not None:
        events["pcr5"] = (*end, *table, *last)
        events["rtmr1"] = (
            (*whole, *begin, *between, *inner, *last)
            if boot == "direct"
            else (*begin, *between, *table, *whole, *inner, *last)
        )
    return events


def unpredicted_events(uki: Uki, *, name: str = "") -> tuple[Unpredicted, ...]:
    """Name what depends on the machine that boots the file."""
    found = [
        Unpredicted(
            register="pcr11", event=f"{one}: content", reason="the hardware chooses which one is taken"
        )
        for one in _CHOSEN_BY_HARDWARE
        if one in uki.stub.sections and one in uki.sections
    ]
    text = kernel_options(uki, name=name).decode("utf-16-le").rstrip("\0")
    has_console = any(one.startswith("console=") for one in text.split(" "))
    if uki.stub.appends_console and not has_console:
        found.append(
            Unpredicted(
                register="pcr9",
                event="LOADED_IMAGE::LoadOptions",
                reason="this stub appends console= for the hardware it finds when the command line has none",
            )
        )
    if uki.stub.adds_secret:
        found.append(
            Unpredicted(
                register="pcr9",
                event="Linux initrd",
                reason="this stub adds a secret of the machine to the initrd, where it has one",
            )
        )
    return tuple(found)


def measure_uki(path: Path, options: MeasureOptions) -> Measured:
    """Measure a UKI: PCRs of each bank, both ways to boot, all phases; RTMRs of a TD that boots it directly.

    Raises:
        NotReadable: RVP-1010. BadPe: RVP-5420. BadKernel: RVP-5421. BadUki: RVP-5423. UnknownStub: RVP-5424.
    """
    data = map_file(path)
    name = options.name or path.name
    uki = read_uki(data, stub=options.generation, name=str(path))
    subject = subject_of(data, name)
    open_events = unpredicted_events(uki, name=str(path))
    opened = {one.register for one in open_events}
    measurements: list[Measurement] = []
    logs: list[MeasurementLog] = []
    direct: dict[str, tuple[BootEvent, ...]] = {}
    for boot in ("disk", "direct"):
        direct = uki_events(uki, boot=boot, name=str(path))
        pcrs: dict[str, tuple[BootEvent, ...]] = {
            key: direct[key]
            for key in ("pcr4", "pcr5", "pcr9", "pcr11")
            if key in direct and key not in opened
        }
        made = measured_pcrs(subject, pcrs, {"boot": boot}, BANKS, open_events)
        measurements += made.measurements
        logs += made.logs
    if "pcr11" not in opened:
        for count in range(1, len(PHASES) + 1):
            pcr = {"pcr11": (*direct["pcr11"], *phase_events(PHASES[:count], BANKS))}
            made = measured_pcrs(subject, pcr, {"phase": ":".join(PHASES[:count])}, BANKS)
            measurements += made.measurements
            logs += made.logs
    if not opened:
        measurements += [
            _td(uki, subject_name=name, firmware=firmware, place=str(path), logs=logs, data=data)
            for firmware in _FIRMWARES
        ]
    return Measured(measurements=tuple(measurements), logs=tuple(logs))


def _td(
    uki: Uki,
    *,
    subject_name: str,
    firmware: tuple[str, bool],
    place: str,
    logs: list[MeasurementLog],
    data: memoryview,
) -> Measurement:
    """Measure RTMR1 and RTMR2 of a TD that boots the file directly with one generation of EDK II."""
    events = uki_events(uki, boot="direct", banks=("sha384",), separator_in_rtmr1=firmware[1], name=place)
    made = [log_of("tdx", register, events[register], "sha384") for register in ("rtmr1", "rtmr2")]
    logs += made
    return Measurement(
        tee="tdx",
        subject=subject_of(data, subject_name),
        variant={"boot": "direct", "firmware_generation": firmware[0]},
        claims={one.register: one.value for one in made},
    )
