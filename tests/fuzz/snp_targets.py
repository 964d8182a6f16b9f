"""Fuzz targets of SEV-SNP: firmware with SEV metadata, ID blocks. Each docstring is the property for all bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from provenance.errors import InternalError, RvpError


@contextlib.contextmanager
def _only_our_errors():
    try:
        yield
    except InternalError:
        raise
    except RvpError:
        pass


def snp_guest(data: bytes) -> None:
    """Firmware with SEV metadata: never anything but RvpError; sections lie below it, its pages fold to its value."""
    from pipeline.measure.ovmf import read_firmware
    from pipeline.measure.snp.guest import Shape, launch_digests, make_guest, runs_before_vcpus, vcpu_runs
    from pipeline.measure.snp.launch_digest import fold

    with _only_our_errors():
        guest = make_guest(read_firmware(data))
        shape = Shape(vmm="ec2", vcpu_type="", guest_features=1, vcpus=3)
        runs = (*runs_before_vcpus(guest, "ec2"), *vcpu_runs(guest, shape))
        assert launch_digests(guest, [shape]) == {shape: fold(runs)}
        assert all(one.end <= guest.firmware.gpa for one in guest.sections)


def snp_id_auth(data: bytes) -> None:
    """ID authentication information: never anything but RvpError; what is read is written as the same bytes."""
    from pipeline.measure.snp.id_block import read_id_auth, read_id_block, signs

    with _only_our_errors():
        auth = read_id_auth(data)
        assert auth.write() == data
        signs(auth.key, auth.signature, b"")
    with _only_our_errors():
        assert read_id_block(data[:96]).write() == data[:96]


def _guests() -> list[bytes]:
    from tests.fakes.ovmf import make_ovmf

    return [make_ovmf(size=0x3000), make_ovmf(size=0x5000, reset_eip=None)]


def _id_auths() -> list[bytes]:
    from pipeline.measure.snp.id_block import IdAuth, IdBlock

    key = (2).to_bytes(4, "little") + b"\7" * 144 + bytes(880)
    auth = IdAuth(signature=b"\1" * 144 + bytes(368), key=key, key_signature=b"\1" * 512, author_key=key)
    return [auth.write(), IdBlock(launch_digest=bytes(48)).write()]


SNP_SEEDS: dict[str, list[bytes]] = {"snp_guest": _guests(), "snp_id_auth": _id_auths()}
SNP_TARGETS: dict[str, Callable[[bytes], None]] = {"snp_guest": snp_guest, "snp_id_auth": snp_id_auth}
