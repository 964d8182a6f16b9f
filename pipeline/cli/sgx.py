"""`rvp sgx`: lay out an enclave, sign it, take it apart."""

from __future__ import annotations

import datetime as dt
import functools
import os
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import write_stream
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructFields, to_be_signed
from pipeline.measure.sgx.sigstruct import assemble as assemble_sigstruct
from pipeline.measure.sgx.sigstruct import sign as sign_sigstruct
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.strict import read_file
from verifier.cli.terminal import Settings, write_file

_FILE = click.Path(path_type=Path)
_SMALL = 1 << 20
_OUT = click.option("-o", "--output", metavar="FILE", type=_FILE, required=True, help="What to write.")
_DATE = click.option(
    "--date",
    metavar="YYYY-MM-DD",
    help="The date in the SIGSTRUCT; default: SOURCE_DATE_EPOCH.",
)


def _enclave_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a file is laid out; the command gets them as one `options`."""

    @click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=_FILE,
        help="The configuration: TOML (rvp/enclave/v1) or the SDK's XML; none of a Gramine manifest.",
    )
    @click.option(
        "--libpal", metavar="FILE", type=_FILE, help="Gramine's libpal.so; by default beside the manifest."
    )
    @click.option(
        "--generation",
        metavar="VERSION",
        default="",
        help="Of the SDK or of Gramine; default: as seen, or newest.",
    )
    @functools.wraps(command)
    def wrapped(
        *arguments: object, config_file: Path | None, libpal: Path | None, generation: str, **others: object
    ) -> None:
        data = None if config_file is None else read_file(config_file, limit_bytes=_SMALL)
        name = "" if config_file is None else str(config_file)
        options = MeasureOptions(config=data, config_name=name, libpal=libpal, generation=generation)
        command(*arguments, options=options, **others)

    return wrapped


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
    epilog="\b\nExample:\n"
    "  rvp sgx pack enclave.so --config enclave.toml --sigstruct owner.sig -o enclave.signed.so"
)
@click.argument("elf", type=_FILE)
@_enclave_options
@click.option("--sigstruct", metavar="FILE", type=_FILE, help="The owner's SIGSTRUCT to graft.")
@_OUT
@click.pass_obj
def pack(
    settings: Settings, elf: Path, options: MeasureOptions, sigstruct: Path | None, output: Path
) -> None:
    """Lay out an enclave, and graft its owner's SIGSTRUCT."""
    unsigned = lay_out_unsigned(elf, options)
    signed = None
    if sigstruct is not None:
        signed = Sigstruct(read_file(sigstruct, limit_bytes=_SMALL), name=str(sigstruct))
    write_file(output, unsigned.write(signed))
    state = "not signed" if signed is None else "signed"
    settings.say(f"{output}: mrenclave {unsigned.fields.mrenclave.hex()}, {state}")


@sgx.command(
    epilog="\b\nExample:\n"
    "  rvp sgx sign enclave.so --config enclave.toml --key owner.pem --date 2026-02-04 -o owner.sig"
)
@click.argument("elf", type=_FILE)
@_enclave_options
@click.option("--key", metavar="FILE", type=_FILE, required=True, help="The owner's private key (PEM).")
@_DATE
@_OUT
@click.pass_obj
def sign(
    settings: Settings, elf: Path, options: MeasureOptions, key: Path, date: str | None, output: Path
) -> None:
    """Sign an enclave: write a SIGSTRUCT. Equal inputs give equal bytes."""
    from pipeline.measure.sgx.owner_key import read_private_key

    fields = _fields(elf, options, date)
    signed = sign_sigstruct(
        to_be_signed(fields), read_private_key(read_file(key, limit_bytes=_SMALL), name=str(key))
    )
    write_file(output, signed.raw)
    settings.say(f"{output}: mrenclave {signed.mrenclave.hex()}\n  mrsigner  {signed.mrsigner.hex()}")


