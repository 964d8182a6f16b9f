"""`Enclave.config.xml`: what an enclave's owner tells the signing tool of Intel's SDK.

Every element may be left out. What an element may hold, and since which release it exists, is one table.

Units: sizes are bytes.
Source: Intel SGX SDK, `sign_tool.cpp` and `manage_metadata.cpp` of each release.

Example:
    >>> config = read_sdk_config(b"<EnclaveConfiguration><TCSNum>4</TCSNum></EnclaveConfiguration>")
    >>> config["TCSNum"], config["HeapMaxSize"]
    (4, 16777216)
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

import msgspec

from pipeline.measure.sgx.sdk.generation import NEWEST, Generation
from pipeline.measure.sgx.sdk.xml import BadSdkConfig, Written, read_elements
from pipeline.measure.sgx.sigstruct import (
    AEXNOTIFY,
    DEBUG,
    EINITTOKENKEY,
    KSS,
    MODE64BIT,
    PROVISIONKEY,
    SigstructFields,
)

_U32: Final = 0xFFFFFFFF
_ALL: Final = 0xFFFFFFFFFFFFFFFF
_PAGE: Final = 4096
_XFRM_LEGACY: Final = 3  # x87 and SSE are required
_PKRU: Final = 0x200
_AMX: Final = 0x60000
_INTEL: Final = 0x8086
_SIZE: Final = -1  # as much as the generation allows


class Element(msgspec.Struct, frozen=True, kw_only=True):
    """What an element may hold."""

    least: int = 0
    most: int = 1
    default: int = 0
    since: tuple[int, ...] = (1, 6)
    until: tuple[int, ...] = (99,)  # the first release without it


ELEMENTS: Final[dict[str, Element]] = {
    "ProdID": Element(most=0xFFFF),
    "ISVSVN": Element(most=0xFFFF),
    "ReleaseType": Element(),
    "IntelSigned": Element(),
    "ProvisionKey": Element(),
    "LaunchKey": Element(),
    "DisableDebug": Element(),
    "HW": Element(most=0x10),
    "TCSNum": Element(least=1, most=_U32, default=1),
    "TCSMaxNum": Element(least=1, most=_U32, default=1, since=(2, 0)),
    "TCSMinPool": Element(most=_U32, default=1, since=(2, 0)),
    "TCSPolicy": Element(default=1),
    "StackMaxSize": Element(least=_SIZE, most=_SIZE, default=0x40000),
    "StackMinSize": Element(least=_SIZE, most=_SIZE, default=_SIZE, since=(2, 0)),
    "HeapMaxSize": Element(most=_SIZE, default=_SIZE),
    "HeapMinSize": Element(most=_SIZE, default=0x1000, since=(2, 0)),
    "HeapInitSize": Element(most=_SIZE, default=0x1000, since=(2, 0)),
    "RsrvMaxSize": Element(most=_SIZE, since=(2, 6), until=(2, 8)),
    "RsrvMinSize": Element(most=_SIZE, since=(2, 6), until=(2, 8)),
    "RsrvInitSize": Element(most=_SIZE, since=(2, 6), until=(2, 8)),
    "ReservedMemMaxSize": Element(most=_SIZE, since=(2, 8)),
    "ReservedMemMinSize": Element(most=_SIZE, since=(2, 8)),
    "ReservedMemInitSize": Element(most=_SIZE, since=(2, 8)),
    "ReservedMemExecutable": Element(since=(2, 8)),
    "MiscSelect": Element(most=_U32),
    "MiscMask": Element(most=_U32, default=_U32),
    "EnableKSS": Element(since=(2, 4)),
    "ISVFAMILYID_H": Element(most=_ALL, since=(2, 4)),
    "ISVFAMILYID_L": Element(most=_ALL, since=(2, 4)),
    "ISVEXTPRODID_H": Element(most=_ALL, since=(2, 4)),
    "ISVEXTPRODID_L": Element(most=_ALL, since=(2, 4)),
    "EnclaveImageAddress": Element(least=0x1000, most=_ALL, since=(2, 14)),
    "ELRangeStartAddress": Element(most=_ALL, since=(2, 14)),
    "ELRangeSize": Element(least=0x1000, most=_ALL, since=(2, 14)),
    "PKRU": Element(most=2, since=(2, 16)),
    "AMX": Element(most=2, since=(2, 18)),
    "UserRegionSize": Element(most=_SIZE, since=(2, 18)),
    "EnableAEXNotify": Element(since=(2, 20)),
    "EnableIPPFIPS": Element(since=(2, 25)),
    "EnableOSSLFIPS": Element(since=(2, 26)),
}


class SdkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration for one generation; `config["TCSNum"]` is the number written, or the default."""

    written: dict[str, Written]
    generation: Generation = NEWEST
    name: str = ""

    def __getitem__(self, element: str) -> int:
        """Give the number of an element; of one that this generation does not have, zero."""
        if element in self.written:
            return self.written[element].value
        if not _exists(element, self.generation):
            return 0
        return _limits(element, self.generation)[2]

    def __contains__(self, element: str) -> bool:
        """Tell whether the element was written."""
        return element in self.written

    @property
    def effective(self) -> dict[str, str | int]:
        """The number of every element that this generation has, written or not; absent ones left out."""
        sized = {f"{prefix}InitSize" for prefix in ("Heap", self._reserved)} - set(self.written)
        absent = sized | ({"TCSMaxNum"} - set(self.written))
        known = {one: self[one] for one in ELEMENTS if _exists(one, self.generation) and one not in absent}
        return dict(known)

    def bad(self, message: str, element: str = "", hint: str = "") -> NoReturn:
        """Refuse the configuration, with the element's place."""
        line = self.written[element].line if element in self.written else 0
        place = f"{self.name}:{line}" if line else self.name
        raise BadSdkConfig(message, place=place, hint=hint)

    @property
    def _reserved(self) -> str:
        return "Rsrv" if self.generation.version < (2, 8) else "ReservedMem"

    def _sizes(self, prefix: str) -> tuple[int, int, int]:
        least, most = self[f"{prefix}MinSize"], self[f"{prefix}MaxSize"]
        first = self.written.get(f"{prefix}InitSize")
        return least, most if first is None else first.value, most

    @property
    def heap(self) -> tuple[int, int, int]:
        """The heap's least, first and greatest size in bytes."""
        return self._sizes("Heap")

    @property
    def reserved(self) -> tuple[int, int, int]:
        """The reserved memory's least, first and greatest size in bytes."""
        return self._sizes(self._reserved)

    @property
    def stack(self) -> tuple[int, int]:
        """A stack's least and greatest size in bytes."""
        return self["StackMinSize"], self["StackMaxSize"]

    @property
    def tcs_max(self) -> int:
        """How many threads there may ever be."""
        return self["TCSMaxNum"] if "TCSMaxNum" in self else self["TCSNum"]

    @property
    def pool(self) -> int:
        """How many threads beside the first are there from the start and stay."""
        return min(self["TCSMinPool"], self["TCSNum"] - 1)

    @property
    def elrange(self) -> tuple[int, int, int] | None:
        """Image address, start and size of the enclave's range; None when it has none of its own."""
        if not self["ELRangeSize"]:
            return None
        return self["EnclaveImageAddress"], self["ELRangeStartAddress"], self["ELRangeSize"]

    @property
    def is_dynamic(self) -> bool:
        """Tell whether memory or threads may come and go while the enclave runs."""
        least, first, most = self.heap
        reserved = self.reserved
        return (
            not least == first == most
            or self.stack[0] != self.stack[1]
            or not reserved[0] == reserved[1] == reserved[2]
            or self.tcs_max != self.pool + 1
        )

    @property
    def attributes(self) -> tuple[int, int]:
        """ATTRIBUTES as signed: flags and xfrm."""
        flags = MODE64BIT
        for element, bit in _FLAGS.items():
            flags |= bit if self[element] else 0
        xfrm = _XFRM_LEGACY
        for element, bits in (("PKRU", _PKRU), ("AMX", _AMX)):
            xfrm |= bits if self[element] == 1 else 0
        return flags, xfrm

    @property
    def attributes_mask(self) -> tuple[int, int]:
        """Which ATTRIBUTES the signature fixes."""
        flags = _ALL & ~(DEBUG | self.generation.unchecked_flags)
        flags |= DEBUG if self["DisableDebug"] else 0
        xfrm = _XFRM_LEGACY | (_ALL & ~self.generation.xfrm_known)
        for element, bits in (("PKRU", _PKRU), ("AMX", _AMX)):
            if _exists(element, self.generation) and self[element] != 2:
                xfrm |= bits
        return flags, xfrm

    @property
    def wished_xfrm(self) -> int:
        """The XFRM that the metadata asks the loader for: all that the signature does not forbid."""
        mask = self.attributes_mask[1]
        return (_ALL & ~mask) | (self.attributes[1] & mask)

    def fields(self, mrenclave: bytes, *, date: tuple[int, int, int] = (1970, 1, 1)) -> SigstructFields:
        """State what the owner signs about an enclave of this configuration."""
        misc, mask = self["MiscSelect"], self["MiscMask"]
        return SigstructFields(
            mrenclave=mrenclave,
            isvprodid=self["ProdID"],
            isvsvn=self["ISVSVN"],
            attributes=self.attributes,
            attributes_mask=self.attributes_mask,
            miscselect=misc & mask if self.generation.keeps_misc else misc,
            miscselect_mask=mask,
            isvextprodid=struct.pack("<QQ", self["ISVEXTPRODID_L"], self["ISVEXTPRODID_H"]),
            isvfamilyid=struct.pack("<QQ", self["ISVFAMILYID_L"], self["ISVFAMILYID_H"]),
            date=date,
            vendor=_INTEL if self["IntelSigned"] else 0,
            swdefined=self["HW"],
            header_type=self["ReleaseType"] << 31,
        )


