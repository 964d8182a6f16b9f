"""JSON: the path of each value that differs, or the word that only the writing differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pipeline.difference.causes import causes_of_texts
from pipeline.difference.content import Content
from pipeline.difference.look import Broken, Found, Look
from pipeline.difference.model import Cause, Difference
from provenance.errors import RvpError
from provenance.strict import parse_json

_SHOWN: Final = 300


def detect(head: bytes, path: str) -> bool:
    """Tell JSON by its first character; what turns out to be none is compared as text."""
    del path
    return head.lstrip()[:1] in {b"{", b"["}


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two JSON documents by values.

    Raises:
        Broken: a side is not JSON, or too large.
    """
    if max(left.size, right.size) > look.limits.text_bytes:
        raise Broken(f"the document is larger than {look.limits.text_bytes} bytes")
    try:
        one, other = (parse_json(side.read(0, side.size)) for side in (left, right))
    except RvpError as error:
        raise Broken(error.message) from error
    details: list[Difference] = []
    comments: tuple[str, ...] = ()
    for number, (where, first, second) in enumerate(_differences("$", one, other)):
        if number >= look.limits.details:
            comments = ("more values differ",)
            break
        details.append(
            Difference(
                path=path,
                kind="value",
                where=where,
                left=_written(first),
                right=_written(second),
                causes=_causes(first, second),
            )
        )
    if details:
        return Found(details=tuple(details), comments=comments, where=details[0].where)
    order = json.dumps(one) != json.dumps(other)
    return Found(
        where="the writing, not the values",
        causes=(Cause.FILE_ORDER,) if order else (),
        comments=(
            "the same values with keys in another order" if order else "the same values, spaced otherwise",
        ),
    )


_MISSING: Final = object()


def _differences(where: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            yield from _differences(f"{where}.{key}", left.get(key, _MISSING), right.get(key, _MISSING))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _differences(f"{where}[{index}]", one, other)
    elif left != right or type(left) is not type(right):
        yield where, left, right


def _written(value: Any) -> str:
    text = "(none)" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _causes(left: Any, right: Any) -> tuple[Cause, ...]:
    if isinstance(left, list) and isinstance(right, list):
        same = sorted(map(json.dumps, left)) == sorted(map(json.dumps, right))
        return (Cause.FILE_ORDER,) if same else ()
    if _MISSING in (left, right):
        return ()
    return causes_of_texts(str(left), str(right))
