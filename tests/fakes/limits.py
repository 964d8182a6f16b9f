"""Strangers' bytes measured in a process of their own, with little memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, resource, sys
from pathlib import Path
path, memory = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
from pipeline.measure import MeasureOptions, measure_file
from provenance.errors import UsageError
try:
    found = {"value": measure_file(path, options=MeasureOptions()).measurements[0].claims["mrenclave"]}
except UsageError as error:
    found = {"error": type(error).__name__, "message": str(error), "place": error.place}
print(json.dumps(found))
"""


def measured_in_a_child(path: Path, *, memory_bytes: int, seconds: int) -> dict[str, Any]:
    """Measure a file: its value, or our error. Anything else, and too much of memory or time, fails."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(memory_bytes)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
