"""A PKCS #11 token for the tests: SoftHSM, with keys that the tests know and one that it made itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "271828"
TOKEN = "release keys"


class Token:
    """Where the token is, and the private keys that were put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {}
        self.pin_file = folder / "pin"
        self.pin_file.write_text(f"{PIN}\n")

    def uri(self, label: str, *, pin: bool = True, token: str = "release%20keys") -> str:
        """Write the URI of a key."""
        source = f"&pin-source={self.pin_file}" if pin else ""
        return f"pkcs11:token={token};object={label}?module-path={MODULE}{source}"


def make_token(folder: Path) -> Token:
    """Make a token with RSA-3072 (e = 3, and e = 65537), P-256 and P-384 keys; `twin` is there twice."""
    if not MODULE.is_file():
        pytest.skip("softhsm2 is not installed (apt-get install softhsm2)")
    tokens = folder / "tokens"
    tokens.mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(config)
    made = Token(folder)
    _util("--init-token", "--free", "--label", TOKEN, "--so-pin", "31415926", "--pin", PIN)
    _util("--init-token", "--free", "--label", "other", "--so-pin", "31415926", "--pin", PIN)
    made.keys = {
        "owner": rsa.generate_private_key(public_exponent=3, key_size=3072),
        "usual": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
    }
    made.keys["twin"] = made.keys["p256"]
    for number, (label, key) in enumerate([*made.keys.items(), ("twin", made.keys["p384"])], start=1):
        _put(folder, label, number, key)
    return made


def _put(folder: Path, label: str, number: int, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    pem = folder / f"{label}.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    _util("--import", str(pem), "--token", TOKEN, "--label", label, "--id", f"{number:02x}", "--pin", PIN)


def _util(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, timeout=60)
