"""The VMSA: the registers of a vCPU as it starts, one page that is measured; what each VMM puts into it.

A field that is not named is zero. The table of VMMs has only what they do differently.

Units: offsets are bytes in the page, numbers little-endian.
Source: AMD, APM volume 2 (24593), appendix B, table B-4; Linux, arch/x86/include/asm/svm.h, sev_es_save_area.

Example:
    >>> page = vcpu_page(VMMS["qemu"], bsp=True, eip=BSP_EIP, signature=0x800F12, features=1)
    >>> sorted(fields_of(page)["cs"].items())
    [('attributes', 155), ('base', 4294901760), ('limit', 65535), ('selector', 61440)]
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.measure.ovmf import PAGE
from pipeline.measure.snp.launch_digest import PageType
from provenance.errors import UsageError

BSP_EIP: Final = 0xFFFF_FFF0  # where an x86 processor starts
_PAT: Final = 0x0007_0406_0007_0406  # after reset. Source: AMD, APM volume 2, section 7.8.2
_SEGMENT: Final = struct.Struct("<HHIQ")

SEGMENTS: Final = {
    "es": 0x00,
    "cs": 0x10,
    "ss": 0x20,
    "ds": 0x30,
    "fs": 0x40,
    "gs": 0x50,
    "gdtr": 0x60,
    "ldtr": 0x70,
    "idtr": 0x80,
    "tr": 0x90,
}
# name: (offset, bytes)
FIELDS: Final = {
    "vmpl": (0xCA, 1),
    "cpl": (0xCB, 1),
    "efer": (0xD0, 8),
    "cr4": (0x148, 8),
    "cr3": (0x150, 8),
    "cr0": (0x158, 8),
    "dr7": (0x160, 8),
    "dr6": (0x168, 8),
    "rflags": (0x170, 8),
    "rip": (0x178, 8),
    "rsp": (0x1D8, 8),
    "rax": (0x1F8, 8),
    "g_pat": (0x268, 8),
    "rcx": (0x308, 8),
    "rdx": (0x310, 8),
    "rbx": (0x318, 8),
    "rbp": (0x328, 8),
    "rsi": (0x330, 8),
    "rdi": (0x338, 8),
    "sev_features": (0x3B0, 8),
    "virtual_tom": (0x3C8, 8),
    "xcr0": (0x3E8, 8),
    "mxcsr": (0x408, 4),
    "x87_fcw": (0x410, 2),
}


class UnknownVmm(UsageError):
    """A virtual machine monitor is none of those whose initial registers are known.

    Cure: name one of those that the message lists; docs/reference/snp.md says where each value comes from.
    """

    code = "RVP-5305"


class Vmm(msgspec.Struct, frozen=True, kw_only=True):
    """What a VMM does in its own way.

    Attributes:
        name: as in the variant.
        title: for people.
        cs: attributes of CS of the boot processor.
        ap_cs: attributes of CS of the others.
        ss: attributes of SS.
        tr: attributes of TR.
        rdx: of every vCPU; None: the CPUID signature of its model.
        g_pat: page attribute table.
        mxcsr: SSE control word.
        x87_fcw: x87 control word.
        sec_mem: as which pages SEC_MEM sections are added.
        cpuid_last: whether CPUID pages come after all other sections.
        source: where this is known from.
    """

    name: str
    title: str
    cs: int = 0x9B
    ap_cs: int = 0x9B
    ss: int = 0x93
    tr: int = 0x8B
    rdx: int | None = None
    g_pat: int = _PAT
    mxcsr: int = 0x1F80
    x87_fcw: int = 0x37F
    sec_mem: PageType = PageType.ZERO
    cpuid_last: bool = False
    source: str


_EC2: Final = Vmm(
    name="ec2",
    title="Amazon EC2",
    cs=0x9A,
    ss=0x92,
    tr=0x83,
    rdx=0x600,
    mxcsr=0,
    x87_fcw=0,
    cpuid_last=True,
    source="aws/uefi, sev-snp-measure 0.0.13",
)
VMMS: Final[dict[str, Vmm]] = {
    one.name: one
    for one in (
        Vmm(name="qemu", title="QEMU with KVM", source="QEMU, target/i386/cpu.c, x86_cpu_reset_hold"),
        _EC2,
        msgspec.structs.replace(_EC2, name="ec2-2025", title="Amazon EC2 before April 2026", rdx=0),
        Vmm(
            name="gce",
            title="Google Compute Engine",
            rdx=0x600,
            g_pat=0x0007_0106,
            mxcsr=0,
            x87_fcw=0,
            sec_mem=PageType.UNMEASURED,
            source="google/gce-tcb-verifier, sev/vmsa.go",
        ),
    )
}


def vmm_of(name: str) -> Vmm:
    """Find a VMM.

    Raises:
        UnknownVmm: RVP-5305.
    """
    if name not in VMMS:
        raise UnknownVmm(f'the VMM "{name}" is not known', hint=f"known: {', '.join(VMMS)}")
    return VMMS[name]


def vcpu_page(vmm: Vmm, *, bsp: bool, eip: int, signature: int, features: int) -> bytes:
    """Write the VMSA of a vCPU that starts in firmware.

    Args:
        vmm: who starts it.
        bsp: whether it is the boot processor.
        eip: where it starts: 0xFFFFFFF0, or the address in the SEV-ES reset block.
        signature: CPUID signature of its model.
        features: SEV_FEATURES.
    """
    segments = dict.fromkeys(SEGMENTS, (0, 0x93, 0xFFFF, 0))
    segments["cs"] = (0xF000, vmm.cs if bsp else vmm.ap_cs, 0xFFFF, eip & 0xFFFF_0000)
    segments["ss"] = (0, vmm.ss, 0xFFFF, 0)
    segments |= _tables(vmm)
    values = _reset(vmm, signature, features) | {
        "cr0": 0x10,
        "rip": eip & 0xFFFF,
        "x87_fcw": vmm.x87_fcw,
    }
    return _write(segments, values)


def svsm_page(*, rip: int, signature: int, features: int) -> bytes:
    """Write the VMSA of a vCPU that starts in an SVSM: flat 32-bit protected mode.

    QEMU's x87 control word is zero here: it is set for a reset processor only, and reports of real
    machines say so.

    Source: COCONUT-SVSM's QEMU, target/i386/sev.c.
    """
    vmm = VMMS["qemu"]
    flat = (0x10, 0xC93, 0xFFFF_FFFF, 0)
    segments = {"es": flat, "ss": flat, "ds": flat, "fs": flat, "gs": (0, 0x93, 0xFFFF, 0)}
    segments["cs"] = (0x08, 0xC9B, 0xFFFF_FFFF, 0)
    segments |= _tables(vmm)
    return _write(segments, _reset(vmm, signature, features) | {"cr0": 0x11, "rip": rip})


def _tables(vmm: Vmm) -> dict[str, tuple[int, int, int, int]]:
    return {
        "gdtr": (0, 0, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "tr": (0, vmm.tr, 0xFFFF, 0),
    }


def _reset(vmm: Vmm, signature: int, features: int) -> dict[str, int]:
    return {
        "efer": 0x1000,  # SVME: KVM sets it for every guest
        "cr4": 0x40,  # MCE, likewise
        "dr7": 0x400,
        "dr6": 0xFFFF_0FF0,
        "rflags": 2,
        "g_pat": vmm.g_pat,
        "rdx": signature if vmm.rdx is None else vmm.rdx,
        "sev_features": features,
        "xcr0": 1,
        "mxcsr": vmm.mxcsr,
    }


def _write(segments: dict[str, tuple[int, int, int, int]], values: dict[str, int]) -> bytes:
    page = bytearray(PAGE)
    for name, segment in segments.items():
        _SEGMENT.pack_into(page, SEGMENTS[name], *segment)
    for name, value in values.items():
        offset, size = FIELDS[name]
        page[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(page)


def fields_of(page: bytes) -> dict[str, dict[str, int]]:
    """Read the fields of a VMSA: segments with their parts, the others as `{"value": …}`."""
    names = ("selector", "attributes", "limit", "base")
    found = {
        name: dict(zip(names, _SEGMENT.unpack_from(page, at), strict=True)) for name, at in SEGMENTS.items()
    }
    for name, (at, size) in FIELDS.items():
        found[name] = {"value": int.from_bytes(page[at : at + size], "little")}
    return found
