"""An ELF file with sections and symbols where a test wants them, and the enclave that it is mapped into."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages, Part

READ, READ_WRITE, READ_EXECUTE = 0x201, 0x203, 0x205


def symbol_elf(
    sections: Sequence[tuple[str, int, bytes]], symbols: Sequence[tuple[str, int, int]] = ()
) -> bytes:
    """Write it: sections are (name, address, content), symbols (name, address, size); not to be loaded."""
    body = bytearray(64)
    headers = [bytes(64)]
    names = bytearray(b"\0")

    def add(name: str, kind: int, flags: int, address: int, content: bytes, link: int = 0) -> None:
        body.extend(bytes(-len(body) % 8))
        headers.append(
            struct.pack(
                "<IIQQQQIIQQ", len(names), kind, flags, address, len(body), len(content), link, 0, 1, 0
            )
        )
        names.extend(name.encode() + b"\0")
        body.extend(content)

    for name, address, content in sections:
        add(name, 1, 2, address, content)
    if symbols:
        strings, table = bytearray(b"\0"), bytearray(24)
        for name, address, size in symbols:
            table += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, address, size)
            strings += name.encode() + b"\0"
        add(".symtab", 2, 0, 0, bytes(table), link=len(headers) + 1)
        add(".strtab", 3, 0, 0, bytes(strings))
    names_at = len(headers)
    names_content = bytes(names) + b".shstrtab\0"
    add(".shstrtab", 3, 0, 0, names_content)
    body.extend(bytes(-len(body) % 8))
    at = len(body)
    body += b"".join(headers)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 3, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(headers), names_at
    )
    return bytes(body)


def segment(number: int, address: int, flags: int, content: bytes) -> Pages:
    """Make a segment's pages."""
    letters = "".join(letter if flags & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    data = content.ljust(-(-len(content) // PAGE) * PAGE, b"\0")
    return Pages(
        address=address,
        count=len(data) // PAGE,
        flags=flags,
        content=data,
        label=f"segment {number} {letters}",
    )


def enclave(
    *parts: Part,
    elf: bytes = b"",
    size: int = 1 << 24,
    ssa: int = 1,
    layout: str = "test",
    base: int = 0,
    **facts: str | int,
) -> Enclave:
    """Make an enclave of some parts, with an ELF file for labels."""
    return Enclave(
        layout=layout,
        image=EnclaveImage(size_bytes=size, ssa_frame_size=ssa, parts=parts),
        elves=(MappedElf(elf=Elf(memoryview(elf)), base=base),) if elf else (),
        facts=facts,
    )
