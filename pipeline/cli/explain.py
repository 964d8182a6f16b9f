"""`rvp explain`: an error code in words (light, offline), or why two enclaves have different values.

The verifier's command explains codes; what compares enclaves needs the pipeline's packages and is loaded when
an enclave is named.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.measure.check_meanings import MEANINGS, Meaning, meaning_of
from verifier.cli.documents import Entry, Explanation
from verifier.cli.explain import CodeUnknown, catalogue
from verifier.cli.explain import explain as explain_code
from verifier.cli.terminal import Settings, format_option, missing_extra, write_file

if TYPE_CHECKING:
    from pipeline.explain.explain import Operand

_FILE = click.Path(path_type=Path)
_SMALL = 1 << 20
_DIFFERENT = 12


@click.command(
    epilog="""\b
Examples:
  rvp explain                                  all codes
  rvp explain RVP-6204
  rvp explain agreement                        a check of rvp verify
  rvp explain binds-application                a check of rvp measure
  rvp explain published.so rebuilt.so          two enclaves, of any SGX format
  rvp explain published.log rebuilt.so         a log of rvp measure --log, and an enclave
  rvp explain 4a005719…eca3 rebuilt.so         a bare MRENCLAVE: single changes are tried
  rvp explain enclave.signed.so                an enclave, and what its own signature states
