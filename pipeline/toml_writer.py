"""TOML, written: the few forms that generated files need, always the same bytes for the same document.

Plain values come first, then tables, then arrays of tables, each in the order of the document (mappings of
names are sorted). `tomllib` reads it back to the same document.

Example:
    >>> print(write_toml({"a": 1, "t": {"y": ["q"], "x": "z"}, "l": [{"n": "1"}, {"n": "2"}]}), end="")
    a = 1
    <BLANKLINE>
    [t]
    x = "z"
    y = ["q"]
    <BLANKLINE>
    [[l]]
    n = "1"
    <BLANKLINE>
    [[l]]
    n = "2"
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONG: Final = 100


def write_toml(document: Mapping[str, Any]) -> str:
    """Write a document: the top level in its own order, everything below it sorted by key.

    Raises:
        TypeError: for a value that has no form here (None, bytes, floats, times).
    """
    return "\n".join(_table((), document, ordered=tuple(document))).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], table: Mapping[str, Any], *, ordered: tuple[str, ...]) -> Iterator[str]:
    plain = [key for key in ordered if not _is_table(table[key]) and not _is_tables(table[key])]
    for key in plain:
        yield from _assignment(key, table[key])
    for key in ordered:
        if _is_table(table[key]):
            inner = table[key]
            below = (*path, key)
            if any(not _is_table(value) and not _is_tables(value) for value in inner.values()) or not inner:
                yield ""
                yield f"[{_dotted(below)}]"
            yield from _table(below, inner, ordered=tuple(sorted(inner)))
    for key in ordered:
        if _is_tables(table[key]):
            below = (*path, key)
            for item in table[key]:
                yield ""
                yield f"[[{_dotted(below)}]]"
                yield from _table(below, item, ordered=tuple(item))


def _assignment(key: str, value: Any) -> Iterator[str]:
    line = f"{_key(key)} = {_value(value)}"
    if isinstance(value, (list, tuple)) and len(line) > _LONG:
        yield f"{_key(key)} = ["
        for item in value:
            yield f"    {_value(item)},"
        yield "]"
    else:
        yield line


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no TOML form here")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_table, value))


def _key(key: str) -> str:
    return key if _BARE.match(key) else _value(key)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(map(_key, path))
