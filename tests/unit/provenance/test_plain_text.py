"""What strangers wrote does not steer a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import UsageError
from provenance.plain_text import one_line, plain, plain_but_coloured, plain_json
from verifier.cli.terminal import GLYPHS, Settings, print_error, styled

HOSTILE = "a\x1b[2Jb\u202ec\u200bd\x9b1me\u2028f\ud800g\x7f"


@given(st.text())
def test_nothing_that_is_not_printable_is_left(text: str) -> None:
    assert one_line(text).isprintable()
    assert plain(text).replace("\n", "").isprintable()
    assert plain_but_coloured(text).replace("\n", "").replace("\t", "").isprintable() or "\x1b[" in text


def test_our_own_colours_stay_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for status in GLYPHS:
        assert plain_but_coloured(styled(status)) == styled(status)
    assert "\x1b" not in plain_but_coloured("\x1b[8mhidden\x1b]0;title\x07")


@given(
    st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_json_keeps_its_meaning(document: object) -> None:
    text = plain_json(document)
    assert json.loads(text) == document
    assert text.replace("\n", "").isprintable()


def test_every_way_out_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings()
    settings.out(HOSTILE)
    settings.out_json({HOSTILE: HOSTILE})
    settings.say(HOSTILE)
    settings.warn(HOSTILE)
    print_error(UsageError(HOSTILE, place=HOSTILE, hint=HOSTILE))
    told = capsys.readouterr()
    for line in (
        (told.out + told.err)
        .replace(styled("warning"), "")
        .replace(styled("failed", "error"), "")
        .split("\n")
    ):
        assert line.isprintable()
