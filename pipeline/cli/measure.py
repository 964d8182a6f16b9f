"""`rvp measure`: the values of an existing file, its checks, its log."""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from pipeline.cli.sgx_options import GENERATION, read_config_file
from pipeline.measure import Measured, MeasureOptions, detect, measure_file, require_passed
from pipeline.measure.formats import FORMATS, require_taken
from pipeline.measure.ovmf import has_sev_metadata
from pipeline.measure.sgx.sigstruct_file import given_sigstruct
from provenance.claims import Check, Measurement, Measurements, Tool
from provenance.version import version
from verifier.cli.terminal import Settings, format_option, styled, write_file

_IMAGE = "container image"
_TEES = sorted({one.tee for one in FORMATS})


# TEE whose values come of more than one file: module with the command, its name in the module.
BY_TEE: Final[dict[str, tuple[str, str]]] = {
    "direct": ("pipeline.cli.measure_direct", "measure_direct"),
    "snp": ("pipeline.cli.measure_snp", "measure_snp"),
    "tdx": ("pipeline.cli.measure_tdx", "measure_tdx"),
}


class ByTee(click.Command):
    """`rvp measure FILE`, or the command of a TEE that needs options of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Hand over to the TEE's command when its name comes first."""
        if not args or args[0] not in BY_TEE:
            return super().make_context(info_name, args, parent, **extra)
        module, name = BY_TEE[args[0]]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run whichever command the context is of."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(
    cls=ByTee,
    epilog="\b\nExamples:\n  rvp measure enclave.signed.so\n"
    "  rvp measure sgx enclave.sgxs --sigstruct enclave.sig\n"
    "  rvp measure sgx 'image.tar!/opt/enclave.signed.so'\n"
    "  rvp measure oci image.tar --format json --log image.log.json",
)
@click.argument("what", nargs=-1, required=True, metavar=f"[{'|'.join(_TEES)}] FILE")
@click.option(
    "--sigstruct",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="SGX: the SIGSTRUCT, when it is not in the enclave's file.",
)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="SGX: the configuration of an enclave not signed yet, or to compare a signed one with.",
)
@click.option("--manifest", metavar="FILE", type=click.Path(path_type=Path), help="SGX: Gramine's manifest.")
@click.option(
    "--libpal",
    "--runtime",
    "libpal",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="SGX: Gramine's libpal.so, EGo's ego-enclave.",
)
@click.option(
    "--generation",
    metavar="VERSION",
    default="",
    help=f"SGX: {GENERATION[0].lower()}{GENERATION[1:]}",
)
@click.option(
    "--image", metavar="NAME", default="", help="SGX in an image: which one, when there are several."
)
@click.option(
    "--log",
    "log_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the measurement log: every event that folds to the value.",
)
@format_option()
@click.pass_obj
def measure(
    settings: Settings,
    what: tuple[str, ...],
    sigstruct: Path | None,
    config: Path | None,
    manifest: Path | None,
    libpal: Path | None,
    generation: str,
    image: str,
    log_file: Path | None,
    output_format: str,
) -> None:
    """Compute the measurements of an existing file.

    What the file is, is seen from its content: a signed SGX enclave, an SGXS stream, a SIGSTRUCT, a container
    image. Nothing is trusted: signatures and digests inside the file are checked against what was computed.
    Exit code 12 when one of them is wrong, 2 when the file is not what it seems.
    """
    tee, path = _split(what)
    options = MeasureOptions(
        sigstruct=None if sigstruct is None else given_sigstruct(sigstruct),
        sigstruct_name="" if sigstruct is None else str(sigstruct),
        config=None if config is None else read_config_file(config),
        config_name="" if config is None else str(config),
        manifest=manifest,
        libpal=libpal,
        generation=generation,
        image=image,
        with_log=log_file is not None,
    )
    require_taken(detect(path, tee=tee, options=options), options, path)
    measured = measure_file(path, tee=tee, options=options)
    title = "" if output_format == "json" else detect(path, tee=tee, options=options).title
    tell_measured(settings, measured, title, log_file, output_format)
    if tee is None and measured.measurements[0].tee == "tdx" and has_sev_metadata(path):
        settings.say(
            f"for SEV-SNP, which needs to know the vCPUs: rvp measure snp --firmware {path} --vcpus 2"
        )


