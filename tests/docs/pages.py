"""The pages of the documentation, taken apart: links, anchors, blocks of commands, samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

PAGES = tuple(
    sorted(
        [
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            *ROOT.glob("docs/**/*.md"),
            *ROOT.glob("examples/*/README.md"),
        ]
    )
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_blocks(text: str) -> str:
    """Leave out fenced and indented blocks."""
    return re.sub(r"^ {4}.*$", "", _FENCE.sub("", text), flags=re.MULTILINE)


def links(page: Path) -> list[str]:
    return _LINK.findall(_CODE.sub("", without_blocks(page.read_text())))


def anchors(page: Path) -> set[str]:
    """Make the anchors of the headings as hosts of Markdown do."""
    heads = re.findall(r"^#+ +(.+)$", without_blocks(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def fenced(page: Path, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(page.read_text()) if found == language]


def indented(page: Path) -> list[str]:
    """Return the indented blocks, without the indent."""
    blocks: list[list[str]] = [[]]
    for line in _FENCE.sub("", page.read_text()).splitlines():
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line or not blocks[-1]:
            blocks.append([])
        else:
            blocks[-1].append("")
    return ["\n".join(block).strip("\n") + "\n" for block in blocks if block]


def commands(page: Path) -> Iterator[str]:
    """Find every `rvp …` in blocks and in the text."""
    blocks = [
        *fenced(page, "console"),
        *fenced(page, "sh"),
        *fenced(page, "bash"),
        *fenced(page, ""),
        *indented(page),
    ]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?(rvp (?!\().*)", line)
            if found:
                yield found[1]
    for code in _CODE.findall(_FENCE.sub("", page.read_text())):
        if code.startswith("rvp "):
            yield code
