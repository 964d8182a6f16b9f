"""Open Enclave files without a compiler: ELF files with `.oeinfo`, relocations, TLS and exported symbols.

Their code is not meant to run; what a loader reads is where a linker would put it:

    r--  headers, .dynsym, .dynstr, .rela.dyn, .rela.plt, .oeinfo
    r-x  code
    rw-  .tdata, .dynamic, .data, and .bss behind the file's bytes

`.symtab` names the same symbols, and `_DYNAMIC`: early loaders looked there.
"""

from __future__ import annotations

import struct
from typing import Any

PAGE = 4096
NUMBERS = ("_enclave_rva", "_reloc_rva", "_reloc_size", "_tdata_rva", "_tdata_size", "_tdata_align")
MORE_NUMBERS = ("_tbss_size", "_tbss_align", "_td_from_tcs_offset")
ENTRY = 0x123
BSS = 0x2100


def properties(
    size: int = 1960,
    *,
    heap: int = 5,
    stack: int = 3,
    threads: int = 2,
    product: int = 7,
    version: int = 9,
    flags: int = 0,
    attributes: int = 6,
    start: int = 0,
    ids: bytes = bytes(32),
    sigstruct: bytes = bytes(1808),
) -> bytes:
    """Write `.oeinfo` of one of its three sizes."""
    head = struct.pack("<IIQQQHHI", size, 2, heap, stack, threads, product, version, flags)
    if size > 1920:
        head += ids
    head += struct.pack("<QQ", attributes, 0)
    if size > 1952:
        head += struct.pack("<Q", start)
    return head + bytes(48) + sigstruct + b"\xec" * 8


