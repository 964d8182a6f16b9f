"""`rvp explain`: an error code or a check id in words, offline."""

from __future__ import annotations

import difflib
import importlib.resources
from typing import Any

import click
import msgspec

from provenance.errors import UsageError
from provenance.strict import read_json
from verifier.cli.terminal import Settings, format_option


class CodeUnknown(UsageError):
    """There is no error and no check of this name.

    Cure: `rvp explain --list` prints them all.
    """

    code = "RVP-6440"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An error code and what it means; `cure` says what to do."""

    code: str
    title: str
    explanation: str
    cure: str
    exit_code: int
    module: str
    checks: tuple[str, ...] = ()


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
  rvp explain RVP-6204
  rvp explain agreement
"""
)
@click.argument("code", required=False, metavar="RVP-nnnn|CHECK")
@click.option("--list", "list_all", is_flag=True, help="List all codes.")
@format_option()
@click.pass_obj
def explain(settings: Settings, code: str | None, output_format: str, *, list_all: bool) -> None:
    """Explain an error code, or a check of a verdict."""
    entries = catalogue()
    if list_all:
        if output_format == "json":
            settings.out_json([msgspec.to_builtins(entry) for entry in entries])
            return
        for entry in entries:
            settings.out(f"{entry.code}  exit {entry.exit_code:<3} {entry.title}")
        return
    if code is None:
        raise click.UsageError("name a code, or --list", click.get_current_context())
    found = [entry for entry in entries if _is_meant(entry, code)]
    if not found:
        names = [name for entry in entries for name in (entry.code, *entry.checks)]
        near = difflib.get_close_matches(code, names, n=1)
        raise CodeUnknown(
            f'there is no "{code}"' + (f', did you mean "{near[0]}"?' if near else ""),
            hint="rvp explain --list prints them all",
        )
    if output_format == "json":
        document: Any = [msgspec.to_builtins(entry) for entry in found]
        settings.out_json(document[0] if len(document) == 1 else document)
        return
    settings.out("\n\n".join(_words(entry) for entry in found))


def _is_meant(entry: Entry, asked: str) -> bool:
    wanted = asked.upper()
    if wanted.isdigit():
        wanted = f"RVP-{wanted}"
    return entry.code == wanted or asked.lower() in entry.checks


def _words(entry: Entry) -> str:
    parts = [f"{entry.code}  {entry.title}"]
    parts += [f"  {line}" for line in entry.explanation.splitlines()]
    parts += [f"  Cure: {entry.cure}"] if entry.cure else []
    parts.append(f"  Exit code {entry.exit_code}.")
    if entry.checks:
        parts.append(f"  The checks of rvp verify that fail with it: {', '.join(entry.checks)}.")
    return "\n".join(parts)
