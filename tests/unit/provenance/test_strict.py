"""The strict reader: what it refuses, where it says that it is, and that it never fails in another way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import RvpError
from provenance.strict import (
    DuplicateKey,
    NotReadable,
    NotWellFormed,
    UnknownKey,
    WrongType,
    line_in_toml,
    parse_json,
    parse_toml,
    read_file,
    read_json,
    read_toml,
)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sizes: tuple[int, ...] = ()


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: dict[str, Part] = {}
    steps: tuple[Part, ...] = ()


BAD_JSON = {
    "duplicate": (b'{"parts": {"a": {"name": "x", "name": "y"}}}', DuplicateKey, "$.name"),
    "NaN": (b'{"x": NaN}', NotWellFormed, "f.json"),
    "infinity": (b"-Infinity", NotWellFormed, "f.json"),
    "not UTF-8": (b'"\xff"', NotWellFormed, "f.json"),
    "truncated": (b'{"a":\n 1', NotWellFormed, "f.json:2:3"),
    "trailing": (b"{} {}", NotWellFormed, "f.json:1:4"),
    "too deep": (b"[" * 5000 + b"]" * 5000, NotWellFormed, "f.json"),
    "huge integer": (b"1" * 5000, NotWellFormed, "f.json"),
    "empty": (b"", NotWellFormed, "f.json:1:1"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_refused_with_its_place(case: str) -> None:
    data, kind, place = BAD_JSON[case]
    with pytest.raises(kind) as caught:
        parse_json(data, name="f.json")
    assert place in caught.value.place


def test_brackets_in_text_are_not_depth() -> None:
    assert parse_json(json.dumps("[" * 1000).encode()) == "[" * 1000


def test_a_document_over_its_limit_is_refused() -> None:
    with pytest.raises(NotWellFormed, match="11 bytes, 10 are allowed"):
        parse_json(b'"123456789"', limit_bytes=10)


def test_an_unknown_key_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownKey, match='did you mean "sizes"') as caught:
        read_json(b'{"parts": {"a": {"name": "x"}, "b": {"name": "y", "size": [1]}}}', Whole, name="f.json")
    assert caught.value.place == "f.json: $.parts.b.size"


def test_a_wrong_type_is_told_with_its_path() -> None:
    with pytest.raises(WrongType, match="expected `int`") as caught:
        read_json(b'{"steps": [{"name": "x"}, {"name": "x", "sizes": [1, "2"]}]}', Whole, name="f.json")
    assert caught.value.place == "f.json: $.steps[1].sizes[1]"


TOML = """\
[parts.a]
name = "x"
[parts."b.c"]
name = "y"
sizes = [1, 2]
[[steps]]
name = "s"
[[steps]]
name = "t"
sizes = [
    1,
]
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("$.parts.a.name", 2),
        ('$.parts."b.c"', 3),
        ('$.parts."b.c".sizes[1]', 5),
        ("$.steps[0].name", 7),
        ("$.steps[1]", 8),
        ("$.steps[1].sizes[0]", 10),
        ("$.steps[1].gone", 8),
        ("$.nothing", None),
    ],
)
def test_the_line_of_a_path_in_toml(path: str, line: int | None) -> None:
    assert line_in_toml(TOML, path) == line


def test_errors_in_toml_have_their_line() -> None:
    with pytest.raises(WrongType) as caught:
        read_toml(TOML.replace("[1, 2]", '[1, "2"]').encode(), Whole, name="f.toml")
    assert caught.value.place == 'f.toml:5: $.parts."b.c".sizes[1]'


@pytest.mark.parametrize("data", [b"a = 1\na = 2\n", b"\xff", b"a = [" + b"[" * 3000, b"[a\n"])
def test_bad_toml_is_refused(data: bytes) -> None:
    with pytest.raises(NotWellFormed):
        read_toml(data, Whole, name="f.toml")


