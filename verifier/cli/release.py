"""`rvp release`: the release engineers' word on a core."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from provenance.dsse import SignsBytes
from provenance.own_output import sign_and_check
from provenance.predicates.core import Core, core_digest
from provenance.predicates.release import Release, make_release
from provenance.predicates.shapes import format_moment, parse_moment
from provenance.public_key import LIMITS, load_public_key
from provenance.signers import open_signer
from provenance.sigstore_bundle import SUFFIX
from provenance.statement import Statement
from provenance.strict import convert
from verifier.cli.documents import Released, Sha256
from verifier.cli.passphrase import passphrase_from, passphrase_option
from verifier.cli.terminal import Settings, format_option, write_file
from verifier.cli.values import core_lines
from verifier.release import Found, choose_core, find_values


@click.command(
    epilog="""\b
Examples:
  rvp release .rvp/statements --key release.key --series stable --sequence 7 \\
      --version 1.2.0 --not-after 2027-01-31T00:00:00Z
  rvp release bundle.tar --signed-by ci.pub --signed-by auditor.pub --key release.key …

Works offline. The artifacts are not needed: a release names the values that rebuilders agree on.
"""
)
@click.argument("place", type=click.Path(path_type=Path), metavar="STATEMENT|BUNDLE|DIR")
@click.option(
    "--key",
    "key_uri",
    required=True,
    metavar="KEY",
    help="Private key: a path, file:PATH, or pkcs11:…, hashivault://…, azurekms://…, awskms://…, gcpkms://….",
)
@click.option("--series", required=True, help="The line of releases: stable, lts-1 …")
@click.option("--sequence", required=True, type=click.IntRange(min=0), help="Counts up in the series.")
@click.option("--version", "version_", required=True, help="What people call it.")
@click.option("--not-before", metavar="TIME", help="Valid from. [default: --at]")
@click.option("--not-after", metavar="TIME", required=True, help="Valid until.")
@click.option("--at", metavar="TIME", help="The time to work as of. [default: now]")
@click.option(
    "--core", "wanted", default="", metavar="SHA256", help="Choose the core when statements differ."
)
@click.option(
    "--signed-by",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY.pub",
    help="Only take values that one of these keys signed.",
)
@click.option("--supersedes", multiple=True, metavar="SHA256", help="A core that this release replaces.")
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".rvp/statements"),
    show_default=True,
    help="Where the signed statement goes.",
)
@click.option("--yes", is_flag=True, help="Do not ask before signing.")
@click.option("--dry-run", is_flag=True, help="Print the exact statement; sign and write nothing.")
@passphrase_option()
@format_option()
@click.pass_obj
def release(
    settings: Settings,
    place: Path,
    key_uri: str,
    series: str,
    sequence: int,
    version_: str,
    not_before: str | None,
    not_after: str,
    at: str | None,
    wanted: str,
    keys: tuple[Path, ...],
    supersedes: tuple[str, ...],
    out: Path,
    passphrase_fd: int | None,
    output_format: str,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Sign a release: these values, this sequence, this validity.

    Shows what is signed first; on a terminal, asks. Without --signed-by nobody's signature on the values is
    checked here: the verifier's policy counts them.
    """
    now = parse_moment(at) if at else int(time.time())
    found = find_values(place, [load_public_key(path) for path in keys])
    core, sayers = choose_core(found, wanted)
    predicate = convert(
        {
            "product": core.product,
            "series": series,
            "sequence": sequence,
            "version": version_,
            "validity": {
                "notBefore": format_moment(parse_moment(not_before) if not_before else now),
                "notAfter": format_moment(parse_moment(not_after)),
            },
            "coreDigest": {"sha256": core_digest(core).hex()},
            "supersedes": [{"sha256": one} for one in sorted(set(supersedes))],
        },
        Release,
        name="release",
    )
    if predicate.validity.not_after_s <= now:
        raise click.BadParameter(
            f"{predicate.validity.not_after} is over at {format_moment(now)}", param_hint="--not-after"
        )
    statement = make_release(predicate, core)
    if not keys:
        settings.warn("nobody's signature on the values was checked (--signed-by)")
    if dry_run:
        settings.out(statement.payload.decode("utf-8"))
        return
    text = _summary(predicate, core, sayers)
    signer = open_signer(key_uri, passphrase=passphrase_from(passphrase_fd, what=key_uri))
    if signer.public_key.type in LIMITS:
        settings.warn(LIMITS[signer.public_key.type])
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.echo(text, err=True)
        click.confirm("Sign this release?", abort=True, err=True)
    path = _sign(statement, signer, out, f"release.{series}-{sequence}")
    if output_format == "json":
        settings.out_json(
            Released(
                release=predicate,
                key=Sha256(sha256=signer.public_key.fingerprint.hex()),
                path=str(path),
                digest=Sha256(sha256=statement.digest.hex()),
            )
        )
        return
    signed = f"key       sha256:{signer.public_key.fingerprint.hex()} ({signer.public_key.type.value})"
    settings.out(f"{text}\n{signed}\nsigned    {path}")


def _sign(statement: Statement, signer: SignsBytes, out: Path, name: str) -> Path:
    """Sign, verify what was signed from its bytes, write it whole."""
    data = sign_and_check(statement, signer)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.{signer.public_key.fingerprint.hex()[:12]}{SUFFIX}"
    write_file(path, data)
    return path


def _summary(predicate: Release, core: Core, sayers: tuple[Found, ...]) -> str:
    lines = [
        f"product   {predicate.product} {predicate.version}",
        f"series    {predicate.series}, sequence {predicate.sequence}",
        f"valid     {predicate.validity.not_before} to {predicate.validity.not_after}",
        f"core      sha256:{predicate.core_digest.sha256}",
    ]
    lines += [f"replaces  sha256:{one.sha256}" for one in predicate.supersedes]
    for one in sayers:
        who = f"key sha256:{one.key.fingerprint.hex()[:16]}…" if one.key else "signature not checked"
        lines.append(f"said by   {one.values.builder.id}, {one.values.level} ({who})")
    return "\n".join([*lines, *core_lines(core)])
