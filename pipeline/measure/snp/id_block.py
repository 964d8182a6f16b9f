"""The ID block: the owner's signed word on what a guest is; the processor launches nothing else under it.

    ID block (96 bytes): launch digest 48, family id 16, image id 16, u32 version 1, u32 guest SVN, u64 policy
    ID authentication (4096): u32 algorithms of ID and author key (1: P-384 with SHA-384, author 0: none),
    then
        0x40 signature over the ID block, 0x240 ID key, 0x680 signature over the ID key, 0x880 author key

A key is 1028 bytes: u32 curve 2 (P-384), X and Y of 72 bytes, zeros; a signature 512: R and S of 72 bytes,
zeros. All numbers are little-endian. The digest of a key is SHA-384 over its 1028 bytes; the report has
both digests.

Source: AMD, SEV-SNP firmware ABI (56860), SNP_LAUNCH_FINISH: tables of the ID block, of the ID authentication
information; chapter "Digital Signatures".
Cost: two signatures made or checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from provenance.errors import UsageError
from provenance.signers.remote_key import (
    KeyUnsuitable,
    RemoteKey,
    Scheme,
    describe,
    sign_and_verify,
    verifies,
)
from provenance.strict import read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

ID_BLOCK_BYTES: Final = 96
ID_AUTH_BYTES: Final = 4096
DEFAULT_POLICY: Final = 0x30000  # SMT allowed, and bit 17, which must be one. Source: QEMU, sev-snp-guest

_BLOCK: Final = struct.Struct("<48s16s16sIIQ")
_ECDSA_P384_SHA384: Final = 1
_CURVE_P384: Final = 2
_NUMBER: Final = 72
_KEY_BYTES: Final = 1028
_SIGNATURE_BYTES: Final = 512
_SIGNATURE_AT, _KEY_AT, _KEY_SIGNATURE_AT, _AUTHOR_AT = 0x40, 0x240, 0x680, 0x880
_SAID_BYTES: Final = 48  # of a number on P-384

# Policy bits. Source: AMD, SEV-SNP firmware ABI (56860), table "Guest Policy".
POLICY_BITS: Final = {
    16: "SMT allowed",
    18: "migration agent allowed",
    19: "debugging allowed",
    20: "single socket only",
    21: "CXL allowed",
    22: "AES-256-XTS required",
    23: "RAPL must be disabled",
    24: "ciphertext hiding required",
}
_POLICY_ONE: Final = 17
_POLICY_HIGHEST: Final = 24


class BadIdBlock(UsageError):
    """An ID block, its authentication information, or a value that is to stand in them, is not one.

    The message names the field, its offset and its value.
    Cure: make them with `rvp snp sign`; other tools write the same binary form, often in base64.
    """

    code = "RVP-5310"


class IdBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner says of a guest."""

    launch_digest: bytes
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0
    policy: int = DEFAULT_POLICY

    def write(self) -> bytes:
        """Write the 96 bytes.

        Raises:
            BadIdBlock: RVP-5310, for a value that does not fit.
        """
        for name, value, size in (
            ("launch digest", self.launch_digest, 48),
            ("family id", self.family_id, 16),
            ("image id", self.image_id, 16),
        ):
            if len(value) != size:
                raise BadIdBlock(f"the {name} has {len(value)} bytes, expected {size}")
        if not 0 <= self.guest_svn < 1 << 32:
            raise BadIdBlock(f"guest SVN {self.guest_svn} does not fit into 32 bits")
        check_policy(self.policy)
        return _BLOCK.pack(self.launch_digest, self.family_id, self.image_id, 1, self.guest_svn, self.policy)


class IdAuth(msgspec.Struct, frozen=True, kw_only=True):
    """Who says it: signatures and keys, in the form of the specification.

    Attributes:
        signature: over the ID block, 512 bytes.
        key: the ID key, 1028 bytes.
        key_signature: over the ID key, 512 bytes; empty without an author.
        author_key: 1028 bytes; empty without an author.
    """

    signature: bytes
    key: bytes
    key_signature: bytes = b""
    author_key: bytes = b""

    @property
    def id_key_digest(self) -> bytes:
        """What the report says of the ID key."""
        return hashlib.sha384(self.key).digest()

    @property
    def author_key_digest(self) -> bytes:
        """What the report says of the author key: zeros without one."""
        return hashlib.sha384(self.author_key).digest() if self.author_key else bytes(48)

    def write(self) -> bytes:
        """Write the 4096 bytes."""
        page = bytearray(ID_AUTH_BYTES)
        author = _ECDSA_P384_SHA384 if self.author_key else 0
        struct.pack_into("<II", page, 0, _ECDSA_P384_SHA384, author)
        for at, content in (
            (_SIGNATURE_AT, self.signature),
            (_KEY_AT, self.key),
            (_KEY_SIGNATURE_AT, self.key_signature),
            (_AUTHOR_AT, self.author_key),
        ):
            page[at : at + len(content)] = content
        return bytes(page)


def check_policy(policy: int, *, name: str = "") -> None:
    """Check that a guest policy is one that the processor accepts in principle.

    Raises:
        BadIdBlock: RVP-5310.
    """
    if not 0 <= policy < 1 << 64:
        raise BadIdBlock(f"policy {policy:#x} does not fit into 64 bits", place=name)
    if not policy >> _POLICY_ONE & 1:
        raise BadIdBlock(
            f"policy {policy:#018x}: bit 17 is reserved and must be one", place=name, hint="usual: 0x30000"
        )
    if policy >> (_POLICY_HIGHEST + 1):
        raise BadIdBlock(f"policy {policy:#018x}: bits above 24 are reserved and must be zero", place=name)