def open_enclave_elf(
    info: bytes | None = None,
    *,
    symbols: tuple[str, ...] = (*NUMBERS, *MORE_NUMBERS),
    module_info: int = 40,
    defined: dict[str, int] | None = None,
    undefined: tuple[str, ...] = (),
    relocations: tuple[tuple[int, int, int], ...] = ((0x10, 8, 0x1000), (0x20, 8, 0x2000)),
    plt: tuple[tuple[int, int, int], ...] = (),
    tdata: bytes = b"",
    tbss: int = 0,
    tls_align: int = 8,
    header_align: int = 0,
    needed: str = "",
    seed: bytes = b"code",
    tail: bytes = b"",
) -> bytes:
    """Write the file.

    Args:
        info: `.oeinfo`; None: there is none (a module).
        symbols: 64-bit numbers that the loader fills: the first two in `.data`, the others in `.bss`.
        module_info: size of `_module_info`; 0: not there.
        defined: further exported symbols and their values.
        undefined: symbols that others define.
        relocations: offset, info and addend; in info the symbol's number is in the upper half (see `number`).
        plt: the same, for `.rela.plt`.
        tdata: initial thread-local data.
        tbss: size of the thread-local zeros.
        tls_align: of the sections.
        header_align: of PT_TLS, when it differs.
        needed: the name of a shared object.
        seed: makes the code of one file differ from another's.
        tail: bytes behind everything.
    """
    code = (seed * 700)[:0x1830]
    names = b"\0"
    table = [bytes(24)]
    slots: list[tuple[str, int, int, int]] = []  # name, place in .data (or in .bss, negative), size, section

    def export(name: str, value: int, size: int = 8, section: int = 1, info_byte: int = 0x11) -> None:
        nonlocal names
        table.append(struct.pack("<IBBHQQ", len(names), info_byte, 0, section, value, size))
        names += name.encode() + b"\0"

    for index, name in enumerate(symbols):
        slots.append((name, 8 * index if index < 2 else -(8 * index) - 1, 8, 1))
    if module_info:
        slots.append(("_module_info", -0x200 - 1, module_info, 1))
    count = len(slots) + len(defined or {}) + len(undefined)
    needed_at = 1 + sum(len(one[0]) + 1 for one in slots)
    needed_at += sum(len(one) + 1 for one in [*(defined or {}), *undefined])
    string_bytes = needed_at + len(needed) + 1

    symbols_at = 64 + 56 * 5
    strings_at = symbols_at + 24 * (count + 1)
    rela_at = (strings_at + string_bytes + 7) & -8
    plt_at = rela_at + 24 * len(relocations)
    info_at = plt_at + 24 * len(plt)
    head_end = info_at + (len(info) if info is not None else 0)
    code_at = (head_end + PAGE - 1) & -PAGE
    data_at = (code_at + len(code) + PAGE - 1) & -PAGE
    data_address = data_at + 0x1000 + 0x80  # neither at its file offset nor at a page's start
    dynamic_at = len(tdata) + (-len(tdata) % 16)
    dynamic = [(5, strings_at), (6, symbols_at), (7, rela_at), (10, string_bytes), (3, data_address + 0x400)]
    if needed:
        dynamic.append((1, needed_at))
    dynamic.append((0, 0))
    numbers_at = dynamic_at + 16 * len(dynamic)
    data = bytearray(tdata.ljust(dynamic_at, b"\0"))
    data += b"".join(struct.pack("<QQ", *one) for one in dynamic)
    data += b"\x11" * 64
    bss_address = data_address + len(data)

    for name, place, size, section in slots:
        value = data_address + numbers_at + place if place >= 0 else bss_address + (-place - 1)
        export(name, value, size, section)
    for name, value in (defined or {}).items():
        export(name, value)
    for name in undefined:
        export(name, 0, 0, 0, 0x20 if name.startswith("weak") else 0x10)
    names += needed.encode() + b"\0"
    if len(names) != string_bytes:
        raise AssertionError

    body = bytearray(code_at)
    for at, content in (
        (symbols_at, b"".join(table)),
        (strings_at, names),
        (rela_at, b"".join(struct.pack("<QQq", *one) for one in relocations)),
        (plt_at, b"".join(struct.pack("<QQq", *one) for one in plt)),
        (info_at, info or b""),
    ):
        body[at : at + len(content)] = content
    body += code.ljust(data_at - code_at, b"\0") + data

    section_names = b"\0"
    rows = [bytes(64)]

    def section(
        name: str,
        kind: int,
        address: int,
        at: int,
        size: int,
        *,
        link: int = 0,
        align: int = 8,
        entry: int = 0,
    ) -> None:
        nonlocal section_names
        rows.append(
            struct.pack("<IIQQQQIIQQ", len(section_names), kind, 2, address, at, size, link, 0, align, entry)
        )
        section_names += name.encode() + b"\0"

    section(".dynsym", 11, symbols_at, symbols_at, 24 * (count + 1), link=2, entry=24)
    section(".dynstr", 3, strings_at, strings_at, string_bytes)
    if relocations:
        section(".rela.dyn", 4, rela_at, rela_at, 24 * len(relocations), link=1, entry=24)
    if plt:
        section(".rela.plt", 4, plt_at, plt_at, 24 * len(plt), link=1, entry=24)
    if info is not None:
        section(".oeinfo", 1, info_at, info_at, len(info))
    if tdata:
        section(".tdata", 1, data_address, data_at, len(tdata), align=tls_align)
    if tbss:
        section(".tbss", 8, data_address + len(tdata), data_at, tbss, align=tls_align)
    section(".init_array", 14, data_address + 0x40, data_at, 16)
    section(
        ".dynamic", 6, data_address + dynamic_at, data_at + dynamic_at, 16 * len(dynamic), link=2, entry=16
    )
    section(".text", 1, code_at, code_at, len(code))
    while len(body) % 8:
        body.append(0)
    table.append(struct.pack("<IBBHQQ", len(names), 0x11, 0, 1, data_address + dynamic_at, 0))
    all_names = names + b"_DYNAMIC\0"
    everything = b"".join(table)
    section(".symtab", 2, 0, len(body), len(everything), link=len(rows) + 1, entry=24)
    section(".strtab", 3, 0, len(body) + len(everything), len(all_names))
    body += everything + all_names
    section(".shstrtab", 3, 0, 0, 0)
    while len(body) % 8:
        body.append(0)
    shstrtab_at = len(body)
    body += section_names
    while len(body) % 8:
        body.append(0)
    sections_at = len(body)
    last = bytearray(rows[-1])
    struct.pack_into("<QQ", last, 24, shstrtab_at, len(section_names))
    body += b"".join(rows[:-1]) + last + tail

    programs = [
        (1, 4, 0, 0, head_end, head_end, PAGE),
        (1, 5, code_at, code_at, len(code), len(code), PAGE),
        (1, 6, data_at, data_address, len(data), len(data) + BSS, PAGE),
        (2, 6, data_at + dynamic_at, data_address + dynamic_at, 16 * len(dynamic), 16 * len(dynamic), 8),
    ]
    if tdata or tbss:
        size = len(tdata)
        programs.append((7, 4, data_at, data_address, size, size + tbss, header_align or tls_align))
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(identity, 3, 62, 1, code_at + ENTRY, 64, sections_at, 0),
        *(64, 56, len(programs), 64, len(rows), len(rows) - 1),
    )
    for kind, flags, offset, address, file_size, memory_size, align in programs:
        header += struct.pack(
            "<IIQQQQQQ", kind, flags, offset, address, address, file_size, memory_size, align
        )
    body[: len(header)] = header
    return bytes(body)


def number(data: bytes, name: str) -> int:
    """Tell the number of a symbol in `.dynsym`, for relocations that name it."""
    (sections_at,) = struct.unpack_from("<Q", data, 40)
    at, size = struct.unpack_from("<QQ", data, sections_at + 64 + 24)
    strings = struct.unpack_from("<Q", data, sections_at + 128 + 24)[0]
    for index in range(size // 24):
        start = strings + struct.unpack_from("<I", data, at + 24 * index)[0]
        if data[start : data.index(b"\0", start)] == name.encode():
            return index
    raise KeyError(name)


def ego_program(config: bytes = b"", **how: Any) -> bytes:
    """Write an EGo program: its compiler reserves 4096 bytes of `.oeinfo`; `ego sign` appends the configuration.

    Args:
        config: what is appended; nothing: not signed yet.
        how: of `open_enclave_elf`.
    """
    room = b"\x5a" * 16 + bytes(0x1000 - 16)  # found again below
    how = {"symbols": (), "module_info": 0, "seed": b"goes", **how}
    data = bytearray(open_enclave_elf(room, **how))
    at = data.index(room)
    data[at : at + 16] = bytes(16)
    if config:
        struct.pack_into("<QQ", data, at + 0x800, len(data), len(config))
    return bytes(data) + config
