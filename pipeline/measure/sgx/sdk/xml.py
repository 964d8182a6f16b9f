"""Read the XML of `Enclave.config.xml`, strictly: which elements there are, with their numbers and lines.

One element for each decision, a number in each: decimal, hexadecimal with 0x, or octal with a leading 0, as C
reads them. No document type, so no entities; no attributes; no element twice or inside another; no text
between them.

Example:
    >>> read_elements(b"<EnclaveConfiguration><TCSNum>0x10</TCSNum></EnclaveConfiguration>")["TCSNum"].value
    16
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NoReturn
from xml.parsers import expat

import msgspec

from pipeline.measure.file_kind import seen
from provenance.errors import SpecError

ROOT: Final = "EnclaveConfiguration"
_MAX_BYTES: Final = 1 << 16
_ALL: Final = 0xFFFFFFFFFFFFFFFF
_NUMBER: Final = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)


class BadSdkConfig(SpecError):
    """The configuration of an SDK enclave is not one that its signing tool would take.

    Cure: the elements, their ranges, and the release that brought each are in docs/reference/sgx-sdk.md.
    """

    code = "RVP-5026"


class Written(msgspec.Struct, frozen=True):
    """A number, and the line it stands in."""

    value: int
    line: int


def read_elements(data: bytes, *, name: str = "") -> dict[str, Written]:
    """Read the elements of a configuration; which they are and what they hold is not looked at.

    Raises:
        BadSdkConfig: RVP-5026.
    """
    if len(data) > _MAX_BYTES:
        raise BadSdkConfig(f"{len(data)} bytes, a configuration has at most {_MAX_BYTES}", place=name)
    parser = expat.ParserCreate()
    reader = _Reader(name, lambda: parser.CurrentLineNumber)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadSdkConfig(
            f"not XML: {error}",
            place=name,
            hint=f"this is {seen(data[:4096], len(data)).what}; an enclave that is linked with Intel's SDK "
            "has an Enclave.config.xml",
        ) from error
    return reader.found


class _Reader:
    def __init__(self, name: str, line: Callable[[], int]) -> None:
        self.name = name
        self.line = line
        self.found: dict[str, Written] = {}
        self.depth = 0
        self.content = ""

    def refuse(self, message: str) -> NoReturn:
        raise BadSdkConfig(message, place=f"{self.name}:{self.line()}")

    def doctype(self, *_: object) -> None:
        self.refuse("a configuration has no document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self.depth == 0 and tag != ROOT:
            self.refuse(f"<{tag}>, expected <{ROOT}>")
        if attributes:
            self.refuse(f"<{tag}> has attributes; elements of a configuration have none")
        if self.depth > 1:
            self.refuse(f"<{tag}> stands inside another element")
        if tag in self.found:
            self.refuse(f"<{tag}> stands twice, first in line {self.found[tag].line}")
        self.depth += 1
        self.content = ""

    def text(self, text: str) -> None:
        self.content += text
        if self.depth == 1 and self.content.strip():
            self.refuse(f"text between the elements: {text.strip()[:40]!r}")

    def end(self, tag: str) -> None:
        self.depth -= 1
        if self.depth == 1:
            self.found[tag] = Written(self.number(tag), self.line())
        self.content = ""

    def number(self, tag: str) -> int:
        matched = _NUMBER.fullmatch(self.content)
        if matched is None:
            self.refuse(f"<{tag}> is {self.content[:40]!r}, not a number (and nothing after it)")
        digits = matched[1]
        try:
            value = int(digits, 8 if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX" else 0)
        except ValueError:
            self.refuse(f"<{tag}> is {digits[:40]!r}, not an octal number (it begins with 0)")
        if value > _ALL:
            self.refuse(f"<{tag}> is {digits[:40]!r}, more than 64 bits")
        return value