def test_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", limit_bytes=5) == b"12345"
    with pytest.raises(NotReadable, match="larger than 4 bytes"):
        read_file(tmp_path / "x", limit_bytes=4)
    with pytest.raises(NotReadable):
        read_file(tmp_path)
    with pytest.raises(NotReadable):
        read_file(tmp_path / "missing")


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,ax1\\ntrue ', max_size=60).map(str.encode))
def test_any_bytes_end_as_a_document_or_as_our_error(data: bytes) -> None:
    for read in (read_json, read_toml):
        places = []
        try:
            read(data, Whole, name="f")
        except RvpError as error:
            places.append(error.place)
        assert all(place.startswith("f") for place in places)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_well_formed_reads_back(document: object) -> None:
    assert parse_json(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    "data",
    [b'{"a":"' + b'\\"' * 2_000_000, b'"' + b"a" * 4_000_000, b'"\\' * 1_000_000, b'["\\' + b'"' * 4_000_000],
)
def test_an_unfinished_text_costs_one_pass(data: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(NotWellFormed):
        parse_json(data)
    assert time.monotonic() - started < 5  # once hours: each quote was searched to the end


def test_many_wrong_values_cost_one_pass() -> None:
    document = {"a": {f"k{number}": "" for number in range(200_000)} | {"last": 1}}
    started = time.monotonic()
    with pytest.raises(WrongType):
        read_json(json.dumps(document).encode(), dict[str, dict[str, str]])
    assert time.monotonic() - started < 5


def test_a_number_beyond_all_bounds_is_not_json() -> None:
    with pytest.raises(NotWellFormed, match="1e999 is not JSON"):
        parse_json(b'{"a": 1e999}')


def test_a_hostile_key_is_told_on_one_short_line() -> None:
    key = "x\n::error::\x1b[2J" + "y" * 10_000
    for data in (b'{"KEY": 1, "KEY": 2}', b'{"name": "x", "KEY": 1}'):
        document = data.replace(b"KEY", json.dumps(key)[1:-1].encode())
        with pytest.raises(RvpError) as caught:
            read_json(document, Part)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "data", [b'{"\\ud800": 1}', b'["\\uDFFF"]', b'{"a": "\\udc00\\ud800"}', b'"\\\\\\ud8ff"']
)
def test_half_of_a_surrogate_pair_is_refused(data: bytes) -> None:
    with pytest.raises(NotWellFormed, match="surrogate"):
        parse_json(data)


def test_a_whole_surrogate_pair_is_text() -> None:
    assert parse_json(b'["\\ud83d\\ude00", "\\\\ud800"]') == ["\U0001f600", "\\ud800"]


def test_a_number_of_thousands_of_digits_is_not_well_formed() -> None:
    with pytest.raises(NotWellFormed):
        parse_json(b"9" * 5000)
    with pytest.raises(NotWellFormed):
        read_toml(b"name = " + b"9" * 5000, Part)


@pytest.mark.parametrize(
    "data",
    [
        b"a." * 200_000 + b"b = 1",
        b"[" + b"a." * 200_000 + b"b]",
        b"x = { " + b'"a" . ' * 200_000 + b"b = 1 }",
        b'x = """\n ", """\ny = ["""\n", """, {' + b"a." * 200_000 + b'b = 1}, "x"]',
        b"x = 'a'\ny = \"it's\" # it's \"\n" + b"a." * 200_000 + b"b = 1",
    ],
)
def test_a_toml_key_of_endless_parts_is_refused_at_once(data: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(NotWellFormed, match="a key of more than 64 parts"):
        parse_toml(data)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("quote", ['"', "'", '"""', "'''"])
def test_dots_in_texts_and_comments_are_not_keys(quote: str) -> None:
    dots = "a." * 200
    text = f"x = {quote}{dots}{quote} # {dots}\ny = [1.5, 2.5]\n" + "k.k.k = 1\n"
    assert parse_toml(text.encode())["x"] == dots