def tell_measured(
    settings: Settings, measured: Measured, title: str, log_file: Path | None, output_format: str
) -> None:
    """Print what was measured, write its logs, and end with the exit code of its checks.

    Args:
        settings: of the terminal.
        measured: the measurements.
        title: what was measured, for people.
        log_file: where the logs go.
        output_format: text or json.
    """
    if log_file is not None:
        write_file(log_file, write_logs(measured))
    if output_format == "json":
        settings.out_json(
            Measurements(tool=Tool(name="rvp", version=version()), measurements=measured.measurements)
        )
    else:
        titles = [_IMAGE if one.tee == "oci" else title for one in measured.measurements]
        blocks = [
            "\n".join(measurement_lines(*pair)) for pair in zip(measured.measurements, titles, strict=True)
        ]
        settings.out("\n\n".join(blocks))
    require_passed(measured.measurements)


def _split(what: tuple[str, ...]) -> tuple[str | None, Path]:
    match what:
        case (tee,) if tee in _TEES and not Path(tee).exists():
            raise click.UsageError(f"the file is missing: rvp measure {tee} FILE")
        case (path,):
            return None, Path(path)
        case (path, tee) if tee in _TEES and path not in _TEES:
            raise click.UsageError(f"the kind comes first: rvp measure {tee} {path}")
        case (tee, path) if tee not in _TEES and Path(tee).exists():
            raise click.UsageError(
                f"one file at a time, here are {tee} and {path}; a SIGSTRUCT goes after --sigstruct, "
                "a configuration after --config, libpal.so after --libpal"
            )
        case (tee, path):
            return tee, Path(path)
        case _:
            raise click.UsageError(f"one FILE, and before it perhaps its kind: {', '.join(_TEES)}")


def write_logs(measured: Measured) -> bytes:
    """Write the logs of a measured file: one JSON document."""
    logs = [msgspec.to_builtins(log) for log in measured.logs]
    document = logs[0] if len(logs) == 1 else logs
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def measurement_lines(measurement: Measurement, title: str) -> list[str]:
    """Write a measurement for people: its values, its checks."""
    lines = [f"{measurement.subject.name}  {title}", ""]
    rows: list[tuple[str, str]] = []
    for name, value in measurement.claims.items():
        values = value if isinstance(value, tuple) else (str(value),)
        rows += [(name if index == 0 else "", one) for index, one in enumerate(values)]
    rows += [(name, str(value)) for name, value in measurement.variant.items()]
    if measurement.layout:
        rows.append(("laid out by", measurement.layout))
    rows.append(("sha256", measurement.subject.digest["sha256"]))
    if measurement.policy_inputs:
        rows.append(("set at launch", ", ".join(measurement.policy_inputs)))
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    for gap in measurement.unpredicted:
        told = textwrap.wrap(f"{gap.register}, {gap.event}: {gap.reason}", 88, break_long_words=False)
        lines += [
            "",
            f"  {styled('unpredicted', '· unpredicted')}  {told[0]}",
            *(f"                 {line}" for line in told[1:]),
        ]
    lines.append("")
    width = max((len(check.id) for check in measurement.checks), default=0)
    for check in measurement.checks:
        word = styled(check.status)
        if check.status == "failed":
            lines += [
                f"  {word}   {check.id}",
                f"              expected  {check.expected}",
                f"              got       {check.got}",
            ]
        elif check.status == "warning":
            lines += ["", f"  {word}  {check.id}", *_told(check)]
        else:
            got = "" if check.got == check.expected else check.got
            lines.append(f"  {word:<9}  {check.id:<{width}}  {got}".rstrip())
    return lines


def _told(check: Check) -> list[str]:
    """Write a warning so that nobody misses it: what was expected, what was found, what to do."""
    lines = []
    for name, text in (("expected", check.expected), ("got", check.got), ("hint", check.hint)):
        for number, line in enumerate(textwrap.wrap(text, 88, break_long_words=False)):
            lines.append(f"              {name if number == 0 else '':<8}  {line}")
    return lines
