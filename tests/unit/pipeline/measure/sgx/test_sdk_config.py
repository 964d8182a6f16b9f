"""The configuration of an SDK enclave: what its signing tool refuses is refused, with place and reason."""

from __future__ import annotations

import pytest

from pipeline.measure.sgx.sdk.config import BadSdkConfig, read_sdk_config
from pipeline.measure.sgx.sdk.generation import NEWEST, Generation, generation


def config_error(elements: str, one: Generation = NEWEST) -> BadSdkConfig:
    with pytest.raises(BadSdkConfig) as error:
        read_sdk_config(
            f"<EnclaveConfiguration>\n{elements}\n</EnclaveConfiguration>".encode(),
            name="Enclave.config.xml",
            generation=one,
        )
    return error.value


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ("<TCSNum>0</TCSNum>", "<TCSNum> is 0x0, expected 0x1 to 0xffffffff"),
        ("<ProdID>0x10000</ProdID>", "expected 0x0 to 0xffff"),
        ("<StackMinSize>0x1000</StackMinSize>", "expected 0x2000 to"),
        ("<HeapMaxSize>0x1001</HeapMaxSize>", "not a multiple of 0x1000"),
        ("<HeapMaxSize>1</HeapMaxSize>", "not a multiple"),
        ("<UserRegionSize>5</UserRegionSize>", "not a multiple"),
        ("<StackMinSize>0x50000</StackMinSize>", "above <StackMaxSize> 0x40000"),
        ("<HeapInitSize>0x2000000</HeapInitSize>", "above <HeapMaxSize>"),
        ("<HeapMinSize>0x3000</HeapMinSize><HeapInitSize>0x2000</HeapInitSize>", "above <HeapInitSize>"),
        ("<ReservedMemMinSize>0x1000</ReservedMemMinSize>", "above <ReservedMemMaxSize> 0x0"),
        ("<TCSNum>4</TCSNum><TCSMaxNum>3</TCSMaxNum>", "<TCSMaxNum> 3 is below <TCSNum> 4"),
        ("<TCSMinPool>2</TCSMinPool>", "above 1 threads"),
        ("<HW>1</HW>", "go together"),
        ("<LaunchKey>1</LaunchKey>", "go together"),
        ("<ISVFAMILYID_L>1</ISVFAMILYID_L>", "needs <EnableKSS>"),
        ("<EnclaveImageAddress>0x1000</EnclaveImageAddress>", "needs <ELRangeSize>"),
        ("<UserRegionSize>0x1000</UserRegionSize>", "needs bit 0 of <MiscSelect>"),
        ("<EnableOSSLFIPS>1</EnableOSSLFIPS>", "appends a module"),
        ("<TCSNum>two</TCSNum>", "not a number"),
        ("<TCSNum></TCSNum>", "not a number"),
        ("<TCSNum>1 </TCSNum>", "not a number"),
        ("<TCSNum>-1</TCSNum>", "not a number"),
        ("<TCSNum>08</TCSNum>", "not an octal number"),
        ("<TCSNum>0x10000000000000000</TCSNum>", "more than 64 bits"),
        ("<TCSNum>1</TCSNum>\n<TCSNum>1</TCSNum>", "stands twice, first in line 2"),
        ("<TCSNumber>1</TCSNumber>", "<TCSNumber> is not known"),
        ("<TCSNum unit='x'>1</TCSNum>", "has attributes"),
        ("<TCSNum>1<HW>0</HW></TCSNum>", "inside another"),
        ("words <TCSNum>1</TCSNum>", "text between"),
        ("<TCSNum>1</TCSnum>", "not XML"),
        ("&amp;", "text between"),
        ("<TCSNum>&x;</TCSNum>", "not XML"),
    ],
)
def test_a_configuration_that_the_signing_tool_would_refuse(elements: str, message: str) -> None:
    error = config_error(elements)
    assert message in error.message
    assert error.place.startswith("Enclave.config.xml")
    assert error.exit_code == 3


def test_an_error_has_the_line_of_its_element() -> None:
    assert config_error("<TCSNum>1</TCSNum>\n<ProdID>0x10000</ProdID>").place == "Enclave.config.xml:3"


def test_an_element_of_a_later_release_is_refused_with_that_release() -> None:
    error = config_error("<AMX>1</AMX>", generation("2.17"))
    assert (error.message, error.hint) == ("<AMX> is not known to SDK 2.17", "it exists since SDK 2.18")
    assert "until before 2.8" in config_error("<RsrvMaxSize>0</RsrvMaxSize>").hint


def test_a_misspelt_element_is_guessed() -> None:
    assert config_error("<HeapMaxsize>0x1000</HeapMaxsize>").hint == "did you mean <HeapMaxSize>?"


def test_a_document_type_is_refused() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY x "1">]><EnclaveConfiguration><TCSNum>&x;</TCSNum></EnclaveConfiguration>'
    with pytest.raises(BadSdkConfig, match="document type"):
        read_sdk_config(bomb)
    with pytest.raises(BadSdkConfig, match="at most"):
        read_sdk_config(b"<EnclaveConfiguration>" + b" " * 70000 + b"</EnclaveConfiguration>")
    with pytest.raises(BadSdkConfig, match="expected <EnclaveConfiguration>"):
        read_sdk_config(b"<Configuration/>")
