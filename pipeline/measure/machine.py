"""A virtual machine as the one who launches it describes it: what is measured beside its firmware.

One description has many shapes: every vCPU count with every memory size, vCPU type, VMM and set of features.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a VMM is told.

    Attributes:
        kernel: that the VMM loads itself (QEMU's `-kernel`).
        initrd: beside it.
        cmdline: the kernel's, without a NUL; None is not given, which is another thing than empty.
        vcpus: counts, one shape each.
        memory: sizes in bytes, one shape each.
        vmms: names of virtual machine monitors.
        vcpu_types: SNP: models as in QEMU's `-cpu`, or CPUID signatures.
        guest_features: SNP: SEV_FEATURES.
        svsm: SNP: what runs below the firmware at VMPL 0.
        variables_bytes: SNP with an SVSM: size of the variable store between SVSM and firmware.
        host_data: SNP: what the host binds to the guest, 32 bytes; None: left to the policy.
        policy: SNP: guest policy, 64 bits.
        id_block: SNP: ID block, 96 bytes.
        id_auth: SNP: ID authentication information, 4096 bytes.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    vcpus: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()
    vmms: tuple[str, ...] = ()
    vcpu_types: tuple[str, ...] = ()
    guest_features: tuple[int, ...] = ()
    svsm: Path | None = None
    variables_bytes: int = 0
    host_data: bytes | None = None
    policy: int | None = None
    id_block: bytes | None = None
    id_auth: bytes | None = None
