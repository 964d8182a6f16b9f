"""What all tests share: where the shared test data is, and a home of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fakes.token import Token, make_token

ROOT = Path(__file__).resolve().parent.parent

# A shell that starts tests in the background has them ignore SIGINT, and their children too; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
