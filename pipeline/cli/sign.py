"""`rvp sign`: sign what was built here, or the values of an artifact that was built elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.documents import ExactStatement, ExactStatements, SignedStatement, SignedStatements
from provenance.predicates.core import core_digest
from provenance.predicates.shapes import format_moment, parse_moment
from provenance.predicates.type_uri import KEY_BUILDER
from provenance.public_key import LIMITS
from provenance.signers import open_signer
from verifier.cli.documents import Sha256
from verifier.cli.passphrase import passphrase_from, passphrase_option
from verifier.cli.terminal import Settings, format_option, write_file
from verifier.cli.values import core_lines

if TYPE_CHECKING:
    from pipeline.sign import Signed, Statements
    from provenance.dsse import SignsBytes


@click.command(
    epilog="""\b
Examples:
  rvp sign --key ci.key --builder-id https://example.org/builder
  rvp sign --key ci.key --dry-run
  rvp sign --measured enclave.signed.so --product keyservice --key me.key

Everything is hashed and measured again before it is signed; a difference is exit 12.
"""
)
@click.option(
    "--build",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".rvp/build"),
    show_default=True,
    help="The result of `rvp build`.",
)
@click.option(
    "--key",
    "key_uri",
    metavar="KEY",
    help="Private key: a path, file:PATH, or pkcs11:…, hashivault://…, azurekms://…, awskms://…, gcpkms://….",
)
@click.option("--builder-id", metavar="URI", help="How policies know this builder. [default: from the key]")
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".rvp/statements"),
    show_default=True,
    help="Where the signed statements go.",
)
@click.option("--at", metavar="TIME", help="Record TIME as the end of the build. [default: no time]")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Sign the values of FILE, built elsewhere, at the lower level: measured.",
)
@click.option("--product", help="With --measured: the product that the files belong to.")
@click.option(
    "--layer",
    type=click.Choice(("platform", "firmware", "image", "workload")),
    default="workload",
    show_default=True,
    help="With --measured: whose values they are.",
)
@click.option("--tee", "tees", multiple=True, metavar="TEE", help="With --measured: measure as this TEE.")
@click.option("--dry-run", is_flag=True, help="Print the exact statements; sign and write nothing.")
@passphrase_option()
@format_option()
@click.pass_obj
def sign(
    settings: Settings,
    folder: Path,
    key_uri: str | None,
    builder_id: str | None,
    out: Path,
    at: str | None,
    measured: tuple[Path, ...],
    product: str | None,
    layer: Any,
    tees: tuple[Any, ...],
    passphrase_fd: int | None,
    output_format: str,
    *,
    dry_run: bool,
) -> None:
    """Sign the statements of a build that you ran.

    Makes SLSA provenance and reference values as Sigstore bundles. A build that diverged, or ran once
    only, is not signed. With --measured, no build is needed and none is vouched for.
    """
    from pipeline.sign import Times, sign_statements, state_build, state_files

    if bool(measured) != bool(product):
        raise click.UsageError("--measured and --product belong together")
    if tees and not measured:
        raise click.UsageError("--tee belongs to --measured")
    signer = None
    if key_uri:
        signer = open_signer(key_uri, passphrase=passphrase_from(passphrase_fd, what=key_uri))
        if signer.public_key.type in LIMITS:
            settings.warn(LIMITS[signer.public_key.type])
        builder_id = builder_id or KEY_BUILDER + signer.public_key.fingerprint.hex()
    elif not dry_run:
        raise click.UsageError(
            "missing option --key; `rvp key new ci.key` makes a key", click.get_current_context()
        )
    if not builder_id:
        raise click.UsageError("--dry-run without --key needs --builder-id")
    times = Times(finished_on=format_moment(parse_moment(at)) if at else "")
    if measured:
        settings.say(f"measuring {', '.join(path.name for path in measured)} …")
        statements = state_files(
            measured, product=product or "", builder_id=builder_id, layer=layer, tees=tees, times=times
        )
    else:
        settings.say(f"hashing and measuring {folder} again …")
        statements = state_build(folder, builder_id=builder_id, times=times)
    for text in statements.warnings:
        settings.warn(text)
    if dry_run or signer is None:
        _print_exact(settings, statements, output_format)
        return
    signed = sign_statements(statements, signer)
    out.mkdir(parents=True, exist_ok=True)
    for one in signed:
        write_file(out / one.file_name, one.data)
    _print_signed(settings, statements, signed, signer, out, output_format)


def _print_exact(settings: Settings, statements: Statements, output_format: str) -> None:
    payloads = {name: one.payload.decode("utf-8") for name, one in statements.statements.items()}
    if output_format == "json":
        settings.out_json(
            ExactStatements(
                product=statements.core.product,
                level=statements.level,
                core_digest=Sha256(sha256=core_digest(statements.core).hex()),
                statements=tuple(ExactStatement(name=n, payload=p) for n, p in payloads.items()),
            )
        )
        return
    for payload in payloads.values():
        settings.out(payload)


def _print_signed(
    settings: Settings,
    statements: Statements,
    signed: tuple[Signed, ...],
    signer: SignsBytes,
    out: Path,
    output_format: str,
) -> None:
    if output_format == "json":
        settings.out_json(
            SignedStatements(
                product=statements.core.product,
                level=statements.level,
                core_digest=Sha256(sha256=core_digest(statements.core).hex()),
                key=Sha256(sha256=signer.public_key.fingerprint.hex()),
                statements=tuple(
                    SignedStatement(
                        path=str(out / one.file_name),
                        predicate_type=one.statement.predicate_type,
                        digest=Sha256(sha256=one.statement.digest.hex()),
                    )
                    for one in signed
                ),
            )
        )
        return
    core = statements.core
    lines = [f"product   {core.product}", f"level     {statements.level}"]
    lines.append(f"core      sha256:{core_digest(core).hex()}")
    if core.recipe_digest:
        lines.append(f"recipe    sha256:{core.recipe_digest.sha256}")
    lines += core_lines(core)
    lines.append(f"key       sha256:{signer.public_key.fingerprint.hex()} ({signer.public_key.type.value})")
    lines += [f"signed    {out / one.file_name}" for one in signed]
    settings.out("\n".join(lines))
