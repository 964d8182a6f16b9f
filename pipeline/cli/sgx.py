"""`rvp sgx`: lay out an enclave, sign it, take it apart."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.cli.sgx_options import DATE, FILE, OUT, enclave_options, key_options, owner_key, tell_written
from pipeline.cli.sgx_show import show, verify
from pipeline.cli.sgx_sign import assemble, dated, digest, sign, warned
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import write_stream
from pipeline.measure.sgx.sgxs import pages_rise
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructNotVerified
from pipeline.measure.sgx.sigstruct_file import given_sigstruct
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.errors import MachineRefused
from verifier.cli.terminal import Settings, format_option, write_file


@click.group(
    epilog="""\b
The way of an enclave, from the linker's file to the signed one:
  rvp sgx sign enclave.so --config enclave.toml --key owner.pem -o owner.sig        its owner, once
  rvp sgx pack enclave.so --config enclave.toml --sigstruct owner.sig -o signed.so  every rebuilder
"""
)
def sgx() -> None:
    """Pack, sign and take apart SGX enclaves."""


@sgx.command(
    epilog="\b\nExamples:\n"
    "  rvp sgx pack enclave.so --config enclave.toml --sigstruct owner.sig -o enclave.signed.so\n"
    "  rvp sgx pack enclave.so --config enclave.toml --key owner.pem --date 2026-02-04 -o enclave.signed.so"
)
@click.argument("enclave", type=FILE)
@enclave_options
@click.option(
    "--sigstruct",
    metavar="FILE",
    type=FILE,
    help="The owner's SIGSTRUCT to put in: its file, or a signed enclave that has it.",
)
@key_options(required=False)
@DATE
@OUT
@format_option()
@click.pass_obj
def pack(
    settings: Settings,
    enclave: Path,
    options: MeasureOptions,
    sigstruct: Path | None,
    key_uri: str | None,
    public_key: Path | None,
    passphrase_fd: int | None,
    date: str | None,
    output: Path,
    output_format: str,
) -> None:
    """Lay out an enclave, and put its owner's SIGSTRUCT in.

    With --key it is signed at once. A rebuilder has no key and puts in what the owner signed; it is refused
    (exit code 12) when it signs another enclave or other fields. With neither, the file is laid out unsigned.
    """
    if key_uri is not None and sigstruct is not None:
        raise click.UsageError("--sigstruct and --key exclude each other")
    unsigned = warned(settings, lay_out_unsigned(enclave, options))
    signed = None
    if sigstruct is not None:
        signed = Sigstruct(given_sigstruct(sigstruct), name=str(sigstruct))
    elif key_uri is not None:
        from pipeline.measure.sgx.signer import sign_enclave

        signed = sign_enclave(dated(unsigned, date), owner_key(key_uri, public_key, passphrase_fd))
    write_file(output, unsigned.write(signed))
    what = "enclave, not signed" if signed is None else "signed enclave"
    tell_written(settings, output, what, signed or unsigned.fields, output_format)


@sgx.command("to-sgxs", epilog="\b\nExample:\n  rvp sgx to-sgxs enclave.signed.so -o enclave.sgxs")
@click.argument("enclave", metavar="ENCLAVE", type=FILE)
@enclave_options
@click.option("--write-sigstruct", metavar="FILE", type=FILE, help="Also write the SIGSTRUCT, to this file.")
@OUT
@click.pass_obj
def to_sgxs(
    settings: Settings, enclave: Path, options: MeasureOptions, write_sigstruct: Path | None, output: Path
) -> None:
    """Write an enclave as an SGXS stream.

    These are the very bytes that MRENCLAVE is the SHA-256 of. A loader that does not add its pages from the
    lowest up (Gramine) gives a stream that is not canonical, which readers refuse: `rvp sgx pages` is for it.
    """
    found = lay_out(enclave, options)[0]
    signed = None if found.sigstruct is None or found.sigstruct.is_empty else found.sigstruct
    if write_sigstruct is not None and signed is None:
        raise SigstructNotVerified(
            "the enclave is not signed", place=str(enclave), hint="leave --write-sigstruct out"
        )
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as stream:
            write_stream(found.image, stream.write)
        temporary.replace(output)
    except OSError as error:
        raise MachineRefused(
            f"cannot write the file: {error.strerror}",
            place=str(output),
            hint="name a folder that exists and is yours",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    if write_sigstruct is not None and signed is not None:
        write_file(write_sigstruct, signed.raw)
    settings.say(f"{output}: {output.stat().st_size} bytes")
    if not pages_rise(found.image):
        settings.say(
            f"  not canonical: {found.layout} does not add its pages from the lowest up. The bytes hash to "
            "MRENCLAVE,\n  but readers of SGXS refuse them, `rvp measure` too. A page list keeps the order:\n"
            f"  rvp sgx pages {enclave} -o list.toml"
        )


@sgx.command(epilog="\b\nExample:\n  rvp sgx pages enclave.signed.so -o enclave.toml")
@click.argument("enclave", type=FILE)
@enclave_options
@OUT
@click.pass_obj
def pages(settings: Settings, enclave: Path, options: MeasureOptions, output: Path) -> None:
    """Write the pages of an enclave as a list.

    A text that `rvp measure` reads back; contents lie beside it with the suffix .pages.
    """
    from pipeline.measure.sgx.page_list.writer import write_page_list

    written = write_page_list(lay_out(enclave, options)[0], output)
    settings.say("\n".join(f"{path}: {path.stat().st_size} bytes" for path in written))


@sgx.group(epilog="\b\nExample:\n  rvp sgx key new owner.pem")
def key() -> None:
    """Make the key of an enclave's owner."""


@key.command(epilog="\b\nExample:\n  rvp sgx key new owner.pem")
@click.argument("output", type=FILE)
@click.pass_obj
def new(settings: Settings, output: Path) -> None:
    """Make an RSA-3072 key with e = 3.

    OUTPUT is readable by you alone; the public half is OUTPUT with the suffix .pub.
    """
    from pipeline.measure.sgx.owner_key import new_key, public_pem, read_private_key

    public = output.with_suffix(".pub")
    if public == output:
        raise click.UsageError(
            f"{output} is the name of the public half; name the private one {output.stem}.pem"
        )
    for one in (output, public):
        if os.path.lexists(one):
            raise click.UsageError(f"{one} exists; a key is never overwritten: name another file")
    pem = new_key()
    write_file(output, pem, mode=0o600)
    write_file(public, public_pem(read_private_key(pem).public_key()))
    settings.say(f"{output}: keep it secret\n{public}: publish it")


for _command in (sign, digest, assemble, show, verify):
    sgx.add_command(_command)
