"""Keys in key services: AWS through another implementation (moto); Vault, Azure, Google in their documented form."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from provenance.signers import aws_kms, azure_key_vault, google_kms, open_signer, vault
from provenance.signers.azure_key_vault import AzureKey
from provenance.signers.google_kms import GoogleKey
from provenance.signers.key_service import (
    CredentialsMissing,
    KeyNotFound,
    KeyService,
    ServiceDenied,
    ServiceRefused,
    ServiceUnreachable,
    ServiceUriBad,
)
from provenance.signers.remote_key import (
    KeyUnsuitable,
    RemoteSignatureWrong,
    RemoteSigner,
    Scheme,
    open_key,
    public_der,
    sign_and_verify,
)
from tests.fakes import key_services as fakes

RSA = Scheme.RSA_PKCS1_SHA256


@pytest.fixture(scope="module")
def owner() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


@pytest.fixture(scope="module", params=["p256", "p384"])
def curve(request: pytest.FixtureRequest) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1() if request.param == "p256" else ec.SECP384R1())


@pytest.fixture
def at_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("ADDR", "TOKEN", "NAMESPACE", "CACERT"):
        for tool in ("VAULT", "BAO"):
            monkeypatch.delenv(f"{tool}_{name}", raising=False)
    monkeypatch.delenv("TRANSIT_SECRET_ENGINE_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "s.test")
    return monkeypatch


def same(key: rsa.RSAPrivateKey, signature: bytes) -> bool:
    return signature == key.sign(b"data", PKCS1v15(), hashes.SHA256())


# ---- Vault, OpenBao


def test_vault_signs_as_the_key_file_would(owner: rsa.RSAPrivateKey, at_vault: pytest.MonkeyPatch) -> None:
    with fakes.serve(fakes.vault(owner)) as address:
        at_vault.setenv("VAULT_ADDR", address)
        assert same(owner, sign_and_verify(open_key("hashivault://owner"), b"data", RSA))


def test_openbao_is_found_by_its_own_variables_and_another_mount(
    curve: ec.EllipticCurvePrivateKey, at_vault: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_vault.delenv("VAULT_TOKEN")
    (tmp_path / ".vault-token").write_text("s.file\n")
    with fakes.serve(fakes.vault(curve, token="s.file", mount="team/signing")) as address:
        at_vault.setenv("BAO_ADDR", address)
        at_vault.setenv("TRANSIT_SECRET_ENGINE_PATH", "/team/signing/")
        signer = open_signer("hashivault://owner")
        assert signer.public_key.verifies(signer.sign(b"data"), b"data")


def test_vault_over_tls_is_verified_with_its_ca(
    owner: rsa.RSAPrivateKey, at_vault: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = fakes.certificate(tmp_path)
    with fakes.serve(fakes.vault(owner), tls=pair) as address:
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(ServiceUnreachable, match="certificate verify failed"):
            open_key("hashivault://owner")
        at_vault.setenv("VAULT_CACERT", str(pair[0]))
        assert same(owner, sign_and_verify(open_key("hashivault://owner"), b"data", RSA))
        at_vault.setenv("VAULT_CACERT", str(tmp_path / "nowhere.pem"))
        with pytest.raises(ServiceUnreachable, match="CA file"):
            open_key("hashivault://owner")


def test_denied_not_found_and_no_token_are_told_apart(
    owner: rsa.RSAPrivateKey, at_vault: pytest.MonkeyPatch
) -> None:
    with fakes.serve(fakes.vault(owner)) as address:
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(KeyNotFound):
            open_key("hashivault://nobody")
        at_vault.setenv("VAULT_TOKEN", "s.wrong")
        with pytest.raises(ServiceDenied, match="permission denied") as caught:
            open_key("hashivault://owner")
        assert "s.wrong" not in str(caught.value)
        at_vault.delenv("VAULT_TOKEN")
        with pytest.raises(CredentialsMissing):
            open_key("hashivault://owner")
        at_vault.setenv("VAULT_TOKEN", "s.a\r\nX-Evil: 1")
        with pytest.raises(CredentialsMissing):
            open_key("hashivault://owner")


def test_an_address_that_is_not_https_is_not_shown_a_token(at_vault: pytest.MonkeyPatch) -> None:
    for address in ("http://vault.example", "ftp://127.0.0.1", "https://user:pw@vault.example", "vault"):
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(ServiceUriBad):
            open_key("hashivault://owner")
    at_vault.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    with pytest.raises(ServiceUnreachable, match="127"):
        open_key("hashivault://owner")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, b"not json"), ServiceRefused),
        ((200, b"[" * 100_000), ServiceRefused),
        ((200, [1]), ServiceRefused),
        ((200, {}), ServiceRefused),
        ((200, {"data": {"latest_version": 1, "keys": {}}}), ServiceRefused),
        ((200, {"data": {"latest_version": 1, "keys": {"1": {"public_key": "text"}}}}), KeyUnsuitable),
        ((200, b" " * (2 << 20)), ServiceRefused),
        ((302, {}), ServiceRefused),
        ((500, b"<html>"), ServiceRefused),
        ((503, {"errors": ["Vault is sealed"]}), ServiceRefused),
    ],
)
def test_an_answer_that_is_not_the_documented_one_is_an_error_of_ours(
    at_vault: pytest.MonkeyPatch, answer: fakes.Answer, error: type[Exception]
) -> None:
    with fakes.serve(lambda *_: answer) as address:
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(error):
            open_key("hashivault://owner")


def test_a_service_that_says_nothing_is_left_after_the_time_limit() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = KeyService(
            f"http://127.0.0.1:{silent.getsockname()[1]}", headers={}, name="test", timeout_s=0.2
        )
        with pytest.raises(ServiceUnreachable):
            service.call("v1/x")


def test_a_signature_of_another_key_is_never_used(
    owner: rsa.RSAPrivateKey, at_vault: pytest.MonkeyPatch
) -> None:
    other = rsa.generate_private_key(public_exponent=3, key_size=3072)
    honest, eve = fakes.vault(owner), fakes.vault(other)

    def rotated(method: str, *rest: object) -> fakes.Answer:
        return (honest if method == "GET" else eve)(method, *rest)  # type: ignore[arg-type]

    with fakes.serve(rotated) as address:
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(RemoteSignatureWrong):
            sign_and_verify(open_key("hashivault://owner"), b"data", RSA)


def test_a_signature_of_another_version_is_refused(
    owner: rsa.RSAPrivateKey, at_vault: pytest.MonkeyPatch
) -> None:
    honest = fakes.vault(owner)

    def other_version(method: str, *rest: object) -> fakes.Answer:
        if method == "GET":
            return honest(method, *rest)  # type: ignore[arg-type]
        return 200, {"data": {"signature": "vault:v2:" + base64.b64encode(b"x").decode()}}

    with fakes.serve(other_version) as address:
        at_vault.setenv("VAULT_ADDR", address)
        with pytest.raises(ServiceRefused, match="vault:vN"):
            sign_and_verify(open_key("hashivault://owner"), b"data", RSA)


@pytest.mark.parametrize(
    "uri", ["hashivault:owner", "hashivault://", "hashivault://a/../b", "hashivault://a b"]
)
def test_a_name_that_is_none_of_vault(at_vault: pytest.MonkeyPatch, uri: str) -> None:
    at_vault.setenv("VAULT_ADDR", "https://vault.example")
    with pytest.raises(ServiceUriBad):
        open_key(uri)


# ---- Azure


def azure_key(address: str, *, token: str = "eyJ.test", key: str = "owner", version: str = "") -> AzureKey:
    service = KeyService(address, headers={"Authorization": f"Bearer {token}"}, name="azurekms:test")
    return AzureKey(service, key, version, name="azurekms:test")


def test_azure_signs_as_the_key_file_would(owner: rsa.RSAPrivateKey) -> None:
    with fakes.serve(fakes.azure(owner)) as address:
        key = azure_key(address)
        assert key.public_key().public_numbers() == owner.public_key().public_numbers()
        assert same(owner, sign_and_verify(key, b"data", RSA))
        assert same(owner, sign_and_verify(azure_key(address, version="9885aa558e8d44878968"), b"data", RSA))


def test_azure_signs_statements(curve: ec.EllipticCurvePrivateKey) -> None:
    with fakes.serve(fakes.azure(curve)) as address:
        signer = RemoteSigner(azure_key(address))
        assert signer.public_key.verifies(signer.sign(b"data"), b"data")


def test_azure_refuses_in_its_words(owner: rsa.RSAPrivateKey) -> None:
    with fakes.serve(fakes.azure(owner)) as address:
        with pytest.raises(ServiceDenied, match="AKV10000"):
            azure_key(address, token="other")
        with pytest.raises(KeyNotFound, match="was not found"):
            azure_key(address, key="nobody")


def test_azure_that_speaks_of_another_key_is_refused(owner: rsa.RSAPrivateKey) -> None:
    honest = fakes.azure(owner)
    with (
        fakes.serve(lambda m, p, h, b: honest(m, p.replace("mine", "owner"), h, b)) as address,
        pytest.raises(ServiceRefused, match="another key"),
    ):
        azure_key(address, key="mine")


@pytest.mark.parametrize(
    "location",
    [
        "//vault",
        "vault/name",
        "//evil.example/name",
        "//vault.azure.net.evil.example/name",
        "//a.b.vault.azure.net/name",
        "//vault/na me",
        "//vault/name/version/more",
        "//vault:8443/name",
    ],
)
def test_a_token_of_azure_is_shown_to_azure_alone(location: str) -> None:
    with pytest.raises(ServiceUriBad):
        azure_key_vault.open_key(location, secret=lambda: None, public_key=None)


# ---- Google

PATH = "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"


def google_key(address: str, *, token: str = "ya29.test", path: str = PATH) -> GoogleKey:
    service = KeyService(address, headers={"Authorization": f"Bearer {token}"}, name=f"gcpkms://{path}")
    return GoogleKey(service, path)


def test_google_signs_as_the_key_file_would() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    with fakes.serve(fakes.google(key, "RSA_SIGN_PKCS1_3072_SHA256", path=PATH)) as address:
        assert same(key, sign_and_verify(google_key(address), b"data", RSA))


def test_google_signs_statements(curve: ec.EllipticCurvePrivateKey) -> None:
    algorithm = "EC_SIGN_P256_SHA256" if curve.key_size == 256 else "EC_SIGN_P384_SHA384"
    with fakes.serve(fakes.google(curve, algorithm, path=PATH)) as address:
        signer = RemoteSigner(google_key(address))
        assert signer.public_key.verifies(signer.sign(b"data"), b"data")


def test_google_refuses_in_its_words_and_pss_keys_are_told() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    with fakes.serve(fakes.google(key, "RSA_SIGN_PSS_3072_SHA256", path=PATH)) as address:
        with pytest.raises(ServiceDenied, match="Permission denied"):
            google_key(address, token="other")
        with pytest.raises(KeyNotFound):
            google_key(address, path=PATH.replace("/k/", "/other/"))
        with pytest.raises(KeyUnsuitable, match="RSA_SIGN_PSS_3072_SHA256"):
            sign_and_verify(google_key(address), b"data", RSA)


@pytest.mark.parametrize("location", ["//projects/p", f"//{PATH}/more", PATH, f"//{PATH.rpartition('/')[0]}"])
def test_a_name_that_is_none_of_google(location: str) -> None:
    with pytest.raises(ServiceUriBad):
        google_kms.open_key(location, secret=lambda: None, public_key=None)


# ---- AWS, answered by moto


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def at_aws(aws: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    return aws


def aws_made(endpoint: str, spec: str) -> tuple[str, str]:
    import botocore.session

    client = botocore.session.get_session().create_client("kms", endpoint_url=endpoint)
    made = client.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)["KeyMetadata"]
    return made["KeyId"], made["Arn"]


def test_aws_signs_with_rsa_and_its_exponent_is_that_of_the_service(at_aws: str) -> None:
    key_id, arn = aws_made(at_aws, "RSA_3072")
    for uri in (f"awskms:///{key_id}", f"awskms:///{arn}"):
        key = open_key(uri)
        assert key.public_key().public_numbers().e == 65537
        assert len(sign_and_verify(key, b"data", RSA)) == 384


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_aws_signs_statements(at_aws: str, spec: str) -> None:
    signer = open_signer(f"awskms:///{aws_made(at_aws, spec)[0]}")
    assert signer.public_key.verifies(signer.sign(b"data"), b"data")


def test_aws_without_key_region_credentials_or_service(at_aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyNotFound):
        open_key("awskms:///12345678-1234-1234-1234-123456789012")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ServiceUnreachable):
        open_key("awskms:///alias/owner")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsMissing):
        open_key("awskms:///alias/owner")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ServiceUriBad, match="region"):
        open_key("awskms:///alias/owner")
    for uri in ("awskms:owner", "awskms://", "awskms:///a b"):
        with pytest.raises(ServiceUriBad):
            open_key(uri)


def test_aws_that_denies_is_told_from_what_else_it_says() -> None:
    from botocore.exceptions import ClientError

    class Denying:
        def __init__(self, code: str) -> None:
            self.code = code

        def get_public_key(self, **_: object) -> None:
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "GetPublicKey")

    for code, error in (
        ("AccessDeniedException", ServiceDenied),
        ("NotFoundException", KeyNotFound),
        ("DisabledException", ServiceRefused),
    ):
        with pytest.raises(error, match="no"):
            aws_kms.AwsKey(Denying(code), "k", name="awskms:///k")


def test_aws_gets_the_digest_of_what_is_longer_than_it_hashes(curve: ec.EllipticCurvePrivateKey) -> None:
    asked: list[dict[str, object]] = []

    class Recording:
        def get_public_key(self, **_: object) -> dict[str, object]:
            return {"PublicKey": public_der(curve.public_key()), "KeyId": "arn"}

        def sign(self, **arguments: object) -> dict[str, object]:
            asked.append(arguments)
            return {"Signature": fakes.sign_digest(curve, bytes(arguments["Message"]))}  # type: ignore[arg-type]

    signer = RemoteSigner(aws_kms.AwsKey(Recording(), "alias/a", name="awskms:///alias/a"))
    long = b"x" * 5000
    assert signer.public_key.verifies(signer.sign(long), long)
    assert asked[0]["MessageType"] == "DIGEST"
    assert asked[0]["KeyId"] == "arn"


def test_modules_of_services_have_one_interface() -> None:
    for module in (vault, aws_kms, azure_key_vault, google_kms):
        assert callable(module.open_key)
