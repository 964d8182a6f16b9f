"""The cache of the dynamic loader, `/etc/ld.so.cache`, computed from the files: no ldconfig runs.

Without a cache the loader still searches its built-in folders; the cache adds the folders of
`/etc/ld.so.conf.d`, and programs that ask `ldconfig -p` find what they expect.

Source: glibc 2.36, sysdeps/generic/dl-cache.h (struct cache_file_new); elf/cache.c for the order.
Units: offsets are from the start of the file; integers are little-endian.
"""

from __future__ import annotations

import functools
import posixpath
import re
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pipeline.debian.rootfs import Image

_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER: Final = struct.Struct("<20sIIB3xIIII")
_ENTRY: Final = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN: Final = 2  # flags: cache_file_new_flags_endian_little
_TYPES: Final = {62: 0x0303, 183: 0x0A03, 243: 0x1003}  # e_machine: FLAG_ELF_LIBC6 and the 64-bit ABI
_DEFAULT_FOLDERS: Final = ("/lib", "/usr/lib")
_LIBRARY: Final = re.compile(r"(lib|ld-).*\.so(\.|\Z)|ld\.so")
_PT_LOAD, _PT_DYNAMIC, _DT_NULL, _DT_STRTAB, _DT_SONAME = 1, 2, 0, 5, 14


def make_cache(image: Image) -> bytes:
    """Make the cache of all libraries in the configured and the default folders."""
    entries: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    for folder in (*_configured(image), *_DEFAULT_FOLDERS):
        real = image.resolve(folder + "/x").removesuffix("/x")
        if real in seen:
            continue
        seen.add(real)
        prefix = real + "/"
        for path in sorted(image.nodes):
            name = path.removeprefix(prefix)
            if not path.startswith(prefix) or "/" in name or not _LIBRARY.match(name):
                continue
            flags, soname = _library(image, path)
            linked = image.nodes[path].kind == "symlink" and (name == soname or name.endswith(".so"))
            known = name if linked else soname or name
            if flags and (known == name or prefix + known not in image.nodes):
                entries.setdefault((known, f"{folder}/{name}"), flags)
    return _write(entries)


def _configured(image: Image) -> list[str]:
    folders: list[str] = []
    lines = image.content("etc/ld.so.conf").decode("utf-8", "replace").splitlines()
    while lines:
        line = lines.pop(0).partition("#")[0].strip()
        if line.startswith("include "):
            pattern = posixpath.join("/etc", line.removeprefix("include ").strip()).lstrip("/")
            wanted = re.compile(re.escape(pattern).replace(r"\*", "[^/]*") + r"\Z")
            for path in sorted(image.nodes, reverse=True):
                if wanted.match(path):
                    lines = image.content(path).decode("utf-8", "replace").splitlines() + lines
        elif line.startswith("/"):
            folders.append(line.rstrip("/"))
    return folders


def _library(image: Image, path: str) -> tuple[int, str]:
    """Read type and SONAME of a shared library; type 0 for what is none."""
    node = image.find(path)
    if node is None or node.kind != "file":
        return 0, ""
    head = image.head(node.path, 64)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        return 0, ""
    kind, machine = struct.unpack_from("<HH", head, 16)
    if kind != 3 or machine not in _TYPES:
        return 0, ""
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    headers = image.head(node.path, size * count, table)
    loads, dynamic = [], b""
    for at in range(0, len(headers) - 55, size or 56):
        segment, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", headers, at)
        if segment == _PT_LOAD:
            loads.append((address, offset, length))
        elif segment == _PT_DYNAMIC:
            dynamic = image.head(node.path, length, offset)
    values: dict[int, int] = {}
    for at in range(0, len(dynamic) - 15, 16):
        tag, value = struct.unpack_from("<qQ", dynamic, at)
        if tag == _DT_NULL:
            break
        values.setdefault(tag, value)
    if not dynamic:
        return 0, ""
    if _DT_SONAME not in values or _DT_STRTAB not in values:
        return _TYPES[machine], ""
    strings = values[_DT_STRTAB]
    for address, offset, length in loads:
        if address <= strings < address + length:
            where = offset + strings - address + values[_DT_SONAME]
            return _TYPES[machine], image.head(node.path, 256, where).partition(b"\0")[0].decode(
                "ascii", "replace"
            )
    return _TYPES[machine], ""


def _write(entries: dict[tuple[str, str], int]) -> bytes:
    ordered = sorted(entries, key=functools.cmp_to_key(_compare))
    start = _HEADER.size + _ENTRY.size * len(ordered)
    strings, places = bytearray(), {}
    for text in sorted({text for pair in ordered for text in pair}):
        places[text] = start + len(strings)
        strings += text.encode() + b"\0"
    body = b"".join(
        _ENTRY.pack(entries[name, path], places[name], places[path], 0, 0) for name, path in ordered
    )
    return (
        _HEADER.pack(_MAGIC, len(ordered), len(strings), _LITTLE_ENDIAN, 0, 0, 0, 0) + body + bytes(strings)
    )


def _compare(one: tuple[str, str], other: tuple[str, str]) -> int:
    """Order as the loader's binary search expects: descending by name, numbers as numbers."""
    return -_compare_names(one[0], other[0]) or (one[1] > other[1]) - (one[1] < other[1])


def _compare_names(one: str, other: str) -> int:
    """Compare as _dl_cache_libcmp does."""
    a = b = 0
    while a < len(one):
        left, right = one[a], other[b] if b < len(other) else ""
        if left.isdigit():
            if not right.isdigit():
                return 1
            first, second = re.match(r"\d+", one[a:]), re.match(r"\d+", other[b:])
            if first is None or second is None:
                return 0
            if int(first[0]) != int(second[0]):
                return int(first[0]) - int(second[0])
            a, b = a + len(first[0]), b + len(second[0])
        elif right.isdigit():
            return -1
        elif left != right:
            return ord(left) - (ord(right) if right else 0)
        else:
            a, b = a + 1, b + 1
    return -1 if b < len(other) else 0
