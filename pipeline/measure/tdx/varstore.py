"""The variables of a firmware: the store at the beginning of a flash image, with authenticated variables.

    firmware volume header    16 zeros, GUID of the file system, length, "_FVH", attributes, header length, …
    store header              GUID, size, format 0x5a, state 0xfe
    variable, 4-byte aligned  0x55aa, state, attributes, …, sizes, GUID; name in UTF-16 with its NUL; data

Of a variable that was written again the older copies are marked deleted and are passed over.

Source: edk2, MdeModulePkg/Include/Guid/VariableFormat.h; UEFI PI 1.7, volume 3, section 3.2.
Cost: one pass over the store.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from pipeline.measure.ovmf import guid_bytes
from provenance.errors import UsageError

GLOBAL_VARIABLE: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY: Final = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SECURE_BOOT_ENABLE: Final = "f0a30bc7-af08-4556-99c4-001009c93a44"

_NV_DATA: Final = guid_bytes("fff12b8d-7696-4c8b-a985-2747075b4f50")
_AUTHENTICATED: Final = guid_bytes("aaf32c78-947b-439a-a180-2e144ec37792")
_VOLUME: Final = struct.Struct("<16x16sQ4sIHHHBB")
_STORE: Final = struct.Struct("<16sIBB6x")
_VARIABLE: Final = struct.Struct("<HBBIQ16sIII16s")
_START: Final = 0x55AA
_ADDED: Final = 0x3F
_IN_DELETION: Final = 0x3E  # written anew, and the machine stopped before the new one was complete


class BadVarstore(UsageError):
    """The store of variables of a firmware contradicts itself.

    The message names the field and its offset.
    Cure: give the OVMF_VARS.fd that belongs to the firmware, complete and unchanged.
    """

    code = "RVP-5205"


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One variable: vendor (GUID), name, data."""

    vendor: str
    name: str
    data: bytes

    def measured(self) -> bytes:
        """Write UEFI_VARIABLE_DATA, which is what is hashed of a variable of Secure Boot."""
        return (
            guid_bytes(self.vendor)
            + struct.pack("<QQ", len(self.name), len(self.data))
            + self.name.encode("utf-16-le")
            + self.data
        )


class Varstore(msgspec.Struct, frozen=True, kw_only=True):
    """All variables that a firmware starts with."""

    variables: tuple[Variable, ...] = ()

    def find(self, vendor: str, name: str) -> Variable | None:
        """Find a variable."""
        wanted = guid_bytes(vendor), name
        return next((one for one in self.variables if (guid_bytes(one.vendor), one.name) == wanted), None)


def read_varstore(data: bytes | memoryview, name: str) -> Varstore:
    """Read the variables of a flash image, or of its part with the variables.

    Raises:
        BadVarstore: RVP-5205.
    """
    data = bytes(data)
    if not data.strip(b"\0") or not data.strip(b"\xff"):
        return Varstore()
    if len(data) < _VOLUME.size:
        raise BadVarstore(f"the variables have {len(data)} bytes", place=name)
    file_system, length, signature, _, header, *_ = _VOLUME.unpack_from(data)
    if signature != b"_FVH" or file_system != _NV_DATA:
        raise BadVarstore(
            "the variables do not begin with a firmware volume for variables", place=f"{name}:0x0"
        )
    if length > len(data) or not _VOLUME.size <= header <= length - _STORE.size:
        raise BadVarstore(
            f"the volume has {length:#x} bytes and a header of {header:#x}, there are {len(data):#x}",
            place=f"{name}:0x20",
        )
    guid, size, form, state = _STORE.unpack_from(data, header)
    if guid != _AUTHENTICATED or (form, state) != (0x5A, 0xFE):
        raise BadVarstore(
            "no formatted store of authenticated variables in the volume", place=f"{name}:{header:#x}"
        )
    if not _STORE.size <= size <= length - header:
        raise BadVarstore(f"the store is said to have {size:#x} bytes", place=f"{name}:{header + 16:#x}")
    return Varstore(variables=_read_all(data, header + _STORE.size, header + size, name))


def _read_all(data: bytes, at: int, end: int, name: str) -> tuple[Variable, ...]:
    found: dict[tuple[bytes, bytes], tuple[int, Variable]] = {}
    while at + _VARIABLE.size <= end:
        start, state, _, _, _, _, _, name_size, data_size, vendor = _VARIABLE.unpack_from(data, at)
        if start != _START:
            break
        body = at + _VARIABLE.size
        if name_size % 2 or name_size < 2 or body + name_size + data_size > end:
            raise BadVarstore(
                f"a variable has a name of {name_size:#x} bytes and {data_size:#x} bytes of data",
                place=f"{name}:{at:#x}",
            )
        raw = data[body : body + name_size]
        if state in {_ADDED, _IN_DELETION}:
            key = (vendor, raw)
            if key not in found or found[key][0] != _ADDED or state == _ADDED:
                found[key] = (state, _variable(vendor, raw, data[body + name_size :][:data_size], name, at))
        at = (body + name_size + data_size + 3) & ~3
    return tuple(one for _, one in found.values())


def _variable(vendor: bytes, raw: bytes, content: bytes, place: str, at: int) -> Variable:
    import uuid

    try:
        name = raw.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise BadVarstore("a name is no UTF-16", place=f"{place}:{at:#x}") from error
    if not name.endswith("\0") or "\0" in name[:-1]:
        raise BadVarstore(f"the name {name!r} does not end with its NUL", place=f"{place}:{at:#x}")
    return Variable(vendor=str(uuid.UUID(bytes_le=vendor)), name=name[:-1], data=content)
