r"""What strangers wrote, shown on a terminal: nothing in it may steer one, or hide what is beside it.

Control characters, bidirectional overrides, invisible characters and halves of surrogate pairs become
escapes. Line ends stay: a caller who prints one line uses `one_line`.

Example:
    >>> plain("\x1b[2J\u202eevil")
    '\\x1b[2J\\u202eevil'
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

# Colours as our own commands write them; anything else that begins like one is escaped.
_COLOUR: Final = re.compile("(\x1b\\[(?:0|1|3[123]|90)m)")


def plain(text: str) -> str:
    """Show what is not printable as escapes; line ends stay."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """Show what is not printable as escapes, line ends too."""
    return plain(text).replace("\n", "\\n")


def plain_but_coloured(text: str) -> str:
    """As `plain`, for text in which our own colours and tabs are kept."""
    parts = _COLOUR.split(text)
    return "".join(
        part if index % 2 else "\t".join(map(plain, part.split("\t"))) for index, part in enumerate(parts)
    )


def plain_json(document: Any) -> str:
    """Write JSON whose text is readable, and whose unprintable characters are escaped as JSON has it."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text).replace(
        "\x7f", "\\u007f"
    )


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
