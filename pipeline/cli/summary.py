"""`rvp summary`: what a continuous-integration host shows and hands on."""

from __future__ import annotations

from pathlib import Path

import click

from verifier.cli.terminal import Settings

EXAMPLE = """\b
Example, in a step of a GitHub job:
  rvp summary build.json verdict.json >> "$GITHUB_STEP_SUMMARY"
  rvp summary build.json verdict.json --format outputs >> "$GITHUB_OUTPUT"
"""


@click.command(epilog=EXAMPLE)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(("markdown", "outputs", "dotenv", "junit")),
    default="markdown",
    show_default=True,
    help="The form that the host reads.",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Summarise FILE too, if it is there.",
)
@click.option("--bundle-path", default="", metavar="PATH", help="Hand this path on as bundle-path.")
@click.pass_obj
def summary(
    settings: Settings,
    files: tuple[Path, ...],
    also: tuple[Path, ...],
    output_format: str,
    bundle_path: str,
) -> None:
    """Summarise documents of `--format json` for a continuous-integration host.

    FILE is what `rvp build`, `rvp verify` or `rvp measure` printed, or difference.json.
    A file that is missing or broken is a line of the summary; the verdict is then inconclusive at best.
    """
    from pipeline.report.documents import read_document
    from pipeline.report.summary import FORMATS

    documents = tuple(read_document(path) for path in (*files, *(path for path in also if path.exists())))
    settings.out(FORMATS[output_format](documents, bundle_path).removesuffix("\n"))
