"""The header of an x86 Linux kernel (bzImage), and what QEMU writes into it before the firmware sees it.

QEMU up to 9.x (and its forks) patches the setup header of a kernel that is given with `-kernel`: loader type,
heap, address of the command line, place and size of the initrd. The firmware measures the patched bytes, so
PCR 4 and RTMR1 depend on the size of the initrd and on the memory of the machine. QEMU does not patch for
SEV guests, and from 10 on for no confidential guest. A PE file without `HdrS` (a UKI) is never patched.

Units: offsets are bytes of the file; addresses are guest-physical.
Source: Linux `Documentation/arch/x86/boot.rst` 2.00 to 2.15; QEMU `hw/i386/x86-common.c` (x86_load_linux).
"""

from __future__ import annotations

import re
import struct
from typing import Final

import msgspec

from provenance.errors import UsageError

_HEADER: Final = b"HdrS"
_HEADER_AT: Final = 0x202
_HEADER_END: Final = 0x268
_SECTOR: Final = 512
_SETUP_MAX_BYTES: Final = 8192  # QEMU patches in the first of these
_MAX_VERSION_BYTES: Final = 256
_VERSION: Final = re.compile(rb"(\d{1,4})\.(\d{1,4})")
_CAN_BE_ABOVE_4G: Final = 2  # XLF_CAN_BE_LOADED_ABOVE_4G
_LOADED_HIGH: Final = 1
_CAN_USE_HEAP: Final = 0x80
_QEMU_LOADER: Final = 0xB0
_REAL_ADDRESS: Final = 0x10000
_COMMAND_LINE_ADDRESS: Final = 0x20000
_HEAP_MARGIN: Final = 0x200
_ACPI_RESERVE: Final = 0x28000  # PcMachine acpi_data_size + 0x8000 of QEMU
_NO_LIMIT: Final = 0xFFFFFFFF
_OLD_LIMIT: Final = 0x37FFFFFF
LOW_MEMORY_BYTES: Final = 0xB0000000  # of QEMU's q35: where its memory below 4 GiB ends
_SPLIT_LOW_MEMORY_BYTES: Final = 0x80000000  # when the memory is larger than that
_VGA: Final = {b"normal": 0xFFFF, b"ext": 0xFFFE, b"ask": 0xFFFD}


class BadKernel(UsageError):
    """A kernel's setup header says what cannot be, or what QEMU does not load.

    Cure: take the bzImage (`/boot/vmlinuz-…`), not `vmlinux` and not a compressed copy.
    """

    code = "RVP-5421"


class KernelHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The setup header.

    Attributes:
        protocol: 0x20f is 2.15.
        setup_size: bytes of the real-mode part: boot sector and setup sectors.
        version: what the kernel calls itself; empty when it does not.
    """

    protocol: int
    setup_size: int
    load_flags: int
    extended_flags: int
    initrd_max: int
    version: str

    @property
    def release(self) -> tuple[int, int] | None:
        """Major and minor number of the version."""
        found = _VERSION.match(self.version.encode())
        return None if found is None else (int(found[1]), int(found[2]))


def read_header(data: bytes | memoryview, *, name: str = "") -> KernelHeader | None:
    """Read the setup header of a kernel.

    Returns:
        None for a file without one: a UKI, a kernel of another architecture.

    Raises:
        BadKernel: RVP-5421.
    """
    view = memoryview(data)
    if bytes(view[_HEADER_AT : _HEADER_AT + 4]) != _HEADER:
        return None
    if len(view) < _HEADER_END:
        raise BadKernel(f"the file ends at {len(view)} bytes, in the setup header", place=name)
    protocol, pointer = struct.unpack_from("<H6xH", view, 0x206)
    setup_size = ((view[0x1F1] or 4) + 1) * _SECTOR
    if setup_size > len(view):
        raise BadKernel(
            f"setup_sects says {setup_size} bytes of setup, the file has {len(view)} (offset 0x1f1)",
            place=name,
        )
    return KernelHeader(
        protocol=protocol,
        setup_size=setup_size,
        load_flags=view[0x211],
        extended_flags=struct.unpack_from("<H", view, 0x236)[0],
        initrd_max=struct.unpack_from("<I", view, 0x22C)[0],
        version=_version(view, pointer),
    )


def _version(view: memoryview, pointer: int) -> str:
    if not pointer:
        return ""
    start = pointer + _SECTOR
    text = bytes(view[start : start + _MAX_VERSION_BYTES]).split(b"\0", 1)[0].split(b" ", 1)[0]
    return text.decode("ascii", "replace") if text.isascii() else ""


def qemu_patched(
    data: bytes | memoryview,
    *,
    cmdline: bytes,
    initrd_size: int,
    memory_bytes: int,
    name: str = "",
) -> tuple[memoryview, memoryview]:
    """Give a kernel as QEMU up to 9.x hands it to the firmware: the patched beginning, and the rest.

    Args:
        data: the file.
        cmdline: as given, for `vga=`.
        initrd_size: bytes; 0 without an initrd.
        memory_bytes: of the machine.
        name: of the file, for messages.

    Returns:
        The two parts; the second is the file's own bytes.

    Raises:
        BadKernel: RVP-5421.
    """
    view = memoryview(data)
    header = read_header(view, name=name)
    if header is None:
        return memoryview(b""), view
    if header.protocol < 0x202 or not header.load_flags & _LOADED_HIGH:
        raise BadKernel(
            f"the kernel speaks boot protocol {header.protocol:#x} and is "
            f"{'' if header.load_flags & _LOADED_HIGH else 'not '}loaded high; QEMU takes 0x202 or later",
            place=name,
        )
    start = bytearray(view[: min(_SETUP_MAX_BYTES, header.setup_size)])
    mode = _vga_mode(cmdline)
    if mode is not None:
        struct.pack_into("<H", start, 0x1FA, mode)
    start[0x210] = _QEMU_LOADER
    start[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", start, 0x224, _COMMAND_LINE_ADDRESS - _REAL_ADDRESS - _HEAP_MARGIN)
    struct.pack_into("<I", start, 0x228, _COMMAND_LINE_ADDRESS)
    if initrd_size:
        address = _initrd_address(header, initrd_size, memory_bytes, name)
        struct.pack_into("<II", start, 0x218, address, initrd_size)
    return memoryview(bytes(start)), view[len(start) :]


def _initrd_address(header: KernelHeader, initrd_size: int, memory_bytes: int, name: str) -> int:
    """Compute where QEMU puts the initrd: as high as the kernel and the memory allow."""
    if header.protocol >= 0x20C and header.extended_flags & _CAN_BE_ABOVE_4G:
        limit = _NO_LIMIT
    elif header.protocol >= 0x203:
        limit = header.initrd_max
    else:
        limit = _OLD_LIMIT
    below_4g = min(
        memory_bytes, LOW_MEMORY_BYTES if memory_bytes < LOW_MEMORY_BYTES else _SPLIT_LOW_MEMORY_BYTES
    )
    if limit >= below_4g - _ACPI_RESERVE:
        limit = below_4g - _ACPI_RESERVE - 1
    if initrd_size >= limit:
        raise BadKernel(
            f"an initrd of {initrd_size} bytes has no room below {limit:#x}",
            place=name,
            hint="give the machine more memory",
        )
    return (limit - initrd_size) & ~0xFFF


def _vga_mode(cmdline: bytes) -> int | None:
    """Find `vga=` as QEMU does: the first one, its value a number in C's notation or a word."""
    at = cmdline.find(b"vga=")
    if at < 0:
        return None
    text = cmdline[at + 4 :]
    for word, mode in _VGA.items():
        if text.startswith(word):
            return mode
    found = re.match(rb"\s*(0[xX][0-9a-fA-F]{1,8}|\d{1,10})", text)
    if found is None:
        return 0
    digits = found[1].lower()
    base = 16 if digits.startswith(b"0x") else 8 if digits.startswith(b"0") and digits.isdigit() else 10
    try:
        return int(digits.removeprefix(b"0x"), base) & 0xFFFF
    except ValueError:  # 08: strtol stops at the 8
        return 0