_FLAGS: Final = {
    "ProvisionKey": PROVISIONKEY,
    "LaunchKey": EINITTOKENKEY,
    "EnableKSS": KSS,
    "EnableAEXNotify": AEXNOTIFY,
}


def _exists(element: str, generation: Generation) -> bool:
    one = ELEMENTS[element]
    return one.since <= generation.version < one.until


def _limits(element: str, generation: Generation) -> tuple[int, int, int]:
    one = ELEMENTS[element]
    least = generation.stack_least if one.least == _SIZE else one.least
    most = generation.size_most if one.most == _SIZE else one.most
    default = one.default
    if default == _SIZE:
        default = generation.heap_default if element == "HeapMaxSize" else generation.stack_least
    return least, most, default


def read_sdk_config(data: bytes, *, name: str = "", generation: Generation = NEWEST) -> SdkConfig:
    """Read a configuration for a generation of the SDK, and check it as its signing tool does.

    Raises:
        BadSdkConfig: RVP-5026.
    """
    config = SdkConfig(written=read_elements(data, name=name), generation=generation, name=name)
    for element, found in config.written.items():
        if element not in ELEMENTS or not _exists(element, generation):
            config.bad(
                f"<{element}> is not known to SDK {generation.name}", element, _explain(element, generation)
            )
        least, most, _ = _limits(element, generation)
        if not least <= found.value <= most:
            config.bad(f"<{element}> is {found.value:#x}, expected {least:#x} to {most:#x}", element)
    _check(config)
    return config


