"""`rvp measure tdx`: the registers of a trust domain, from its firmware and its shape."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.measure import tell_measured
from pipeline.measure.tdx.boot_chain import Kernel
from pipeline.measure.tdx.edk2 import GENERATIONS, Platform
from pipeline.measure.tdx.measure import TdxOptions, measure_td
from pipeline.measure.tdx.mrtd import USED_BY, PageOrder
from pipeline.measure.tdx.rtmr0 import SecureBoot
from pipeline.measure.tdx.runtime_events import read_runtime_events
from pipeline.measure.tdx.vmm import QEMU, VMMS
from pipeline.spec import size_bytes
from provenance.strict import read_file
from verifier.cli.terminal import Settings, format_option

_FILE = click.Path(path_type=Path)
_VARSTORE_BYTES = 16 << 20
_KERNEL_BYTES = 1 << 30
_INITRD_BYTES = 4 << 30


@click.command(
    "tdx",
    epilog="\b\nExamples:\n  rvp measure tdx --firmware OVMF.fd\n"
    "  rvp measure tdx --firmware OVMF_CODE.fd --varstore OVMF_VARS.fd --format json\n"
    "  rvp measure tdx --firmware OVMF.fd --edk2 202411 --memory 2GiB --memory 4GiB --acpi by_name\n"
    "  rvp measure tdx --firmware OVMF.fd --edk2 202411 --kernel vmlinuz --initrd initrd --cmdline quiet\n"
    "\b\nPage orders:\n" + "".join(f"  {order}: {who}\n" for order, who in USED_BY.items()),
)
@click.argument("file", required=False, metavar="[FILE]", type=_FILE)
@click.option(
    "--firmware", metavar="FILE", type=_FILE, help="The flash image: OVMF.fd, or td-shim's final.bin."
)
@click.option(
    "--varstore",
    metavar="FILE",
    type=_FILE,
    help="The variables (OVMF_VARS.fd) of a split build, or instead of those in the image.",
)
@click.option(
    "--vmm", type=click.Choice(tuple(VMMS)), default="qemu", show_default=True, help="Who starts it."
)
@click.option(
    "--page-order",
    "page_orders",
    type=click.Choice([str(one) for one in PageOrder]),
    multiple=True,
    help="Order of the pages in MRTD; default: all that the VMM is known to use.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    multiple=True,
    help="Memory of the machine, with a unit: 2GiB. May be repeated: a measurement for each.",
)
@click.option(
    "--vcpus",
    metavar="N",
    type=click.IntRange(1, 4096),
    multiple=True,
    help="vCPUs of the machine; only the ACPI data depend on them. May be repeated.",
)
@click.option(
    "--edk2",
    type=click.Choice(tuple(GENERATIONS)),
    help="Generation of the firmware (edk2-stable…); without it: MRTD alone.",
)
@click.option(
    "--platform",
    type=click.Choice([str(one) for one in Platform]),
    help="Build of the firmware, for generations whose builds differ.",
)
@click.option(
    "--acpi",
    metavar="FOLDER",
    type=_FILE,
    help="What the VMM hands over: /sys/firmware/qemu_fw_cfg/by_name of a guest of this shape.",
)
@click.option(
    "--secure-boot",
    type=click.Choice([str(one) for one in SecureBoot]),
    help="Of a build without Secure Boot: absent. Default: what the variables say.",
)
@click.option(
    "--kernel", metavar="FILE", type=_FILE, help="bzImage or UKI that the VMM gives to the firmware."
)
@click.option("--initrd", metavar="FILE", type=_FILE, help="With --kernel.")
@click.option("--cmdline", metavar="TEXT", default="", help="With --kernel: the command line.")
@click.option(
    "--qemu",
    type=click.Choice(tuple(QEMU)),
    help="Generation of QEMU: 8 and 9 patch the kernel. Default: the kernel as of 10.1.",
)
@click.option(
    "--runtime-events",
    metavar="FILE",
    type=_FILE,
    help="What applications extend into RTMR3 (TOML).",
)
@click.option(
    "--log",
    "log_file",
    metavar="FILE",
    type=_FILE,
    help="Write the measurement logs: every event that folds to a value.",
)
@format_option()
@click.pass_obj
def measure_tdx(
    settings: Settings,
    file: Path | None,
    firmware: Path | None,
    varstore: Path | None,
    vmm: str,
    page_orders: tuple[str, ...],
    memory: tuple[str, ...],
    vcpus: tuple[int, ...],
    edk2: str | None,
    platform: str | None,
    acpi: Path | None,
    secure_boot: str | None,
    kernel: Path | None,
    initrd: Path | None,
    cmdline: str,
    qemu: str | None,
    runtime_events: Path | None,
    log_file: Path | None,
    output_format: str,
) -> None:
    """Compute the registers of an Intel TDX trust domain.

    One measurement for every shape. What cannot be known is a named event with its reason, never a guess.
    """
    if (file is None) == (firmware is None):
        raise click.UsageError("one --firmware FILE")
    options = TdxOptions(
        varstore=None if varstore is None else read_file(varstore, limit_bytes=_VARSTORE_BYTES),
        vmm=vmm,
        page_orders=tuple(map(PageOrder, page_orders)),
        memory=tuple(map(size_bytes, memory)),
        vcpus=vcpus,
        edk2=edk2 or "",
        platform=None if platform is None else Platform(platform),
        acpi=acpi,
        secure_boot=None if secure_boot is None else SecureBoot(secure_boot),
        kernel=_kernel(kernel, initrd, cmdline),
        qemu=qemu or "",
        runtime_events=None
        if runtime_events is None
        else read_runtime_events(read_file(runtime_events, limit_bytes=1 << 20), str(runtime_events)),
        with_log=log_file is not None,
    )
    measured = measure_td(firmware or file or Path(), options)
    tell_measured(settings, measured, "Intel TDX trust domain", log_file, output_format)


def _kernel(kernel: Path | None, initrd: Path | None, cmdline: str) -> Kernel | None:
    if kernel is None:
        if initrd is not None or cmdline:
            raise click.UsageError("--initrd and --cmdline belong to a --kernel")
        return None
    return Kernel(
        data=read_file(kernel, limit_bytes=_KERNEL_BYTES),
        name=kernel.name,
        initrd=b"" if initrd is None else read_file(initrd, limit_bytes=_INITRD_BYTES),
        cmdline=cmdline,
    )
