"""The one strict reader for everything that comes in.

Size and depth are bounded, duplicate keys refused, unknown keys refused unless the type allows them
(msgspec `forbid_unknown_fields=True`), and the place is told: file, line where the format has lines,
path inside the document, with a did-you-mean. The bytes that were read are the caller's to keep:
what was signed is never written again from the model.

Example:
    >>> class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ...     x: int
    >>> read_json(b'{"x": 1}', Point)
    Point(x=1)
    >>> read_json(b'{"x": 1, "x": 2}', Point, name="point.json")
    Traceback (most recent call last):
    ...
    provenance.strict.DuplicateKey: point.json: $.x: the key "x" stands twice
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from provenance.errors import RvpError, UsageError

T = TypeVar("T")

MAX_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 64
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
# Possessive, and an unfinished text reaches to the end: hostile quotes cost one pass and no memory.
_BRACKETS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[{]|[\]}]', re.DOTALL)
# The texts and comments of a TOML document; unfinished ones reach to the end. The rest is keys and values.
_TEXTS: Final = re.compile(
    rb'"""(?:[^"\\]++|\\.|"{1,2}+(?!"))*+"{0,5}+'
    rb"|'''(?:[^']++|'{1,2}+(?!'))*+'{0,5}+"
    rb'|"(?:[^"\\\n]++|\\[^\n])*+"?+'
    rb"|'[^'\n]*+'?+"
    rb"|#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY: Final = re.compile(rb'(?<![\w"-])(?:["\w-]++[ \t]*+\.[ \t]*+){%d}' % MAX_DEPTH)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_KEYS_TRIED: Final = 1000
_MAX_SHOWN: Final = 80  # characters of a key in a message


class NotReadable(UsageError):
    """A file cannot be read: it is missing, a folder, too large, or not permitted.

    Cure: check the path and the permissions; sizes are bounded so that hostile input cannot fill the memory.
    """

    code = "RVP-1010"


class NotWellFormed(UsageError):
    """A document is not well-formed JSON or TOML, or is nested too deeply.

    Cure: the message has the place; an editor that knows the format shows the same.
    """

    code = "RVP-1011"


class DuplicateKey(UsageError):
    """A key stands twice in one object, so that two readers could see two different documents.

    Cure: remove one of them.
    """

    code = "RVP-1012"


class UnknownKey(UsageError):
    """A key that this format does not have; a misspelt key must not be ignored.

    Cure: the message proposes the nearest known key; `rvp schema` prints them all.
    """

    code = "RVP-1013"


class WrongType(UsageError):
    """A value has the wrong type, is missing, or is outside its range.

    Cure: `rvp schema` prints the type of every value.
    """

    code = "RVP-1014"


def read_file(path: Path, *, limit_bytes: int = MAX_BYTES) -> bytes:
    """Read a file whole, up to a limit.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}", place=str(path), hint="check the path"
        ) from error
    if len(data) > limit_bytes:
        raise NotReadable(f"the file is larger than {limit_bytes} bytes", place=str(path))
    return data


def parse_json(data: bytes, *, name: str = "", limit_bytes: int = MAX_BYTES) -> Any:
    """Parse JSON into plain values: bounded, without duplicate keys, without NaN.

    Args:
        data: the document, UTF-8.
        name: what to call it in an error, usually its path.
        limit_bytes: the largest document to accept.

    Raises:
        NotWellFormed: RVP-1011. DuplicateKey: RVP-1012.
    """
    if len(data) > limit_bytes:
        raise NotWellFormed(f"the document has {len(data)} bytes, {limit_bytes} are allowed", place=name)
    _check_depth(data, name)

    def no_constant(text: str) -> Any:
        raise NotWellFormed(f"{text} is not JSON", place=name)

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DuplicateKey(
                    f"the key {_shown(key)} stands twice", place=_join(name, f"$.{_bare(key)}")
                )
            found[key] = value
        return found

    def finite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else no_constant(text)

    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=refuse_duplicates,
            parse_constant=no_constant,
            parse_float=finite,
        )
        if _SURROGATE.search(data):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise NotWellFormed(f"byte {error.start} is not UTF-8", place=name) from error
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}" if name else f"{error.lineno}:{error.colno}"
        raise NotWellFormed(f"not JSON: {error.msg}", place=place) from error
    except UnicodeEncodeError as error:
        raise NotWellFormed("half of a surrogate pair is not text", place=name) from error
    except ValueError as error:  # an integer of thousands of digits
        raise NotWellFormed(f"not JSON: {error}", place=name) from error
    return document


def read_json(data: bytes, type_: type[T], *, name: str = "", limit_bytes: int = MAX_BYTES) -> T:
    """Read JSON into a typed model.

    Raises:
        NotWellFormed: RVP-1011. DuplicateKey: RVP-1012. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    return convert(parse_json(data, name=name, limit_bytes=limit_bytes), type_, name=name)


def parse_toml(data: bytes, *, name: str = "", limit_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Parse TOML into plain values: bounded, without keys of endless parts (which cost the square of them).

    Raises:
        NotWellFormed: RVP-1011 (a duplicate key is not TOML).
    """
    if len(data) > limit_bytes:
        raise NotWellFormed(f"the document has {len(data)} bytes, {limit_bytes} are allowed", place=name)
    if _LONG_KEY.search(_TEXTS.sub(lambda text: b"" if text[0][:1] == b"#" else b'"', data)):
        raise NotWellFormed(f"a key of more than {MAX_DEPTH} parts", place=name)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotWellFormed(f"byte {error.start} is not UTF-8", place=name) from error
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
        line = re.search(r"at line (\d+), column (\d+)", str(error))
        place = _join(name, f"{line[1]}:{line[2]}") if line else name
        message = re.sub(r" \(at line \d+, column \d+\)", "", str(error))
        raise NotWellFormed(f"not TOML: {message}", place=place) from error


def read_toml(data: bytes, type_: type[T], *, name: str = "", limit_bytes: int = MAX_BYTES) -> T:
    """Read TOML into a typed model; errors have the line of the key they are about.

    Raises:
        NotWellFormed: RVP-1011 (a duplicate key is not TOML). UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    document = parse_toml(data, name=name, limit_bytes=limit_bytes)
    return convert(document, type_, name=name, line_of=lambda path: line_in_toml(data.decode("utf-8"), path))


def convert(
    document: Any, type_: type[T], *, name: str = "", line_of: Callable[[str], int | None] | None = None
) -> T:
    """Turn plain values into a typed model.

    Args:
        document: what the parser gave.
        type_: a msgspec Struct type.
        name: what to call the document in an error.
        line_of: finds the line of a path such as `$.step[0].run`, where the format has lines.

    Raises:
        UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    try:
        return msgspec.convert(document, type_)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        path = _with_keys(path.rstrip("`"), message, document, type_)
        raise _explained(message, path, type_, name, line_of) from error


def _with_keys(path: str, message: str, document: Any, type_: Any) -> str:
    """Name the key behind each `[...]`, which is how msgspec writes "some key of this mapping".

    The document is read again with one key of the mapping at a time: the one that fails alike is meant.
    """
    for _ in range(MAX_DEPTH):
        if "[...]" not in path:
            break
        before, _, after = path.partition("[...]")
        mapping = _at(document, before)
        keys = list(itertools.islice(mapping, _MAX_KEYS_TRIED)) if isinstance(mapping, dict) else []
        found = next((key for key in keys if _fails_alike(document, before, key, message, type_)), None)
        if found is None:
            return path
        document = _only(document, before, found)
        path = f"{before}.{_bare(found)}{after}"
    return path


def _fails_alike(document: Any, path: str, key: str, message: str, type_: Any) -> bool:
    try:
        msgspec.convert(_only(document, path, key), type_)
    except msgspec.ValidationError as error:
        return str(error).partition(" - at `")[0] == message
    return False


def _only(document: Any, path: str, key: str) -> Any:
    """Copy a document, leaving one key in the mapping at a path."""
    return _replaced(document, _steps(path), lambda mapping: {key: mapping[key]})


def _replaced(value: Any, steps: list[str | int], change: Callable[[Any], Any]) -> Any:
    if not steps:
        return change(value)
    first, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        return {key: _replaced(item, rest, change) if key == first else item for key, item in value.items()}
    return [_replaced(item, rest, change) if index == first else item for index, item in enumerate(value)]


def _at(document: Any, path: str) -> Any:
    for step in _steps(path):
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _steps(path: str) -> list[str | int]:
    """Take a path apart: `$.base."a.b".debian.suites[0]` is base, a.b, debian, suites, 0."""
    return [
        quoted or bare or int(index)
        for quoted, bare, index in re.findall(r"\.\"([^\"]*)\"|\.([^.\[\"]+)|\[(\d+)\]", path)
    ]


def _explained(
    message: str,
    path: str,
    type_: Any,
    name: str,
    line_of: Callable[[str], int | None] | None,
) -> RvpError:
    unknown = re.match(r"Object contains unknown field `(.*)`", message, flags=re.DOTALL)
    full = f"{path or '$'}.{_bare(unknown[1])}" if unknown else path
    line = line_of(full) if line_of else None
    place = _join(name, str(line)) if line else name
    if full and full != "$":
        place = f"{place}: {full}" if place else full
    if unknown:
        near = difflib.get_close_matches(unknown[1][:_MAX_SHOWN], _known_keys(type_, path), n=1)
        proposal = f' (did you mean "{near[0]}"?)' if near else ""
        return UnknownKey(
            f"unknown key {_shown(unknown[1])}{proposal}", place=place, hint="`rvp schema` prints the keys"
        )
    if path == "$.schema" and (other := re.fullmatch(r"Invalid enum value '(.*)'", message, flags=re.DOTALL)):
        named = str(getattr(type_, "__annotations__", {}).get("schema", ""))
        known = re.search(r"rvp/[\w-]+/v\d+", named)
        expected = f", not of {known[0]}" if known else ", which is not read here"
        return WrongType(
            f"it is a document of {_shown(other[1])}{expected}", place=place, hint="name another file"
        )
    return WrongType(message[:1].lower() + message[1:], place=place)


def _known_keys(type_: Any, path: str) -> list[str]:
    """Collect the keys of the struct types that a path can lead to."""
    from msgspec import inspect  # only on the way to an error

    here = [inspect.type_info(type_)]
    for step in _steps(path):
        following: list[Any] = []
        for info in _flatten(here):
            if isinstance(info, inspect.StructType):
                following += [field.type for field in info.fields if field.encode_name == step]
            elif isinstance(info, inspect.DictType):
                following.append(info.value_type)
            elif isinstance(info, (inspect.ListType, inspect.VarTupleType)):
                following.append(info.item_type)
        here = following
    return sorted(
        {
            field.encode_name
            for info in _flatten(here)
            if isinstance(info, inspect.StructType)
            for field in info.fields
        }
    )


def _flatten(infos: list[Any]) -> list[Any]:
    from msgspec import inspect  # only on the way to an error

    flat: list[Any] = []
    for info in infos:
        flat += _flatten(list(info.types)) if isinstance(info, inspect.UnionType) else [info]
    return flat


def line_in_toml(text: str, path: str) -> int | None:
    """Find the line of a path such as `$.step[0].need` in a TOML text; None when it has none."""
    wanted = _steps(path)
    best: tuple[int, int] | None = None
    table: list[str | int] = []
    arrays: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$", line)
        if header:
            keys: list[str | int] = [part.strip().strip("\"'") for part in _split_keys(header[2])]
            if header[1] == "[[":
                joined = ".".join(map(str, keys))
                arrays[joined] = arrays.get(joined, -1) + 1
            table = []
            for key in keys:
                table.append(key)
                joined = ".".join(str(part) for part in table if not isinstance(part, int))
                if joined in arrays:
                    table.append(arrays[joined])
            here = table
        else:
            assignment = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
            if not assignment:
                continue
            here = table + [part.strip().strip("\"'") for part in _split_keys(assignment[1])]
        depth = len(here)
        if here == wanted[:depth] and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _split_keys(dotted: str) -> list[str]:
    return re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted)


def _check_depth(data: bytes, name: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(data):
        match match[0][:1]:
            case b"[" | b"{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise NotWellFormed(f"nested more than {MAX_DEPTH} deep", place=name)
            case b"]" | b"}":
                depth -= 1


def _bare(key: str) -> str:
    return key if _BARE_KEY.match(key) and len(key) <= _MAX_SHOWN else _shown(key)


def _shown(key: str) -> str:
    """Quote a key of a stranger's document: one line, not endless."""
    cut = key if len(key) <= _MAX_SHOWN else f"{key[:_MAX_SHOWN]}…"
    return json.dumps(cut, ensure_ascii=False)


def _join(name: str, rest: str) -> str:
    return f"{name}:{' ' if rest.startswith('$') else ''}{rest}" if name else rest
