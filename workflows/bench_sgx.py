"""The figures of measuring SGX enclaves: against the bare SHA-256, and against one hash update a record."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_figure import ENVIRONMENT, ROOT, RVP, best, race, tell

sys.path.insert(0, str(ROOT))
PAGE, MEASURED = 4096, 5184  # a page, and what is hashed of it
REPEATS = 10
BLOCK = os.urandom(1 << 20)


def zeros(size_bytes: int) -> Callable[[], object]:
    """The limit: one SHA-256 over so many bytes in memory."""
    data = memoryview(bytearray(size_bytes))
    return lambda: hashlib.sha256(data).digest()


def image_of(*parts: Any) -> Any:
    from pipeline.measure.sgx.enclave_image import EnclaveImage

    return EnclaveImage(size_bytes=1 << 36, ssa_frame_size=1, parts=parts)


def compare(name: str, repeats: int, *, peer: Callable[[], Any], work: str, **calls: Any) -> None:
    """Time `calls["limit"]` and ours in turn, the slow peer twice, and state the ratios."""
    wall, cpu = race(repeats, **calls)
    more = {f"{other}_s": round(wall[other], 3) for other in calls if other not in {"limit", "ours"}}
    tell(
        name, wall["ours"], limit_s=wall["limit"], cpu_s=round(cpu["ours"], 3), limit_cpu_s=round(cpu["limit"], 3),
        **more, peers={"one update a record": best(2, peer)}, work=work,
    )  # fmt: skip


def bench_pages(folder: Path) -> None:
    from pipeline.measure.sgx.elf import map_file
    from pipeline.measure.sgx.enclave_image import Pages
    from pipeline.measure.sgx.hashing import hash_plainly, mrenclave

    count = (256 << 20) // PAGE
    (folder / "pages").write_bytes(BLOCK * 256)
    image = image_of(Pages(address=0, count=count, flags=0x205, content=map_file(folder / "pages")))
    compare(
        "sgx-pages-256mib", REPEATS, ours=lambda: mrenclave(image), limit=zeros(count * MEASURED),
        peer=lambda: hash_plainly(image), work="MRENCLAVE of 256 MiB of measured pages of a mapped file",
    )  # fmt: skip


def bench_heap(folder: Path) -> None:
    from pipeline.measure.sgx.enclave_image import Pages
    from pipeline.measure.sgx.hashing import hash_plainly, mrenclave

    del folder
    count = (16 << 30) // PAGE
    image = image_of(Pages(address=0, count=count, flags=0x203))
    compare(
        "sgx-heap-16gib", REPEATS, ours=lambda: mrenclave(image), limit=zeros(count * 64),
        peer=lambda: hash_plainly(image), work="MRENCLAVE of 16 GiB of pages that are added, not measured",
    )  # fmt: skip


def large_enclave(folder: Path) -> Path:
    from pipeline.measure.sgx.freestanding.config import EnclaveConfig
    from pipeline.measure.sgx.freestanding.pack import pack_enclave
    from tests.fakes.enclave_elf import enclave_elf

    path = folder / "large.so"
    config = EnclaveConfig(threads=4, stack="64KiB", heap="1MiB")
    path.write_bytes(pack_enclave(enclave_elf(code=BLOCK * 240), config))
    return path


def bench_elf(folder: Path) -> None:
    from pipeline.measure import MeasureOptions, measure_file
    from pipeline.measure.sgx.enclave import lay_out
    from pipeline.measure.sgx.enclave_image import Pages
    from pipeline.measure.sgx.hashing import hash_plainly

    path = large_enclave(folder)
    image = lay_out(path)[0].image
    stream = 64 + sum(
        part.count * (MEASURED if part.is_measured else 64) for part in image.parts if isinstance(part, Pages)
    )

    def both() -> None:
        hashlib.sha256(memoryview(data)).digest()
        limit()

    def plainly() -> bytes:
        hashlib.sha256(path.read_bytes())
        return hash_plainly(lay_out(path)[0].image)

    data, limit = path.read_bytes(), zeros(stream)
    compare(
        "sgx-elf-240mib", REPEATS, limit=limit, with_the_file=both,
        ours=lambda: measure_file(path, options=MeasureOptions(with_log=False)),
        ours_with_log=lambda: measure_file(path), peer=plainly,
        work="rvp's measure_file of a 240 MiB ELF, the file's own digest beside it in a thread; limit: one SHA-256 "
        "of the enclave's stream; with_the_file: of the stream and then of the file",
    )  # fmt: skip


def bench_sgxs(folder: Path) -> None:
    from pipeline.measure import MeasureOptions, measure_file
    from pipeline.measure.sgx.elf import map_file
    from pipeline.measure.sgx.enclave_image import Pages
    from pipeline.measure.sgx.hashing import hash_plainly, write_stream
    from pipeline.measure.sgx.sgxs import read_sgxs

    path = folder / "large.sgxs"
    runs = (1 << 30) // (256 * MEASURED)
    parts = [Pages(address=at << 20, count=256, flags=0x205, content=BLOCK) for at in range(runs)]
    with path.open("wb") as stream:
        write_stream(image_of(*parts), stream.write)
    data = path.read_bytes()
    compare(
        "sgx-sgxs-1gib", REPEATS // 2, limit=lambda: hashlib.sha256(data).digest(),
        ours=lambda: measure_file(path, options=MeasureOptions(with_log=False)),
        peer=lambda: hash_plainly(read_sgxs(map_file(path))), work="measure_file of an SGXS stream of 1 GiB",
    )  # fmt: skip


MEASURE_AND_TELL = """
import sys, threading, time
from pathlib import Path
from pipeline.measure import MeasureOptions, measure_file

