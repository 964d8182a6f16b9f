"""What the commands of `rvp sgx` share: options, and how the fields of a SIGSTRUCT are printed."""

from __future__ import annotations

import datetime as dt
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pipeline.cli.documents import ShownSigstruct
from pipeline.measure.file_kind import seen
from pipeline.measure.formats import UnknownFormat
from pipeline.measure.measured import MeasureOptions
from provenance.strict import read_file
from verifier.cli.passphrase import passphrase_from, passphrase_option
from verifier.cli.terminal import Settings, styled

if TYPE_CHECKING:
    from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructFields
    from pipeline.measure.sgx.sigstruct_fields import Change, Field
    from provenance.claims import Check
    from provenance.signers.remote_key import RemoteKey

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FILE: Final = click.Path(path_type=Path)
SMALL: Final = 1 << 20
_SHOWN_BYTES: Final = 32

GENERATION: Final = (
    "The release whose rules lay it out (SDK, Gramine, Open Enclave, EGo); default: as seen, or newest."
)
OUT = click.option("-o", "--output", metavar="FILE", type=FILE, required=True, help="The file to write.")
DATE = click.option(
    "--date", metavar="YYYY-MM-DD", help="The date in the SIGSTRUCT; default: SOURCE_DATE_EPOCH."
)
PREVIOUS = click.option(
    "--previous", metavar="FILE", type=FILE, help="An earlier SIGSTRUCT or signed enclave: say what changed."
)


def enclave_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a file is laid out; the command gets them as one `options`."""

    @click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=FILE,
        help="The configuration: enclave.toml, the SDK's XML, Open Enclave's .conf, EGo's enclave.json; "
        "Gramine has none.",
    )
    @click.option(
        "--libpal",
        "--runtime",
        "libpal",
        metavar="FILE",
        type=FILE,
        help="Gramine's libpal.so, EGo's ego-enclave; by default beside the enclave.",
    )
    @click.option(
        "--generation",
        metavar="VERSION",
        default="",
        help=GENERATION,
    )
    @functools.wraps(command)
    def wrapped(
        *arguments: object, config_file: Path | None, libpal: Path | None, generation: str, **others: object
    ) -> None:
        data = None if config_file is None else read_config_file(config_file)
        name = "" if config_file is None else str(config_file)
        options = MeasureOptions(
            config=data, config_name=name, libpal=libpal, generation=generation, with_log=False
        )
        command(*arguments, options=options, **others)

    return wrapped


def read_config_file(path: Path) -> bytes:
    """Read a configuration.

    Raises:
        UnknownFormat: RVP-5000, for what cannot be one. NotReadable: RVP-1010.
    """
    data = read_file(path, limit_bytes=SMALL)
    found = seen(data[:4096], len(data)).what
    if b"\0" in data[:4096] or "key" in found:
        raise UnknownFormat(
            f"this is no configuration: {found}",
            place=str(path),
            hint="in this order: ENCLAVE --config CONFIGURATION",
        )
    return data


def key_options(*, required: bool) -> Callable[[Decorated], Decorated]:
    """Add the owner's key."""

    def add(function: Decorated) -> Decorated:
        function = passphrase_option()(function)
        function = click.option(
            "--public-key",
            metavar="FILE",
            type=FILE,
            help="The public half, or a certificate: needed by exec:, compared with other keys.",
        )(function)
        return click.option(
            "--key",
            "key_uri",
            metavar="KEY",
            required=required,
            help="The owner's key: a PEM file, pkcs11:…, hashivault://…, azurekms://…, awskms://…, "
            "gcpkms://…, or exec:COMMAND.",
        )(function)

    return add


def owner_key(uri: str, public_key: Path | None, passphrase_fd: int | None) -> RemoteKey:
    """Open the owner's key; a passphrase or a PIN is asked for when it is needed."""
    from pipeline.measure.sgx.owner_key import open_owner_key
    from provenance.signers.remote_key import without_secrets

    return open_owner_key(
        uri,
        secret=passphrase_from(passphrase_fd, what=without_secrets(uri)),
        public_key=None if public_key is None else read_file(public_key, limit_bytes=SMALL),
    )


