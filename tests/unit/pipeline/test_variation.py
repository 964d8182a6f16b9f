"""What a step sees of its surroundings, decided without an engine."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.rootfs import RootfsFacts
from pipeline.step_run import Rootfs, StepInput, StepRun
from pipeline.tree import TreeEntry, make_tree
from pipeline.variation import VARIATIONS, Environment, Surroundings, environment_for

FULL = RootfsFacts(
    shell="/bin/sh", setarch="/usr/bin/setarch", faketime="/f.so", locale="fr_FR.utf8", locale_path="/l"
)
FOUR = Surroundings(cpus=4)
TWO_FILES = make_tree(TreeEntry(path=name, kind="file", sha256="00" * 32) for name in "ab")


def run_of(*variations: str, run: int = 2, fixed: tuple[str, ...] = ()) -> StepRun:
    return StepRun(
        node="step.x",
        rootfs=Rootfs(digest=b"\0" * 32),
        argv=("make",),
        outputs=("o",),
        epoch=1,
        inputs=(StepInput(name="source.app", tree=TWO_FILES),),
        variations=variations,
        fixed=fixed,
        run=run,
    )


def changed(name: str, run: int = 2) -> dict:
    plain, varied = environment_for(run_of(), FULL, FOUR), environment_for(run_of(name, run=run), FULL, FOUR)
    fields = set(Environment.__struct_fields__) - {"exercised", "not_exercised"}
    return {
        field: getattr(varied, field) for field in fields if getattr(plain, field) != getattr(varied, field)
    }


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_changes_something_and_says_so(name):
    assert changed(name)
    varied = environment_for(run_of(name), FULL, FOUR)
    assert (varied.exercised, varied.not_exercised) == ((name,), ())


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_run_can_be_repeated(name):
    assert changed(name) == changed(name)


@pytest.mark.parametrize(
    "name", ["time", "hostname", "user", "home", "environment", "build-path", "timezone"]
)
def test_another_run_varies_by_another_amount(name):
    assert changed(name, run=2) != changed(name, run=3)


@pytest.mark.parametrize("name", ["time", "locale", "umask", "cpus", "file-order", "kernel-release"])
def test_what_cannot_take_effect_is_told_with_its_reason(name):
    around = Surroundings(cpus=1, no_file_order="inputs are not mounted")
    got = environment_for(run_of(name), RootfsFacts(), around)
    assert got.exercised == ()
    assert [one.variation for one in got.not_exercised] == [name]
    assert got.not_exercised[0].reason


def test_a_fixed_variation_is_not_applied_and_told():
    got = environment_for(run_of("hostname", fixed=("hostname",)), FULL, FOUR)
    assert got.hostname == "rvp"
    assert "cannot bear" in got.not_exercised[0].reason


def test_an_unknown_variation_is_told():
    assert environment_for(run_of("phase-of-moon"), FULL, FOUR).not_exercised[0].variation == "phase-of-moon"


def test_one_file_has_no_order():
    one = StepInput(name="source.app", tree=make_tree([TreeEntry(path="a/b", kind="file", sha256="00" * 32)]))
    run = StepRun(
        node="s", rootfs=Rootfs(digest=b""), argv=("x",), outputs=("o",), epoch=1, inputs=(one,), run=2,
        variations=("file-order",),
    )  # fmt: skip
    assert "two entries" in environment_for(run, FULL, FOUR).not_exercised[0].reason


@pytest.mark.parametrize(
    ("name", "variable"),
    [("time", "LD_PRELOAD"), ("timezone", "TZ"), ("locale", "LC_ALL"), ("home", "HOME")],
)
def test_a_step_that_sets_what_a_variation_changes_is_not_called_varied(name: str, variable: str):
    own = msgspec.structs.replace(run_of(name), environment={variable: "mine"})
    found = environment_for(own, FULL, FOUR)
    assert found.exercised == ()
    assert [(one.variation, one.reason) for one in found.not_exercised] == [
        (name, f"the step sets {variable} itself")
    ]