def sizes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "Rss"))}

peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        now = sizes()
        peak = max(peak, now["RssAnon"] + now["RssShmem"])
watcher = threading.Thread(target=watch)
watcher.start()
measure_file(Path(sys.argv[1]), options=MeasureOptions(with_log=sys.argv[2] == "log"))
done.set()
watcher.join()
found = sizes()
print(peak, found["VmHWM"])
"""


def bench_memory(folder: Path) -> None:
    path = large_enclave(folder)
    file_mb = path.stat().st_size / (1 << 20)

    def run(log: str) -> tuple[float, float]:
        output = subprocess.run(
            [sys.executable, "-c", MEASURE_AND_TELL, str(path), log],
            env=ENVIRONMENT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        anonymous, peak = map(int, output.split())
        return anonymous / 1024, peak / 1024 - file_mb

    without, beyond = run("no")
    with_log, beyond_with_log = run("log")
    tell(
        "sgx-memory", 0.0, own_mb=round(without), own_with_log_mb=round(with_log),
        beyond_the_file_mb=round(beyond), beyond_the_file_with_log_mb=round(beyond_with_log),
        work="a process that measures the 240 MiB ELF: most memory of its own (RssAnon), and VmHWM less the file's "
        "size, which counts the code of Python and numpy too",
    )  # fmt: skip


def bench_cold(folder: Path) -> None:
    from pipeline.measure.sgx.freestanding.config import EnclaveConfig
    from pipeline.measure.sgx.freestanding.pack import pack_enclave
    from tests.fakes.enclave_elf import enclave_elf

    path = folder / "small.so"
    path.write_bytes(pack_enclave(enclave_elf(), EnclaveConfig(threads=2, heap="1MiB")))

    def run(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run(
            command,
            env=ENVIRONMENT,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=False,
            stderr=subprocess.DEVNULL,
        )

    calls = {"ours": run(*RVP, "measure", str(path)), "limit": run(sys.executable, "-c", "pass"),
             "click": run(sys.executable, "-c", "import click, msgspec, cryptography.hazmat.bindings._rust")}  # fmt: skip
    wall, _ = race(2 * REPEATS, **calls)
    tell(
        "sgx-cold", wall["ours"], limit_s=wall["limit"], peers={"import click, msgspec, cryptography": wall["click"]},
        work="rvp measure FILE of a small enclave in a new process, best of 20; limit: python -c pass",
    )  # fmt: skip


SGX = {
    "sgx-pages": bench_pages,
    "sgx-elf": bench_elf,
    "sgx-heap": bench_heap,
    "sgx-sgxs": bench_sgxs,
    "sgx-memory": bench_memory,
    "sgx-cold": bench_cold,
}