def _explain(element: str, generation: Generation) -> str:
    import difflib

    if element in ELEMENTS:
        one = ELEMENTS[element]
        since = ".".join(map(str, one.since))
        until = f", until before {'.'.join(map(str, one.until))}" if one.until[0] < 99 else ""
        return f"it exists since SDK {since}{until}"
    near = difflib.get_close_matches(element, [one for one in ELEMENTS if _exists(one, generation)], n=1)
    return f"did you mean <{near[0]}>?" if near else "docs/reference/sgx-sdk.md lists the elements"


def _check(config: SdkConfig) -> None:
    """Check what ties elements to each other, in the order of the signing tool."""
    reserved = config._reserved  # noqa: SLF001  the same module
    for prefix in ("Stack", "Heap", reserved, "UserRegion"):
        for part in ("MinSize", "InitSize", "MaxSize", "Size"):
            element = prefix + part
            if element in config and config[element] % _PAGE:
                config.bad(f"<{element}> is {config[element]:#x}, not a multiple of {_PAGE:#x}", element)
    for prefix in ("Stack", "Heap", reserved):
        least, most = config[f"{prefix}MinSize"], config[f"{prefix}MaxSize"]
        first = f"{prefix}InitSize"
        if first in config and config[first] > most:
            config.bad(f"<{first}> {config[first]:#x} is above <{prefix}MaxSize> {most:#x}", first)
        if first in config and least > config[first]:
            config.bad(f"<{prefix}MinSize> {least:#x} is above <{first}> {config[first]:#x}", first)
        if least > most:
            known = f"{prefix}MaxSize" if f"{prefix}MaxSize" in config else f"{prefix}MinSize"
            config.bad(f"<{prefix}MinSize> {least:#x} is above <{prefix}MaxSize> {most:#x}", known)
    if bool(config["HW"]) != bool(config["LaunchKey"]):
        config.bad("<HW> and <LaunchKey> go together: both for a launch enclave, none otherwise", "HW")
    if config.tcs_max < config["TCSNum"]:
        config.bad(f"<TCSMaxNum> {config.tcs_max} is below <TCSNum> {config['TCSNum']}", "TCSMaxNum")
    if "TCSMinPool" in config and config["TCSMinPool"] > config.tcs_max:
        config.bad(f"<TCSMinPool> is {config['TCSMinPool']}, above {config.tcs_max} threads", "TCSMinPool")
    if not config["EnableKSS"]:
        for element in ("ISVFAMILYID_H", "ISVFAMILYID_L", "ISVEXTPRODID_H", "ISVEXTPRODID_L"):
            if config[element]:
                config.bad(f"<{element}> needs <EnableKSS>1</EnableKSS>", element)
    for element in ("EnclaveImageAddress", "ELRangeStartAddress"):
        if element in config and "ELRangeSize" not in config:
            config.bad(f"<{element}> needs <ELRangeSize>", element)
    if config["EnableIPPFIPS"] and config["EnableOSSLFIPS"]:
        config.bad("<EnableIPPFIPS> and <EnableOSSLFIPS> exclude each other", "EnableOSSLFIPS")
    if config["EnableOSSLFIPS"]:
        config.bad(
            "<EnableOSSLFIPS> appends a module of the SDK's installation, which this program does not have",
            "EnableOSSLFIPS",
            "sign this enclave with the SDK's own tool; the signed file can be measured",
        )
    if config["UserRegionSize"] and not config["MiscSelect"] & config["MiscMask"] & 1:
        config.bad("<UserRegionSize> needs bit 0 of <MiscSelect> and of <MiscMask>", "UserRegionSize")


def check_elrange(config: SdkConfig, enclave_size: int) -> None:
    """Check that the enclave's range holds the enclave.

    Raises:
        BadSdkConfig: RVP-5026.
    """
    if config.elrange is None:
        return
    image, start, size = config.elrange
    for element, value in zip(
        ("EnclaveImageAddress", "ELRangeStartAddress", "ELRangeSize"), config.elrange, strict=True
    ):
        if value % _PAGE:
            config.bad(f"<{element}> is {value:#x}, not a multiple of {_PAGE:#x}", element)
    if size & (size - 1):
        config.bad(f"<ELRangeSize> is {size:#x}, not a power of two", "ELRangeSize")
    if start % size:
        config.bad(f"<ELRangeStartAddress> {start:#x} is not a multiple of {size:#x}", "ELRangeStartAddress")
    if not start <= image or image + enclave_size > start + size or start + size > _ALL:
        config.bad(
            f"the image at {image:#x} with {enclave_size:#x} bytes is not in the range from {start:#x} "
            f"to {start + size:#x}",
            "EnclaveImageAddress" if "EnclaveImageAddress" in config else "ELRangeSize",
        )
