"""A figure: how it is timed, and the JSON line that states it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RVP = (sys.executable, "-m", "rvp")
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1"}


def best(repeats: int, call: Callable[[], Any]) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def rvp(*arguments: str, cwd: Path, **more: str) -> str:
    found = subprocess.run(
        [*RVP, *arguments], cwd=cwd, env={**ENVIRONMENT, **more}, capture_output=True, text=True, check=False
    )
    if found.returncode:
        sys.exit(f"rvp {' '.join(arguments)} ended with {found.returncode}\n{found.stdout}{found.stderr}")
    return found.stdout


def tell(
    bench: str,
    ours_s: float,
    *,
    work: str,
    limit_s: float = 0.0,
    peers: dict[str, float] | None = None,
    **more: Any,
) -> None:
    line: dict[str, Any] = {"bench": bench, "ours_s": round(ours_s, 3)}
    if limit_s:
        line |= {"limit_s": round(limit_s, 3), "ratio_to_limit": round(ours_s / limit_s, 2)}
    if peers:
        line["peers"] = {name: {"s": round(s, 3), "ratio": round(ours_s / s, 3)} for name, s in peers.items()}
    print(json.dumps({**line, **more, "work": work}), flush=True)


def race(repeats: int, **calls: Callable[[], Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Time calls in turn, so that noise meets them all; the best wall time and the best processor time of each."""
    wall = dict.fromkeys(calls, float("inf"))
    cpu = dict(wall)
    for _ in range(repeats):
        for name, call in calls.items():
            started, worked = time.perf_counter(), time.process_time()
            call()
            wall[name] = min(wall[name], time.perf_counter() - started)
            cpu[name] = min(cpu[name], time.process_time() - worked)
    return wall, cpu
