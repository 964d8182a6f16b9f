"""Enclave files in the form of Intel's SDK, made without it: any metadata version, any layout.

The files are written from plain lists: segments, relocations, patches, layout entries. Nothing in them runs.

Example:
    >>> text = Segment(address=0x1000, content=b"code", flags=5)
    >>> record = Record(version=(2, 4), size=0x10000, layout=(Entry(address=0x2000, attributes=1, flags=0x203),))
    >>> sdk_file((text,), (record,))[:4]
    b'\\x7fELF'
"""

from __future__ import annotations

import struct

import msgspec

PAGE = 4096
MAGIC = 0x86A80294635D0E4C
BLOCK = 0x20000
SIGSTRUCT = bytes.fromhex("06000000e100000000000100").ljust(1808, b"\0")


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A loadable segment; `flags` are p_flags: 4 R, 2 W, 1 X; more memory than content is zeros."""

    address: int
    content: bytes = b""
    memory: int = 0
    flags: int = 4


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the layout table; with `repeat` (entries, times, step) a group."""

    ident: int = 1
    address: int = 0
    pages: int = 1
    attributes: int = 3
    flags: int = 0x203
    fill: int = 0
    content: bytes = b""
    repeat: tuple[int, int, int] | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A metadata record; `patches` are file offset and bytes, `module` is where the appended file is loaded."""

    version: tuple[int, int]
    size: int
    ssa: int = 1
    layout: tuple[Entry, ...] = ()
    patches: tuple[tuple[int, bytes], ...] = ()
    elrange: tuple[int, int, int] | None = None
    module: int | None = None


def record_bytes(record: Record, place: tuple[int, int], sigstruct: bytes = SIGSTRUCT) -> bytes:
    """Write a record; `place` is offset and size of the appended module in the file."""
    major, minor = record.version
    room = 4 if (major % 10 == 3 and minor >= 2) or (major % 10 == 1 and minor >= 5) else 2
    room = max(room, 3 if record.elrange else 0)
    data = bytearray(0x750 + 8 * room)
    directories = [(0, 0)] * room

    def put(content: bytes) -> int:
        at = len(data)
        data.extend(content)
        return at

    rows = []
    for one in record.layout:
        if one.repeat:
            rows.append(struct.pack("<HHIQ16x", one.ident | 0x1000, *one.repeat))
            continue
        at = put(one.content) if one.content else 0
        size = len(one.content) if one.content else one.fill
        rows.append(
            struct.pack("<HHIQIIQ", one.ident, one.attributes, one.pages, one.address, size, at, one.flags)
        )
    patches = [struct.pack("<QII16x", to, put(content), len(content)) for to, content in record.patches]
    directories[0] = put(b"".join(patches)), 32 * len(patches)
    directories[1] = put(b"".join(rows)), 32 * len(rows)
    if record.elrange:
        directories[2] = put(struct.pack("<QQQ", *record.elrange)), 24
    if record.module is not None:
        entry = put(struct.pack("<QQQQ", place[0], record.module, place[1], 0))
        directories[3] = put(struct.pack("<IIII", 0x1002, 32, entry, 0)), 16
    for index, directory in enumerate(directories):
        struct.pack_into("<II", data, 0x750 + 8 * index, *directory)
    head = struct.pack(
        "<QIIIIIIIIQ16s", MAGIC, minor, major, len(data), 1, record.ssa, 0, 0, 0, record.size, b""
    )
    data[: len(head)] = head
    data[64 : 64 + 1808] = sigstruct
    return bytes(data)


def sdk_file(
    segments: tuple[Segment, ...],
    records: tuple[Record, ...] = (),
    *,
    relocations: tuple[tuple[int, int], ...] | None = None,
    module: bytes = b"",
    sigstruct: bytes = SIGSTRUCT,
) -> bytes:
    """Write an enclave file.

    Args:
        segments: in the order of the program headers.
        records: of the metadata; none: a shared object without the note.
        relocations: r_offset and type of text relocations; the last segment's content gets the table.
        module: another ELF file to append.
        sigstruct: in every record.
    """
    segments, dynamic = _with_relocations(segments, relocations)
    body = bytearray(64 + 56 * (len(segments) + 1))
    headers = []
    for one in segments:
        while len(body) % PAGE != one.address % PAGE:
            body.append(0)
        memory = max(one.memory, len(one.content))
        at = len(body)
        headers.append((1, one.flags, at, one.address, 0, len(one.content), memory, PAGE))
        if dynamic and one is segments[-1]:
            headers.append((2, 6, at + dynamic[0], one.address + dynamic[0], 0, dynamic[1], dynamic[1], 8))
        body += one.content
    names = b"\0.note.sgxmeta\0.shstrtab\0"
    names_at = len(body)
    body += names.ljust(32, b"\0")
    note_at = len(body)
    note = struct.pack("<III", 13, BLOCK, 1) + b"sgx_metadata\0"
    if records:
        body += note + bytes(BLOCK)
    sections_at = len(body)
    body += bytes(64) + struct.pack("<IIQQQQIIQQ", 15, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    if records:
        size = len(note) + BLOCK
        body += struct.pack("<IIQQQQIIQQ", 1, 7, 0, 0, note_at, size, 0, 0, 1, 0)
    place = -(-len(body) // PAGE) * PAGE, len(module)
    block = b"".join(record_bytes(record, place, sigstruct) for record in records)
    assert len(block) <= BLOCK, "the records do not fit into their note"
    body[note_at + len(note) : note_at + len(note) + len(block)] = block
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        3,
        62,
        1,
        segments[0].address,
        64,
        sections_at,
        0,
        64,
        56,
        len(headers),
        64,
        3 if records else 2,
        1,
    )
    head += b"".join(struct.pack("<IIQQQQQQ", *one) for one in headers)
    body[: len(head)] = head
    if module:
        body = body.ljust(place[0], b"\0") + module
    return bytes(body)


def _with_relocations(
    segments: tuple[Segment, ...], relocations: tuple[tuple[int, int], ...] | None
) -> tuple[tuple[Segment, ...], tuple[int, int] | None]:
    """Put relocation table and dynamic section behind the last segment's content."""
    if relocations is None:
        return segments, None
    last = segments[-1]
    content = last.content.ljust(-(-len(last.content) // 8) * 8, b"\0")
    table = b"".join(struct.pack("<QQq", at, kind, 0) for at, kind in relocations)
    half = len(relocations) // 2 * 24  # two tables, as RELA and JMPREL
    tags = [(7, last.address + len(content)), (8, half)]
    tags += [(23, last.address + len(content) + half), (2, len(table) - half), (22, 0), (0, 0)]
    where = len(content) + len(table), 16 * len(tags)
    content += table + b"".join(struct.pack("<QQ", *tag) for tag in tags)
    return (*segments[:-1], msgspec.structs.replace(last, content=content)), where