def policy_words(policy: int) -> tuple[str, ...]:
    """Say what a policy allows and asks for.

    Example:
        >>> policy_words(0x30000)
        ('SMT allowed',)
    """
    return tuple(words for bit, words in POLICY_BITS.items() if policy >> bit & 1)


def sign_id_block(block: IdBlock, id_key: RemoteKey, author_key: RemoteKey | None = None) -> IdAuth:
    """Sign an ID block, and the ID key with the author key.

    Args:
        block: what is said.
        id_key: P-384; a key file or elsewhere.
        author_key: P-384; vouches for the ID key.

    Raises:
        BadIdBlock: RVP-5310. KeyUnsuitable: RVP-6065. RemoteSignatureWrong: RVP-6066.
    """
    key = _write_key(id_key)
    auth = IdAuth(signature=_sign(id_key, block.write()), key=key)
    if author_key is None:
        return auth
    return msgspec.structs.replace(
        auth, key_signature=_sign(author_key, key), author_key=_write_key(author_key)
    )


def _sign(key: RemoteKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(sign_and_verify(key, data, Scheme.ECDSA_SHA384))
    return _pad(r.to_bytes(_NUMBER, "little") + s.to_bytes(_NUMBER, "little"), _SIGNATURE_BYTES)


def _write_key(key: RemoteKey) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey

    public = key.public_key()
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP384R1):
        raise KeyUnsuitable(
            f"the key is {describe(public)}; ID blocks are signed with P-384",
            place=key.name,
            hint="`rvp key generate --type p384`, or `openssl ecparam -name secp384r1 -genkey -noout`",
        )
    numbers = public.public_numbers()
    x, y = numbers.x.to_bytes(_NUMBER, "little"), numbers.y.to_bytes(_NUMBER, "little")
    return _pad(struct.pack("<I", _CURVE_P384) + x + y, _KEY_BYTES)


def _pad(data: bytes, size: int) -> bytes:
    return data + bytes(size - len(data))


def read_id_block(data: bytes, *, name: str = "") -> IdBlock:
    """Read an ID block.

    Raises:
        BadIdBlock: RVP-5310.
    """
    if len(data) != ID_BLOCK_BYTES:
        raise BadIdBlock(f"the ID block has {len(data)} bytes, expected {ID_BLOCK_BYTES}", place=name)
    digest, family, image, version, svn, policy = _BLOCK.unpack(data)
    if version != 1:
        raise BadIdBlock(f"version at 0x50 is {version}, only 1 is known", place=name)
    check_policy(policy, name=name)
    return IdBlock(launch_digest=digest, family_id=family, image_id=image, guest_svn=svn, policy=policy)


def read_id_auth(data: bytes, *, name: str = "") -> IdAuth:
    """Read ID authentication information; its reserved bytes must be zero.

    Raises:
        BadIdBlock: RVP-5310.
    """
    if len(data) != ID_AUTH_BYTES:
        raise BadIdBlock(f"the ID authentication has {len(data)} bytes, expected {ID_AUTH_BYTES}", place=name)
    algorithm, author = struct.unpack_from("<II", data)
    if algorithm != _ECDSA_P384_SHA384:
        raise BadIdBlock(
            f"the algorithm of the ID key at 0 is {algorithm}, only 1 (P-384) is known", place=name
        )
    if author not in {0, _ECDSA_P384_SHA384}:
        raise BadIdBlock(
            f"the algorithm of the author key at 4 is {author}, only 0 and 1 are known", place=name
        )
    auth = IdAuth(
        signature=data[_SIGNATURE_AT : _SIGNATURE_AT + _SIGNATURE_BYTES],
        key=data[_KEY_AT : _KEY_AT + _KEY_BYTES],
        key_signature=data[_KEY_SIGNATURE_AT : _KEY_SIGNATURE_AT + _SIGNATURE_BYTES] if author else b"",
        author_key=data[_AUTHOR_AT : _AUTHOR_AT + _KEY_BYTES] if author else b"",
    )
    if auth.write() != data:
        at = next(
            at for at, (left, right) in enumerate(zip(auth.write(), data, strict=True)) if left != right
        )
        raise BadIdBlock(
            f"the byte at {at:#x} is {data[at]:#04x}, it is reserved and must be zero", place=name
        )
    return auth


def read_binary(path: Path, size_bytes: int) -> bytes:
    """Read a file that holds so many bytes, or their base64 as QEMU takes it.

    Raises:
        NotReadable: RVP-1010. BadIdBlock: RVP-5310.
    """
    data = read_file(path, limit_bytes=1 << 16)
    if len(data) == size_bytes:
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise BadIdBlock(
            f"the file has {len(data)} bytes: neither {size_bytes}, nor base64 of them", place=str(path)
        ) from error


def signs(key: bytes, signature: bytes, data: bytes) -> bool:
    """Tell whether a signature over data is that of a key, both in the form of the specification."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    public = _public_of(key)
    r = int.from_bytes(signature[:_NUMBER], "little")
    s = int.from_bytes(signature[_NUMBER : 2 * _NUMBER], "little")
    if public is None or any(signature[2 * _NUMBER :]) or max(r, s) >> (8 * _SAID_BYTES):
        return False
    return verifies(public, encode_dss_signature(r, s), data, Scheme.ECDSA_SHA384)


def _public_of(key: bytes) -> EllipticCurvePublicKey | None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicNumbers

    x = int.from_bytes(key[4 : 4 + _NUMBER], "little")
    y = int.from_bytes(key[4 + _NUMBER : 4 + 2 * _NUMBER], "little")
    if key[:4] != struct.pack("<I", _CURVE_P384) or any(key[4 + 2 * _NUMBER :]):
        return None
    try:
        return EllipticCurvePublicNumbers(x, y, SECP384R1()).public_key()
    except ValueError:  # no point of the curve
        return None
