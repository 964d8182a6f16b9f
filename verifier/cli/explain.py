"""`rvp explain`: an error code or a check id in words, offline."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from typing import Final

import click
import msgspec

from provenance.errors import UsageError
from provenance.strict import read_json
from verifier.cli.documents import Entry, Explanation
from verifier.cli.terminal import Settings, format_option

_CODE_DIGITS: Final = 4


class CodeUnknown(UsageError):
    """There is no error and no check of this name.

    Cure: `rvp explain` prints them all.
    """

    code = "RVP-6440"


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """All codes, sorted; written by `workflows/generate`."""

    entries: tuple[Entry, ...]


def catalogue() -> tuple[Entry, ...]:
    """Read the catalogue that was installed with rvp."""
    data = importlib.resources.files("provenance").joinpath("error_catalogue.json").read_bytes()
    return read_json(data, Catalogue, name="error_catalogue.json").entries


@click.command(
    epilog="""\b
Examples:
  rvp explain                all codes
  rvp explain RVP-6204
  rvp explain agreement
"""
)
@click.argument("code", required=False, metavar="[RVP-nnnn|CHECK]")
@click.option("--list", "list_all", is_flag=True, help="List all codes.")
@format_option()
@click.pass_obj
def explain(settings: Settings, code: str | None, output_format: str, *, list_all: bool) -> None:
    """Explain an error code, or a check of a verdict; without a name, list all codes."""
    entries = catalogue()
    found = entries
    if code is not None and not list_all:
        found = tuple(entry for entry in entries if _is_meant(entry, code))
        if not found:
            raise CodeUnknown(
                f'there is no "{code}", did you mean "{_nearest(code, entries)}"?',
                hint="`rvp explain` prints them all",
            )
    if output_format == "json":
        settings.out_json(Explanation(entries=found))
    elif found is entries:
        settings.out("\n".join(f"{entry.code}  exit {entry.exit_code:<3} {entry.title}" for entry in found))
    else:
        settings.out("\n\n".join(_words(entry) for entry in found))


def _nearest(asked: str, entries: tuple[Entry, ...]) -> str:
    """Find the code of the nearest number, or the name that is spelt most alike."""
    digits = re.fullmatch(r"(?:RVP[- _]?)?(\d+)", asked.upper())
    if digits and len(digits[1]) == _CODE_DIGITS:
        return min(entries, key=lambda entry: abs(int(entry.code[4:]) - int(digits[1]))).code
    names = [name for entry in entries for name in (entry.code, *entry.checks)]
    return difflib.get_close_matches(asked.upper() if digits else asked.lower(), names, n=1, cutoff=0.0)[0]


def _is_meant(entry: Entry, asked: str) -> bool:
    digits = re.fullmatch(r"(?:RVP[- _]?)?(\d{4})", asked.upper())
    wanted = f"RVP-{digits[1]}" if digits else asked.upper()
    return entry.code == wanted or asked.lower() in entry.checks


def _words(entry: Entry) -> str:
    parts = [f"{entry.code}  {entry.title}"]
    parts += [f"  {line}" for line in entry.explanation.splitlines()]
    parts += [f"  Cure: {entry.cure}"] if entry.cure else []
    parts.append(f"  Exit code {entry.exit_code}.")
    if entry.checks:
        parts.append(f"  The checks of rvp verify that fail with it: {', '.join(entry.checks)}.")
    return "\n".join(parts)
