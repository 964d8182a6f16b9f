"""The figures of SEV-SNP launch digests: against the bare SHA-384 of the same pages, and against another tool."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import Any

from bench_figure import ROOT, best, race, tell

sys.path.insert(0, str(ROOT))
PAGE, INFO = 4096, 112
ROUNDS = 20  # of one timing: a single digest takes milliseconds


def guest(size_bytes: int) -> tuple[Any, bytes]:
    from pipeline.measure.ovmf import read_firmware
    from pipeline.measure.snp.guest import make_guest
    from tests.fakes.ovmf import make_ovmf

    data = bytearray(make_ovmf(size=size_bytes))
    body = random.Random(1).randbytes(size_bytes - 4 * PAGE)  # no two pages alike: nothing to save
    data[: len(body)] = body
    return make_guest(read_firmware(bytes(data))), bytes(data)


def shapes(count: int) -> list[Any]:
    from pipeline.measure.snp.guest import Shape

    return [
        Shape(vmm="qemu", vcpu_type="EPYC-v4", guest_features=1, vcpus=one) for one in range(1, count + 1)
    ]


def hash_work(data: bytes) -> None:
    """What cannot be avoided: a SHA-384 of each page, and one of each page's record."""
    record = bytes(INFO)
    for at in range(0, len(data), PAGE):
        hashlib.sha384(data[at : at + PAGE])
        hashlib.sha384(record)


def bench_digest(folder: Path) -> None:
    from pipeline.measure.snp.guest import launch_digests

    one, data = guest(4 << 20)
    path = folder / "OVMF.fd"
    path.write_bytes(data)
    wall, cpu = race(
        5,
        ours=lambda: [launch_digests(one, shapes(1)) for _ in range(ROUNDS)],
        limit=lambda: [hash_work(data) for _ in range(ROUNDS)],
    )
    peers = {}
    try:
        from sevsnpmeasure.guest import snp_calc_launch_digest
    except ModuleNotFoundError:
        pass
    else:
        peers["sev-snp-measure"] = best(
            2,
            lambda: [
                snp_calc_launch_digest(1, 0x800F12, str(path), "", "", "", 1, "") for _ in range(ROUNDS)
            ],
        )
    tell(
        "snp-launch-digest", wall["ours"], limit_s=wall["limit"], cpu_s=round(cpu["ours"], 3),
        limit_cpu_s=round(cpu["limit"], 3), peers=peers,
        work=f"{ROUNDS} launch digests of a firmware of 4 MiB without equal pages; limit: SHA-384 of its pages and records",
    )  # fmt: skip


def bench_shapes(folder: Path) -> None:
    from pipeline.measure.snp.guest import launch_digests

    del folder
    one, data = guest(4 << 20)
    wall, _ = race(5, ours=lambda: launch_digests(one, shapes(200)), limit=lambda: hash_work(data))
    tell(
        "snp-200-shapes", wall["ours"], limit_s=wall["limit"],
        work="the launch digests of 200 vCPU counts of one guest; limit: SHA-384 of its firmware once",
    )  # fmt: skip


SNP = {"snp-launch-digest": bench_digest, "snp-200-shapes": bench_shapes}
