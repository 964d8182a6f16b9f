"""Every sample of a spec in the documentation is read by the reader of specs."""

from __future__ import annotations

import re

import pytest

from pipeline.spec import parse_spec
from tests.conftest import ROOT

SAMPLES = [
    pytest.param(text, id=f"{path.relative_to(ROOT)}-{number}")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.is_file()
    for number, text in enumerate(
        re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    )
    if 'schema = "rvp/spec/v1"' in text
]


@pytest.mark.parametrize("text", SAMPLES)
def test_a_sample_of_a_spec_is_read(text: str) -> None:
    parse_spec(text.encode())


def test_there_are_samples() -> None:
    assert len(SAMPLES) >= 3


def test_the_page_of_the_spec_names_every_variation_and_key() -> None:
    import msgspec

    from pipeline import spec

    page = (ROOT / "docs" / "reference" / "spec.md").read_text()
    assert [name for name in spec.VARIATION_NAMES if name not in page] == []
    models = (
        spec.Project,
        spec.Source,
        spec.Fetch,
        spec.Step,
        spec.Pack,
        spec.Measure,
        spec.Limits,
        spec.Base,
    )
    keys = {field.encode_name for model in models for field in msgspec.structs.fields(model)}
    unnamed = sorted(key for key in keys - {"id"} if f"`{key}`" not in page and f"{key} =" not in page)
    assert unnamed == []


def test_the_variations_of_the_spec_are_those_of_the_sandbox() -> None:
    from pipeline.spec import VARIATION_NAMES
    from pipeline.variation import VARIATIONS

    assert set(VARIATION_NAMES) == set(VARIATIONS)
