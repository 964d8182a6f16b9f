"""`rvp key`: make and show signing keys."""

from __future__ import annotations

from pathlib import Path

import click

from provenance.public_key import LIMITS, MAX_KEY_BYTES, KeyType, PublicKey, read_public_key
from provenance.strict import read_file
from verifier.cli.documents import KeyFiles, Sha256, ShownKey
from verifier.cli.passphrase import passphrase_from, passphrase_option
from verifier.cli.terminal import Settings, format_option


@click.group(
    epilog="""\b
Examples:
  rvp key new ci.key                      P-256; the public key is ci.key.pub
  rvp key new release.key --encrypt       asks for a passphrase
  rvp key show ci.key.pub
"""
)
def key() -> None:
    """Make and show signing keys."""


@key.command(
    epilog="""\b
Example:
  rvp key new ci.key
"""
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--type",
    "key_type",
    type=click.Choice([one.value for one in KeyType]),
    default=KeyType.P256.value,
    show_default=True,
    help="P-256 is verified by every tool of the field.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt the private key with a passphrase.")
@passphrase_option()
@format_option()
@click.pass_obj
def new(
    settings: Settings,
    path: Path,
    key_type: str,
    passphrase_fd: int | None,
    output_format: str,
    *,
    encrypt: bool,
) -> None:
    """Make a key pair: PATH (mode 0600) and PATH.pub."""
    from provenance.signers.key_file import PassphraseMissing, make_key

    secret = None
    if encrypt or passphrase_fd is not None:
        secret = passphrase_from(passphrase_fd, confirm=True, what=str(path))()
        if not secret:
            raise PassphraseMissing(
                "no passphrase to encrypt the key with",
                hint="run on a terminal to be asked, set RVP_PASSPHRASE, or give --passphrase-fd",
            )
    made = make_key(path, KeyType(key_type), passphrase=secret)
    if made.type in LIMITS:
        settings.warn(LIMITS[made.type])
    _print(settings, made, output_format, private=str(path), public=f"{path}.pub")


@key.command(
    epilog="""\b
Example:
  rvp key show ci.key.pub
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@passphrase_option()
@format_option()
@click.pass_obj
def show(settings: Settings, file: Path, passphrase_fd: int | None, output_format: str) -> None:
    """Show the fingerprint and the type of a key, public or private."""
    data = read_file(file, limit_bytes=MAX_KEY_BYTES)
    if b"PRIVATE KEY-----" in data:
        from provenance.signers.key_file import open_signer

        secret = passphrase_from(passphrase_fd, what=str(file))
        found = open_signer(str(file), passphrase=secret).public_key
    else:
        found = read_public_key(data, name=str(file))
    if found.type in LIMITS:
        settings.warn(LIMITS[found.type])
    _print(settings, found, output_format)


def _print(settings: Settings, found: PublicKey, output_format: str, **files: str) -> None:
    if output_format == "json":
        settings.out_json(
            ShownKey(
                type=found.type.value,
                fingerprint=Sha256(sha256=found.fingerprint.hex()),
                hint=found.hint,
                pem=found.pem.decode("ascii"),
                files=KeyFiles(**files) if files else None,
            )
        )
        return
    lines = [f"type         {found.type.value}", f"fingerprint  sha256:{found.fingerprint.hex()}"]
    lines += [f"{what:<13}{path}" for what, path in files.items()]
    settings.out("\n".join(lines))
