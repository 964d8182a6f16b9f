"""The signature that the FIPS module of Intel's IPP wants beside a SIGSTRUCT.

It is RSA-3072 (e = 65537, PKCS #1 v1.5, SHA-256) over the whole SIGSTRUCT, by a key whose public half stands
beside it: it detects damage, it names nobody. The signing tool throws such a key away after one use, so that
no two of its files are equal. Here the key is derived from the SIGSTRUCT: equal inputs give equal bytes. That
everybody can derive that key loses nothing: everybody may put another one there.

Source: Intel SGX SDK, `create_fips_signature` in `sign_tool.cpp`.
Cost: about two seconds, for the two primes.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Final

from pipeline.measure.sgx.sigstruct import KEY_BYTES

_EXPONENT: Final = 65537
_PRIME_BITS: Final = KEY_BYTES * 4
_SMALL_PRIMES: Final = tuple(n for n in range(3, 4096, 2) if all(n % p for p in range(3, int(n**0.5) + 1, 2)))
_ROUNDS: Final = 24


@functools.lru_cache(maxsize=2)  # every record of a file has the same SIGSTRUCT
def sign_for_fips(sigstruct: bytes) -> bytes:
    """Write modulus (little-endian), exponent, signature (big-endian) over a SIGSTRUCT: 772 bytes."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    p, q = sorted((_prime(b"p" + sigstruct), _prime(b"q" + sigstruct)), reverse=True)
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    key = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    ).private_key()
    signature = key.sign(sigstruct, padding.PKCS1v15(), hashes.SHA256())
    return public.n.to_bytes(KEY_BYTES, "little") + struct.pack("<I", _EXPONENT) + signature


def _prime(seed: bytes) -> int:
    """Derive a prime whose two highest bits are set."""
    start = int.from_bytes(hashlib.shake_256(b"rvp fips " + seed).digest(_PRIME_BITS // 8), "big")
    candidate = start | 3 << (_PRIME_BITS - 2) | 1
    while not _is_prime(candidate) or (candidate - 1) % _EXPONENT == 0:
        candidate += 2
    return candidate


def _is_prime(value: int) -> bool:
    """Test with small primes, then Miller-Rabin with bases derived from the number."""
    if any(value % small == 0 for small in _SMALL_PRIMES):
        return False
    odd, twos = value - 1, 0
    while not odd & 1:
        odd >>= 1
        twos += 1
    stream = hashlib.shake_256(value.to_bytes(_PRIME_BITS // 8, "big")).digest(8 * _ROUNDS)
    for (base,) in struct.iter_unpack("<Q", stream):
        power = pow(base + 2, odd, value)
        if power in {1, value - 1}:
            continue
        for _ in range(twos - 1):
            power = power * power % value
            if power == value - 1:
                break
        else:
            return False
    return True
