"""SSH signatures of git commits and tags: read and verified without git and without ssh-keygen.

A commit or a tag is its object's bytes: their hash is its id, so the bytes prove themselves. The signature
is over the object without the signature, in namespace `git`, by a key that the policy has listed.

Source: OpenSSH PROTOCOL.sshsig; git's signature-format documentation ("gpgsig" header, tag trailer).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

MAX_OBJECT_BYTES: Final = 1 << 20
_BEGIN: Final = b"-----BEGIN SSH SIGNATURE-----"
_END: Final = b"-----END SSH SIGNATURE-----"
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


class GitObject(msgspec.Struct, frozen=True, kw_only=True):
    """A commit or an annotated tag, taken apart.

    Attributes:
        kind: commit or tag.
        payload: the bytes that were signed.
        signature: the armoured SSH signature; empty when there is none.
        target: of a tag: the id of the object that it names.
        name: of a tag: its name.
    """

    kind: str
    payload: bytes
    signature: bytes
    target: str = ""
    name: str = ""


def object_id(kind: str, data: bytes, *, digits: int) -> str:
    """Return the id of a git object: SHA-1 for 40 digits, SHA-256 for 64."""
    whole = b"%s %d\0" % (kind.encode(), len(data)) + data
    if digits == 64:
        return hashlib.sha256(whole).hexdigest()
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def read_commit(data: bytes) -> GitObject:
    """Take a commit object apart: its `gpgsig` header is the signature, the rest was signed."""
    head, separator, body = data.partition(b"\n\n")
    kept, signature, inside = [], [], False
    for line in head.split(b"\n"):
        if line.startswith((b"gpgsig ", b"gpgsig-sha256 ")):
            inside = True
            signature.append(line.split(b" ", 1)[1])
        elif inside and line.startswith(b" "):
            signature.append(line[1:])
        else:
            inside = False
            kept.append(line)
    return GitObject(
        kind="commit", payload=b"\n".join(kept) + separator + body, signature=b"\n".join(signature)
    )


def read_tag(data: bytes) -> GitObject:
    """Take a tag object apart: the signature stands at its end."""
    cut = data.find(_BEGIN)
    payload, signature = (data, b"") if cut < 0 else (data[:cut], data[cut:])
    head = payload.partition(b"\n\n")[0].decode("utf-8", "replace")
    lines = [line.partition(" ") for line in head.split("\n")]
    is_commit_tag = [line[0] for line in lines[:3]] == ["object", "type", "tag"] and lines[1][2] == "commit"
    fields = {key: value for key, _, value in lines[:3]} if is_commit_tag else {}
    return GitObject(
        kind="tag",
        payload=payload,
        signature=signature,
        target=fields.get("object", ""),
        name=fields.get("tag", ""),
    )


def read_tree(data: bytes, *, digits: int) -> dict[str, str]:
    """Take a tree object apart: names to object ids, hex. What is malformed ends the list."""
    entries: dict[str, str] = {}
    size = digits // 2
    while data:
        head, separator, rest = data.partition(b"\0")
        name = head.partition(b" ")[2].decode("utf-8", "surrogateescape")
        if not separator or not name or len(rest) < size:
            break
        entries[name] = rest[:size].hex()
        data = rest[size:]
    return entries


def verify_ssh_signature(payload: bytes, armoured: bytes, signers: Sequence[str]) -> str:
    """Tell whether one of the signers signed the payload for git.

    Args:
        payload: what was signed.
        armoured: the signature, PEM-like.
        signers: SSH public keys: type and base64.

    Returns:
        Empty when it is verified, else why not.
    """
    match = re.fullmatch(_BEGIN + rb"\s+([A-Za-z0-9+/=\s]+?)\s*" + _END + rb"\s*", armoured)
    if not match:
        return "no SSH signature" if not armoured else "signed, but not with an SSH key"
    try:
        blob = base64.b64decode(b"".join(match[1].split()), validate=True)
        if blob[:6] != b"SSHSIG" or blob[6:10] != b"\0\0\0\1":
            return "not an SSH signature of version 1"
        key, namespace, reserved, algorithm, signature = _strings(blob[10:], 5)
        kind, raw = _strings(signature, 2)
    except (binascii.Error, ValueError):
        return "the SSH signature is malformed"
    if namespace != b"git":
        return f"signed for {namespace.decode('utf-8', 'replace')!r}, not for git"
    if algorithm not in _HASHES:
        return f"unknown hash {algorithm.decode('utf-8', 'replace')!r}"
    encoded = base64.b64encode(key).decode()
    line = next((signer for signer in signers if signer.split(" ")[1] == encoded), None)
    if line is None:
        return f"signed by the key SHA256:{_fingerprint(key)}, which the policy does not name"
    signed = b"SSHSIG" + b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (namespace, reserved, algorithm, _HASHES[algorithm](payload).digest())
    )
    return "" if _verifies(line, kind, raw, signed) else "the SSH signature does not match the revision"


def signer_of(payload: bytes, armoured: bytes, signers: Sequence[str]) -> str:
    """Name the signer who signed the payload for git, as SHA256:…; empty when none of them did."""
    for signer in signers:
        if not verify_ssh_signature(payload, armoured, (signer,)):
            return f"SHA256:{_fingerprint(base64.b64decode(signer.split(' ')[1]))}"
    return ""


def _fingerprint(key: bytes) -> str:
    return base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _strings(data: bytes, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 or len(data) - 4 < size:
            raise ValueError("cut")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise ValueError("bytes left over")
    return found


def _verifies(line: str, kind: bytes, raw: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(line.encode())
        match key:
            case ed25519.Ed25519PublicKey() if kind == b"ssh-ed25519":
                key.verify(raw, signed)
            case rsa.RSAPublicKey() if kind in {b"rsa-sha2-256", b"rsa-sha2-512"} and key.key_size >= 2048:
                hash_ = hashes.SHA512() if kind == b"rsa-sha2-512" else hashes.SHA256()
                key.verify(raw, signed, padding.PKCS1v15(), hash_)
            case ec.EllipticCurvePublicKey() if kind.startswith(b"ecdsa-sha2-nistp"):
                r, s = (int.from_bytes(part, "big") for part in _strings(raw, 2))
                sized = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
                key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(sized))
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError):
        return False
    return True
