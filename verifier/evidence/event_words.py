"""Event data in words, one function an event type: what the log claims that was measured.

The words are a reading of data that may be anything: nothing here fails, and text is bounded. Whether the
data are what was hashed is `preimage.py`'s to say.

Source: TCG PC Client Platform Firmware Profile 1.05, sections 10.2 to 10.4; edk2 (TdTcg2Dxe, Tcg2Dxe,
DxeTpm2MeasureBootLib, MdePkg UefiTcgPlatform.h); GRUB (commands/tpm.c); Linux (drivers/firmware/efi/libstub);
systemd (sd-stub); td-shim (event_log.rs); dstack (cc-eventlog).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from provenance.plain_text import one_line
from verifier.evidence.device_path import device_path, guid, text16
from verifier.evidence.event_log import Event, Kind

MAX_WORDS: Final = 4096  # characters; the longest command line of Linux has 2048 or 4096
_MAX_LISTED: Final = 16
RUNTIME: Final = 0x0800_0001  # dstack's events in RTMR3

TYPES: Final[dict[int, str]] = {
    0x0: "EV_PREBOOT_CERT",
    0x1: "EV_POST_CODE",
    0x2: "EV_UNUSED",
    0x3: "EV_NO_ACTION",
    0x4: "EV_SEPARATOR",
    0x5: "EV_ACTION",
    0x6: "EV_EVENT_TAG",
    0x7: "EV_S_CRTM_CONTENTS",
    0x8: "EV_S_CRTM_VERSION",
    0x9: "EV_CPU_MICROCODE",
    0xA: "EV_PLATFORM_CONFIG_FLAGS",
    0xB: "EV_TABLE_OF_DEVICES",
    0xC: "EV_COMPACT_HASH",
    0xD: "EV_IPL",
    0xE: "EV_IPL_PARTITION_DATA",
    0xF: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x13: "EV_POST_CODE2",
    RUNTIME: "DSTACK_RUNTIME",
    0x8000_0001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x8000_0002: "EV_EFI_VARIABLE_BOOT",
    0x8000_0003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x8000_0004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x8000_0005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x8000_0006: "EV_EFI_GPT_EVENT",
    0x8000_0007: "EV_EFI_ACTION",
    0x8000_0008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x8000_0009: "EV_EFI_HANDOFF_TABLES",
    0x8000_000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000_000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000_000C: "EV_EFI_VARIABLE_BOOT2",
    0x8000_000D: "EV_EFI_GPT_EVENT2",
    0x8000_0010: "EV_EFI_HCRTM_EVENT",
    0x8000_00E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x8000_00E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x8000_00E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

_GUIDS: Final = {
    "8be4df61-93ca-11d2-aa0d-00e098032b8c": "EFI global",
    "d719b2cb-3d3a-4596-a3bc-dad00e67656f": "image security database",
    "605dab50-e046-4300-abb6-3dd810dd8b23": "shim",
    "77fa9abd-0359-4d32-bd60-28f4e78f784b": "Microsoft",
    "8868e871-e4f1-11d3-bc22-0080c73c8881": "ACPI 2.0 tables",
    "eb9d2d30-2d88-11d3-9a16-0090273fc14d": "ACPI 1.0 tables",
    "eb9d2d31-2d88-11d3-9a16-0090273fc14d": "SMBIOS tables",
    "f2fd1544-9794-4a2c-992e-e5bbcf20e394": "SMBIOS 3 tables",
    "7739f24c-93d7-11d4-9a3a-0090273fc14d": "HOB list",
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system partition",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux data",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root x86-64",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5": "Linux root verity x86-64",
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
    "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
}
_CERTIFICATE: Final = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
_SIGNATURE_LISTS: Final = {
    _CERTIFICATE: "certificate",
    "c1c41626-504c-4092-aca9-41f936934328": "SHA-256 digest",
}
_TAGS: Final = {
    0x8F3B_22ED: "load options of the kernel (its command line)",
    0x8F3B_22EC: "initrd",
    0x4141_454C: "runtime event of the attestation agent",
}


def type_name(type_: int) -> str:
    """Name an event type, or write its number."""
    return TYPES.get(type_, f"event type {type_:#010x}")


def in_words(event: Event, kind: Kind) -> str:
    """Say what an event is, in one line."""
    if kind == "ccel" and event.type == RUNTIME:
        words = _runtime(event)
    else:
        try:
            words = _WORDS.get(event.type, _plain)(event.data)
        except (struct.error, ValueError, IndexError):
            words = f"{_blob(event.data)}, not of the form of its type"
    return _bounded(one_line(words[: MAX_WORDS + 1]))


def variable_of(data: bytes) -> tuple[str, str, bytes] | None:
    """Take UEFI_VARIABLE_DATA apart: GUID, name, value; None where the data are no such thing."""
    if len(data) < 32:
        return None
    characters, size = struct.unpack_from("<QQ", data, 16)
    start = 32 + 2 * characters
    if start + size > len(data):
        return None
    return guid(data), text16(data[32:start]), data[start : start + size]


def blob_of_shim(data: bytes) -> tuple[str, bytes] | None:
    """Take td-shim's platform configuration apart: 16 bytes of name, size, the blob itself."""
    if len(data) < 20:
        return None
    name, size = struct.unpack_from("<16sI", data)
    if len(data) != 20 + size or not name.rstrip(b"\0").isascii():
        return None
    return name.rstrip(b"\0").decode("ascii"), data[20:]


