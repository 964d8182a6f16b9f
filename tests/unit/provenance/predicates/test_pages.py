"""The pages of the predicates: their examples are read by the code, their types are the code's."""

import json
import re
from pathlib import Path

import pytest

from provenance.predicates import read_predicate, reference_values, release, slsa_provenance
from provenance.predicates.schema import json_schema
from provenance.statement import read_statement

PAGES = Path(__file__).resolve().parents[4] / "docs" / "reference" / "predicates"
OURS = {"reference-values": reference_values.TYPE, "release": release.TYPE}
SECTIONS = ["Purpose", "Use cases", "Prerequisites", "Model", "Schema", "Example", "Changelog and Migrations"]


@pytest.mark.parametrize(
    ("page", "kind"), [*OURS.items(), ("slsa-provenance", slsa_provenance.TYPE)], ids=lambda value: value
)
def test_the_example_is_read(page, kind):
    text = (PAGES / f"{page}.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    statement = read_statement(example.encode())
    assert statement.predicate_type == kind
    assert read_predicate(statement) is not None


@pytest.mark.parametrize("page", OURS)
def test_a_page_has_the_form_that_in_toto_asks_for(page):
    text = (PAGES / f"{page}.md").read_text()
    assert f"Type URI: `{OURS[page]}`" in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["Parsing Rules", "Fields"]


@pytest.mark.parametrize("page", OURS)
def test_every_field_of_the_schema_is_on_the_page(page):
    text = (PAGES / f"{page}.md").read_text()
    for definition in json_schema(page)["$defs"].values():
        for field in definition["properties"]:
            assert re.search(rf"\b{field}\b", text), field


def test_the_build_type_is_on_its_page():
    assert slsa_provenance.BUILD_TYPE in (PAGES / "slsa-provenance.md").read_text()


def test_the_example_of_a_statement_is_canonical_when_compacted():
    text = (PAGES / "release.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    document = json.loads(example)
    assert list(document) == sorted(document)
