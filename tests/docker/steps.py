"""Steps for the tests."""

from __future__ import annotations

from pipeline.sandbox import Rootfs, StepRun

EPOCH = 1_700_000_000


def make_run(base: Rootfs, script: str, **changes) -> StepRun:
    """A step that runs a shell script."""
    settings = {
        "node": "step.test",
        "rootfs": base,
        "argv": ("/bin/sh", "-c", script),
        "outputs": ("result",),
        "epoch": EPOCH,
    }
    return StepRun(**{**settings, **changes})
