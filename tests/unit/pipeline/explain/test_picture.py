"""The picture of an explanation: well-formed, the same bytes every time, marks where pages differ."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from pathlib import Path

from pipeline.explain.explain import Operand, explain_with_sides
from pipeline.explain.picture import draw
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import pack_enclave
from tests.fakes.enclave_elf import enclave_elf

SVG = "{http://www.w3.org/2000/svg}"


def drawn(folder: Path, right: bytes | str) -> str:
    left = folder / "a <b>.so"
    left.write_bytes(pack_enclave(enclave_elf(), EnclaveConfig(threads=3, heap="64KiB")))
    if isinstance(right, bytes):
        (folder / "b.so").write_bytes(right)
    other = right if isinstance(right, str) else str(folder / "b.so")
    return draw(
        *explain_with_sides(Operand(text=str(left)), Operand(text=other), clock=time.monotonic, budget_s=0)
    )


def test_what_differs_has_a_mark_and_words(tmp_path: Path) -> None:
    other = pack_enclave(enclave_elf(), EnclaveConfig(threads=3, heap="128KiB"))
    picture = drawn(tmp_path, other)
    texts = [one.text or "" for one in ET.fromstring(picture).iter(f"{SVG}text")]
    assert texts.count("≠") == 6  # the data, the heap, the TCS: on both sides
    assert any(line.startswith("First divergence, page 2: g_global_data") for line in texts)
    assert "Likely cause: the configurations give the heap different sizes" in texts
    assert picture == drawn(tmp_path, other)


def test_equal_enclaves_have_no_mark(tmp_path: Path) -> None:
    same = pack_enclave(enclave_elf(), EnclaveConfig(threads=3, heap="64KiB"))
    assert "≠" not in drawn(tmp_path, same)


def test_a_bare_value_is_an_empty_strip(tmp_path: Path) -> None:
    texts = [one.text for one in ET.fromstring(drawn(tmp_path, "00" * 32)).iter(f"{SVG}text")]
    assert "a bare value: its pages are not known" in texts
