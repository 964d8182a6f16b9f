"""`rvp sgx sign`, `digest`, `assemble`: sign an enclave, at once or in two steps."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from pipeline.cli.documents import ToBeSigned
from pipeline.cli.sgx_options import (
    DATE,
    FILE,
    OUT,
    PREVIOUS,
    SMALL,
    change_lines,
    enclave_options,
    field_lines,
    key_options,
    owner_key,
    signing_date,
    tell_written,
)
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructFields, to_be_signed
from pipeline.measure.sgx.sigstruct_fields import Change, changes, debug_launch, fields_of, of_tbs
from pipeline.measure.sgx.unsigned import Unsigned, lay_out_unsigned
from provenance.digest import sha256
from provenance.strict import read_file
from verifier.cli.terminal import Settings, format_option, write_file


@click.command(
    epilog="\b\nExamples:\n"
    "  rvp sgx sign enclave.so --config enclave.toml --key owner.pem --date 2026-02-04 -o owner.sig\n"
    "  rvp sgx sign enclave.so --config enclave.toml --key 'pkcs11:token=release;object=owner' -o owner.sig\n"
    "  rvp sgx sign enclave.so --config enclave.toml --key azurekms://vault/owner/VERSION -o owner.sig"
)
@click.argument("enclave", type=FILE)
@enclave_options
@key_options(required=True)
@DATE
@PREVIOUS
@OUT
@format_option()
@click.pass_obj
def sign(
    settings: Settings,
    enclave: Path,
    options: MeasureOptions,
    key_uri: str,
    public_key: Path | None,
    passphrase_fd: int | None,
    date: str | None,
    previous: Path | None,
    output: Path,
    output_format: str,
) -> None:
    """Sign an enclave: write a SIGSTRUCT. Equal inputs give equal bytes.

    The signature is verified before anything is written, wherever the key is.
    """
    from pipeline.measure.sgx.signer import sign_enclave

    unsigned = warned(settings, lay_out_unsigned(enclave, options))
    fields = dated(unsigned, date)
    found = _since(previous, of_tbs(to_be_signed(fields)))
    signed = sign_enclave(fields, owner_key(key_uri, public_key, passphrase_fd))
    write_file(output, signed.raw)
    if previous is not None:
        settings.say("\n".join(change_lines(found, previous)))
    tell_written(settings, output, "SIGSTRUCT", signed, output_format)


@click.command(
    epilog="\b\nExample:\n  rvp sgx digest enclave.so --config enclave.toml --date 2026-02-04 -o owner.tbs\n"
    "  openssl dgst -sha256 -sign owner.pem -out owner.rsa owner.tbs\n"
    "  rvp sgx assemble owner.tbs --signature owner.rsa --public-key owner.pub -o owner.sig"
)
@click.argument("enclave", type=FILE)
@enclave_options
@DATE
@PREVIOUS
@click.option(
    "--hash-only", is_flag=True, help="Write the SHA-256 (32 bytes), for devices that take the digest."
)
@OUT
@format_option()
@click.pass_obj
def digest(
    settings: Settings,
    enclave: Path,
    options: MeasureOptions,
    date: str | None,
    previous: Path | None,
    output: Path,
    output_format: str,
    *,
    hash_only: bool,
) -> None:
    """Write the 256 bytes to be signed elsewhere.

    In hardware, or in a ceremony. Every field that they state is printed in words; with --previous, what
    changed since. Equal inputs give equal bytes: a second person gets the same digest from the same release.
    """
    unsigned = warned(settings, lay_out_unsigned(enclave, options))
    tbs = to_be_signed(dated(unsigned, date))
    stated = of_tbs(tbs)
    fields = tuple(one for one in fields_of(stated) if one.signed)
    found = _since(previous, stated)
    write_file(output, sha256(tbs) if hash_only else tbs)
    if output_format == "json":
        settings.out_json(
            ToBeSigned(
                sha256=sha256(tbs).hex(),
                mrenclave=stated.mrenclave.hex(),
                debug_launch=debug_launch(stated),
                fields=fields,
                changes=None if previous is None else found,
            )
        )
        return
    lines = ["to be signed", *field_lines(fields), f"  a debug launch: {debug_launch(stated)}"]
    if previous is not None:
        lines += ["", *change_lines(found, previous)]
    settings.out("\n".join([*lines, "", f"mrenclave       {stated.mrenclave.hex()}"]))
    settings.out(f"sha256 to sign  {sha256(tbs).hex()}")
    if hash_only:
        settings.say("rvp sgx assemble needs the 256 bytes: the same command without --hash-only writes them")


@click.command(
    epilog="\b\nExamples:\n"
    "  rvp sgx assemble owner.tbs --signature owner.rsa --public-key owner.pub -o owner.sig\n"
    "  rvp sgx assemble owner.tbs --signature owner.rsa --public-key owner.crt \\\n"
    "      --into enclave.so --config enclave.toml -o enclave.signed.so"
)
@click.argument("tbs", type=FILE)
@click.option(
    "--signature",
    metavar="FILE",
    type=FILE,
    required=True,
    help="The RSA signature: 384 bytes, big-endian; or these as hex or base64.",
)
@click.option(
    "--public-key", metavar="FILE", type=FILE, required=True, help="The owner's public key or certificate."
)
@click.option(
    "--into", metavar="ENCLAVE", type=FILE, help="Write this enclave, signed, instead of a SIGSTRUCT."
)
@enclave_options
@OUT
@format_option()
@click.pass_obj
def assemble(
    settings: Settings,
    tbs: Path,
    signature: Path,
    public_key: Path,
    into: Path | None,
    options: MeasureOptions,
    output: Path,
    output_format: str,
) -> None:
    """Put a signature that was made elsewhere into a SIGSTRUCT.

    Checked before anything is written: the signature over these bytes with this key, header, reserved bytes,
    quotients; with --into, that the bytes state this enclave and its configuration.
    """
    from pipeline.measure.sgx.owner_key import read_public_key
    from pipeline.measure.sgx.signer import read_signature
    from pipeline.measure.sgx.sigstruct import assemble as put_together

    if into is None and (options.config or options.generation or options.libpal):
        raise click.UsageError("--config, --generation and --libpal belong to --into")
    signed = put_together(
        read_file(tbs, limit_bytes=SMALL),
        read_public_key(read_file(public_key, limit_bytes=SMALL), name=str(public_key)),
        read_signature(read_file(signature, limit_bytes=SMALL), name=str(signature)),
        name=str(tbs),
    )
    data = signed.raw
    if into is not None:
        data = warned(settings, lay_out_unsigned(into, options)).write(signed)
    write_file(output, data)
    tell_written(settings, output, "SIGSTRUCT" if into is None else "signed enclave", signed, output_format)


def warned(settings: Settings, unsigned: Unsigned) -> Unsigned:
    """Say what its layout warns of: nothing that is signed says it."""
    for check in unsigned.enclave.checks:
        if check.status in {"warning", "failed"}:
            settings.warn(f"{check.id}: expected {check.expected}, got {check.got}")
    return unsigned


def dated(unsigned: Unsigned, date: str | None) -> SigstructFields:
    """State what is to be signed, with its date."""
    return msgspec.structs.replace(unsigned.fields, date=signing_date(date))


def _since(previous: Path | None, stated: Sigstruct) -> tuple[Change, ...]:
    from pipeline.measure.sgx.sigstruct_file import read_sigstruct

    return () if previous is None else changes(read_sigstruct(previous), stated)
