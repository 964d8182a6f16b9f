"""What all tests share: where the shared test data is, and a home of their own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.token import Token, make_token

ROOT = Path(__file__).resolve().parent.parent

# A shell that starts tests in the background has them ignore SIGINT, and their children too; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How tests say that a program is missing; atheris has no wheel for some Pythons, nothing can be installed there.
MISSING_PROGRAM = re.compile(
    r"is not installed(?! \(it has no wheel)|needs \S|there is no \w+ on this machine|is the oracle"
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail what is skipped for want of a program, in a run that has installed them all (`workflows/test`)."""
    outcome = yield
    report = outcome.get_result()
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = str(report.longrepr[2])
    if os.environ.get("RVP_REQUIRE_DOCKER") == "1" and MISSING_PROGRAM.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {reason}; this run may skip nothing for want of a program"


def vectors_folder() -> Path | None:
    """Find the shared test data: RVP_VECTORS, or `shared/vectors` beside the checkout."""
    for folder in (os.environ.get("RVP_VECTORS"), ROOT.parent / "shared" / "vectors"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    return None


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The shared test data; a test that asks for it is skipped, with these words, where it is absent."""
    folder = vectors_folder()
    if folder is None:
        pytest.skip("the shared test data is not beside this checkout (set RVP_VECTORS)")
    return folder


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """A PKCS #11 token with keys in it: SoftHSM."""
    return make_token(tmp_path_factory.mktemp("token"))
