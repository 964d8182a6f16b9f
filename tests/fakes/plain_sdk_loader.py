"""What an SDK loader does with an enclave file, written down plainly: page after page, one hash update each.

The oracle of the tests that make enclave files. It shares no code with the product and trusts the file.
Source: facts of the SDK's loader, proved against its signing tool.
"""

from __future__ import annotations

import hashlib
import struct

PAGE = 4096


def plain_mrenclaves(file: bytes) -> list[str]:
    """Give MRENCLAVE in hex for each metadata record of a file that the tests made."""
    block = file.index(b"\x0d\0\0\0", file.index(b"sgx_metadata\0") - 12) + 25
    found = []
    while file[block : block + 8] == bytes.fromhex("4c0e5d639402a886"):
        size = int.from_bytes(file[block + 16 : block + 20], "little")
        found.append(_mrenclave(file, file[block : block + size]))
        block += size
    return found


class _Cpu:
    def __init__(self, size: int, ssa: int, shift: int) -> None:
        self.hash = hashlib.sha256(
            b"ECREATE\0" + ssa.to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(44)
        )
        self.shift = shift

    def page(self, address: int, flags: int, content: bytes | None) -> None:
        address += self.shift
        self.hash.update(
            b"EADD\0\0\0\0" + address.to_bytes(8, "little") + flags.to_bytes(8, "little") + bytes(40)
        )
        if content is not None:
            assert len(content) == PAGE
            for chunk in range(16):
                where = (address + 256 * chunk).to_bytes(8, "little")
                self.hash.update(b"EEXTEND\0" + where + bytes(48) + content[256 * chunk : 256 * chunk + 256])


def _mrenclave(file: bytes, record: bytes) -> str:
    minor, major = struct.unpack_from("<II", record, 8)
    (ssa,) = struct.unpack_from("<I", record, 24)
    (size,) = struct.unpack_from("<Q", record, 40)
    directories = struct.unpack_from("<8I", record.ljust(0x800, b"\0"), 0x750)
    shift = 0
    if major > 10:
        image, start, size = struct.unpack_from("<QQQ", record, directories[4])
        shift = image - start
    cpu = _Cpu(size, ssa, shift)
    writable = _text_relocations(file)

    patched = bytearray(file)
    for at in range(directories[0], directories[0] + directories[1], 32):
        to, source, length = struct.unpack_from("<QII", record, at)
        patched[to : to + length] = record[source : source + length]

    loads = _program_headers(file, 1)
    last: tuple[int, int, int] | None = None  # address, memory, SECINFO.FLAGS
    for _, flags, offset, address, _, in_file, memory, _ in loads:
        secinfo = 0x200 | (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
        if (major, minor) == (1, 3) and last:
            _odd_page(cpu, last, address // PAGE * PAGE)
        if last is None or address > last[0]:
            last = address, memory, secinfo
        _load(cpu, patched, (secinfo, offset, address, in_file, memory), writable)
    if (major, minor) == (1, 3) and last:
        _odd_page(cpu, last, 1 << 60)

    if directories[7] and ((major % 10 == 3 and minor >= 2) or (major % 10 == 1 and minor >= 5)):
        _, _, entry, _ = struct.unpack_from("<IIII", record, directories[6])
        start, base, length, _ = struct.unpack_from("<QQQQ", record, entry)
        for _, flags, offset, address, _, in_file, memory, _ in _program_headers(
            file[start : start + length], 1
        ):
            secinfo = 0x200 | (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2
            _load(cpu, patched, (secinfo, start + offset, base + address, in_file, memory), set())

    _layout(cpu, record, directories[2], directories[2] + directories[3], 0)
    return cpu.hash.hexdigest()


def _program_headers(file: bytes, kind: int) -> list[tuple[int, ...]]:
    (at,) = struct.unpack_from("<Q", file, 32)
    (count,) = struct.unpack_from("<H", file, 56)
    rows = [struct.unpack_from("<IIQQQQQQ", file, at + 56 * index) for index in range(count)]
    return [row for row in rows if row[0] == kind]


def _text_relocations(file: bytes) -> set[int]:
    """Pages that a relocation touches, if the file says it has text relocations."""
    tags = {}
    for _, _, offset, _, _, size, _, _ in _program_headers(file, 2):
        for at in range(offset, offset + size, 16):
            tag, value = struct.unpack_from("<QQ", file, at)
            tags.setdefault(tag, value)
    if 22 not in tags:
        return set()
    pages = set()
    for table, length in ((7, 8), (23, 2)):
        for _, _, offset, address, _, in_file, _, _ in _program_headers(file, 1):
            if address <= tags[table] < address + in_file:
                for at in range(
                    offset + tags[table] - address, offset + tags[table] - address + tags[length], 24
                ):
                    where, kind = struct.unpack_from("<QI", file, at)
                    if kind:
                        pages |= {byte // PAGE for byte in range(where, where + 8)}
    return pages


def _load(cpu: _Cpu, file: bytearray, segment: tuple[int, int, int, int, int], writable: set[int]) -> None:
    secinfo, offset, address, in_file, memory = segment
    if not memory:
        return
    for page in range(address // PAGE, (address + memory + PAGE - 1) // PAGE):
        content = bytearray(PAGE)
        from_file = False
        for byte in range(PAGE):
            inside = page * PAGE + byte - address
            if 0 <= inside < in_file:
                content[byte] = file[offset + inside]
                from_file = True
        more = 2 if from_file and page in writable else 0
        cpu.page(page * PAGE, secinfo | more, bytes(content))


def _odd_page(cpu: _Cpu, last: tuple[int, int, int], limit: int) -> None:
    address, memory, secinfo = last
    end = (address + memory + PAGE - 1) // PAGE * PAGE
    other = ((memory + PAGE - 1) // PAGE * PAGE + address + PAGE - 1) // PAGE * PAGE
    if end < other and end < limit:
        cpu.page(end, secinfo, bytes(PAGE))


def _layout(cpu: _Cpu, record: bytes, start: int, stop: int, moved: int) -> None:
    for at in range(start, stop, 32):
        ident, attributes, pages, address, size, source, flags = struct.unpack_from("<HHIQIIQ", record, at)
        if ident & 0x1000:
            for turn in range(pages):
                _layout(cpu, record, at - 32 * attributes, at, address * (turn + 1))
        elif attributes & 1 and source and flags == 0x100:
            page = bytearray(record[source : source + size].ljust(PAGE, b"\0"))
            for field in (16, 48, 56):
                value = int.from_bytes(page[field : field + 8], "little") + address + moved
                page[field : field + 8] = (value % 2**64).to_bytes(8, "little")
            for turn in range(pages):
                cpu.page(address + moved + PAGE * turn, flags, bytes(page) if attributes & 2 else None)
        elif attributes & 1 and source:
            content = record[source : source + size].ljust(pages * PAGE, b"\0")
            for page in range(pages):
                cpu.page(address + moved + PAGE * page, flags, content[PAGE * page : PAGE * page + PAGE])
        elif attributes & 1 and flags:
            filled = size.to_bytes(4, "little") * 1024 if attributes & 2 else None
            for page in range(pages):
                cpu.page(address + moved + PAGE * page, flags, filled)
