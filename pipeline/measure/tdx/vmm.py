"""The VMMs that start trust domains, and what of the measurements depends on them."""

from __future__ import annotations

from typing import Final

import msgspec

from pipeline.measure.tdx.mrtd import PageOrder

_GIB: Final = 1 << 30


class Qemu(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation of QEMU changes.

    Attributes:
        header_patch: it writes loader, command line and initrd into the header of a kernel before the
            firmware sees it, for trust domains as well.
        page_orders: those that it and its forks use.
        change: for people.
    """

    header_patch: bool
    page_orders: tuple[PageOrder, ...]
    change: str


class Vmm(msgspec.Struct, frozen=True, kw_only=True):
    """One VMM.

    Attributes:
        title: for people.
        page_orders: those that a release or a fork of it uses.
        gives_kernels: it can give a kernel to the firmware.
        low_bytes: memory below 4 GiB of a machine that has more.
        small_bytes: memory up to this much lies below 4 GiB as a whole.
        hob_lists_flash: the TD HOB has all sections of the firmware, in the order of the metadata.
        hob_end_included: the address of the end in the TD HOB is behind its END.
        added_attributes: of memory that was added.
        unaccepted_attributes: of the rest.
    """

    title: str
    page_orders: tuple[PageOrder, ...]
    low_bytes: int
    small_bytes: int
    hob_lists_flash: bool
    hob_end_included: bool
    gives_kernels: bool = True
    added_attributes: int = 7
    unaccepted_attributes: int = 7

    def low_memory(self, memory_bytes: int) -> int:
        """Give how much of a machine's memory lies below 4 GiB at most."""
        return self.low_bytes if memory_bytes >= self.small_bytes else self.small_bytes


# Upstream starts trust domains since 10.1; what came before are forks with their own patches.
QEMU: Final[dict[str, Qemu]] = {
    "8": Qemu(
        header_patch=True,
        page_orders=(PageOrder.SINGLE_PASS, PageOrder.TWO_PASS),
        change="forks (Ubuntu 24.04: 8.2): the kernel's header is patched",
    ),
    "9": Qemu(
        header_patch=True,
        page_orders=(PageOrder.SINGLE_PASS, PageOrder.TWO_PASS),
        change="forks: as 8",
    ),
    "10.1": Qemu(
        header_patch=False,
        page_orders=(PageOrder.SINGLE_PASS,),
        change="upstream: the kernel is measured as its file; single pass",
    ),
}

VMMS: Final[dict[str, Vmm]] = {
    # hw/i386/pc_q35.c: 2 GiB below the hole of PCI Express when 2.75 GiB do not suffice.
    "qemu": Vmm(
        title="QEMU with KVM, machine q35",
        page_orders=(PageOrder.SINGLE_PASS, PageOrder.TWO_PASS),
        low_bytes=0x80000000,
        small_bytes=0xB0000000,
        hob_lists_flash=False,
        hob_end_included=True,
    ),
    "gce": Vmm(
        title="Google Compute Engine",
        page_orders=(PageOrder.SINGLE_PASS,),
        low_bytes=3 * _GIB,
        small_bytes=3 * _GIB,
        hob_lists_flash=True,
        hob_end_included=False,
        unaccepted_attributes=0x10000007,
        gives_kernels=False,
    ),
}
