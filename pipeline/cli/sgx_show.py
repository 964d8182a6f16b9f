"""`rvp sgx show` and `verify`: what an enclave's owner states, and whether it is true."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec

from pipeline.cli.measure import measurement_lines
from pipeline.cli.sgx_options import (
    FILE,
    SMALL,
    check_lines,
    enclave_options,
    field_lines,
    shown,
)
from pipeline.measure import MeasureOptions, detect, measure_file, require_computed
from pipeline.measure.sgx.sigstruct_fields import (
    debug_launch,
    fields_of,
    mrsigner_check,
)
from pipeline.measure.sgx.sigstruct_file import given_sigstruct, read_sigstruct, read_stated
from provenance.claims import Measurements, Tool
from provenance.digest import sha256
from provenance.strict import read_file
from provenance.version import version
from verifier.cli.terminal import Settings, format_option


@click.command(
    epilog="\b\nExamples:\n  rvp sgx show owner.sig\n  rvp sgx show enclave.signed.so --format json\n"
    "  rvp sgx show owner.tbs"
)
@click.argument("file", type=FILE)
@format_option()
@click.pass_obj
def show(settings: Settings, file: Path, output_format: str) -> None:
    """Print every field of a SIGSTRUCT in words.

    FILE is a SIGSTRUCT, a signed enclave of any format, an SGXS stream with its .sig beside it, or the 256
    bytes to be signed. The enclave is not measured here: `rvp sgx verify` compares.
    """
    signed, is_signed = read_stated(file)
    fields = tuple(one for one in fields_of(signed) if one.signed or is_signed)
    checks = signed.checks() if is_signed else ()
    if output_format == "json":
        settings.out_json(shown(file, signed, is_signed=is_signed))
        return
    kind = "SIGSTRUCT" if is_signed else "to be signed: no signature yet"
    lines = [f"{file}  {kind}", "", *field_lines(fields), f"  a debug launch: {debug_launch(signed)}"]
    settings.out("\n".join([*lines, "", *check_lines(checks)]).rstrip())


@click.command(
    epilog="\b\nExamples:\n  rvp sgx verify enclave.signed.so --public-key owner.pub\n"
    "  rvp sgx verify enclave.so --config enclave.toml --sigstruct owner.sig --mrsigner HEX"
)
@click.argument("enclave", type=FILE)
@click.option(
    "--sigstruct", metavar="FILE", type=FILE, help="The SIGSTRUCT, when it is not in the enclave's file."
)
@enclave_options
@click.option(
    "--public-key",
    metavar="FILE",
    type=FILE,
    help="Whose signature it must be: a public key or a certificate.",
)
@click.option("--mrsigner", metavar="HEX", help="Whose signature it must be: SHA-256 of the modulus.")
@format_option()
@click.pass_obj
def verify(
    settings: Settings,
    enclave: Path,
    sigstruct: Path | None,
    options: MeasureOptions,
    public_key: Path | None,
    mrsigner: str | None,
    output_format: str,
) -> None:
    """Verify the SIGSTRUCT of an enclave, and compare it.

    MRENCLAVE is computed and compared with what was signed; with --config, the other fields as well; with
    --public-key or --mrsigner, whose signature it is. Exit code 10 when the signature does not verify, 12
    when something disagrees.
    """
    wanted = _mrsigner(public_key, mrsigner)
    if sigstruct is not None:
        options = msgspec.structs.replace(
            options, sigstruct=given_sigstruct(sigstruct), sigstruct_name=str(sigstruct)
        )
    signed = read_sigstruct(enclave, options)
    measurements = measure_file(enclave, tee="sgx", options=options).measurements
    if sum(one.tee == "sgx" for one in measurements) != 1:
        raise click.UsageError(f"there are several enclaves in {enclave}: name one, IMAGE!/PATH")
    measurement, *others = measurements
    checks = [*measurement.checks, mrsigner_check(signed, wanted)]
    measurement = msgspec.structs.replace(measurement, checks=tuple(checks))
    if output_format == "json":
        settings.out_json(Measurements(tool=Tool(name="rvp", version=version()), measurements=(measurement,)))
    else:
        settings.out(
            "\n".join(measurement_lines(measurement, detect(enclave, tee="sgx", options=options).title))
        )
    require_computed((measurement, *others))


def _mrsigner(public_key: Path | None, text: str | None) -> bytes | None:
    from pipeline.measure.sgx.owner_key import read_public_key

    if public_key is not None and text is not None:
        raise click.UsageError("--public-key and --mrsigner say the same: give one of them")
    if public_key is not None:
        key = read_public_key(read_file(public_key, limit_bytes=SMALL), name=str(public_key))
        return sha256(key.public_numbers().n.to_bytes(384, "little"))
    if text is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise click.BadParameter("expected 64 hex digits", param_hint="--mrsigner")
    return bytes.fromhex(text)
