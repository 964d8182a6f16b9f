"""Real enclaves, from a folder of yours: each is measured and compared with what its owner signed.

The folder is named by RVP_ENCLAVES and has a table INDEX.tsv: the first line names the columns, of which
`path` (in the folder) and `enclavehash` (in hex) are read. Rows without a hash are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.measure import MeasureOptions, measure_file
from tests.fakes.plain_sdk_loader import plain_mrenclaves
from tests.fakes.sdk_files import Entry, Record, Segment, sdk_file

FOLDER = os.environ.get("RVP_ENCLAVES")


def signed_values(folder: Path) -> list[tuple[str, str]]:
    """Read the table: path and hash, each file once (by its hash and name)."""
    columns, *rows = [
        line.split("\t") for line in (folder / "INDEX.tsv").read_text(encoding="utf-8").splitlines()
    ]
    path, value = columns.index("path"), columns.index("enclavehash")
    found = {(Path(row[path]).name, row[value]): (row[path], row[value]) for row in rows if row[value]}
    return sorted(found.values())


def disagreements(path: Path, value: str) -> list[str]:
    """Measure a file: what differs from the hash, and which checks failed."""
    (found,) = measure_file(path, options=MeasureOptions(with_log=False)).measurements
    failed = [
        f"{one.id}: {one.got}, expected {one.expected}" for one in found.checks if one.status == "failed"
    ]
    if found.claims["mrenclave"] != value:
        failed.append(f"mrenclave: {found.claims['mrenclave']}, signed {value}")
    return failed


@pytest.mark.skipif(not FOLDER, reason="RVP_ENCLAVES names no folder of enclaves")
@pytest.mark.parametrize(("path", "value"), signed_values(Path(FOLDER)) if FOLDER else [("", "")])
def test_a_real_enclave_has_the_value_that_its_owner_signed(path: str, value: str) -> None:
    assert disagreements(Path(FOLDER or "") / path, value) == []


def test_a_folder_is_read_and_a_difference_is_seen(tmp_path: Path) -> None:
    file = sdk_file(
        (Segment(address=0x1000, content=b"text", flags=5),),
        (Record(version=(2, 4), size=0x10000, layout=(Entry(address=0x4000),)),),
        sigstruct=bytes(1808),
    )
    (value,) = plain_mrenclaves(file)
    (tmp_path / "a.so").write_bytes(file)
    rows = [("path", "kind", "enclavehash"), ("a.so", "sdk-signed", value), ("b.so", "sdk-unsigned", "")]
    (tmp_path / "INDEX.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    assert signed_values(tmp_path) == [("a.so", value)]
    assert disagreements(tmp_path / "a.so", value) == []
    assert disagreements(tmp_path / "a.so", "00" * 32) == [f"mrenclave: {value}, signed {'00' * 32}"]
