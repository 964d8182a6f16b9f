"""A fixed number of seeded mutations of every target; more with RVP_FUZZ_ROUNDS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.mutations import mutate
from tests.fuzz.sgx_targets import SGX_TARGETS
from tests.fuzz.targets import SEEDS, TARGETS

ROUNDS = int(os.environ.get("RVP_FUZZ_ROUNDS", "150"))
MORE = 3000
SECONDS = 30  # of atheris, for each target
LONGEST_S = 5  # for one input; a slow one is a finding as well


@pytest.mark.parametrize("name", TARGETS)
def test_the_property_holds_for_mutations(name: str) -> None:
    _run(name, range(ROUNDS))


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TARGETS)
def test_the_property_holds_for_many_mutations(name: str) -> None:
    _run(name, range(ROUNDS, ROUNDS + MORE))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SGX_TARGETS)
def test_atheris_finds_nothing_in_a_while(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (it has no wheel for this Python)")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run.py")), name, f"-max_total_time={SECONDS}", "-timeout=20",
         "-rss_limit_mb=1024"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def _run(name: str, numbers: range) -> None:
    for number in numbers:
        data = mutate(SEEDS[name], number)
        started = time.monotonic()
        try:
            TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"target {name}, mutation {number}")
            raise
        assert time.monotonic() - started < LONGEST_S, f"target {name}, mutation {number}"


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_themselves_are_read(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_a_mutation_is_the_same_everywhere() -> None:
    import hashlib

    made = hashlib.sha256(b"".join(mutate([b"seed" * 100, b"other" * 50], number) for number in range(50)))
    assert made.hexdigest() == "e9eaa568ada4e1e30071f6f99aac80359648c04562a7be9bdd7d9c4a63b2a5f8"


def test_each_target_says_its_property() -> None:
    assert all((target.__doc__ or "").strip() for target in TARGETS.values())
