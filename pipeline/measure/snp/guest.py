"""A guest of SEV-SNP: which pages the host adds, in which order, for every shape of the machine.

    firmware (ends at 4 GiB) | SVSM, if there is one | sections of the metadata | a VMSA for each vCPU

The firmware is the same for all shapes, the sections for all of a VMM, the boot processor for all counts of
vCPUs: each is folded once, and a shape begins where the others are.

Source: QEMU, target/i386/sev.c, sev_snp_launch_finish; COCONUT-SVSM's QEMU for the SVSM; the table in
save_area.py for other VMMs.
Cost: firmware once, and a page of hash for each type of vCPU; 112 bytes of hash for each vCPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from pipeline.measure.ovmf import PAGE, SEV_ES_RESET, SEV_HASH_TABLE, SVSM_INFO, BadFirmware, Firmware
from pipeline.measure.snp.cpu_signature import signature_of
from pipeline.measure.snp.kernel_hashes import PADDED_LENGTH, KernelHashes
from pipeline.measure.snp.launch_digest import START, VMSA_GPA, Pages, PageType, fold, pages_of
from pipeline.measure.snp.save_area import BSP_EIP, svsm_page, vcpu_page, vmm_of
from pipeline.measure.snp.sections import Section, SectionType, read_sections
from provenance.errors import UsageError

MAX_VCPUS: Final = 4096  # KVM_MAX_VCPUS


class KernelHashesUnsupported(UsageError):
    """A kernel is to be measured, but the firmware has no page for kernel hashes: it would start any kernel.

    Such firmware measures nothing of the kernel, initrd and command line; a value that says so would be a
    lie.
    Cure: build AmdSevX64 of edk2 202402 or newer, or leave --kernel out to measure the firmware alone.
    """

    code = "RVP-5303"


class BadShape(UsageError):
    """A shape of a machine is impossible, or not enough is said of it.

    The message has the value. Cure: `rvp measure snp --help`.
    """

    code = "RVP-5306"


class NoResetAddress(UsageError):
    """The firmware does not say where other processors than the first start, or where an SVSM starts.

    Cure: measure one vCPU, or take firmware with a SEV-ES reset block (SVSM info, for an SVSM).
    """

    code = "RVP-5308"


class Shape(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One shape of the machine, as the variant of its measurement names it."""

    vmm: str
    vcpu_type: str
    guest_features: int
    vcpus: int

    def variant(self) -> dict[str, str | int]:
        """Name the shape; where RDX is the same for all models, no model is named."""
        found: dict[str, str | int] = {"vmm": self.vmm, "vcpus": self.vcpus}
        if vmm_of(self.vmm).rdx is None:
            found["vcpu_type"] = self.vcpu_type
        return found | {"guest_features": f"{self.guest_features:#x}"}


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for every shape.

    Attributes:
        firmware: OVMF.
        hashes: of a kernel that the host loads.
        svsm: runs below the firmware; its metadata are used instead.
        variables_bytes: size of the variable store between SVSM and firmware.
        sections: of the SVSM, or of the firmware.
    """

    firmware: Firmware
    hashes: KernelHashes | None = None
    svsm: Firmware | None = None
    variables_bytes: int = 0
    sections: tuple[Section, ...] = ()

    @property
    def svsm_gpa(self) -> int:
        """Where the SVSM is mapped: it ends where the variable store begins."""
        return self.firmware.gpa - self.variables_bytes - (len(self.svsm.data) if self.svsm else 0)


def make_guest(
    firmware: Firmware,
    *,
    hashes: KernelHashes | None = None,
    svsm: Firmware | None = None,
    variables_bytes: int = 0,
) -> Guest:
    """Check that the parts of a guest fit together.

    Raises:
        BadFirmware: RVP-5300. NoSevMetadata: RVP-5301. BadSevMetadata: RVP-5302.
        KernelHashesUnsupported: RVP-5303. BadShape: RVP-5306.
    """
    if variables_bytes % PAGE or not 0 <= variables_bytes <= firmware.gpa - (1 << 31):
        raise BadShape(f"a variable store of {variables_bytes:#x} bytes is not possible")
    guest = Guest(firmware=firmware, hashes=hashes, svsm=svsm, variables_bytes=variables_bytes)
    sections = read_sections(svsm or firmware, below=guest.svsm_gpa)
    guest = msgspec.structs.replace(guest, sections=sections)
    for one in (firmware, svsm):
        if one is not None and len(one.data) % PAGE:
            raise BadFirmware(
                f"the file has {len(one.data):#x} bytes, which is no multiple of 0x1000", place=one.name
            )
    if hashes is not None:
        _check_hash_page(guest)
    return guest


def _check_hash_page(guest: Guest) -> None:
    place = (guest.svsm or guest.firmware).name
    if guest.svsm is not None or not any(one.type is SectionType.KERNEL_HASHES for one in guest.sections):
        raise KernelHashesUnsupported(
            "a kernel was given, but the SEV metadata have no section for kernel hashes",
            place=place,
            hint="AmdSevX64 of edk2 202402 or newer has one; without --kernel the firmware alone is measured",
        )
    gpa = guest.firmware.number(SEV_HASH_TABLE)
    if not gpa:
        raise KernelHashesUnsupported(
            "a kernel was given, but the firmware does not say where its hash table lies",
            place=place,
            hint="AmdSevX64 of edk2 202402 or newer does",
        )
    if gpa % PAGE + PADDED_LENGTH > PAGE:
        raise BadFirmware(
            f"SEV hash table: {PADDED_LENGTH} bytes at {gpa:#x} do not lie in one page", place=place
        )


def runs_before_vcpus(guest: Guest, vmm: str) -> Iterator[Pages]:
    """List all pages that do not depend on the vCPUs."""
    yield from _images(guest)
    yield from _section_runs(guest, vmm)


def _images(guest: Guest) -> Iterator[Pages]:
    yield pages_of(guest.firmware.data, guest.firmware.gpa, "firmware")
    if guest.svsm is not None:
        yield pages_of(guest.svsm.data, guest.svsm_gpa, "SVSM")


def _section_runs(guest: Guest, vmm: str) -> Iterator[Pages]:
    how = vmm_of(vmm)
    sections = list(guest.sections)
    if how.cpuid_last:
        sections.sort(key=lambda one: one.type is SectionType.CPUID)
    types = {
        SectionType.SEC_MEM: how.sec_mem,
        SectionType.SECRETS: PageType.SECRETS,
        SectionType.CPUID: PageType.CPUID,
        SectionType.SVSM_CAA: PageType.ZERO,
        SectionType.KERNEL_HASHES: PageType.ZERO,
    }
    for one in sections:
        label = f"section {one.type.name}"
        if one.type is SectionType.KERNEL_HASHES and guest.hashes is not None:
            page = guest.hashes.page(guest.firmware.number(SEV_HASH_TABLE) or 0)
            yield Pages(type=PageType.NORMAL, gpa=one.gpa, content=page, label=label)
        else:
            yield Pages(type=types[one.type], gpa=one.gpa, label=label, count=one.size_bytes // PAGE)


def vcpu_runs(guest: Guest, shape: Shape) -> tuple[Pages, ...]:
    """List the VMSAs: of the first vCPU, and of the others if there are any.

    Raises:
        NoResetAddress: RVP-5308. UnknownCpu: RVP-5304. UnknownVmm: RVP-5305. BadShape: RVP-5306.
    """
    if not 1 <= shape.vcpus <= MAX_VCPUS:
        raise BadShape(f"{shape.vcpus} vCPUs: 1 to {MAX_VCPUS} are possible")
    if not 0 <= shape.guest_features < 1 << 64:
        raise BadShape(f"guest features {shape.guest_features:#x} do not fit into 64 bits")
    first, others = _vcpu_pages(guest, shape)
    runs = [Pages(type=PageType.VMSA, gpa=VMSA_GPA, content=first, label="VMSA of vCPU 0", stride=0)]
    if shape.vcpus > 1:
        label = "VMSA of vCPU 1" if shape.vcpus == 2 else f"VMSAs of vCPUs 1 to {shape.vcpus - 1}"
        runs.append(
            Pages(
                type=PageType.VMSA,
                gpa=VMSA_GPA,
                content=others,
                label=label,
                count=shape.vcpus - 1,
                stride=0,
            )
        )
    return tuple(runs)


def _vcpu_pages(guest: Guest, shape: Shape) -> tuple[bytes, bytes]:
    vmm = vmm_of(shape.vmm)
    signature = signature_of(shape.vcpu_type) if vmm.rdx is None else 0
    features = shape.guest_features
    if guest.svsm is not None:
        if shape.vmm != "qemu":
            raise BadShape(f"an SVSM is measured as QEMU launches it, not {vmm.title}")
        offset = guest.svsm.number(SVSM_INFO)
        if offset is None:
            raise NoResetAddress("the SVSM does not say where it starts: no SVSM info", place=guest.svsm.name)
        page = svsm_page(rip=(guest.svsm_gpa + offset) % (1 << 64), signature=signature, features=features)
        return page, page
    first = vcpu_page(vmm, bsp=True, eip=BSP_EIP, signature=signature, features=features)
    if shape.vcpus == 1:
        return first, b""
    eip = guest.firmware.number(SEV_ES_RESET)
    if eip is None:
        raise NoResetAddress(
            f"{shape.vcpus} vCPUs: the firmware has no SEV-ES reset block", place=guest.firmware.name
        )
    return first, vcpu_page(vmm, bsp=False, eip=eip, signature=signature, features=features)


def launch_digests(guest: Guest, shapes: Iterable[Shape]) -> dict[Shape, bytes]:
    """Compute the launch digest of each shape.

    Raises:
        UnknownCpu: RVP-5304. UnknownVmm: RVP-5305. BadShape: RVP-5306. NoResetAddress: RVP-5308.
    """
    found: dict[Shape, bytes] = {}
    image = START
    base: dict[str, bytes] = {}
    before: tuple[Shape, bytes] | None = None
    for shape in sorted(
        shapes
    ):  # by VMM, model, features, then count: each begins where the one before ended
        runs = vcpu_runs(guest, shape)
        if not base:
            image = fold(_images(guest))
        if shape.vmm not in base:
            base[shape.vmm] = fold(_section_runs(guest, shape.vmm), image)
        if before is not None and msgspec.structs.replace(before[0], vcpus=shape.vcpus) == shape:
            more = shape.vcpus - before[0].vcpus
            digest = before[1]
            if more:
                digest = fold([msgspec.structs.replace(runs[-1], count=more)], digest)
        else:
            digest = fold(runs, base[shape.vmm])
        found[shape] = digest
        before = (shape, digest)
    return found
