"""What of a step is decided without an engine."""

from __future__ import annotations

from pipeline.sandbox import fill
from pipeline.step_run import Rootfs, StepInput, StepRun
from pipeline.tree import Tree

RUN = StepRun(
    node="step.x",
    rootfs=Rootfs(digest=b"r" * 32),
    argv=("true",),
    outputs=("o",),
    epoch=1,
    inputs=(StepInput(name="source.app", tree=Tree()), StepInput(name="step.a", tree=Tree())),
)


def test_placeholders_are_replaced_and_the_shells_braces_stay():
    text = "cp {source.app}/x {out}/{step.a} ${out} ${out:-{out}} {step.b} {OUT} {}"
    assert (
        fill(text, RUN, "/b") == "cp /b/source.app/x /b/out//b/step.a ${out} ${out:-/b/out} {step.b} {OUT} {}"
    )
