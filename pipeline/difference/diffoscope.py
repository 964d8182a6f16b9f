"""diffoscope, when it is installed: a subprocess with a time limit, its report attached as text."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from pipeline.difference.model import Difference

_REPORT_BYTES: Final = 256 << 10
_DIFFERENT: Final = 1
ABSENT: Final = "diffoscope is not installed (package: diffoscope-minimal); the built-in look is all there is"


def add_report(difference: Difference, left: Path, right: Path, *, timeout_s: float) -> Difference:
    """Attach diffoscope's report to a difference, or a comment that says why there is none."""
    import msgspec

    text, comment = run(left, right, timeout_s=timeout_s)
    return msgspec.structs.replace(
        difference,
        text="\n".join(part for part in (difference.text, text) if part),
        comments=(*difference.comments, *((comment,) if comment else ())),
    )


def run(left: Path, right: Path, *, timeout_s: float) -> tuple[str, str]:
    """Run diffoscope on two files.

    Returns:
        Its report (empty when there is none), and a comment (empty when all went well).
    """
    program = shutil.which("diffoscope")
    if program is None:
        return "", ABSENT
    arguments = [program, "--no-progress", "--max-text-report-size", str(_REPORT_BYTES), "--text", "-"]
    with tempfile.TemporaryFile() as report:
        process = subprocess.Popen(
            [*arguments, "--", str(left), str(right)],
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return "", f"diffoscope did not end within {timeout_s:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        report.seek(0)
        data = report.read(_REPORT_BYTES + 1)
    if status not in {0, _DIFFERENT}:
        return "", f"diffoscope ended with status {status}"
    text = data[:_REPORT_BYTES].decode("utf-8", "backslashreplace").rstrip()
    return text, "" if len(data) <= _REPORT_BYTES else f"diffoscope's report is cut at {_REPORT_BYTES} bytes"
