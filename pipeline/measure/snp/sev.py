"""Launch digests of the older SEV and SEV-ES: one SHA-256 over what the host encrypts.

    SEV     SHA-256( firmware | kernel hash table, padded )
    SEV-ES  SHA-256( firmware | kernel hash table, padded | VMSA of each vCPU )

Evidence of these guests has HMAC(digest, nonce) instead; they have no reference values in a bundle.

Source: AMD, SEV API (55766), LAUNCH_UPDATE_DATA and LAUNCH_MEASURE; QEMU, target/i386/sev.c.
Cost: one SHA-256 over the firmware and the VMSAs.
"""

from __future__ import annotations

import hashlib

from pipeline.measure.ovmf import SEV_HASH_TABLE, Firmware
from pipeline.measure.snp.guest import Guest, KernelHashesUnsupported, Shape, vcpu_runs
from pipeline.measure.snp.kernel_hashes import KernelHashes


def sev_digest(firmware: Firmware, hashes: KernelHashes | None = None) -> bytes:
    """Compute the digest of a SEV guest.

    Raises:
        KernelHashesUnsupported: RVP-5303. BadFirmware: RVP-5300.
    """
    return _begin(firmware, hashes).digest()


def sev_es_digest(firmware: Firmware, shape: Shape, hashes: KernelHashes | None = None) -> bytes:
    """Compute the digest of a SEV-ES guest; its VMSAs have no guest features.

    Raises:
        KernelHashesUnsupported: RVP-5303. BadFirmware: RVP-5300, and what a shape raises: RVP-5304 to
        RVP-5308.
    """
    digest = _begin(firmware, hashes)
    plain = Shape(vmm=shape.vmm, vcpu_type=shape.vcpu_type, guest_features=0, vcpus=shape.vcpus)
    for run in vcpu_runs(Guest(firmware=firmware), plain):
        for _ in range(run.count):
            digest.update(run.content)
    return digest.digest()


def _begin(firmware: Firmware, hashes: KernelHashes | None) -> hashlib._Hash:
    digest = hashlib.sha256(firmware.data)
    if hashes is not None:
        if not firmware.number(SEV_HASH_TABLE):
            raise KernelHashesUnsupported(
                "a kernel was given, but the firmware has no place for its hashes", place=firmware.name
            )
        digest.update(hashes.table())
    return digest
