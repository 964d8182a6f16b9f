"""Figures of TDX: MRTD against the SHA-384 of the same records, and many shapes of one machine."""

from __future__ import annotations

import functools
import hashlib
import random
from pathlib import Path

from bench_figure import best, tell

_GIB = 1 << 30


def bench_mrtd(folder: Path) -> None:
    """MRTD of firmware of 4 and of 16 MiB."""
    del folder
    from pipeline.measure.tdx.mrtd import PageOrder, mrtd, write_records
    from pipeline.measure.tdx.tdvf import read_tdvf
    from tests.fakes.tdvf import make_tdvf

    for mib in (4, 16):
        data = make_tdvf(size=mib << 20, variables=0x84000, seed=mib)
        data = data[:0x84000] + random.Random(mib).randbytes((mib << 20) - 0x85000) + data[-0x1000:]
        tdvf = read_tdvf(data, "firmware")
        for order in PageOrder:
            records = bytearray()
            write_records(tdvf, data, order, lambda one, into=records: into.extend(memoryview(one).cast("B")))
            ours = best(9, functools.partial(mrtd, tdvf, data, order))
            limit = best(9, functools.partial(hashlib.sha384, records))
            work = f"MRTD of firmware of {mib} MiB, {order}: {len(records)} bytes of records"
            tell(f"tdx-mrtd-{mib}mib-{order}", ours, limit_s=limit, work=work)


def bench_shapes(folder: Path) -> None:
    """200 shapes of one machine against one."""
    from pipeline.measure.tdx.measure import TdxOptions, measure_td
    from pipeline.measure.tdx.rtmr0 import SecureBoot
    from tests.fakes.tdvf import make_tdvf, make_varstore

    path = folder / "OVMF.fd"
    path.write_bytes(make_tdvf(size=4 << 20, variables=0x84000, store=make_varstore([])))

    def measured(sizes: int, counts: int) -> int:
        options = TdxOptions(
            edk2="202411",
            secure_boot=SecureBoot.ABSENT,
            memory=tuple((number + 1) * _GIB for number in range(sizes)),
            vcpus=tuple(range(1, counts + 1)),
            with_log=False,
        )
        return len(measure_td(path, options).measurements)

    one = best(5, lambda: measured(1, 1))
    many = best(5, lambda: measured(10, 20))
    tell(
        "tdx-200-shapes",
        many,
        limit_s=one,
        work=f"MRTD and RTMR0 of 10 memory sizes x 20 vCPUs ({measured(10, 20)} measurements); the limit is one shape",
    )


TDX = {"tdx-mrtd": bench_mrtd, "tdx-shapes": bench_shapes}
