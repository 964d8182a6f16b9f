"""The VMMs that start trust domains, and what of the measurements depends on them."""

from __future__ import annotations

from typing import Final

import msgspec

from pipeline.measure.tdx.mrtd import PageOrder


class Vmm(msgspec.Struct, frozen=True, kw_only=True):
    """One VMM.

    Attributes:
        title: for people.
        page_orders: those that a release or a fork of it uses.
    """

    title: str
    page_orders: tuple[PageOrder, ...]


VMMS: Final[dict[str, Vmm]] = {
    "qemu": Vmm(title="QEMU with KVM", page_orders=(PageOrder.SINGLE_PASS, PageOrder.TWO_PASS)),
    "gce": Vmm(title="Google Compute Engine", page_orders=(PageOrder.SINGLE_PASS,)),
}
