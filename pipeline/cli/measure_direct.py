"""`rvp measure direct`: the PCRs of a kernel that QEMU loads itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

import click

from pipeline.cli.measure import tell_measured
from pipeline.measure.boot.direct_boot import DirectBoot, InitrdName, measure_direct_boot
from pipeline.measure.sgx.elf import map_file
from pipeline.spec import size_bytes
from verifier.cli.terminal import Settings, format_option

_FILE: Final = click.Path(path_type=Path)


@click.command(
    "direct",
    epilog="\b\nExamples:\n"
    "  rvp measure direct --kernel vmlinuz --initrd initrd.cpio --cmdline 'console=ttyS0' --memory 2GiB\n"
    "  rvp measure direct --kernel vmlinuz --no-header-patch --log pcrs.log.json",
)
@click.option("--kernel", metavar="FILE", type=_FILE, required=True, help="The bzImage, or a UKI.")
@click.option("--initrd", metavar="FILE", type=_FILE, help="The initrd, if one is given to QEMU.")
@click.option("--cmdline", metavar="TEXT", default="", help="What is given with -append.")
@click.option(
    "--memory",
    metavar="SIZE",
    default="2GiB",
    show_default=True,
    help="Of the machine; a patched header has the address of the initrd.",
)
@click.option(
    "--header-patch/--no-header-patch",
    default=True,
    help="Whether QEMU writes into the kernel's header: up to 9.x, not for SEV guests. Default: it does.",
)
@click.option(
    "--initrd-name",
    type=click.Choice(("suffix", "prefix")),
    default="suffix",
    show_default=True,
    help="Where the firmware adds initrd=initrd; EDK II before 202508: suffix.",
)
@click.option(
    "--log", "log_file", metavar="FILE", type=_FILE, help="Write the log: every event of each register."
)
@format_option()
@click.pass_obj
def measure_direct(
    settings: Settings,
    kernel: Path,
    initrd: Path | None,
    cmdline: str,
    memory: str,
    header_patch: bool,  # noqa: FBT001 - click passes by name
    initrd_name: str,
    log_file: Path | None,
    output_format: str,
) -> None:
    """Compute PCR 4, 5 and 9 of a direct boot: kernel, initrd and command line that QEMU is given."""
    boot = DirectBoot(
        kernel=map_file(kernel),
        initrd=b"" if initrd is None else map_file(initrd),
        cmdline=cmdline.encode(),
        memory_bytes=size_bytes(memory),
        header_patch=header_patch,
        initrd_name=cast("InitrdName", initrd_name),
    )
    measured = measure_direct_boot(boot, name=kernel.name)
    tell_measured(settings, measured, "kernel, booted directly", log_file, output_format)
