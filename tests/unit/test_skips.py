"""What is skipped for want of a program is a failure in a run that has installed them all."""

from __future__ import annotations

import pytest

from tests.conftest import MISSING_PROGRAM


@pytest.mark.parametrize(
    ("reason", "is_missing"),
    [
        ("Skipped: needs openssl", True),
        ("Skipped: softhsm2 is not installed (apt-get install softhsm2)", True),
        ("Skipped: there is no gcc on this machine", True),
        ("Skipped: dpkg-source is the oracle", True),
        ("Skipped: atheris is not installed (it has no wheel for this Python)", False),
        ("Skipped: the shared test data is not beside this checkout (set RVP_VECTORS)", False),
        ("Skipped: RVP_ENCLAVES names no folder of enclaves", False),
        ("Skipped: this machine has one processor", False),
        ("Skipped: only root can start an engine", False),
    ],
)
def test_a_missing_program_is_told_from_other_reasons(reason: str, *, is_missing: bool) -> None:
    assert bool(MISSING_PROGRAM.search(reason)) is is_missing
