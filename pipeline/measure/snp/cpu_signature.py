"""CPUID signatures of the CPU models of QEMU: what KVM puts into RDX of a new vCPU.

Models of one generation differ in features, not in the signature; `EPYC-v1` and `EPYC-v4` give one digest.

Source: AMD, CPUID specification (25481), Fn0000_0001_EAX; QEMU, target/i386/cpu.c, builtin_x86_defs.

Example:
    >>> hex(signature_of("EPYC-v4")), hex(signature_of("EPYC-Milan")), hex(signature_of("0x00b10f10"))
    ('0x800f12', '0xa00f11', '0xb10f10')
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from provenance.errors import UsageError


class UnknownCpu(UsageError):
    """A vCPU type is none of QEMU's AMD models, nor a CPUID signature.

    The table is in docs/reference/snp.md.
    Cure: name the model as in QEMU's `-cpu` (`EPYC-v4`), or give the signature itself: `0x00a00f11`.
    """

    code = "RVP-5304"


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """Pack family, model and stepping as CPUID leaf 1 does.

    Example:
        >>> hex(cpu_signature(25, 17, 0))
        '0xa10f10'
    """
    base, extended = (0xF, family - 0xF) if family > 0xF else (family, 0)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


# model: (family, model, stepping, versions that QEMU 10.2 has)
_MODELS: Final = {
    "EPYC": (23, 1, 2, 5),
    "EPYC-IBPB": (23, 1, 2, 0),
    "EPYC-Rome": (23, 49, 0, 5),
    "EPYC-Milan": (25, 1, 1, 3),
    "EPYC-Genoa": (25, 17, 0, 2),
    "EPYC-Turin": (26, 0, 0, 1),
}

SIGNATURES: Final[dict[str, int]] = {
    name: cpu_signature(family, model, stepping)
    for base, (family, model, stepping, versions) in _MODELS.items()
    for name in (base, *(f"{base}-v{number}" for number in range(1, versions + 1)))
}

_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,8}", re.IGNORECASE)


def signature_of(vcpu_type: str) -> int:
    """Find the signature of a model, or read the signature itself.

    Raises:
        UnknownCpu: RVP-5304.
    """
    if vcpu_type in SIGNATURES:
        return SIGNATURES[vcpu_type]
    if _NUMBER.fullmatch(vcpu_type):
        return int(vcpu_type, 16)
    near = difflib.get_close_matches(vcpu_type, SIGNATURES, n=1)
    proposal = f', did you mean "{near[0]}"?' if near else ""
    raise UnknownCpu(
        f'there is no vCPU type "{vcpu_type}"{proposal}',
        hint=f"known: {', '.join(SIGNATURES)}; or a CPUID signature such as 0x00a00f11",
    )
