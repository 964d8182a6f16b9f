"""Moments and names."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.predicates.shapes import MomentMalformed, format_moment, is_plain, parse_moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01t00:00:01z", 1),
        ("1970-01-01T01:00:01+01:00", 1),
        ("1969-12-31T23:00:01-01:00", 1),
        ("1970-01-01T00:00:01.999Z", 1),
        ("2024-02-29T00:00:00Z", 1709164800),
    ],
)
def test_moments_are_read(text: str, seconds: int) -> None:
    assert parse_moment(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-01-01", "2026-01-01T00:00:00", "2026-1-1T0:0:0Z", "2026-01-01 00:00:00Z", "2023-02-29T00:00:00Z",
        "2026-01-01T24:00:01Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00Z ", "2026-01-01T00:00:00+0100", "-1", "1e9",
        "\u0662\u0660\u0662\u0666-01-01T00:00:00Z", "\u0661\u0662", "1" * 13, "20260101T000000Z", "2026-W01-1T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(MomentMalformed):
        parse_moment(text)


@given(
    st.integers(-62135500000, 253402200000),
    st.integers(-1439, 1439),
)
def test_an_offset_changes_nothing(moment: int, minutes: int) -> None:
    at = dt.datetime.fromtimestamp(moment, tz=dt.UTC)
    other = at.astimezone(dt.timezone(dt.timedelta(minutes=minutes))).isoformat()
    assert parse_moment(other) == parse_moment(format_moment(moment)) == moment


@pytest.mark.parametrize(
    "text", ["a\x1b[2J", "a\u202eb", "a\u200bb", "a\u2028b", "a\ud800", "a\n", "\ufeffa", ""]
)
def test_a_name_that_does_not_look_as_it_is_is_refused(text: str) -> None:
    assert not is_plain(text)
