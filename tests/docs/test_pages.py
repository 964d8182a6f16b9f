"""What the pages say holds: links lead somewhere, commands and options exist, samples are read."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import click
import pytest

import rvp
from pipeline.cli.measure import BY_TEE, ByTee
from tests.conftest import ROOT
from tests.docs import pages
from tests.docs.pages import PAGES, name_of

EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)


@EACH_PAGE
def test_every_link_and_anchor_resolves(page: Path) -> None:
    broken = []
    for link in pages.links(page):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in pages.anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_first() -> None:
    first = ROOT / "docs" / "README.md"
    reached, new = {first}, [first]
    while new:
        page = new.pop()
        for link in pages.links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            target = target / "README.md" if target.is_dir() else target
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                new.append(target)
    assert sorted(name_of(page) for page in set(ROOT.glob("docs/**/*.md")) - reached) == []


def problem_of(line: str) -> str:
    """Say what is wrong with a command line; empty when command and options exist."""
    line = re.sub(r"\s#.*|[|&;>].*|\s\(.*", "", line)
    words = [word.strip("[]…,") for word in line.split()][1:]
    called: click.Command = rvp.cli
    known = {option for one in rvp.cli.params for option in one.opts} | {"--help", "-h"}
    told = "rvp"
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            option = word.partition("=")[0]
            if option not in known:
                return f"{told} has no {option}"
            owner = next((one for one in (*called.params, *rvp.cli.params) if option in one.opts), None)
            if (
                isinstance(owner, click.Option)
                and not owner.is_flag
                and not owner.count
                and "=" not in word
                and words
            ):
                words.pop(0)
        elif isinstance(called, ByTee) and word in BY_TEE:
            module, attribute = BY_TEE[word]
            called = getattr(importlib.import_module(module), attribute)
            told = f"{told} {word}"
            known |= {option for one in called.params for option in one.opts}
        elif isinstance(called, click.Group):
            names = called.list_commands(click.Context(called))
            if word in {"OPTIONS", "COMMAND"}:
                continue
            for one in word.split("|"):
                if one not in names:
                    return f"{told} has no {one}"
            found = called.get_command(click.Context(called), word.split("|")[0])
            assert found is not None
            called = found
            told = f"{told} {word}"
            known |= {option for one in called.params for option in one.opts}
    return ""


@EACH_PAGE
def test_commands_and_options_exist(page: Path) -> None:
    wrong = {line: problem for line in pages.commands(page) if (problem := problem_of(line))}
    assert wrong == {}


def test_commands_are_found_and_wrong_ones_told() -> None:
    assert sum(1 for page in PAGES for _ in pages.commands(page)) > 100
    assert problem_of("rvp -C rebuilt sign --key k") == ""
    assert problem_of("rvp verify b --polcy p") == "rvp verify has no --polcy"
    assert problem_of("rvp appraise quote.bin") == "rvp has no appraise"
    assert problem_of("rvp key mew x") == "rvp key has no mew"


def test_every_command_has_a_place_in_the_pages_that_people_write() -> None:
    generated = ROOT / "docs" / "reference" / "commands.md"
    told = {
        line.split()[1] for page in PAGES if page != generated for line in pages.commands(page) if " " in line
    }
    assert sorted(set(rvp.COMMANDS) - told) == []


@EACH_PAGE
def test_samples_are_read(page: Path) -> None:
    from pipeline.measure.sgx.freestanding.config import read_config
    from pipeline.spec import parse_spec
    from provenance.policy import parse_policy

    for sample in (*pages.fenced(page, "toml"), *pages.indented(page)):
        if 'schema = "rvp/spec/v1"' in sample:
            parse_spec(sample.encode())
        elif 'schema = "rvp/policy/v1"' in sample:
            parse_policy(sample.encode())
        elif 'schema = "rvp/enclave/v1"' in sample:
            read_config(sample.encode(), name="enclave.toml")
    for sample in pages.fenced(page, "json"):
        json.loads(sample)


def test_decisions_are_numbered_without_a_gap_and_indexed() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(folder.glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    index = (folder / "README.md").read_text()
    for number, path in enumerate(records, start=1):
        title = path.read_text().splitlines()[0]
        assert title.startswith(f"# {number}. ")
        assert f"| {number} | [{title.partition('. ')[2]}]({path.name}) |" in index
        assert "**Decision.**" in path.read_text()
        assert "**Why.**" in path.read_text()


def test_no_page_names_a_code_that_does_not_exist() -> None:
    from verifier.cli.explain import catalogue

    known = {entry.code for entry in catalogue()}
    assert [
        (name_of(page), code)
        for page in PAGES
        for code in re.findall(r"RVP-\d{4}", page.read_text())
        if code not in known
    ] == []
