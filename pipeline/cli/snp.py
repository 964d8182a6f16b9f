"""`rvp snp`: the owner's word on a SEV-SNP guest."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pipeline.cli.measure_snp import hex_bytes, number
from pipeline.measure.measured import SignatureCheckFailed
from pipeline.measure.snp.id_block import (
    DEFAULT_POLICY,
    ID_AUTH_BYTES,
    ID_BLOCK_BYTES,
    IdBlock,
    policy_words,
    read_binary,
    read_id_auth,
    read_id_block,
    sign_id_block,
)
from pipeline.measure.snp.measurement import signature_checks
from verifier.cli.passphrase import passphrase_from, passphrase_option
from verifier.cli.terminal import Settings, write_file

if TYPE_CHECKING:
    from provenance.signers.remote_key import RemoteKey

FILE: Final = click.Path(path_type=Path)


@click.group(epilog="\b\nExample:\n  rvp snp sign --measurement 11570979… --id-key id.pem -o guest")
def snp() -> None:
    """Sign and read the ID blocks of SEV-SNP guests; `rvp measure snp` computes the launch digest."""


@snp.command(
    "sign",
    epilog="\b\nExample:\n"
    "  rvp snp sign --measurement 11570979… --id-key id.pem --author-key author.pem -o guest\n"
    "writes guest.idblock and guest.idauth, and prints what QEMU's sev-snp-guest takes.",
)
@click.option(
    "--measurement", metavar="HEX", required=True, callback=hex_bytes, help="The launch digest: 48 bytes."
)
@click.option("--id-key", metavar="KEY", required=True, help="P-384: a PEM file, pkcs11:…, exec:…")
@click.option("--author-key", metavar="KEY", help="P-384; vouches for the ID key.")
@click.option("--policy", metavar="HEX", callback=number, help=f"Default: {DEFAULT_POLICY:#x}.")
@click.option("--guest-svn", metavar="N", type=int, default=0, help="Security version. Default: 0.")
@click.option("--family-id", metavar="HEX", callback=hex_bytes, help="16 bytes. Default: zeros.")
@click.option("--image-id", metavar="HEX", callback=hex_bytes, help="16 bytes. Default: zeros.")
@passphrase_option()
@click.option("-o", "--output", metavar="PREFIX", type=FILE, required=True, help="What to write.")
@click.pass_obj
def sign(
    settings: Settings,
    measurement: bytes,
    id_key: str,
    author_key: str | None,
    policy: int | None,
    guest_svn: int,
    family_id: bytes | None,
    image_id: bytes | None,
    passphrase_fd: int | None,
    output: Path,
) -> None:
    """Sign an ID block: the processor launches nothing else under it."""
    block = IdBlock(
        launch_digest=measurement,
        family_id=family_id or bytes(16),
        image_id=image_id or bytes(16),
        guest_svn=guest_svn,
        policy=DEFAULT_POLICY if policy is None else policy,
    )
    data = block.write()  # what does not fit is told before anybody is asked for a passphrase
    author = None if author_key is None else _key(author_key, passphrase_fd)
    auth = sign_id_block(block, _key(id_key, passphrase_fd), author)
    for suffix, content in ((".idblock", data), (".idauth", auth.write())):
        write_file(output.with_name(output.name + suffix), content)
    settings.out(
        f"id-block={base64.b64encode(data).decode()}\n"
        f"id-auth={base64.b64encode(auth.write()).decode()}\n"
        f"author-key-enabled={'on' if author else 'off'}"
    )
    settings.say(f"id_key_digest      {auth.id_key_digest.hex()}")
    if author is not None:
        settings.say(f"author_key_digest  {auth.author_key_digest.hex()}")


def _key(uri: str, passphrase_fd: int | None) -> RemoteKey:
    from pipeline.measure.snp.owner_key import open_owner_key
    from provenance.signers.remote_key import without_secrets

    return open_owner_key(uri, secret=passphrase_from(passphrase_fd, what=without_secrets(uri)))


@snp.command("show", epilog="\b\nExample:\n  rvp snp show guest.idblock --id-auth guest.idauth")
@click.argument("id_block", type=FILE)
@click.option("--id-auth", metavar="FILE", type=FILE, help="Also show and verify who signed.")
@click.pass_obj
def show(settings: Settings, id_block: Path, id_auth: Path | None) -> None:
    """Print an ID block, and verify its signatures. Exit code 10 when one does not verify."""
    block = read_id_block(read_binary(id_block, ID_BLOCK_BYTES), name=str(id_block))
    words = ", ".join(policy_words(block.policy)) or "nothing allowed"
    rows = [
        ("measurement", block.launch_digest.hex()),
        ("policy", f"{block.policy:#018x}  {words}"),
        ("guest_svn", str(block.guest_svn)),
        ("family_id", block.family_id.hex()),
        ("image_id", block.image_id.hex()),
    ]
    if id_auth is not None:
        auth = read_id_auth(read_binary(id_auth, ID_AUTH_BYTES), name=str(id_auth))
        rows.append(("id_key_digest", auth.id_key_digest.hex()))
        rows.append(("author_key_digest", auth.author_key_digest.hex()))
        rows += [(check.id, check.status) for check in signature_checks(block, auth)]
    settings.out("\n".join(f"{name:<18} {value}" for name, value in rows))
    if wrong := [name for name, value in rows if value == "failed"]:
        raise SignatureCheckFailed(
            f"check {wrong[0]} failed: the signature does not verify", place=str(id_auth)
        )
