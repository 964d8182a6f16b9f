"""Two operands: files, logs, bare values. The first page that differs is the one that a plain comparison finds."""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest

from pipeline.explain.explain import CannotExplain, Operand, explain
from pipeline.explain.model import Explained
from pipeline.explain.render import render_text
from pipeline.measure import MeasureOptions, UnknownFormat, measure_file
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import pack_enclave
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.log import LogDoesNotFold
from pipeline.measure.sgx.sgxs import write_sgxs
from provenance.errors import RvpError
from provenance.strict import NotReadable
from tests.fakes.enclave_elf import enclave_elf

CONFIG = EnclaveConfig(threads=3, stack="16KiB", heap="64KiB")


def packed(folder: Path, name: str, *, config: EnclaveConfig = CONFIG, **elf: bytes) -> Path:
    path = folder / name
    path.write_bytes(pack_enclave(enclave_elf(**elf), config))
    return path


def explained(left: Path | str, right: Path | str | None = None, **more: float) -> Explained:
    other = None if right is None else Operand(text=str(right))
    return explain(Operand(text=str(left)), other, clock=time.monotonic, **more)  # type: ignore[arg-type]


def log_of(path: Path) -> Path:
    (log,) = measure_file(path, options=MeasureOptions(with_log=True)).logs
    written = path.with_suffix(".log.json")
    written.write_bytes(msgspec.json.encode(log))
    return written


def value_of(path: Path) -> str:
    return mrenclave(lay_out(path)[0].image).hex()


def pages_of(image: EnclaveImage) -> list[tuple[int, int, bytes]]:
    found = []
    for part in image.parts:
        assert isinstance(part, Pages)
        for index in range(part.count):
            start = 0 if part.is_filled else index * PAGE
            found.append((part.address + index * PAGE, part.flags, bytes(part.content[start : start + PAGE])))
    return found


def plain_first(left: Path, right: Path) -> int:
    """Return the number of the first page that differs: a plain comparison, page by page."""
    ones, others = (pages_of(lay_out(path)[0].image) for path in (left, right))
    pairs = enumerate(zip(ones, others, strict=False), start=1)
    return next((number for number, pair in pairs if pair[0] != pair[1]), min(len(ones), len(others)) + 1)