def grub_text(text: str) -> str | None:
    """Cut off what GRUB writes before the text that it hashes; None where this is not GRUB's."""
    for prefix in ("grub_cmd: ", "kernel_cmdline: ", "grub_cmd ", "kernel_cmdline "):  # RHEL 8 has no colon
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return None


def ipl_text(data: bytes) -> str:
    """Read the text of an EV_IPL event: GRUB and shim write ASCII, systemd-stub UTF-16."""
    if len(data) >= 4 and len(data) % 2 == 0 and not any(data[1::2]):
        return text16(data)
    return data.rstrip(b"\0").decode("utf-8", errors="replace")


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"


def _blob(data: bytes) -> str:
    return f"{len(data)} bytes of data" if data else "no data"


def _plain(data: bytes) -> str:
    text = data[:MAX_WORDS].rstrip(b"\0")
    if len(text) >= 3 and text.isascii() and text.decode("ascii").isprintable():
        return f'"{text.decode("ascii")}"'
    if len(data) >= 6 and len(data) % 2 == 0 and not any(data[1::2]) and text16(data).isprintable():
        return f'"{text16(data)}"'
    return _blob(data)


def _separator(data: bytes) -> str:
    match data:
        case b"\0\0\0\0" | b"\xff\xff\xff\xff":
            return "separator"
        case b"\x01\0\0\0":
            return "separator that says: an error occurred before this"
        case _:
            return f"separator with {_plain(data)}"


def _no_action(data: bytes) -> str:
    if data.startswith(b"Spec ID Event"):
        minor, major, errata = struct.unpack_from("<BBB", data, 20)
        return f"header: TCG platform firmware profile {major}.{minor:02} errata {errata}"
    if data.startswith(b"StartupLocality\0") and len(data) == 17:
        return f"startup locality {data[16]}: PCR 0 begins with it"
    return _plain(data[:16]) if data[:16].rstrip(b"\0").isascii() else _blob(data)


def _tag(data: bytes) -> str:
    tag, size = struct.unpack_from("<II", data)
    text = _plain(data[8 : 8 + size])
    known = _TAGS.get(tag)
    return f"{known}: tagged {tag:#010x} {text}" if known else f"tagged {tag:#010x}: {text}"


