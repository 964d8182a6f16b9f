"""Canonical JSON: one document, one sequence of bytes.

RFC 8785 (JCS) for the documents that rvp signs and compares. They hold no floating-point numbers and
no integers beyond 2**53, so the rules left over are: keys sorted by their UTF-16 code units, no white
space, the shortest escapes, UTF-8.

Example:
    >>> canonical_json({"b": 1, "a": ["x", True, None]})
    b'{"a":["x",true,null],"b":1}'
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

MAX_SAFE_INTEGER: Final = 2**53 - 1  # RFC 8785, section 3.2.2.3, by way of RFC 7493


def canonical_json(document: Any) -> bytes:
    """Write a document in its canonical form.

    Args:
        document: dict, list, tuple, str, int, bool, None, or a msgspec Struct of these.

    Raises:
        TypeError: a float, bytes, or another type that has no canonical form here.
        ValueError: an integer beyond 2**53 - 1, or a string that is not Unicode text.
    """
    plain = msgspec.to_builtins(document) if isinstance(document, msgspec.Struct) else document
    return json.dumps(_ordered(plain), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _ordered(value: Any) -> Any:
    match value:
        case dict():
            if any(not isinstance(key, str) for key in value):
                raise TypeError("a key of a JSON object is text")
            return {key: _ordered(value[key]) for key in sorted(value, key=_utf16)}
        case list() | tuple():
            return [_ordered(item) for item in value]
        case msgspec.Struct():
            return _ordered(msgspec.to_builtins(value))
        case bool() | None:
            return value
        case str():
            value.encode("utf-8")
            return value
        case int():
            if abs(value) > MAX_SAFE_INTEGER:
                raise ValueError(f"{value} does not fit a JSON number: write it as text")
            return value
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")
