"""docs/testing.md names tests and codes that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(
    r"^\| (.+?) \| `([^`]+)` \| (.+) \|$",
    (ROOT / "docs" / "testing.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
ROWS = [row for row in ROWS if row[1].startswith(("cli/", "docker/", "unit/", "conformance/", "property/"))]
CODES = {
    entry["code"]
    for entry in json.loads((ROOT / "provenance" / "error_catalogue.json").read_text(encoding="utf-8"))[
        "entries"
    ]
}


def test_the_table_is_long() -> None:
    assert len(ROWS) > 45


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table_is_true(row: tuple[str, str, str]) -> None:
    _, name, end = row
    path, _, test = name.partition("::")
    where = ROOT / "tests" / path
    if test:
        assert f"def {test}(" in where.read_text(encoding="utf-8")
    else:
        expected = json.loads((where / "expect.json").read_text(encoding="utf-8"))
        assert str(expected["exit_code"]) == end
    assert set(re.findall(r"RVP-\d{4}", end)) <= CODES
