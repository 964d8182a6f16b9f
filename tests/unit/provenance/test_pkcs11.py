"""Keys in a PKCS #11 token: a real module, SoftHSM."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from provenance.signers import open_signer
from provenance.signers.pkcs11 import (
    KeyNotOnToken,
    ModuleNotUsable,
    PinRefused,
    TokenNotFound,
    TokenRefused,
)
from provenance.signers.pkcs11_uri import UriNotUsable, parse_uri
from provenance.signers.remote_key import KeyUnsuitable, Scheme, open_key, sign_and_verify, without_secrets
from tests.fakes.token import MODULE, PIN, Token


def test_an_rsa_key_signs_the_bytes_that_its_key_file_would_sign(token: Token) -> None:
    key = open_key(token.uri("owner"))
    assert sign_and_verify(key, b"to be signed", Scheme.RSA_PKCS1_SHA256) == token.keys["owner"].sign(
        b"to be signed", PKCS1v15(), hashes.SHA256()
    )


def test_a_token_that_does_not_hash_signs_the_same(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    key = open_key(token.uri("owner"))
    before = sign_and_verify(key, b"x", Scheme.RSA_PKCS1_SHA256)
    monkeypatch.setattr(type(key), "_can", lambda _self, _mechanism: False)
    assert sign_and_verify(key, b"x", Scheme.RSA_PKCS1_SHA256) == before


@pytest.mark.parametrize("label", ["p256", "p384"])
def test_statements_are_signed_with_a_curve_key_of_a_token(token: Token, label: str) -> None:
    signer = open_signer(token.uri(label))
    assert signer.public_key.type == label
    assert signer.public_key.verifies(signer.sign(b"statement"), b"statement")


def test_a_key_that_the_token_made_itself_has_its_public_half_there(token: Token) -> None:
    import pkcs11

    with pkcs11.lib(str(MODULE)).get_token(token_label="other").open(user_pin=PIN, rw=True) as session:
        session.generate_keypair(
            pkcs11.KeyType.RSA,
            3072,
            public_template={pkcs11.Attribute.PUBLIC_EXPONENT: b"\x03"},
            store=True,
            label="made-inside",
            id=b"\x07",
        )
    key = open_key(token.uri("made-inside", token="other"))
    assert key.public_key().public_numbers().e == 3
    assert len(sign_and_verify(key, b"x", Scheme.RSA_PKCS1_SHA256)) == 384


def test_a_curve_key_without_an_id_is_found_by_its_label(token: Token) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    curve = encode_named_curve_parameters("secp256r1")
    with pkcs11.lib(str(MODULE)).get_token(token_label="other").open(user_pin=PIN, rw=True) as session:
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
        )
        for label in ("first", "second"):
            parameters.generate_keypair(store=True, label=label)
    for label in ("first", "second"):
        signer = open_signer(token.uri(label, token="other"))
        assert signer.public_key.verifies(signer.sign(b"data"), b"data")


def test_an_rsa_key_signs_no_statement(token: Token) -> None:
    with pytest.raises(Exception, match="the key is RSA"):
        open_signer(token.uri("owner"))


def test_a_key_signs_in_no_scheme_of_another_type(token: Token) -> None:
    with pytest.raises(KeyUnsuitable, match="EC secp256r1"):
        sign_and_verify(open_key(token.uri("p256")), b"x", Scheme.RSA_PKCS1_SHA256)


def test_the_pin_is_asked_for_where_the_uri_names_no_source(token: Token) -> None:
    asked: list[bool] = []

    def secret() -> bytes:
        asked.append(True)
        return PIN.encode()

    assert open_key(token.uri("p256", pin=False), secret=secret).name.endswith("object=p256")
    assert asked


def test_no_pin_is_refused_before_the_token_sees_one(token: Token) -> None:
    with pytest.raises(PinRefused, match="none was given"):
        open_key(token.uri("p256", pin=False))


def test_a_wrong_pin_is_tried_once_and_never_shown(token: Token) -> None:
    tried: list[bool] = []

    def secret() -> bytes:
        tried.append(True)
        return b"99999999"

    with pytest.raises(PinRefused, match="the PIN is wrong") as caught:
        open_key(token.uri("p256", pin=False), secret=secret)
    assert len(tried) == 1
    assert "99999999" not in str(caught.value) + caught.value.hint + caught.value.place
    open_key(token.uri("p256"))  # the right one still works, and resets the token's count


def test_what_is_not_there_is_said_with_what_is(token: Token) -> None:
    with pytest.raises(TokenNotFound) as caught:
        open_key(token.uri("p256", token="nowhere"))
    assert "release keys" in caught.value.hint
    with pytest.raises(KeyNotOnToken) as missing:
        open_key(token.uri("nothing"))
    assert "owner" in missing.value.hint


def test_a_label_that_two_keys_have_is_refused_and_the_id_chooses(token: Token) -> None:
    with pytest.raises(KeyNotOnToken, match="2 private keys"):
        open_key(token.uri("twin"))
    key = open_key(token.uri("twin;id=%06"))
    assert key.public_key().key_size == 384


def test_the_module_is_a_library_that_is_there(token: Token, tmp_path: Path) -> None:
    uri = token.uri("p256")
    with pytest.raises(ModuleNotUsable, match="no such module"):
        open_key(uri.replace(str(MODULE), "/nowhere/module.so"))
    with pytest.raises(ModuleNotUsable, match="not absolute"):
        open_key(uri.replace(str(MODULE), "module.so"))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(ModuleNotUsable, match="does not load"):
        open_key(uri.replace(str(MODULE), str(tmp_path / "text.so")))


def test_the_module_is_taken_from_the_environment(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKCS11_MODULE_PATH", str(MODULE))
    uri = f"pkcs11:token=release%20keys;object=p256?pin-source=file://{token.pin_file}"
    assert open_key(uri).public_key().key_size == 256
    monkeypatch.delenv("PKCS11_MODULE_PATH")
    with pytest.raises(ModuleNotUsable, match="no module is named"):
        open_key(uri)


def test_a_public_key_that_is_given_must_be_the_tokens(token: Token) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = token.keys["p384"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyUnsuitable, match="not that of this key"):
        open_key(token.uri("p256"), public_key=pem)


def test_what_a_token_cannot_do_is_said_in_its_words(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    key = open_key(token.uri("p256"))
    with pytest.raises(TokenRefused, match="the token says"):
        key.sign(b"x", Scheme.RSA_PKCS1_SHA256)  # RSA with a curve key


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("token=a;object=b?pin-value=1234", "seen by every user"),
        ("token=a;object=b;pin-value=1234", "seen by every user"),
        ("token=a;colour=red", "colour"),
        ("token=a;token=b", "twice"),
        ("token=a b", "%XX"),
        ("token=%zz", "%XX"),
        ("token", "token"),
        ("token=%ff", "UTF-8"),
        ("slot-id=-1", "not a number"),
        ("object=b;type=public", "not private"),
        ("object=" + "a" * 5000, "characters"),
    ],
)
def test_a_uri_that_is_not_one_is_refused(location: str, says: str) -> None:
    with pytest.raises(UriNotUsable, match=says) as caught:
        parse_uri(location)
    assert "1234" not in str(caught.value)


def test_a_uri_is_read_as_rfc_7512_writes_it() -> None:
    uri = parse_uri("token=The%20Software%20PKCS%2311%20Softtoken;id=%69%95%3e%5c;object=my-key;type=private")
    assert (uri.token, uri.id, uri.object) == ("The Software PKCS#11 Softtoken", b"i\x95>\\", "my-key")
    assert uri.pin_source is None


def test_a_pin_that_somebody_wrote_into_a_uri_is_not_repeated() -> None:
    assert "1234" not in without_secrets("pkcs11:object=a?module-path=/m&pin-value=1234")


def test_a_pin_source_that_is_a_program_is_not_run(token: Token) -> None:
    with pytest.raises(UriNotUsable, match="runs no programs"):
        open_key(f"pkcs11:object=p256;token=release%20keys?module-path={MODULE}&pin-source=|cat")
