"""The VMSA of each VMM, byte for byte against another implementation."""

from __future__ import annotations

import random

import pytest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA, VMSA_SVSM

from pipeline.measure.snp.save_area import BSP_EIP, VMMS, fields_of, svsm_page, vcpu_page

OTHERS = {"qemu": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}


@pytest.mark.parametrize("name", OTHERS)
def test_a_vmsa_has_the_bytes_of_another_implementation(name: str) -> None:
    chance = random.Random(name)
    for _ in range(50):
        eip, signature, features = (
            chance.randrange(1 << 32),
            chance.randrange(1 << 32),
            chance.randrange(1 << 64),
        )
        first, second = VMSA(SevMode.SEV_SNP, eip, signature, features, OTHERS[name]).pages(2)
        same = {"signature": signature, "features": features}
        assert vcpu_page(VMMS[name], bsp=True, eip=BSP_EIP, **same) == first
        if not (name == "ec2" and eip == BSP_EIP):
            assert vcpu_page(VMMS[name], bsp=False, eip=eip, **same) == second


def test_a_vmsa_of_an_svsm_has_the_bytes_of_another_implementation() -> None:
    (page,) = VMSA_SVSM(0xFFC0_1234, 0xA00F11).pages(1)
    assert svsm_page(rip=0xFFC0_1234, signature=0xA00F11, features=1) == page


def test_ec2_of_2025_differs_in_rdx_alone() -> None:
    same = {"bsp": True, "eip": BSP_EIP, "signature": 0, "features": 1}
    old, new = fields_of(vcpu_page(VMMS["ec2-2025"], **same)), fields_of(vcpu_page(VMMS["ec2"], **same))
    assert {name for name in old if old[name] != new[name]} == {"rdx"}
    assert new["rdx"]["value"] == 0x600


def test_the_fields_are_read_back_by_name() -> None:
    found = fields_of(vcpu_page(VMMS["qemu"], bsp=False, eip=0x80B004, signature=0xA00F11, features=0x21))
    assert found["cs"] == {"selector": 0xF000, "attributes": 0x9B, "limit": 0xFFFF, "base": 0x800000}
    assert found["rip"]["value"] == 0xB004
    assert found["rdx"]["value"] == 0xA00F11
    assert found["sev_features"]["value"] == 0x21
