r"""What an enclave's owner decides about it: memory, threads, identity, features.

Written as TOML (`schema = "rvp/enclave/v1"`), or as the XML configuration of Intel's SDK for the fields that
both have.

Example:
    >>> text = b'schema = "rvp/enclave/v1"\nisvprodid = 1\nheap = "256KiB"\nthreads = 2'
    >>> read_config(text, name="enclave.toml").heap_bytes
    262144
"""

from __future__ import annotations

import re
from typing import Final, Literal, NoReturn

import msgspec

from pipeline.measure.sgx.sigstruct import (
    AEXNOTIFY,
    DEBUG,
    EINITTOKENKEY,
    KSS,
    MODE64BIT,
    PROVISIONKEY,
    SigstructFields,
)
from pipeline.spec import size_bytes
from provenance.errors import SpecError
from provenance.strict import read_toml

_MAX_BYTES: Final = 1 << 16
_ALL: Final = 0xFFFFFFFFFFFFFFFF
_XFRM: Final = 3  # x87 and SSE are required
_XFRM_MASK: Final = 0xFFFFFFFFFFFFFF1B  # AVX and AVX-512 are the loader's choice; MPX, PKRU, AMX are off
_PAGE: Final = 4096


class BadEnclaveConfig(SpecError):
    """An enclave's configuration asks for what cannot be, or for what this packer does not do.

    Cure: the keys and their ranges are in docs/reference/sgx.md. Growing heaps, thread pools and other
    dynamic memory of the SDK are for enclaves that its own runtime is linked into.
    """

    code = "RVP-5007"


class EnclaveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The configuration of an enclave.

    Attributes:
        threads: how many may be inside at once (one TCS each).
        stack: of each thread, a size with a unit.
        heap: for the whole enclave; added, not measured.
        debug: whether the loader may launch it for debugging; false forbids it in the signature.
        kss: Key Separation and Sharing, needed by isvextprodid and isvfamilyid.
    """

    schema: Literal["rvp/enclave/v1"] = "rvp/enclave/v1"
    isvprodid: int = 0
    isvsvn: int = 0
    threads: int = 1
    stack: str = "64KiB"
    heap: str = "1MiB"
    debug: bool = False
    kss: bool = False
    provision_key: bool = False
    einittoken_key: bool = False
    aex_notify: bool = False
    miscselect: int = 0
    miscselect_mask: int = 0xFFFFFFFF
    isvextprodid: str = "00" * 16
    isvfamilyid: str = "00" * 16

    @property
    def stack_bytes(self) -> int:
        """The stack of one thread in bytes."""
        return size_bytes(self.stack)

    @property
    def heap_bytes(self) -> int:
        """The heap in bytes."""
        return size_bytes(self.heap)

    @property
    def attribute_flags(self) -> int:
        """ATTRIBUTES.FLAGS as signed."""
        flags = MODE64BIT
        for chosen, bit in (
            (self.kss, KSS),
            (self.provision_key, PROVISIONKEY),
            (self.einittoken_key, EINITTOKENKEY),
            (self.aex_notify, AEXNOTIFY),
        ):
            flags |= bit if chosen else 0
        return flags

    def fields(self, mrenclave: bytes, *, date: tuple[int, int, int] = (1970, 1, 1)) -> SigstructFields:
        """State what the owner signs about an enclave of this configuration."""
        return SigstructFields(
            mrenclave=mrenclave,
            isvprodid=self.isvprodid,
            isvsvn=self.isvsvn,
            attributes=(self.attribute_flags, _XFRM),
            attributes_mask=(_ALL & ~DEBUG if self.debug else _ALL, _XFRM_MASK),
            miscselect=self.miscselect & self.miscselect_mask,
            miscselect_mask=self.miscselect_mask,
            isvextprodid=bytes.fromhex(self.isvextprodid),
            isvfamilyid=bytes.fromhex(self.isvfamilyid),
            date=date,
        )


def read_config(data: bytes, *, name: str = "") -> EnclaveConfig:
    """Read a configuration, TOML or XML.

    Raises:
        BadEnclaveConfig: RVP-5007; BadSdkConfig: RVP-5026; NotWellFormed, UnknownKey, WrongType: RVP-1011,
            1013, 1014.
    """
    if data.lstrip().startswith(b"<"):
        config = _read_xml(data, name)
    else:
        config = read_toml(data, EnclaveConfig, name=name, limit_bytes=_MAX_BYTES)
    check_config(config, name=name)
    return config


def check_config(config: EnclaveConfig, *, name: str = "") -> None:
    """Check what types cannot say.

    Raises:
        BadEnclaveConfig: RVP-5007.
    """

    def bad(message: str) -> NoReturn:
        raise BadEnclaveConfig(message, place=name)

    for key, value, least, most in (
        ("isvprodid", config.isvprodid, 0, 0xFFFF),
        ("isvsvn", config.isvsvn, 0, 0xFFFF),
        ("threads", config.threads, 1, 4096),
        ("miscselect", config.miscselect, 0, 0xFFFFFFFF),
        ("miscselect_mask", config.miscselect_mask, 0, 0xFFFFFFFF),
        ("stack", config.stack_bytes, _PAGE, 1 << 30),
        ("heap", config.heap_bytes, 0, 1 << 38),
    ):
        if not least <= value <= most:
            bad(f"{key} is {value}, expected {least} to {most}")
    for key, value in (("stack", config.stack_bytes), ("heap", config.heap_bytes)):
        if value % _PAGE:
            bad(f"{key} is {value} bytes, not a multiple of {_PAGE}")
    for key, text in (("isvextprodid", config.isvextprodid), ("isvfamilyid", config.isvfamilyid)):
        if not re.fullmatch(r"[0-9a-f]{32}", text):
            bad(f"{key} is {text!r}, expected 32 lowercase hex digits")
        if not config.kss and text.strip("0"):
            bad(f"{key} needs kss = true")


# elements of the SDK's configuration that this packer follows; others may only say what it does anyway
_FOLLOWED: Final = {
    "ProdID",
    "ISVSVN",
    "TCSNum",
    "StackMaxSize",
    "HeapMaxSize",
    "DisableDebug",
    "EnableKSS",
    "ProvisionKey",
    "EnableAEXNotify",
    "MiscSelect",
    "MiscMask",
    "ISVEXTPRODID_H",
    "ISVEXTPRODID_L",
    "ISVFAMILYID_H",
    "ISVFAMILYID_L",
}


def _read_xml(data: bytes, name: str) -> EnclaveConfig:
    from pipeline.measure.sgx.sdk.config import read_sdk_config

    read = read_sdk_config(data, name=name)
    stack, heap, threads = read["StackMaxSize"], read["HeapMaxSize"], read["TCSNum"]
    same = {
        "TCSMaxNum": threads,
        "TCSPolicy": 1,
        "StackMinSize": stack,
        "HeapMinSize": heap,
        "HeapInitSize": heap,
    }
    for element, found in read.written.items():
        if element not in _FOLLOWED and found.value != same.get(element, 0):
            raise BadEnclaveConfig(
                f"<{element}> {found.value:#x} is not what this packer does", place=f"{name}:{found.line}"
            )
    fields = read.fields(bytes(32))
    return EnclaveConfig(
        isvprodid=fields.isvprodid,
        isvsvn=fields.isvsvn,
        threads=threads,
        stack=f"{stack}B",
        heap=f"{heap}B",
        debug=not read["DisableDebug"],
        kss=bool(read["EnableKSS"]),
        provision_key=bool(read["ProvisionKey"]),
        aex_notify=bool(read["EnableAEXNotify"]),
        miscselect=read["MiscSelect"],
        miscselect_mask=read["MiscMask"],
        isvextprodid=fields.isvextprodid.hex(),
        isvfamilyid=fields.isvfamilyid.hex(),
    )
