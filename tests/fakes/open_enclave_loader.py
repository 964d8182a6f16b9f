"""A second loader of Open Enclave files, written from the facts alone: the oracle of the tests.

It is straight: one array of bytes for each file's memory, one list of what is added, one hash. It shares no
code with what it checks.
"""

from __future__ import annotations

import hashlib
import struct

PAGE = 4096


def up(value: int, unit: int = PAGE) -> int:
    return (value + unit - 1) // unit * unit


class File:
    """An ELF file as the straight loader reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.entry, phoff, shoff = struct.unpack_from("<QQQ", data, 24)
        phnum, _, shnum, names = struct.unpack_from("<HHHH", data, 56)
        self.programs = [struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * i) for i in range(phnum)]
        rows = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + 64 * i) for i in range(shnum)]
        self.sections = {data[rows[names][4] + row[0] :].split(b"\0", 1)[0].decode(): row for row in rows}
        self.loads = [one for one in self.programs if one[0] == 1]
        self.size = up(max(one[3] + one[6] for one in self.loads))
        self.memory = bytearray(self.size)
        for _, _, offset, address, _, file_size, _, _ in self.loads:
            self.memory[address : address + file_size] = data[offset : offset + file_size]

    def content(self, name: str) -> bytes:
        row = self.sections.get(name)
        return b"" if row is None else self.data[row[4] : row[4] + row[5]]

    def symbol(self, index: int) -> tuple[str, int, int, int]:
        at, _, _, section, value, size = struct.unpack_from("<IBBHQQ", self.content(".dynsym"), 24 * index)
        return self.content(".dynstr")[at:].split(b"\0", 1)[0].decode(), section, value, size

    @property
    def symbols(self) -> dict[str, tuple[int, int, int]]:
        every = [self.symbol(index) for index in range(1, len(self.content(".dynsym")) // 24)]
        return {name: (section, value, size) for name, section, value, size in every}

    def put(self, name: str, value: int) -> None:
        if name in self.symbols:
            struct.pack_into("<Q", self.memory, self.symbols[name][1], value)


def straight(
    data: bytes,
    *linked: bytes,
    tls_pages: bool = True,
    clear: bool = False,
    six_pages: bool = False,
    end_not_size: bool = False,
    gs_first: bool = False,
    with_plt: bool = True,
    align: int = 0,
    got: bool = True,
    payload: bytes = b"",
    record: int = 40,
) -> bytes:
    """Give MRENCLAVE.

    Args:
        data: the main file.
        linked: shared objects; for EGo the program first.
        tls_pages: and the others: what differs between releases.
        got: DT_PLTGOT of a linked file gets a relocation.
        payload: EGo's configuration; the first linked file is a program then.
        record: size of a record of `_module_info`.
    """
    files = [File(data), *(File(one) for one in linked)]
    file = files[0]
    bases, at = [], 0
    for one in files:
        bases.append(at)
        at += one.size
    image_size = at

    relocations = bytearray()
    for base, one in zip(bases, files, strict=True):
        table = bytearray(one.content(".rela.dyn") + (one.content(".rela.plt") if with_plt else b""))
        for row in range(0, len(table), 24):
            where, info, addend = struct.unpack_from("<QQq", table, row)
            name, section, value, _ = one.symbol(info >> 32)
            kind = info & 0xFFFFFFFF
            if kind == 18:
                addend = value
            elif linked and kind == 8:
                addend += base
            elif linked and kind in {1, 6, 7}:
                found = [(base, one)] if section else []
                others = list(zip(bases, files, strict=True))[1:] if one is file else [(0, file)]
                found += [pair for pair in others if pair[1].symbols.get(name, (0,))[0]]
                if found:
                    own = addend if kind == 1 else 0
                    addend = found[0][0] + found[0][1].symbols[name][1] + own
                info = (info >> 32 << 32) | 8
            struct.pack_into("<QQq", table, row, where + base, info, addend)
        relocations += table
        if one is not file:
            row = one.sections[".dynamic"]
            for index in range(row[5] // 16):
                tag, value = struct.unpack_from("<QQ", one.data, row[4] + 16 * index)
                if tag == 0:
                    break
                if tag in {5, 6, 7} or (tag == 3 and got):
                    relocations += struct.pack("<QQQ", base + row[3] + 16 * index + 8, 8, base + value)
    relocations += bytes(-len(relocations) % PAGE)

    info_at = file.sections[".oeinfo"][3]
    if payload:  # the program's properties are the enclave's
        program = files[1]
        own_at = program.sections[".oeinfo"][3]
        size = struct.unpack_from("<I", program.memory, own_at)[0]
        file.memory[info_at : info_at + size] = program.memory[own_at : own_at + size]
    size, _, heap, stack, threads, _, _, flags = struct.unpack_from("<IIQQQHHI", file.memory, info_at)
    start = struct.unpack_from("<Q", file.memory, info_at + 88)[0] if size == 1960 and flags & 2 else 0
    image_info = info_at + {1960: 96, 1952: 88, 1920: 56}[size]
    if payload:
        signature_at = own_at + image_info - info_at + 48
        program.memory[signature_at : signature_at + 1808] = bytes(1808)

    tdata, tbss = file.sections.get(".tdata"), file.sections.get(".tbss")
    align = align or (tdata[8] if tdata else 1)
    tls = up(tdata[5], align) if tdata else 0
    tls += up(tbss[5], tbss[8]) if tbss else 0
    tls = up(tls) // PAGE if tls_pages else 1

    heap_at = image_size + len(relocations) + up(len(payload))
    total = heap_at + heap * PAGE
    total += threads * PAGE * (stack + 2 + (6 if six_pages else 5 + tls))
    enclave_size = 1
    while enclave_size < total:
        enclave_size *= 2
    if clear:
        file.memory[40:48] = bytes(8)
        file.memory[60:64] = bytes(4)
    struct.pack_into(
        "<QQQQQQ",
        file.memory,
        image_info,
        *(info_at, size, image_size, len(relocations), heap_at),
        total if end_not_size else enclave_size,
    )
    file.memory[image_info + 48 : image_info + 48 + 1808] = bytes(1808)
    file.put("_enclave_rva", file.symbols["_enclave_rva"][1])
    file.put("_reloc_rva", image_size)
    file.put("_reloc_size", len(relocations))
    if tdata:
        file.put("_tdata_rva", tdata[3])
        file.put("_tdata_size", tdata[5])
        file.put("_tdata_align", align)
    if tbss:
        file.put("_tbss_size", tbss[5])
        file.put("_tbss_align", tbss[8])
    file.put("_td_from_tcs_offset", (tls + 4) * PAGE)
    for index, one in enumerate(files[1:]):
        init = one.sections[".init_array"]
        numbers = [bases[index + 1], bases[index + 1] + init[3], init[5], 0, 0]
        numbers.append(len(payload) if index == 0 else 0)
        mine, zeros = one.sections.get(".tdata"), one.sections.get(".tbss")
        if mine:
            whole = up(mine[5], mine[8]) + (up(zeros[5], zeros[8]) if zeros else 0)
            numbers += [mine[3], mine[5], whole]
        content = struct.pack(f"<{len(numbers)}Q", *numbers)[:record]
        where = file.symbols["_module_info"][1] + index * record
        file.memory[where : where + len(content)] = content

    secs_size = enclave_size
    while start and secs_size < total + start:
        secs_size *= 2
    stream = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ", 1, secs_size) + bytes(44))

    def add(address: int, flags: int, content: bytes | None) -> None:
        address += start
        stream.update(b"EADD\0\0\0\0" + struct.pack("<QQ", address, flags) + bytes(40))
        for at in range(0, PAGE if content is not None else 0, 256):
            stream.update(b"EEXTEND\0" + struct.pack("<Q", address + at) + bytes(48))
            stream.update((content or b"")[at : at + 256])

    for base, one in zip(bases, files, strict=True):
        for _, bits, _, address, _, _, memory_size, _ in one.loads:
            flags_of = 0x200 | (bits >> 2 & 1) | (bits & 2) | (bits & 1) << 2
            for page in range(address // PAGE * PAGE, address + memory_size, PAGE):
                add(base + page, flags_of, bytes(one.memory[page : page + PAGE]))
    at = image_size
    for content in (bytes(relocations), payload):
        for page in range(0, len(content), PAGE):
            add(at, 0x201, content[page : page + PAGE].ljust(PAGE, b"\0"))
            at += PAGE
    for _ in range(heap):
        add(at, 0x207 if flags & 4 else 0x203, None)
        at += PAGE
    for _ in range(threads):
        at += PAGE
        for _ in range(stack):
            add(at, 0x203, b"\xcc" * PAGE)
            at += PAGE
        at += PAGE
        fs = start + at + (tls + 4) * PAGE
        gs = start + at + 4 * PAGE if gs_first else fs
        tcs = struct.pack("<QQQII", 0, 0, start + at + PAGE, 0, 2)
        tcs += struct.pack("<QQQQII", start + file.entry, 0, fs, gs, 0xFFFFFFFF, 0xFFFFFFFF)
        add(at, 0x100, tcs.ljust(PAGE, b"\0"))
        for extra in (1, 2, *range(4, 5 + tls)):
            add(at + extra * PAGE, 0x203, bytes(PAGE))
        at += (5 + tls) * PAGE
    return stream.digest()
