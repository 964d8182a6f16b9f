"""`rvp publish`: write the bundle that others verify and rebuild."""

from __future__ import annotations

import os
from pathlib import Path

import click

from provenance.strict import NotReadable
from verifier.cli.terminal import Settings, format_option


@click.command(
    epilog="""\b
Examples:
  rvp publish keyservice.bundle
  rvp publish keyservice.tar --from .rvp --with-inputs
\b
A bundle that is there already is added to: the second operator's statements join the first's.
The same contents give the same bytes, in whatever order they came.
"""
)
@click.argument("place", type=click.Path(path_type=Path), metavar="DIR|FILE.tar")
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".rvp"),
    show_default=True,
    help="Where `rvp build` and `rvp sign` wrote.",
)
@click.option(
    "--statements",
    type=click.Path(path_type=Path, file_okay=False),
    help="Signed statements. [default: FROM/statements]",
)
@click.option("--store", metavar="DIR", envvar="RVP_STORE", help="The store. [default: FROM/store]")
@click.option("--with-inputs", is_flag=True, help="Put sources, fetched files and packages into the bundle.")
@click.option(
    "--clone",
    "clones",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A clone of a further source, for its signed tag. The current folder is always looked into.",
)
@click.option(
    "--add", is_flag=True, help="Only add statements to the bundle that is there; no build is needed."
)
@click.option("--replace", is_flag=True, help="Do not add to the bundle that is there: write a new one.")
@format_option()
@click.pass_obj
def publish(
    settings: Settings,
    place: Path,
    origin: Path,
    statements: Path | None,
    store: str | None,
    clones: tuple[Path, ...],
    output_format: str,
    *,
    with_inputs: bool,
    add: bool,
    replace: bool,
) -> None:
    """Write the bundle at DIR (a folder) or FILE.tar: statements, logs, recipe."""
    from pipeline.cli.documents import Published
    from pipeline.publish import NothingSigned, describe, gather
    from pipeline.store import FolderStore
    from provenance.bundle import Bundle, merge, read_bundle, write_bundle
    from provenance.sigstore_bundle import MAX_BUNDLE_BYTES, SUFFIX
    from provenance.strict import read_file
    from verifier.cli.documents import Sha256

    if add and replace:
        raise click.UsageError("--add and --replace exclude each other")
    signed = statements or origin / "statements"
    if add:
        if not os.path.lexists(place):
            raise NotReadable("there is no bundle to add to", place=str(place), hint="leave --add out")
        paths = sorted(signed.glob(f"*{SUFFIX}"))
        if not paths:
            raise NothingSigned(f"no *{SUFFIX} here", place=str(signed), hint="run `rvp sign` first")
        made = Bundle(statements=tuple(read_file(path, limit_bytes=MAX_BUNDLE_BYTES) for path in paths))
    else:
        kept = FolderStore(Path(store) if store else origin / "store")
        made = gather(origin / "build", signed, store=kept, clones=(Path(), *clones), with_inputs=with_inputs)
    if os.path.lexists(place) and not replace:
        made = merge(read_bundle(place), made)
    write_bundle(place, made)
    written = read_bundle(place)  # as a stranger would: what cannot be read was not published
    counts = describe(written)
    if output_format == "json":
        settings.out_json(
            Published(path=str(place), digest=Sha256(sha256=written.digest.hex()), holds=counts)
        )
        return
    settings.out(f"bundle  {place}  sha256:{written.digest.hex()}")
    settings.out(
        "        " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    )
    settings.say(f"next: rvp verify {place} --policy POLICY.toml")
