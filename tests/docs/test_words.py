"""Words have one meaning each (docs/words.md): in pages, in help, in messages and in the documentation of errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.docs.pages import PAGES, name_of

# What must not be said, and what may be said all the same.
FORBIDDEN = {
    "a bare attestation: say statement, evidence or attestation result": (
        r"\battest(?:ation|ations|ed|s)?\b",
        (
            "attestation result",
            "in-toto attestation framework",
            "in-toto/attestation",
            "in-toto.io/attestation",
            "nitro attestation document",
            "enclave attestation architecture",
            "attestation agent",
        ),
    ),
    "the hash: name the register": (
        r"\bthe hash\b",
        (
            'never "the hash"',
            "made the hash",
            "and the hash, the log",
            "the hash of",
            "the hash that a curve signs with",
        ),
    ),
    "verified is said of signatures only": (
        (
            r"\b(?:build|builds|rebuild|value|values|measurement|measurements|artifact|artifacts"
            r"|policy|quorum|release|enclave|source)"
            r" (?:is|are|was|were|has been|have been) verified\b"
            r"|\bverified (?:build|value|measurement|artifact|release|source)s?\b"
        ),
        (),
    ),
    "a build is reproduced, not reproducible, and never bit-identical": (
        r"\bbit[- ]?(?:for[- ]bit )?identical\b|\bfully reproducible\b",
        (),
    ),
    "what is easy is for the reader to say": (r"\b(?:simply|easily|obviously|of course)\b", ()),
    "good and bad have no colour; values are reference values": (r"\bgolden\b|\bwhitelist|\bblacklist", ()),
}


def texts() -> Iterator[tuple[str, str]]:
    """Give every page, and every text in the code that a person may read."""
    for page in PAGES:
        yield name_of(page), page.read_text()
    for path in sorted(
        path for room in ("pipeline", "verifier", "provenance") for path in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def said(text: str, pattern: str, allowed: tuple[str, ...]) -> list[str]:
    text = " ".join(text.lower().split())
    for phrase in allowed:
        text = text.replace(phrase, "")
    return [found[0] for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_nothing_forbidden_is_said(rule: str) -> None:
    pattern, allowed = FORBIDDEN[rule]
    assert [(place, found) for place, text in texts() for found in said(text, pattern, allowed)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    zip(
        FORBIDDEN,
        (
            "sign the attestation",
            "compare the hash",
            "the values were verified",
            "bit-identical",
            "simply run",
            "golden values",
        ),
        strict=True,
    ),
)
def test_each_rule_can_fail(rule: str, text: str) -> None:
    pattern, allowed = FORBIDDEN[rule]
    assert said(text, pattern, allowed)


def test_the_page_of_words_names_every_verdict() -> None:
    page = (ROOT / "docs" / "words.md").read_text()
    for word in (
        "reproduced",
        "diverged",
        "passed",
        "failed",
        "inconclusive",
        "statement",
        "evidence",
        "endorsement",
    ):
        assert word in page
