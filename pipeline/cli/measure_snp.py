"""`rvp measure snp`: launch digests of SEV-SNP guests, for every shape of the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli.measure import tell_measured
from pipeline.measure.machine import Machine
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.snp.id_block import ID_AUTH_BYTES, ID_BLOCK_BYTES, read_binary
from pipeline.measure.snp.measurement import DEFAULT_VCPU_TYPE
from pipeline.measure.snp.measurement import measure_snp as measure_guest
from pipeline.measure.snp.save_area import VMMS
from verifier.cli.terminal import Settings, format_option

_NUMBER: Final = re.compile(r"[0-9]{1,20}|0x[0-9a-f]{1,16}", re.IGNORECASE | re.ASCII)
FILE: Final = click.Path(path_type=Path)


class ListOption(click.Option):
    """An option with several values: `--vcpus 1 2 4`, `--vcpus 1,2,4`, `--vcpus 1 --vcpus 2`."""


class ListCommand(click.Command):
    """Lets list options be followed by several numbers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--vcpus 1 2` as `--vcpus 1 --vcpus 2`."""
        names = {name for one in self.params if isinstance(one, ListOption) for name in one.opts}
        made: list[str] = []
        current, taken = "", False
        for position, arg in enumerate(args):
            if arg == "--":
                made += args[position:]
                break
            if arg.startswith("-"):
                current, taken = (arg, False) if arg in names else ("", False)
                made.append(arg)
            elif current and taken and _is_number(arg):
                made += [current, arg]
            else:
                made.append(arg)
                taken = True
        return super().parse_args(ctx, made)


def _is_number(text: str) -> bool:
    return text.replace(",", "").isdigit()


def _numbers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    del ctx
    found: list[int] = []
    for text in (part for value in values for part in value.split(",")):
        if not _NUMBER.fullmatch(text):
            raise click.BadParameter(f"{text[:80]!r} is no number, or too long a one", param=param)
        found.append(int(text, 16 if text[:2].lower() == "0x" else 10))
    return tuple(found)


def _words(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    del ctx, param
    return tuple(part for value in values for part in value.split(","))


def hex_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes | None:
    """Read an option in hex, with or without 0x."""
    del ctx
    if value is None:
        return None
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError as error:
        raise click.BadParameter(f"{value[:80]!r} is not hex", param=param) from error


def number(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read an option that is one number, decimal or 0x hex."""
    return None if value is None else _numbers(ctx, param, (value,))[0]


@click.command(
    "snp",
    cls=ListCommand,
    epilog="\b\nExamples:\n"
    "  rvp measure snp --firmware OVMF.fd --vcpus 2 --vcpu-type EPYC-v4\n"
    "  rvp measure snp --firmware OVMF.fd --vcpus 1,2,4,8 --vcpu-type EPYC-Milan --vmm qemu,ec2,gce\n"
    "  rvp measure snp --firmware AmdSev.fd --vcpus 2 --kernel vmlinuz --initrd initrd.cpio \\\n"
    "      --cmdline 'console=ttyS0' --format json --log snp.log.json",
)
@click.argument("positional", metavar="[FIRMWARE]", type=FILE, required=False)
@click.option("--firmware", metavar="FILE", type=FILE, help="OVMF, with SEV metadata (a 64-bit build).")
@click.option(
    "--vcpus",
    cls=ListOption,
    metavar="N[,N…]",
    multiple=True,
    callback=_numbers,
    help="How many vCPUs; one measurement for each count.",
)
@click.option(
    "--vcpu-type",
    "vcpu_types",
    metavar="MODEL[,…]",
    multiple=True,
    callback=_words,
    help=f"As in QEMU's -cpu, or a CPUID signature (0x00a00f11). Default: {DEFAULT_VCPU_TYPE}.",
)
@click.option(
    "--vmm",
    "vmms",
    metavar="|".join(VMMS),
    multiple=True,
    callback=_words,
    help="Who launches the guest. Default: qemu.",
)
@click.option(
    "--guest-features",
    metavar="HEX[,…]",
    multiple=True,
    callback=_numbers,
    help="SEV_FEATURES. Default: 0x1; Linux 6.6 and 6.7 set 0x21 (debug swap).",
)
@click.option(
    "--kernel", metavar="FILE", type=FILE, help="That the host loads; the firmware checks its hash."
)
@click.option("--initrd", metavar="FILE", type=FILE, help="Beside the kernel.")
@click.option("--cmdline", metavar="TEXT", help="The kernel's command line, as the host gets it.")
@click.option("--svsm", metavar="FILE", type=FILE, help="COCONUT-SVSM, which runs below the firmware.")
@click.option(
    "--vars-size",
    "variables",
    metavar="BYTES",
    callback=number,
    help="With --svsm: size of OVMF's variable store, which lies between them.",
)
@click.option(
    "--host-data", metavar="HEX", callback=hex_bytes, help="What the host binds to the guest: 32 bytes."
)
@click.option("--policy", metavar="HEX", callback=number, help="The guest policy; usual: 0x30000.")
@click.option("--id-block", metavar="FILE", type=FILE, help="Check this ID block (binary or base64).")
@click.option("--id-auth", metavar="FILE", type=FILE, help="Check the signatures of the ID block.")
@click.option("--name", default="", help="What to call the firmware. Default: the name of its file.")
@click.option(
    "--log", "log_file", metavar="FILE", type=FILE, help="Write the measurement logs: runs of pages."
)
@format_option()
@click.pass_obj
def measure_snp(
    settings: Settings,
    /,
    positional: Path | None,
    firmware: Path | None,
    svsm: Path | None,
    variables: int | None,
    id_block: Path | None,
    id_auth: Path | None,
    name: str,
    log_file: Path | None,
    output_format: str,
    **machine: Any,
) -> None:
    """Compute the launch digest of a SEV-SNP guest, for every shape of it.

    The digest covers the firmware, the pages that it asks for, the hashes of kernel, initrd and command
    line, and the first registers of every vCPU. Nothing else of the machine is in it: not memory, disks
    or devices.
    """
    if (firmware is None) == (positional is None):
        raise click.UsageError("name one firmware: --firmware FILE")
    path = firmware or positional
    if path is None:
        raise click.UsageError("--firmware is missing")
    if svsm is not None and variables is None:
        raise click.UsageError("--svsm needs --vars-size, the size of OVMF_VARS (0 if there is none)")
    described = Machine(
        svsm=svsm,
        variables_bytes=variables or 0,
        id_block=None if id_block is None else read_binary(id_block, ID_BLOCK_BYTES),
        id_auth=None if id_auth is None else read_binary(id_auth, ID_AUTH_BYTES),
        **machine,
    )
    options = MeasureOptions(name=name, machine=described, with_log=log_file is not None)
    measured = measure_guest(path, options)
    tell_measured(settings, measured, "SEV-SNP guest", log_file, output_format)