TWO_VALUES = msgspec.json.encode(
    {
        "schema": "rvp/measurements/v1",
        "tool": {"name": "rvp", "version": "1"},
        "measurements": [
            {
                "tee": "sgx",
                "subject": {"name": "x", "digest": {"sha256": "00" * 32}},
                "claims": {"mrenclave": one * 32},
            }
            for one in ("11", "22")
        ],
    }
)
CHANGES = {
    "heap": {"config": EnclaveConfig(threads=3, stack="16KiB", heap="128KiB")},
    "stack": {"config": EnclaveConfig(threads=3, stack="32KiB", heap="64KiB")},
    "threads": {"config": EnclaveConfig(threads=5, stack="16KiB", heap="64KiB")},
    "code": {"code": b"\x0f\x0b" * 300 + b"\x90" + b"\x0f\x0b" * 399},
    "longer code": {"code": b"\x0f\x0b" * 3000},
    "data": {"seed": b"DATA"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_files_and_logs_name_the_page_that_a_plain_comparison_finds(tmp_path: Path, name: str) -> None:
    one = packed(tmp_path, "a.so")
    if name == "longer code":  # the fake's data lies behind one page of code
        other = packed(tmp_path, "b.so", code=b"\x0f\x0b" * 2000)
    else:
        other = packed(tmp_path, "b.so", **CHANGES[name])  # type: ignore[arg-type]
    expected = plain_first(one, other)
    by_file = explained(one, other)
    assert not by_file.equal
    assert by_file.first is not None
    assert by_file.first.number == expected
    logs = log_of(one), log_of(other)
    for pair in (logs, (one, logs[1]), (logs[0], other)):
        found = explained(*pair)
        assert found.first is not None
        assert (found.first.number, found.first.address, found.first.kind) == (
            expected,
            by_file.first.address,
            by_file.first.kind,
        )


def test_the_bytes_that_differ_are_shown_with_their_place(tmp_path: Path) -> None:
    found = explained(packed(tmp_path, "a.so"), packed(tmp_path, "b.so", **CHANGES["heap"]))  # type: ignore[arg-type]
    assert found.first is not None
    assert found.first.place == "g_global_data + 0x1a (heap size), segment 1 rw-"
    (row,) = found.first.rows
    assert (row.address, row.differs) == (0x2010, (10,))
    assert found.parameters[0].name == "heap_bytes"
    assert [cause.id for cause in found.causes] == ["heap-size", "configuration-only"]


def test_tcs_fields_are_named(tmp_path: Path) -> None:
    path = packed(tmp_path, "a.so")
    image = lay_out(path)[0].image
    parts = []
    for part in image.parts:
        if isinstance(part, Pages) and part.label == "TCS 1":
            page = bytearray(part.content)
            page[32] ^= 0x10
            part = msgspec.structs.replace(part, content=bytes(page))  # noqa: PLW2901
        parts.append(part)
    other = tmp_path / "b.sgxs"
    other.write_bytes(write_sgxs(msgspec.structs.replace(image, parts=tuple(parts))))
    first = explained(path, other).first
    assert first is not None
    assert first.place == "TCS 1: OENTRY (entry point)"
    assert first.offset == 32


def test_one_enclave_in_two_formats_is_equal(tmp_path: Path) -> None:
    one = packed(tmp_path, "a.so")
    other = tmp_path / "a.sgxs"
    other.write_bytes(write_sgxs(lay_out(one)[0].image))
    found = explained(one, other)
    assert found.equal
    assert "differ, in what is not measured" in found.notes[0]
    assert "section section" not in found.notes[0]
    assert explained(log_of(one), other).notes[0] == "the log folds to MRENCLAVE over the content of the file"


def test_a_file_is_equal_to_itself_and_to_its_value(tmp_path: Path) -> None:
    path = packed(tmp_path, "a.so")
    assert explained(path, path).notes == ("the files are equal",)
    assert explained(path, value_of(path).upper()).equal


def test_a_log_with_the_files_value_that_does_not_fold_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, "a.so")
    log = msgspec.json.decode(log_of(path).read_bytes())
    log["events"][1]["content"] = "0" * 64
    (tmp_path / "forged.json").write_bytes(msgspec.json.encode(log))
    with pytest.raises(LogDoesNotFold):
        explained(tmp_path / "forged.json", path)


def test_a_log_that_states_another_value_than_its_events_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path, "a.so")
    log = msgspec.json.decode(log_of(path).read_bytes())
    log["value"] = "0" * 64
    (tmp_path / "forged.json").write_bytes(msgspec.json.encode(log))
    found = explained(tmp_path / "forged.json", path)
    assert found.first is None
    assert "no event differs, but the values do" in found.notes[0]


def test_only_ecreate_differs(tmp_path: Path) -> None:
    image = lay_out(packed(tmp_path, "a.so"))[0].image
    sides = []
    for frame in (1, 3):
        path = tmp_path / f"{frame}.sgxs"
        path.write_bytes(write_sgxs(msgspec.structs.replace(image, ssa_frame_size=frame)))
        sides.append(path)
    found = explained(*sides)
    assert found.first is not None
    assert found.first.kind == "parameter"
    assert [cause.id for cause in found.causes] == ["ssa-frame"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'{"schema": "rvp/other/v1"}', UnknownFormat),
        (b"[]", UnknownFormat),
        (None, NotReadable),
        (TWO_VALUES, CannotExplain),
    ],
)
def test_what_has_no_mrenclave_is_refused(
    tmp_path: Path, content: bytes | None, error: type[Exception]
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        explained(path, "00" * 32)


def test_an_unsigned_enclave_alone_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    with pytest.raises(CannotExplain, match="not signed"):
        explained(packed(tmp_path, "a.so"))


def test_the_text_has_the_answer_first_and_marks_the_bytes(tmp_path: Path) -> None:
    text = render_text(explained(packed(tmp_path, "a.so"), packed(tmp_path, "b.so", **CHANGES["heap"])))  # type: ignore[arg-type]
    lines = text.splitlines()
    assert lines[0] == "different: mrenclave"
    left, right, marks = (
        (
            next(line for line in lines if line.startswith((f"  {name}   0x", f"  {name}  0x")))
            for name in ("left", "right")
        ),
        None,
        next(line for line in lines if line.strip(" ^") == "" and "^" in line),
    )
    del right
    one, other = left
    at = marks.index("^^")
    assert (one[at : at + 2], other[at : at + 2]) == ("01", "02")


# ---- real enclaves ---------------------------------------------------------------------------------------------


@pytest.mark.vectors
@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("c02_tcs10", "threads"),
        ("c03_pool", "threads"),
        ("c11_amx", "ssa-frame"),
        ("c08_elrange", "enclave-range"),
        ("c10_aex_pkru", "aex-notify"),
        ("c07_rsrv", "reserved-memory"),
    ],
)
def test_enclaves_of_intels_tool_are_explained_by_their_configurations(
    vectors: Path, right: str, expected: str
) -> None:
    oracle = vectors / "sgx" / "oracle"
    files = oracle / "c01_default.signed.so", oracle / f"{right}.signed.so"
    found = explained(*files)
    assert found.first is not None
    assert found.first.number == plain_first(*files)
    assert expected in {cause.id for cause in found.causes}
    assert not {"timestamp", "build-path", "compiler", "code"} & {cause.id for cause in found.causes}