def signing_date(text: str | None) -> tuple[int, int, int]:
    """Take the date from the option or from SOURCE_DATE_EPOCH, never from the clock."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        if text is not None:
            day = dt.date.fromisoformat(text)
        elif epoch is not None:
            day = dt.datetime.fromtimestamp(int(epoch), dt.UTC).date()
        else:
            raise click.UsageError("a SIGSTRUCT has a date: give --date YYYY-MM-DD, or set SOURCE_DATE_EPOCH")
    except (ValueError, OverflowError, OSError) as error:
        source = f"--date {text}" if text is not None else f"SOURCE_DATE_EPOCH={epoch}"
        wanted = "a day, as 2026-02-04" if text is not None else "seconds since 1970"
        raise click.UsageError(f"{source}: expected {wanted}") from error
    return day.year, day.month, day.day


def shown(file: Path, signed: Sigstruct, *, is_signed: bool) -> ShownSigstruct:
    """Write a SIGSTRUCT as a document; without a signature only what is to be signed."""
    from pipeline.measure.sgx.sigstruct_fields import debug_launch, fields_of

    return ShownSigstruct(
        file=file.name,
        mrenclave=signed.mrenclave.hex(),
        mrsigner=signed.mrsigner.hex() if is_signed else "",
        debug_launch=debug_launch(signed),
        fields=tuple(one for one in fields_of(signed) if one.signed or is_signed),
        checks=signed.checks() if is_signed else (),
    )


def tell_written(
    settings: Settings, output: Path, what: str, signed: Sigstruct | SigstructFields, output_format: str
) -> None:
    """Say what was written, and the values that a verifier will see; `SigstructFields`: nobody signed."""
    from pipeline.measure.sgx.sigstruct import Sigstruct, to_be_signed
    from pipeline.measure.sgx.sigstruct_fields import of_tbs

    is_signed = isinstance(signed, Sigstruct)
    stated = signed if isinstance(signed, Sigstruct) else of_tbs(to_be_signed(signed))
    if output_format == "json":
        settings.out_json(shown(output, stated, is_signed=is_signed))
        return
    lines = [f"{output}: {what}", f"  mrenclave  {stated.mrenclave.hex()}"]
    settings.say("\n".join([*lines, f"  mrsigner   {stated.mrsigner.hex()}"] if is_signed else lines))


def field_lines(fields: Iterable[Field]) -> list[str]:
    """Write fields in lines: name, value, meaning."""
    rows = [(one.name, _short(one.value), one.words) for one in fields]
    width = max((len(name) for name, _, _ in rows), default=0)
    lines = []
    for name, value, words in rows:
        lines.append(f"  {name:<{width}}  {value}".rstrip())
        if words and words != value:
            fits = len(value) <= 34
            lines[-1] = f"{lines[-1]:<{width + 38}}  {words}" if fits else lines[-1]
            if not fits:
                lines.append(f"  {'':<{width}}  {words}")
    return lines


def _short(value: str) -> str:
    """Cut what nobody reads: modulus, signature, quotients."""
    if len(value) <= 2 * _SHOWN_BYTES:
        return value
    return f"{value[:_SHOWN_BYTES]}… ({len(value) // 2} bytes)"


def change_lines(found: tuple[Change, ...], previous: Path) -> list[str]:
    """Write what changed, old and new under each other."""
    if not found:
        return [f"nothing changed since {previous}"]
    lines = [f"changed since {previous}"]
    for one in found:
        lines += [f"  {one.name}", f"    old  {one.old}", f"    new  {one.new}"]
    return lines


def check_lines(checks: Iterable[Check]) -> list[str]:
    """Write checks: glyph, word, name; a failed one with what was expected."""
    lines = []
    for check in checks:
        if check.status == "failed":
            lines += [
                f"  {styled(check.status)}   {check.id}",
                f"              expected  {check.expected}",
                f"              got       {check.got}",
            ]
        else:
            lines.append(f"  {styled(check.status):<9}  {check.id}")
    return lines