def _config_flags(data: bytes) -> str:
    if data == b"ACPI DATA":
        return "ACPI tables from the VMM (table-loader, rsdp, tables: the data do not say which)"
    if (shim := blob_of_shim(data)) is not None:
        return f"{shim[0]} of td-shim, {len(shim[1])} bytes"
    return f"platform configuration: {_plain(data)}"


def _ipl(data: bytes) -> str:
    text = ipl_text(data)
    if (command := grub_text(text)) is not None:
        return f"{'grub command' if text.startswith('grub') else 'kernel command line'}: {command}"
    if text.startswith("."):
        return f"section {text} of a unified kernel image"
    return text if text.isprintable() and text else _plain(data)


def _variable(data: bytes) -> str:
    found = variable_of(data)
    if found is None:
        return f"EFI variable, {_blob(data)}: not of the form of one"
    owner, name, value = found
    where = f"variable {name} ({_GUIDS.get(owner, owner)})"
    return f"{where}: {_value(name, value)}"


def _value(name: str, value: bytes) -> str:
    if not value:
        return "not set"
    if name in {"SecureBoot", "AuditMode", "DeployedMode", "SetupMode", "MokSBState"} and len(value) == 1:
        return {0: "off", 1: "on"}.get(value[0], f"{value[0]}")
    if name in {"PK", "KEK", "db", "dbx", "dbt", "dbr"}:
        return _signature_lists(value)
    if name == "BootOrder" and len(value) % 2 == 0:
        numbers = [f"{one:04X}" for (one,) in struct.iter_unpack("<H", value[: 2 * _MAX_LISTED])]
        return ", ".join(numbers) + (" …" if len(value) > 2 * _MAX_LISTED else "")
    if name.startswith("Boot") and len(name) == 8:
        return _boot_entry(value)
    return _plain(value)


def _boot_entry(value: bytes) -> str:
    attributes, path_size = struct.unpack_from("<IH", value)
    end = 6
    while end + 2 <= len(value) and value[end : end + 2] != b"\0\0":
        end += 2
    path = value[end + 2 : end + 2 + path_size]
    extra = len(value) - (end + 2 + path_size)
    active = "" if attributes & 1 else ", not active"
    rest = f", {extra} bytes of options" if extra > 0 else ""
    return f'"{text16(value[6:end])}" {device_path(path)}'.rstrip() + active + rest


def _signature_lists(value: bytes) -> str:
    counts: dict[str, int] = {}
    at = 0
    while at + 28 <= len(value):
        size, header, each = struct.unpack_from("<III", value, at + 16)
        if size < 28 + header or each < 16 or at + size > len(value):
            return f"{_blob(value)}, not of the form of signature lists"
        kind = _SIGNATURE_LISTS.get(guid(value[at : at + 16]), "entry of another kind")
        counts[kind] = counts.get(kind, 0) + (size - 28 - header) // each
        at += size
    listed = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items()]
    return ", ".join(listed).replace("entrys", "entries") or _blob(value)


def _authority(data: bytes) -> str:
    found = variable_of(data)
    if found is None:
        return f"authority, {_blob(data)}: not of the form of one"
    owner, name, value = found
    where = f"{name} ({_GUIDS.get(owner, owner)})"
    if name in {"db", "KEK", "PK"} and len(value) > 16 and not value.startswith(b"\x30\x82"):
        signer = guid(value)
        return f"authority: entry of {where}, owner {_GUIDS.get(signer, signer)}, {_certificate(value[16:])}"
    return f"authority: {where}, {_certificate(value)}"


def _certificate(value: bytes) -> str:
    """Name the subject of a certificate; what is none is shown as data."""
    if not value.startswith(b"\x30"):
        return _plain(value)
    from cryptography import x509  # only where a log has a certificate

    try:
        return f"certificate of {x509.load_der_x509_certificate(value).subject.rfc4514_string()}"
    except Exception:  # noqa: BLE001  whatever the parser says of strangers' bytes, they are no certificate
        return _blob(value)


