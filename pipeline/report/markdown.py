"""Markdown from text that nobody vouches for: file names, build logs, claims of others.

Everything that is not a letter, a digit, a blank or a hyphen is written as a character reference, which
Markdown never takes for structure (CommonMark 0.31, section 2.5): no link, image, mention, HTML or table cell
can come out of it. Control characters are shown as escapes.

Example:
    >>> escape("<b>|`a`")
    '&#60;b&#62;&#124;&#96;a&#96;'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from provenance.plain_text import one_line

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -")
_CELL: Final = 300


def escape(text: str) -> str:
    """Write text so that it shows as it is."""
    return "".join(
        character if character in _PLAIN or ord(character) > 0x7F else f"&#{ord(character)};"
        for character in one_line(text)
    )


def code(text: str) -> str:
    """Write text in a fixed-width font; nothing for no text."""
    return f"<code>{escape(shorten(text))}</code>" if text else ""


def shorten(text: str, limit: int = _CELL) -> str:
    """Cut long text, and say so."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class Page:
    """A page of bounded size: what does not fit is counted, not dropped in silence.

    Args:
        limit_bytes: of the page, UTF-8.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes - 512  # kept for the words about what was left out
        self._lines: list[str] = []
        self._left_out = 0

    def add(self, *lines: str) -> bool:
        """Add lines together, or leave all of them out."""
        size = sum(len(line.encode("utf-8")) + 1 for line in lines)
        if size > self._left:
            self._left_out += 1
            return False
        self._left -= size
        self._lines += lines
        return True

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table; cells are Markdown already."""
        rows = list(rows)
        if not rows or not self.add("", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"):
            return
        for number, row in enumerate(rows):
            if not self.add(f"| {' | '.join(row)} |"):
                self._left_out += len(rows) - number - 1
                break
        self.add("")

    def fold(self, title: str, text: str) -> None:
        """Add text that is opened by a click; what is too long for the page is cut."""
        room = max(0, min(self._left - 1024, 64 << 10))
        lines, used = [], 0
        for line in text.split("\n"):
            escaped = one_line(line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            used += len(escaped.encode("utf-8")) + 1
            if used > room:
                lines.append("…")
                break
            lines.append(escaped or " ")  # an empty line would end the HTML block
        self.add("", f"<details><summary>{escape(title)}</summary>", "<pre>", *lines, "</pre></details>", "")

    def text(self) -> str:
        """Return the page."""
        lines = list(self._lines)
        if self._left_out:
            lines += ["", f"{self._left_out} more lines did not fit: the JSON documents have them.", ""]
        return "\n".join(lines) + "\n"