"""
)
@click.argument("what", nargs=-1, metavar="[RVP-nnnn|CHECK|A [B]]")
@click.option("--list", "list_all", is_flag=True, help="List all codes.")
@click.option("--config", metavar="FILE", type=_FILE, help="Configuration of enclaves not signed yet; of A.")
@click.option("--config-b", metavar="FILE", type=_FILE, help="The same of B; default: as of A.")
@click.option(
    "--generation",
    metavar="VERSION",
    default="",
    help="The release whose rules are followed (SDK, Gramine, Open Enclave, EGo); of A.",
)
@click.option("--generation-b", metavar="VERSION", help="The same of B; default: as of A.")
@click.option(
    "--libpal",
    "--runtime",
    "libpal",
    metavar="FILE",
    type=_FILE,
    help="Gramine's libpal.so, EGo's ego-enclave; of A.",
)
@click.option(
    "--libpal-b",
    "--runtime-b",
    "libpal_b",
    metavar="FILE",
    type=_FILE,
    help="The same of B; default: as of A.",
)
@click.option("--symbols", metavar="FILE", type=_FILE, help="An unstripped file to name symbols from; of A.")
@click.option("--symbols-b", metavar="FILE", type=_FILE, help="The same of B; default: as of A.")
@click.option(
    "--budget",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="For trying changes, when one side is a bare value.",
)
@click.option("--picture", metavar="FILE", type=_FILE, help="Draw both address ranges, as SVG.")
@format_option()
@click.pass_context
def explain(
    ctx: click.Context,
    /,
    what: tuple[str, ...],
    output_format: str,
    *,
    list_all: bool,
    budget: float,
    picture: Path | None,
    **given: Path | str | None,
) -> None:
    """Explain an error code, a check, or why two enclaves have different MRENCLAVEs.

    Two operands are compared: enclave files of any SGX format, logs of `rvp measure --log`, SIGSTRUCTs, what
    `rvp measure --format json` printed, 64 hex digits. The first page that differs is named with what it
    belongs to, then all that differs, then likely causes. Where one side is a bare value, a declared set of
    single changes of the other is tried; a match is a hypothesis, never a pass.
    Exit code 0: equal; 12: different, explained or not.
    """
    if list_all or not what or (len(what) == 1 and not _is_operand(what[0])):
        code = None if list_all or not what else what[0]
        _propose(code)
        if code is not None and not list_all and (meaning := meaning_of(code)) is not None:
            _explain_check(ctx.find_object(Settings) or Settings(), meaning, output_format)
            return
        ctx.invoke(explain_code, code=code, output_format=output_format, list_all=list_all)
        return
    if len(what) > 2:
        raise click.UsageError("two operands at most: A and B", ctx)
    from rvp import missing_package

    if missing := missing_package("pipeline"):
        missing_extra("explain A B", "pipeline", missing).invoke(ctx)
    _explain(ctx.find_object(Settings) or Settings(), what, output_format, budget, picture, given, ctx)


def _propose(asked: str | None) -> None:
    """Propose a check of a measurement whose name is spelt nearly so.

    Raises:
        CodeUnknown: RVP-6440.
    """
    if asked is None or meaning_of(asked) is not None:
        return
    known = [one.id for one in MEANINGS]
    if (near := difflib.get_close_matches(asked.lower(), known, n=1, cutoff=0.85)) and not any(
        asked.lower() in one.checks for one in catalogue()
    ):
        raise CodeUnknown(f'there is no "{asked}", did you mean "{near[0]}"?', hint=f"rvp explain {near[0]}")


def _explain_check(settings: Settings, meaning: Meaning, output_format: str) -> None:
    cure = next((one.cure for one in catalogue() if one.code == meaning.code), "")
    ends = f"When it fails: {meaning.code}, exit code {meaning.exit_code}." if meaning.code else ""
    ends = ends or "When it is not so, that is a warning, and the exit code stays 0."
    if output_format == "json":
        entry = Entry(
            code=meaning.code,
            title=meaning.id,
            explanation=meaning.says,
            cure=cure,
            exit_code=meaning.exit_code,
            module="pipeline.measure.check_meanings",
            checks=(meaning.id,),
        )
        settings.out_json(Explanation(entries=(entry,)))
        return
    lines = [meaning.id, f"  {meaning.says}", *([f"  Cure: {cure}"] if cure else [])]
    settings.out("\n".join([*lines, f"  A check of rvp measure. {ends}"]))


def _is_operand(text: str) -> bool:
    """Tell an enclave, a log or a value from a code or a check: a file that exists, or looks like a path."""
    return bool("/" in text or "." in text or re.fullmatch(r"[0-9a-fA-F]{64}", text) or Path(text).exists())


def _explain(
    settings: Settings,
    what: tuple[str, ...],
    output_format: str,
    budget: float,
    picture: Path | None,
    given: dict[str, Path | str | None],
    ctx: click.Context,
) -> None:
    import time

    from pipeline.explain.explain import explain_with_sides
    from pipeline.explain.render import render_text
    from provenance.events import Event, Phase

    def observer(event: Event) -> None:
        if isinstance(event, Phase) and settings.verbose:
            settings.say(event.what)

    left = _operand(what[0], given, "")
    right = _operand(what[1], given, "_b") if len(what) > 1 else None
    said, *sides = explain_with_sides(left, right, budget_s=budget, clock=time.monotonic, observer=observer)
    if picture is not None:
        from pipeline.explain.picture import draw

        write_file(picture, draw(said, *sides).encode())
    if output_format == "json":
        settings.out_json(said)
    else:
        settings.out(render_text(said))
    if not said.equal:
        ctx.exit(_DIFFERENT)


def _operand(text: str, given: dict[str, Path | str | None], side: str) -> Operand:
    from pipeline.explain.explain import Operand
    from pipeline.measure.measured import MeasureOptions
    from provenance.strict import read_file

    def chosen(name: str) -> Path | str | None:
        own = given.get(f"{name}{side}")
        return own if own is not None else given.get(name)

    config, libpal, symbols = (chosen(name) for name in ("config", "libpal", "symbols"))
    options = MeasureOptions(
        config=read_file(config, limit_bytes=_SMALL) if isinstance(config, Path) else None,
        config_name="" if config is None else str(config),
        libpal=libpal if isinstance(libpal, Path) else None,
        generation=str(chosen("generation") or ""),
    )
    return Operand(text=text, options=options, symbols_from=symbols if isinstance(symbols, Path) else None)