def _image(data: bytes) -> str:
    location, length, _, size = struct.unpack_from("<QQQQ", data)
    path = device_path(data[32 : 32 + min(size, len(data))])
    return f"PE image of {length} bytes at {location:#x}{f', loaded from {path}' if path else ''}"


def _gpt(data: bytes) -> str:
    if data[:8] != b"EFI PART":
        raise ValueError
    each = struct.unpack_from("<I", data, 84)[0]
    count = struct.unpack_from("<Q", data, 92)[0]
    if each < 128 or 100 + each * count != len(data):
        raise ValueError
    named = []
    for number in range(min(count, _MAX_LISTED)):
        entry = data[100 + each * number : 100 + each * (number + 1)]
        kind = guid(entry)
        first, last = struct.unpack_from("<QQ", entry, 32)
        named.append(f'"{text16(entry[56:128])}" {_GUIDS.get(kind, kind)} {first}-{last}')
    more = " …" if count > _MAX_LISTED else ""
    return f"partition table of disk {guid(data[56:72])}, {count} partitions: {'; '.join(named)}{more}"


def _firmware(data: bytes) -> str:
    if len(data) != 16:
        return f"firmware: {_plain(data)}"
    base, length = struct.unpack("<QQ", data)
    return f"firmware blob of {length} bytes at {base:#x}"


def _firmware2(data: bytes) -> str:
    size = data[0] if data else 0
    if not size or len(data) != size + 17:
        return _firmware(data)
    base, length = struct.unpack_from("<QQ", data, 1 + size)
    name = data[1 : 1 + size].rstrip(b"\0").decode("utf-8", errors="replace")
    return f"firmware blob {name} of {length} bytes at {base:#x}"


def _tables(data: bytes, at: int = 0) -> str:
    count = struct.unpack_from("<Q", data, at)[0]
    if at + 8 + 24 * count > len(data):
        raise ValueError
    places = [at + 8 + 24 * number for number in range(min(count, _MAX_LISTED))]
    found = [(guid(data[one : one + 16]), struct.unpack_from("<Q", data, one + 16)[0]) for one in places]
    return "tables: " + ", ".join(f"{_GUIDS.get(one, one)} at {where:#x}" for one, where in found)


def _tables2(data: bytes) -> str:
    size = data[0]
    name = data[1 : 1 + size].rstrip(b"\0").decode("utf-8", errors="replace")
    if name == "TdxTable":
        return "TD HOB, which the VMM wrote: memory layout"
    return f"{name}; {_tables(data, 1 + size)}"


def _action(data: bytes) -> str:
    return _plain(data).strip('"') if data else "action without text"


def _post_code(data: bytes) -> str:
    return _firmware(data) if len(data) == 16 else f"firmware: {_plain(data)}"


def _runtime(event: Event) -> str:
    payload = event.data[:MAX_WORDS]
    if not payload:
        return f"runtime event {event.name}"
    shown = payload.decode("ascii") if payload.isascii() and payload.decode().isprintable() else payload.hex()
    return f"runtime event {event.name}: {shown}"


_WORDS: Final[dict[int, Callable[[bytes], str]]] = {
    0x1: _post_code,
    0x3: _no_action,
    0x4: _separator,
    0x5: _action,
    0x6: _tag,
    0x7: lambda data: f"contents of the S-CRTM: {_plain(data)}",
    0x8: lambda data: f"version of the S-CRTM: {_plain(data)}",
    0xA: _config_flags,
    0xD: _ipl,
    0x11: lambda data: f"platform: {_plain(data)}",
    0x13: _firmware2,
    0x8000_0001: _variable,
    0x8000_0002: _variable,
    0x8000_000C: _variable,
    0x8000_0003: _image,
    0x8000_0004: _image,
    0x8000_0005: _image,
    0x8000_0006: _gpt,
    0x8000_0007: _action,
    0x8000_0008: _firmware,
    0x8000_0009: _tables,
    0x8000_000A: _firmware2,
    0x8000_000B: _tables2,
    0x8000_00E0: _authority,
}
