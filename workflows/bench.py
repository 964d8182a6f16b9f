"""The figures that workflows/bench prints: one JSON line each.

`ours_s` is our time, `limit_s` what cannot be avoided (measured in the same run), `peers` what others take for
the same work. Times are the best of several runs: the machine's noise only ever adds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_figure import ENVIRONMENT, ROOT, RVP, best, rvp, tell
from bench_sgx import SGX
from bench_snp import SNP
from bench_tdx import TDX

DEBIAN = '{ suites = ["bookworm"], packages = ["perl-base"] }'
# About 10 s of work on one processor of 2026, and a clock-free one.
WORK = (
    "perl",
    "-e",
    "my $x = 1; $x = ($x * 1103515245 + 12345) % 2147483648 for 1 .. $ARGV[0]; print $x",
    "{count}",
)


def project(folder: Path, base: str, steps: str, *, times: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rvp.toml").write_text(
        f'schema = "rvp/spec/v1"\n[project]\nname = "bench"\nversion = "1"\nsource_date_epoch = 1700000000\n'
        f"[base.b]\n{base}\n{steps}\n[rebuild]\ntimes = {times}\n"
    )
    return folder


def tiny_tar(folder: Path) -> str:
    """A base that no container is ever made of: only plans and records are timed with it."""
    import hashlib
    import io
    import tarfile

    path = folder / "base.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("bin/true"), io.BytesIO())
    return f'tar = "base.tar"\nsha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"'


def many_steps(count: int) -> str:
    """Count steps in layers of 50, each needing three of the layer before."""
    lines = []
    for index in range(count):
        needs = [f"step.s{index - 50 - back}" for back in (0, 7, 13) if index - 50 - back >= 0]
        lines.append(
            f'[[step]]\nid = "s{index}"\nbase = "b"\nneeds = {json.dumps(needs)}\n'
            f'run = ["true", "{index}"]\noutputs = ["out"]\n'
        )
    return "\n".join(lines)


class Imagined:
    """An executor for priming a store: every step gives one small file, no container runs."""

    slots = 2
    failed = None

    def execute(self, run: Any, store: Any, observer: Any, *, log_file: Path) -> Any:
        from pipeline.sandbox import StepResult
        from pipeline.tree import Tree, TreeEntry

        del observer
        digest, size_bytes = store.put([run.node.encode()])
        log_file.touch()
        entry = TreeEntry(path="out", kind="file", sha256=digest.hex(), size_bytes=size_bytes)
        return StepResult(
            outputs=Tree((entry,)), log=store.put([b""])[0], duration_s=0.0, exercised=run.variations
        )

    def cancel(self) -> None: ...


def bench_help(folder: Path) -> None:
    def run(*command: str) -> float:
        return best(
            10,
            lambda: subprocess.run(
                command, env=ENVIRONMENT, cwd=folder, stdout=subprocess.DEVNULL, check=True
            ),
        )

    tell(
        "help", run(*RVP, "--help"), limit_s=run(sys.executable, "-c", "pass"),
        peers={"import click": run(sys.executable, "-c", "import click")}, work="rvp --help, best of 10",
    )  # fmt: skip


def bench_plan(folder: Path) -> None:
    place = project(folder / "plan", tiny_tar_in(folder / "plan"), many_steps(5000))
    rvp("lock", cwd=place)
    ours = best(3, lambda: rvp("plan", cwd=place))
    import networkx as nx

    def peer() -> None:
        graph = nx.DiGraph()
        for index in range(5000):
            for back in (0, 7, 13):
                if index - 50 - back >= 0:
                    graph.add_edge(index - 50 - back, index)
        list(nx.lexicographical_topological_sort(graph))

    tell(
        "plan-5000",
        ours,
        limit_s=best(3, peer),
        work="rvp plan of 5,000 steps; limit: networkx sorts that graph",
    )


def tiny_tar_in(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return tiny_tar(folder)


def bench_no_op(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from pipeline.cli.build import build_project
    from pipeline.leaves import store_of
    from pipeline.project import load_project
    from provenance.events import ignore

    place = project(folder / "no-op", tiny_tar_in(folder / "no-op"), many_steps(500))
    rvp("lock", cwd=place)
    store = store_of(place, named=str(place / "store"))
    build_project(load_project(place, store=store, observer=ignore), store, Imagined())  # type: ignore[arg-type]
    tell(
        "no-op-500", best(3, lambda: rvp("build", "--store", str(place / "store"), cwd=place)),
        limit_s=best(3, lambda: rvp("--help", cwd=place)), work="rvp build of 500 cached steps; limit: rvp --help",
    )  # fmt: skip


def debian_step(folder: Path, run: tuple[str, ...], outputs: str = '"out"') -> Path:
    return project(
        folder, f"debian = {DEBIAN}",
        f'[[step]]\nid = "s"\nbase = "b"\nrun = {json.dumps(list(run))}\noutputs = [{outputs}]\n',
    )  # fmt: skip


def in_container(folder: Path) -> tuple[Any, Any, Any, str]:
    """An engine, a store and a root filesystem, for calls of the library and of `docker run`."""
    sys.path.insert(0, str(ROOT))
    from pipeline.engine import connect
    from pipeline.leaves import store_of, trees_of, with_bases
    from pipeline.project import load_project
    from pipeline.sandbox import load_rootfs
    from provenance.events import ignore

    place = debian_step(folder / "step", ("true",))
    rvp("lock", cwd=place)
    store = store_of(place, named=os.environ.get("RVP_BENCH_STORE", str(folder / "store")))
    loaded = load_project(place, store=store, observer=ignore)
    leaves = with_bases(trees_of(loaded, store), loaded, ["base.b"], store=store, observer=ignore)
    engine = connect()
    rootfs = leaves.rootfs["base.b"]
    return engine, store, rootfs, load_rootfs(engine, rootfs, store)


def docker_run(engine: Any, image: str, argv: tuple[str, ...]) -> None:
    """The peer: plain `docker run`, through the client when there is one, else through the same SDK."""
    if shutil.which("docker"):
        subprocess.run(
            ["docker", "run", "--rm", "--network", "none", image, *argv],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    else:
        engine.client.containers.run(image, list(argv), network_mode="none", remove=True)


def bench_step(folder: Path) -> None:
    engine, store, rootfs, image = in_container(folder)
    if os.environ.get("DOCKER_HOST") is None:
        os.environ["DOCKER_HOST"] = (
            engine.client.api.base_url.replace("http+docker://localhost", "") or engine.url
        )
    from pipeline.sandbox import StepRun, run_step
    from provenance.events import ignore

    def ours(argv: tuple[str, ...]) -> None:
        run = StepRun(
            node="step.s",
            rootfs=rootfs,
            argv=("sh", "-c", 'echo > "$0"; exec "$@"', "{out}/out", *argv),
            outputs=("out",),
            epoch=1,
        )
        run_step(engine, run, store, ignore, scratch=folder / "scratch")

    few = tuple(word.replace("{count}", "20000000") for word in WORK)
    overhead = best(3, lambda: docker_run(engine, image, ("true",)))
    each = (best(2, lambda: docker_run(engine, image, few)) - overhead) / 20_000_000
    work = tuple(word.replace("{count}", str(int(10 / each))) for word in WORK)
    peer = best(2, lambda: docker_run(engine, image, work))
    tell(
        "step-10s",
        best(2, lambda: ours(work)),
        peers={"docker run": peer},
        work=f"perl counts for {peer:.1f} s",
    )
    peer = best(10, lambda: docker_run(engine, image, ("true",)))
    mine = best(10, lambda: ours(("true",)))
    tell(
        "step-empty",
        mine,
        peers={"docker run": peer},
        beyond_s=round(mine - peer, 3),
        work="`true`, best of 10",
    )


def bench_memory(folder: Path) -> None:
    place = debian_step(folder / "memory", ("sh", "-c", "head -c 2147483648 /dev/zero > {out}/out"))
    rvp("lock", cwd=place)
    started = time.perf_counter()
    process = subprocess.Popen(
        [*RVP, "build", "--store", str(folder / "store")],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(
                peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0
            )
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    if process.returncode:
        sys.exit("the build of the memory figure failed")
    ours = time.perf_counter() - started
    import hashlib

    block = bytes(1 << 20)

    def limit() -> None:
        hashing = hashlib.sha256()
        for _ in range(2048):
            hashing.update(block)

    tell(
        "memory-2gib",
        ours,
        limit_s=best(1, limit),
        peak_mb=round(peak / 1024),
        work="a step that writes 2 GiB, built once; limit: one SHA-256 of it",
    )


BENCHES = {
    "help": bench_help,
    "plan": bench_plan,
    "no-op": bench_no_op,
    "step": bench_step,
    "memory": bench_memory,
    **SGX,
    **TDX,
    **SNP,
}


def main(names: list[str]) -> None:
    if names == ["--list"]:
        print("\n".join(BENCHES))
        return
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        sys.exit(f"no such figure: {', '.join(unknown)}; known: {', '.join(BENCHES)}")
    with tempfile.TemporaryDirectory(prefix="rvp-bench-") as temporary:
        for name in names or BENCHES:
            BENCHES[name](Path(temporary))


if __name__ == "__main__":
    main(sys.argv[1:])