@sgx.command(
    epilog="\b\nExample:\n  rvp sgx digest enclave.so --config enclave.toml --date 2026-02-04 -o owner.tbs\n"
    "  openssl dgst -sha256 -sign owner.pem -out owner.rsa owner.tbs\n"
    "  rvp sgx assemble owner.tbs --signature owner.rsa --public-key owner.pub -o owner.sig"
)
@click.argument("elf", type=_FILE)
@_enclave_options
@_DATE
@_OUT
@click.pass_obj
def digest(settings: Settings, elf: Path, options: MeasureOptions, date: str | None, output: Path) -> None:
    """Write the 256 bytes to be signed elsewhere.

    In hardware, or in a ceremony. What they state is printed.
    """
    import hashlib

    fields = _fields(elf, options, date)
    tbs = to_be_signed(fields)
    write_file(output, tbs)
    year, month, day = fields.date
    rows = {
        "mrenclave": fields.mrenclave.hex(),
        "isvprodid": str(fields.isvprodid),
        "isvsvn": str(fields.isvsvn),
        "attributes": f"{fields.attributes[0]:#x}, {fields.attributes[1]:#x}",
        "mask": f"{fields.attributes_mask[0]:#x}, {fields.attributes_mask[1]:#x}",
        "date": f"{year:04d}-{month:02d}-{day:02d}",
        "sha256 to sign": hashlib.sha256(tbs).hexdigest(),
    }
    settings.out("\n".join(f"{name:<14}  {value}" for name, value in rows.items()))


@sgx.command(
    epilog="\b\nExample:\n"
    "  rvp sgx assemble owner.tbs --signature owner.rsa --public-key owner.pub -o owner.sig"
)
@click.argument("tbs", type=_FILE)
@click.option(
    "--signature", metavar="FILE", type=_FILE, required=True, help="The RSA signature, 384 bytes, big-endian."
)
@click.option("--public-key", metavar="FILE", type=_FILE, required=True, help="The owner's public key (PEM).")
@_OUT
@click.pass_obj
def assemble(settings: Settings, tbs: Path, signature: Path, public_key: Path, output: Path) -> None:
    """Put a signature that was made elsewhere into a SIGSTRUCT."""
    from pipeline.measure.sgx.owner_key import read_public_key

    signed = assemble_sigstruct(
        read_file(tbs, limit_bytes=_SMALL),
        read_public_key(read_file(public_key, limit_bytes=_SMALL), name=str(public_key)),
        read_file(signature, limit_bytes=_SMALL),
    )
    write_file(output, signed.raw)
    settings.say(f"{output}: mrenclave {signed.mrenclave.hex()}\n  mrsigner  {signed.mrsigner.hex()}")


@sgx.command("to-sgxs", epilog="\b\nExample:\n  rvp sgx to-sgxs enclave.signed.so -o enclave.sgxs")
@click.argument("elf", type=_FILE)
@_enclave_options
@click.option("--sigstruct", metavar="FILE", type=_FILE, help="Also write the SIGSTRUCT to this file.")
@_OUT
@click.pass_obj
def to_sgxs(
    settings: Settings, elf: Path, options: MeasureOptions, sigstruct: Path | None, output: Path
) -> None:
    """Write an enclave as an SGXS stream.

    These are the very bytes that MRENCLAVE is the SHA-256 of.
    """
    enclave = lay_out(elf, options)[0]
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as stream:
            write_stream(enclave.image, stream.write)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    if sigstruct is not None and enclave.sigstruct is not None and not enclave.sigstruct.is_empty:
        write_file(sigstruct, enclave.sigstruct.raw)
    settings.say(f"{output}: {output.stat().st_size} bytes")


@sgx.group(epilog="\b\nExample:\n  rvp sgx key new owner.pem")
def key() -> None:
    """Make the key of an enclave's owner."""


@key.command(epilog="\b\nExample:\n  rvp sgx key new owner.pem")
@click.argument("output", type=_FILE)
@click.pass_obj
def new(settings: Settings, output: Path) -> None:
    """Make an RSA-3072 key with e = 3.

    OUTPUT is readable by you alone; the public half is OUTPUT with the suffix .pub.
    """
    from pipeline.measure.sgx.owner_key import new_key, public_pem, read_private_key

    if output.exists():
        raise click.UsageError(f"{output} exists; a key is never overwritten")
    pem = new_key()
    write_file(output, pem, mode=0o600)
    public = output.with_suffix(".pub")
    write_file(public, public_pem(read_private_key(pem).public_key()))
    settings.say(f"{output}: keep it secret\n{public}: publish it")


def _fields(path: Path, options: MeasureOptions, date: str | None) -> SigstructFields:
    return msgspec.structs.replace(lay_out_unsigned(path, options).fields, date=_date(date))


def _date(text: str | None) -> tuple[int, int, int]:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        if text is not None:
            day = dt.date.fromisoformat(text)
        elif epoch is not None:
            day = dt.datetime.fromtimestamp(int(epoch), dt.UTC).date()
        else:
            raise click.UsageError("a SIGSTRUCT has a date: give --date or SOURCE_DATE_EPOCH")
    except (ValueError, OverflowError, OSError) as error:
        raise click.UsageError(f"not a date: {error}") from error
    return day.year, day.month, day.day