@pytest.mark.vectors
def test_two_signatures_of_one_enclave_differ_only_in_what_was_signed(vectors: Path) -> None:
    oracle = vectors / "sgx" / "oracle"
    found = explained(oracle / "c01_default.signed.so", oracle / "c09_kss.signed.so")
    assert found.equal
    assert any("isvprodid" in note or "attributes" in note for note in found.notes)


@pytest.mark.vectors
def test_a_signed_enclave_that_was_changed_is_compared_with_its_own_signature(
    vectors: Path, tmp_path: Path
) -> None:
    data = bytearray((vectors / "sgx" / "mini" / "keysvc.signed.so").read_bytes())
    assert explained(vectors / "sgx" / "mini" / "keysvc.signed.so").equal
    data[0x1100] ^= 1
    (tmp_path / "changed.so").write_bytes(data)
    found = explained(tmp_path / "changed.so", budget_s=0.0)
    assert (found.equal, found.right.what) == (False, "SIGSTRUCT")


@pytest.mark.vectors
def test_fields_of_the_elf_header_are_named(vectors: Path, tmp_path: Path) -> None:
    original = vectors / "sgx" / "mini" / "keysvc.signed.so"
    for offset, expected in (
        (0x18, "ELF header: entry point"),
        (0x40 + 56 + 24, "program header 1: physical address"),
    ):
        data = bytearray(original.read_bytes())
        data[offset] ^= 1
        (tmp_path / "changed.so").write_bytes(data)
        first = explained(original, tmp_path / "changed.so").first
        assert first is not None
        assert first.place.startswith(expected)


@pytest.mark.vectors
def test_one_flipped_byte_of_a_real_enclave_is_found_with_its_function(vectors: Path, tmp_path: Path) -> None:
    original = vectors / "sgx" / "mini" / "keysvc.signed.so"
    data = bytearray(original.read_bytes())
    data[0x2345] ^= 0xFF
    changed = tmp_path / "changed.so"
    changed.write_bytes(data)
    found = explained(original, changed)
    assert found.first is not None
    assert found.first.address + found.first.offset == 0x2345
    assert " in .text, segment 1 r-x" in found.first.place
    assert found.first.number == plain_first(original, changed)
    assert [cause.id for cause in found.causes] == ["code"]
    (region,) = found.regions
    assert (region.name, region.content) == (".text", 1)


@pytest.mark.vectors
def test_damaged_enclaves_are_explained_or_refused_in_words(vectors: Path, tmp_path: Path) -> None:
    """Headers, metadata and tables with flipped bytes: an explanation, or one error of ours; never another end."""
    original = vectors / "sgx" / "oracle" / "c03_pool.signed.so"
    whole = original.read_bytes()
    chance = random.Random(11)
    damaged = tmp_path / "damaged.so"
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            first, last = chance.choice(((0, 0x300), (0x3BF8, 0x5000), (0x9C00, len(data)), (0, len(data))))
            data[chance.randrange(first, last)] = chance.randrange(256)
        damaged.write_bytes(data if chance.random() < 0.9 else data[: chance.randrange(len(data))])
        try:
            found = explained(original, damaged)
        except RvpError as error:
            outcomes.add(type(error).__name__)
        else:
            render_text(found)
            outcomes.add("equal" if found.equal else "different")
            assert found.equal or found.first is not None
    assert {"equal", "different", "BadElf"} <= outcomes
