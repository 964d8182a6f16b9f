"""Sign enclaves: from the fields that an owner states to a SIGSTRUCT that is verified.

Two ways lead to the same bytes. At once, with a key that is reachable; or in two steps: `to_be_signed` here,
the signature anywhere, `sigstruct.assemble` here again.

Example:
    >>> from pipeline.measure.sgx.owner_key import OwnerKeyFile, new_key, read_private_key
    >>> from pipeline.measure.sgx.sigstruct import SigstructFields
    >>> key = OwnerKeyFile(read_private_key(new_key()), "owner.pem")
    >>> signed = sign_enclave(SigstructFields(mrenclave=bytes(32)), key)
    >>> all(check.status == "passed" for check in signed.checks())
    True
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from pipeline.measure.file_kind import seen
from pipeline.measure.sgx.sigstruct import (
    KEY_BYTES,
    BadSigstruct,
    Sigstruct,
    SigstructFields,
    assemble,
    to_be_signed,
)

if TYPE_CHECKING:
    from provenance.signers.remote_key import RemoteKey

MAX_SIGNATURE_FILE: Final = 4096


def sign_enclave(fields: SigstructFields, key: RemoteKey) -> Sigstruct:
    """Let the owner's key sign what is stated; what comes back is verified before it is returned.

    Raises:
        BadEnclaveKey: RVP-5006. BadSigstruct: RVP-5004. RemoteSignatureWrong: RVP-6066. Errors of the key.
    """
    from pipeline.measure.sgx.owner_key import check_enclave_key
    from provenance.signers.remote_key import Scheme, sign_and_verify

    public = check_enclave_key(key)
    tbs = to_be_signed(fields)
    return assemble(tbs, public, sign_and_verify(key, tbs, Scheme.RSA_PKCS1_SHA256))


def read_signature(data: bytes, *, name: str = "") -> bytes:
    """Read a signature as devices write it: 384 bytes, or these as hex or base64 text.

    The three lengths differ (384, 768, 512), so that no file can be read in two ways.

    Raises:
        BadSigstruct: RVP-5004.
    """
    if len(data) == KEY_BYTES:
        return data
    text = re.sub(rb"[\s:]+", b"", data) if len(data) <= MAX_SIGNATURE_FILE else b""
    try:
        if len(text) == 2 * KEY_BYTES:
            return bytes.fromhex(text.decode("ascii"))
        if len(text) == KEY_BYTES // 3 * 4:
            return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        pass
    found = seen(data, len(data)).what
    raise BadSigstruct(
        f"no signature of {KEY_BYTES} bytes, nor these in hex or base64; this is {found}",
        place=name,
        hint="--signature takes what the key gave back: "
        "`openssl dgst -sha256 -sign owner.pem -out FILE owner.tbs`",
    )
