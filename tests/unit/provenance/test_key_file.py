"""Key files: made, opened, refused."""

import os
import stat

import pytest

from provenance.public_key import KeyNotReadable, KeyType
from provenance.signers import SchemeUnknown, open_signer
from provenance.signers.key_file import (
    KeyExists,
    KeyNotWritable,
    KeyTooOpen,
    PassphraseMissing,
    PassphraseWrong,
    make_key,
)
from provenance.strict import NotReadable


@pytest.mark.parametrize("key_type", list(KeyType))
def test_signing_twice_gives_the_same_bytes(tmp_path, key_type):
    make_key(tmp_path / "k", key_type)
    signer = open_signer(str(tmp_path / "k"))
    assert signer.sign(b"x") == signer.sign(b"x")
    assert signer.public_key.verifies(signer.sign(b"x"), b"x")
    assert not signer.public_key.verifies(signer.sign(b"x"), b"y")


def test_a_new_private_key_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        make_key(tmp_path / "k", KeyType.P256)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_private_key_that_others_can_touch_is_refused(tmp_path, mode):
    make_key(tmp_path / "k", KeyType.P256)
    (tmp_path / "k").chmod(mode)
    with pytest.raises(KeyTooOpen, match=f"{mode:04o}"):
        open_signer(str(tmp_path / "k"))


def test_an_encrypted_key_opens_with_its_passphrase_only(tmp_path):
    made = make_key(tmp_path / "k", KeyType.P256, passphrase=b"correct horse")
    assert b"ENCRYPTED" in (tmp_path / "k").read_bytes()
    path = str(tmp_path / "k")
    assert open_signer(path, passphrase=lambda: b"correct horse").public_key == made
    with pytest.raises(PassphraseWrong):
        open_signer(path, passphrase=lambda: b"wrong")
    with pytest.raises(PassphraseMissing):
        open_signer(path)


def test_a_plain_key_never_asks_for_a_passphrase(tmp_path):
    make_key(tmp_path / "k", KeyType.P256)

    def asked():
        raise AssertionError("asked for a passphrase")

    open_signer(str(tmp_path / "k"), passphrase=asked)


def test_a_file_uri_is_a_path(tmp_path):
    made = make_key(tmp_path / "k", KeyType.ED25519)
    assert open_signer(f"file:{tmp_path / 'k'}").public_key == made


def test_a_scheme_that_no_signer_has_is_told():
    with pytest.raises(SchemeUnknown, match="teapot"):
        open_signer("teapot:slot=1")


@pytest.mark.parametrize("taken", ["k", "k.pub"])
def test_nothing_is_overwritten(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(KeyExists):
        make_key(tmp_path / "k", KeyType.P256)
    assert (tmp_path / taken).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(KeyNotWritable):
        make_key(tmp_path / "no" / "k", KeyType.P256)


def test_a_public_key_cannot_sign(tmp_path):
    make_key(tmp_path / "k", KeyType.P256)
    with pytest.raises(KeyNotReadable, match="public key"):
        open_signer(str(tmp_path / "k.pub"))


def test_a_missing_key_is_told(tmp_path):
    with pytest.raises(NotReadable, match="No such file"):
        open_signer(str(tmp_path / "k"))


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "k").open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(KeyNotReadable, match="larger"):
        open_signer(str(tmp_path / "k"))


def test_the_private_key_is_not_in_the_repr(tmp_path):
    make_key(tmp_path / "k", KeyType.P256)
    assert "PRIVATE" not in repr(open_signer(str(tmp_path / "k")))
