"""Key services on this machine, as far as signing needs them, written from the vendors' API documentation.

They hold a key, answer in the documented form, keep what they were asked, and refuse what the service would.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Answer = tuple[int, Any]
Service = Callable[[str, str, dict[str, str], Any], Answer]  # method, path, headers, body

HASHES = {"sha2-256": hashes.SHA256(), "sha2-384": hashes.SHA384()}


@contextmanager
def serve(service: Service, *, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run a service; give its address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, document = service(self.command, self.path, dict(self.headers), body)
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            if status in {301, 302, 307}:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = _answer  # noqa: N815  the name is the library's
        do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test service")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "service.pem", folder / "service.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def public_pem(key: PrivateKey) -> str:
    """Write the public half."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def sign_digest(key: PrivateKey, digest: bytes, *, pss: bool = False) -> bytes:
    """Sign a digest: PKCS #1 v1.5 or PSS for RSA, DER for ECDSA."""
    kind = hashes.SHA384() if len(digest) == 48 else hashes.SHA256()
    if isinstance(key, rsa.RSAPrivateKey):
        padding = PSS(MGF1(kind), PSS.DIGEST_LENGTH) if pss else PKCS1v15()
        return key.sign(digest, padding, Prehashed(kind))
    return key.sign(digest, ec.ECDSA(Prehashed(kind)))


def raw_ecdsa(signature: bytes, size: int) -> bytes:
    """Write an ECDSA signature as r and s side by side (RFC 7518, section 3.4)."""
    r, s = decode_dss_signature(signature)
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def vault(key: PrivateKey, *, token: str = "s.test", mount: str = "transit", version: int = 3) -> Service:
    """Vault's or OpenBao's transit engine with one key `owner`."""

    def answer(method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        if headers.get("X-Vault-Token") != token:
            return 403, {"errors": ["permission denied"]}
        if (method, path) == ("GET", f"/v1/{mount}/keys/owner"):
            keys = {
                str(one): {"public_key": public_pem(key) if one == version else "old", "name": "rsa"}
                for one in range(1, version + 1)
            }
            return 200, {"data": {"name": "owner", "latest_version": version, "keys": keys}}
        hashed = path.removeprefix(f"/v1/{mount}/sign/owner/")
        if method == "POST" and hashed in HASHES:
            if not body.get("prehashed") or body.get("key_version") != version:
                return 400, {"errors": ["not what this fake expects"]}
            signature = sign_digest(
                key, base64.b64decode(body["input"]), pss=body.get("signature_algorithm", "pss") == "pss"
            )
            return 200, {"data": {"signature": f"vault:v{version}:{base64.b64encode(signature).decode()}"}}
        return 404, {"errors": []}

    return answer


def azure(key: PrivateKey, *, token: str = "eyJ.test", version: str = "9885aa558e8d44878968") -> Service:
    """Azure Key Vault with one key `owner` of one version."""

    def number(value: int) -> str:
        return (
            base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
            .rstrip(b"=")
            .decode()
        )

    def answer(method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        if headers.get("Authorization") != f"Bearer {token}":
            return 401, {
                "error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a token."}
            }
        place, _, query = path.partition("?")
        if query != "api-version=7.4":
            return 400, {"error": {"code": "BadParameter", "message": "api-version must be specified"}}
        kid = f"https://release.vault.azure.net/keys/owner/{version}"
        numbers: Any = key.public_key().public_numbers()
        if method == "GET" and place in {"/keys/owner", f"/keys/owner/{version}"}:
            if isinstance(key, rsa.RSAPrivateKey):
                jwk = {"kty": "RSA-HSM", "n": number(numbers.n), "e": number(numbers.e)}
            else:
                curve = f"P-{key.key_size}"
                jwk = {"kty": "EC-HSM", "crv": curve, "x": number(numbers.x), "y": number(numbers.y)}
            return 200, {"key": {"kid": kid, **jwk}, "attributes": {"enabled": True}}
        if method == "POST" and place == f"/keys/owner/{version}/sign":
            digest = base64.urlsafe_b64decode(body["value"] + "==")
            signature = sign_digest(key, digest)
            if body["alg"] in {"ES256", "ES384"}:
                signature = raw_ecdsa(signature, len(digest))
            value = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
            return 200, {"kid": kid, "value": value}
        return 404, {"error": {"code": "KeyNotFound", "message": "A key with this name was not found."}}

    return answer


def google(key: PrivateKey, algorithm: str, *, path: str, token: str = "ya29.test") -> Service:
    """Google Cloud KMS with one version of a key."""

    def answer(method: str, asked: str, headers: dict[str, str], body: Any) -> Answer:
        if headers.get("Authorization") != f"Bearer {token}":
            return 403, {
                "error": {"code": 403, "message": "Permission denied", "status": "PERMISSION_DENIED"}
            }
        if (method, asked) == ("GET", f"/v1/{path}/publicKey"):
            return 200, {"pem": public_pem(key), "algorithm": algorithm, "name": path}
        if (method, asked) == ("POST", f"/v1/{path}:asymmetricSign"):
            (digest,) = body["digest"].values()
            signature = sign_digest(key, base64.b64decode(digest))
            return 200, {"signature": base64.b64encode(signature).decode(), "name": path}
        return 404, {"error": {"code": 404, "message": "not found", "status": "NOT_FOUND"}}

    return answer
