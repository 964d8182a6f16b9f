"""Measure a SEV-SNP guest: one measurement for each shape of the machine, each with its log.

Source: launch_digest.py, guest.py; AMD, SEV-SNP firmware ABI (56860), ATTESTATION_REPORT for the names of
claims. Cost: see guest.py; kernel and initrd are hashed once. Logs are written only when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.measure.machine import Machine
from pipeline.measure.measured import Measured, MeasureOptions, hex_check, subject_of
from pipeline.measure.ovmf import (
    MAX_FIRMWARE,
    PAGE,
    SEV_HASH_TABLE,
    SEV_METADATA,
    TDX_METADATA,
    Firmware,
    read_firmware,
)
from pipeline.measure.snp.guest import (
    BadShape,
    Guest,
    Shape,
    launch_digests,
    make_guest,
    runs_before_vcpus,
    vcpu_runs,
)
from pipeline.measure.snp.id_block import IdAuth, IdBlock, check_policy, read_id_auth, read_id_block, signs
from pipeline.measure.snp.kernel_hashes import KernelHashes, hash_kernel
from pipeline.measure.snp.launch_digest import write_log
from pipeline.measure.snp.save_area import vmm_of
from pipeline.measure.snp.sections import SectionType
from provenance.claims import Check, ClaimValue, Measurement
from provenance.errors import UsageError
from provenance.measurement_log import MeasurementLog
from provenance.strict import read_file

DEFAULT_VMM: Final = "qemu"
DEFAULT_VCPU_TYPE: Final = "EPYC-v4"  # the oldest model that has all features of SEV-SNP hosts
DEFAULT_FEATURES: Final = 1  # SNP active, nothing else: Linux before 6.6, and from 6.8 on
MAX_SHAPES: Final = 10_000

_DIGEST_OF: Final = "SEV-SNP ABI, SNP_LAUNCH_FINISH"


class MachineUnstated(UsageError):
    """A firmware file alone has no launch digest: it depends on the machine that starts it.

    What is needed is the number of vCPUs, their type, the VMM, its guest features, and the kernel if the
    host loads one. Cure: `rvp measure snp --firmware FILE --vcpus 2 --vcpu-type EPYC-v4`.
    """

    code = "RVP-5309"


def measure_snp(path: Path, options: MeasureOptions) -> Measured:
    """Measure a firmware with the machine around it.

    Args:
        path: the firmware.
        options: `machine` says the rest.

    Raises:
        MachineUnstated: RVP-5309. BadFirmware: RVP-5300, and what the parts raise: RVP-5301 to RVP-5310.
    """
    firmware = _read(path, name=str(path))
    machine = options.machine
    if machine is None or not machine.vcpus:
        raise MachineUnstated(_what_is_missing(firmware), place=str(path), hint=_hint(firmware, path))
    if machine.kernel is None and (machine.initrd is not None or machine.cmdline is not None):
        raise BadShape(
            "an initrd or a command line without a kernel is not measured", hint="give the kernel as well"
        )
    hashes = hash_kernel(machine.kernel, machine.initrd, machine.cmdline) if machine.kernel else None
    svsm = _read(machine.svsm, name=str(machine.svsm)) if machine.svsm else None
    guest = make_guest(firmware, hashes=hashes, svsm=svsm, variables_bytes=machine.variables_bytes)
    shapes = shapes_of(machine)
    found = launch_digests(guest, shapes)
    digests = {shape: found[shape] for shape in shapes}  # in the order that was asked for
    subject = subject_of(firmware.data, options.name or path.name)
    owner = _Owner(machine)
    measurements = tuple(
        Measurement(
            tee="snp",
            subject=subject,
            variant=shape.variant(),
            claims={"measurement": digest.hex()} | owner.claims(digest),
            policy_inputs=() if machine.host_data is not None else ("host_data",),
            checks=(*_checks(guest, shape), *owner.checks(digest, digests.values())),
        )
        for shape, digest in digests.items()
    )
    logs: tuple[MeasurementLog, ...] = ()
    if options.with_log:
        logs = tuple(
            write_log([*runs_before_vcpus(guest, shape.vmm), *vcpu_runs(guest, shape)], digest)
            for shape, digest in digests.items()
        )
    return Measured(measurements=measurements, logs=logs)


def _read(path: Path, *, name: str) -> Firmware:
    return read_firmware(read_file(path, limit_bytes=MAX_FIRMWARE), name=name)


def _what_is_missing(firmware: Firmware) -> str:
    has = [
        words
        for guid, words in ((SEV_METADATA, "SEV metadata"), (TDX_METADATA, "TDX metadata"))
        if firmware.entry(guid) is not None
    ]
    told = f"it has {' and '.join(has)}" if has else "it has neither SEV nor TDX metadata"
    return f"this is firmware ({told}); its values depend on the machine that starts it"


def _hint(firmware: Firmware, path: Path) -> str:
    commands = [
        command
        for guid, command in (
            (SEV_METADATA, f"rvp measure snp --firmware {path.name} --vcpus 2 --vcpu-type EPYC-v4"),
            (TDX_METADATA, f"rvp measure tdx --firmware {path.name} --memory 2GiB --vcpus 2"),
        )
        if firmware.entry(guid) is not None
    ]
    return "; ".join(commands) or "take a 64-bit build of OVMF: OvmfPkgX64, AmdSevX64 or IntelTdxX64"


def shapes_of(machine: Machine) -> tuple[Shape, ...]:
    """List the shapes of a machine, each once.

    Raises:
        UnknownVmm: RVP-5305. BadShape: RVP-5306.
    """
    vmms = machine.vmms or (DEFAULT_VMM,)
    types = machine.vcpu_types or (DEFAULT_VCPU_TYPE,)
    features = machine.guest_features or (DEFAULT_FEATURES,)
    count = len(vmms) * len(types) * len(features) * len(machine.vcpus)
    if count > MAX_SHAPES:
        raise BadShape(f"{count} shapes were asked for, {MAX_SHAPES} are possible in one run")
    found: dict[Shape, None] = {}
    for vmm in vmms:
        matters = vmm_of(vmm).rdx is None
        for kind in types if matters else ("",):
            for feature in features:
                for vcpus in machine.vcpus:
                    shape = Shape(vmm=vmm, vcpu_type=kind, guest_features=feature, vcpus=vcpus)
                    found[shape] = None
    return tuple(found)


def _checks(guest: Guest, shape: Shape) -> tuple[Check, ...]:
    kinds = ", ".join(one.type.name for one in guest.sections)
    checks = [Check(id="sev-metadata", status="passed", got=f"{len(guest.sections)} sections: {kinds}")]
    page = next((one for one in guest.sections if one.type is SectionType.KERNEL_HASHES), None)
    if guest.hashes is None:
        got = "no kernel was given" if page else "no kernel was given, and the firmware could not check one"
        checks.append(Check(id="kernel-hashes", status="skipped", got=got))
    else:
        checks.append(
            _hash_check(guest.hashes, guest.firmware.number(SEV_HASH_TABLE) or 0, page.gpa if page else 0)
        )
    if not shape.guest_features & 1:
        checks.append(
            Check(
                id="guest-features",
                status="warning",
                expected="bit 0, which is set in every SEV-SNP guest",
                got=f"{shape.guest_features:#x}",
                source="AMD, APM volume 2, SEV_FEATURES",
                hint="no SEV-SNP machine gives this value",
            )
        )
    return tuple(checks)


def _hash_check(hashes: KernelHashes, gpa: int, section: int) -> Check:
    if gpa - gpa % PAGE != section:
        return Check(
            id="kernel-hashes",
            status="warning",
            expected=f"a table of hashes at {gpa:#x} that lies in the section for it",
            got=f"the section is at {section:#x}",
            source="the firmware's table and its SEV metadata",
            hint="this firmware would not find them, and start no kernel",
        )
    got = f"kernel {hashes.kernel.hex()}, initrd {hashes.initrd.hex()}, command line {hashes.cmdline.hex()}"
    return Check(id="kernel-hashes", status="passed", got=got)


class _Owner:
    """What the owner says beside the digest: policy, host data, ID block."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._block: IdBlock | None = None
        self._auth: IdAuth | None = None
        if machine.policy is not None:
            check_policy(machine.policy)
        if machine.host_data is not None and len(machine.host_data) != 32:
            raise BadShape(f"host data have {len(machine.host_data)} bytes, expected 32")
        if machine.id_block is not None:
            self._block = read_id_block(machine.id_block, name="ID block")
        if machine.id_auth is not None:
            if machine.id_block is None:
                raise BadShape("an ID authentication without its ID block says nothing")
            self._auth = read_id_auth(machine.id_auth, name="ID authentication")

    def claims(self, digest: bytes) -> dict[str, ClaimValue]:
        found: dict[str, ClaimValue] = {}
        if self._machine.host_data is not None:
            found["host_data"] = self._machine.host_data.hex()
        block = self._block
        if self._machine.policy is not None:
            found["policy"] = f"{self._machine.policy:#018x}"
        if block is not None and block.launch_digest == digest:
            found |= {
                "policy": f"{block.policy:#018x}",
                "guest_svn": block.guest_svn,
                "family_id": block.family_id.hex(),
                "image_id": block.image_id.hex(),
            }
            if self._auth is not None:
                found["id_key_digest"] = self._auth.id_key_digest.hex()
                found["author_key_digest"] = self._auth.author_key_digest.hex()
        return found

    def checks(self, digest: bytes, others: Iterable[bytes]) -> tuple[Check, ...]:
        block, auth = self._block, self._auth
        if block is None:
            return ()
        if block.launch_digest != digest and block.launch_digest in set(others):
            return (Check(id="id-block", status="skipped", got="the ID block is of another shape"),)
        found = [
            hex_check(
                "id-block",
                expected=block.launch_digest,
                got=digest,
                source=_DIGEST_OF,
                hint="the ID block is of another guest, or of another shape; make one for this value",
                code="RVP-5010",
            )
        ]
        if self._machine.policy is not None:
            found.append(
                hex_check(
                    "id-block-policy",
                    expected=block.policy.to_bytes(8, "big"),
                    got=self._machine.policy.to_bytes(8, "big"),
                    source=_DIGEST_OF,
                    hint="the guest is launched with the policy of its ID block, or not at all",
                    code="RVP-5010",
                )
            )
        if auth is not None:
            found += signature_checks(block, auth)
        return tuple(found)


def signature_checks(block: IdBlock, auth: IdAuth) -> tuple[Check, ...]:
    """Check the signatures of an ID block: by the ID key over the block, by the author over the ID key."""
    pairs = [("id-block-signature", auth.key, auth.signature, block.write(), "ID key")]
    if auth.author_key:
        pairs.append(("id-key-signature", auth.author_key, auth.key_signature, auth.key, "author key"))
    found = []
    for check, key, signature, data, who in pairs:
        good = signs(key, signature, data)
        found.append(
            Check(
                id=check,
                status="passed" if good else "failed",
                expected=f"a signature of the {who}",
                got=f"a signature of the {who}" if good else "one that does not verify",
                source=_DIGEST_OF,
                hint="" if good else "sign it again: rvp snp sign",
                code="" if good else "RVP-5011",
            )
        )
    return tuple(found)
