"""Protected files of Intel's SDK in the mode *integrity only*, which Occlum added: checked without a key.

A file is nodes of 4096 bytes: metadata, then a tree of AES-GMACs over the data. In this mode nothing is
encrypted, and every GMAC has the all-zero key that everybody knows. It finds damage; it is no digest: who may
choose 16 bytes makes another file with the same MAC (a test does). So a MAC that MRENCLAVE covers does not
bind content against somebody who writes the image.

Units: bytes; a MAC has 16.
Source: occlum/linux-sgx, branch sgx_2.16_for_occlum, sdk/protected_fs/sgx_tprotected_fs.
"""

from __future__ import annotations

import re
import struct
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provenance.errors import UsageError

NODE: Final = 4096
FILE_ID: Final = 0x5347585F46494C45  # "SGX_FILE"
_PLAIN: Final = struct.Struct("<QBB32s16sHB16s16sBB")
_SEALED: Final = struct.Struct("<260sq16sI16s16s")  # "encrypted part"; 3072 bytes of content follow
_INLINE: Final = 3072
_SEALED_BYTES: Final = _SEALED.size + _INLINE
_DATA_PER_TABLE: Final = 96
_TABLES_PER_TABLE: Final = 32
_IV: Final = bytes(12)
_KEY: Final = bytes(16)
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){15}")


class BadProtectedFile(UsageError):
    """A protected file is damaged: a node does not have the MAC that its parent states.

    Cure: build the Occlum instance again; the image was changed after `occlum build`.
    """

    code = "RVP-5053"


class ProtectedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a protected file says.

    Attributes:
        mac: what names the file where it is used.
        content: the plain content; None for a file that is encrypted.
        name: that it was written under.
    """

    mac: bytes
    content: bytes | None
    name: str = ""


def read_protected_file(data: bytes, *, name: str = "") -> ProtectedFile:
    """Read a protected file; in the mode integrity only every MAC is recomputed.

    Raises:
        BadProtectedFile: RVP-5053.
    """

    def bad(message: str) -> BadProtectedFile:
        return BadProtectedFile(message, place=name)

    if len(data) < NODE or len(data) % NODE:
        raise bad(f"{len(data)} bytes are no protected file: it has whole nodes of {NODE}")
    plain = _PLAIN.unpack_from(data)
    identity, major, mac, is_open = plain[0], plain[1], plain[8], plain[10]
    if identity != FILE_ID or major != 1:
        raise bad(f"the header is {data[:10].hex()}, expected that of a protected file, version 1")
    if is_open != 1:
        return ProtectedFile(mac=mac, content=None)
    sealed = data[_PLAIN.size : _PLAIN.size + _SEALED_BYTES]
    if gmac(_KEY, sealed) != mac:
        raise bad(f"the metadata has the MAC {gmac(_KEY, sealed).hex()}, it states {mac.hex()}")
    written, size, _, _, key, root = _SEALED.unpack_from(sealed)
    if not 0 <= size <= len(data):
        raise bad(f"it states a content of {size} bytes")
    content = bytearray(sealed[_SEALED.size :][: min(size, _INLINE)])
    nodes = -(-max(size - _INLINE, 0) // NODE)
    tables: dict[int, bytes] = {}
    for number in range(-(-nodes // _DATA_PER_TABLE)):
        if number:
            parent = tables[(number - 1) // _TABLES_PER_TABLE]
            key, root = _entry(parent, _DATA_PER_TABLE + (number - 1) % _TABLES_PER_TABLE)
        tables[number] = _node(data, 1 + number * (1 + _DATA_PER_TABLE), key, root, name)
    for number in range(nodes):
        key, expected = _entry(tables[number // _DATA_PER_TABLE], number % _DATA_PER_TABLE)
        content += _node(data, 2 + number + number // _DATA_PER_TABLE, key, expected, name)
    return ProtectedFile(
        mac=mac, content=bytes(content[:size]), name=written.partition(b"\0")[0].decode("utf-8", "replace")
    )


def gmac(key: bytes, data: bytes) -> bytes:
    """Compute AES-GMAC with an IV of zeros."""
    return AESGCM(key).encrypt(_IV, b"", data)


def _entry(table: bytes, number: int) -> tuple[bytes, bytes]:
    return table[number * 32 : number * 32 + 16], table[number * 32 + 16 : number * 32 + 32]


def _node(data: bytes, number: int, key: bytes, expected: bytes, name: str) -> bytes:
    node = data[number * NODE : (number + 1) * NODE]
    if len(node) != NODE:
        raise BadProtectedFile(f"node {number} is missing: the file is cut", place=name)
    if gmac(key, node) != expected:
        raise BadProtectedFile(
            f"node {number} has the MAC {gmac(key, node).hex()}, its parent states {expected.hex()}",
            place=name,
        )
    return node


def parse_mac(text: str) -> bytes | None:
    """Read a MAC as Occlum writes it: 16 bytes of hex with hyphens.

    Example:
        >>> parse_mac("-".join(["0a"] * 16)).hex() == "0a" * 16
        True
        >>> parse_mac("0a") is None
        True
    """
    found = text.strip("\0 \n")
    return bytes.fromhex(found.replace("-", "")) if _MAC.fullmatch(found) else None
