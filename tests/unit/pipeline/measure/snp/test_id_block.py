"""ID blocks: made, signed, read, checked; laid out as another implementation does."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sevsnpmeasure import id_block as oracle

from pipeline.measure.machine import Machine
from pipeline.measure.measured import CheckFailed, MeasureOptions, SignatureCheckFailed, require_passed
from pipeline.measure.snp.id_block import (
    BadIdBlock,
    IdAuth,
    IdBlock,
    policy_words,
    read_id_auth,
    read_id_block,
    sign_id_block,
    signs,
)
from pipeline.measure.snp.measurement import measure_snp
from pipeline.measure.snp.owner_key import open_owner_key
from provenance.signers.remote_key import KeyUnsuitable
from tests.fakes.ovmf import make_ovmf


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("id.pem", "author.pem"):
        _write_key(folder / name, ec.SECP384R1())
    return folder / "id.pem", folder / "author.pem"


def _write_key(path: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)


def _signed(keys: tuple[Path, Path], block: IdBlock, *, author: bool = True) -> IdAuth:
    key, other = (open_owner_key(str(one)) for one in keys)
    return sign_id_block(block, key, other if author else None)


def test_a_block_is_laid_out_as_another_implementation_does(keys: tuple[Path, Path]) -> None:
    digest = bytes(range(48))
    text = oracle.snp_calc_id_block(digest, *(str(one) for one in keys))
    fields = dict(part.partition("=")[::2] for part in text.splitlines()[0].split(","))
    block = read_id_block(base64.b64decode(fields["id-block"]))
    assert block == IdBlock(launch_digest=digest)
    assert block.write() == base64.b64decode(fields["id-block"])
    theirs = read_id_auth(base64.b64decode(fields["id-auth"]))
    ours = _signed(keys, block)
    assert (theirs.key, theirs.author_key) == (ours.key, ours.author_key)
    assert signs(theirs.key, theirs.signature, block.write())
    assert signs(theirs.author_key, theirs.key_signature, theirs.key)
    assert base64.b64encode(ours.id_key_digest).decode() in text
    assert base64.b64encode(ours.author_key_digest).decode() in text


def test_signing_twice_gives_the_same_bytes(keys: tuple[Path, Path]) -> None:
    block = IdBlock(launch_digest=bytes(48), guest_svn=3, policy=0xB0000)
    assert _signed(keys, block).write() == _signed(keys, block).write()


def test_what_was_signed_is_read_and_verifies(keys: tuple[Path, Path]) -> None:
    block = IdBlock(
        launch_digest=b"\1" * 48, family_id=b"f" * 16, image_id=b"i" * 16, guest_svn=7, policy=0x30000
    )
    for author in (True, False):
        auth = _signed(keys, block, author=author)
        again = read_id_auth(auth.write())
        assert again == auth
        assert read_id_block(block.write()) == block
        assert signs(again.key, again.signature, block.write())
        assert bool(again.author_key) is author
        assert any(again.author_key_digest) is author


def test_no_flipped_bit_verifies(keys: tuple[Path, Path]) -> None:
    block = IdBlock(launch_digest=b"\1" * 48)
    auth = _signed(keys, block)
    data, page = block.write(), auth.write()
    for at in range(0, 96, 5):
        assert not signs(auth.key, auth.signature, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    for at in range(0, 4096, 31):
        changed = page[:at] + bytes([page[at] ^ 4]) + page[at + 1 :]
        try:
            found = read_id_auth(changed)
        except BadIdBlock:
            continue
        good = signs(found.key, found.signature, data) and signs(
            found.author_key, found.key_signature, found.key
        )
        assert not good, hex(at)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda page: page[:-1], "4095 bytes"),
        (lambda page: struct.pack("<I", 2) + page[4:], "algorithm of the ID key at 0 is 2"),
        (lambda page: page[:4] + struct.pack("<I", 9) + page[8:], "algorithm of the author key at 4 is 9"),
        (lambda page: page[:8] + b"\1" + page[9:], "byte at 0x8 is 0x01"),
        (lambda page: page[:-1] + b"\1", "byte at 0xfff is 0x01"),
        (lambda page: page[:4] + bytes(4) + page[8:], "byte at 0x680"),
    ],
)
def test_an_authentication_that_is_none_is_refused_with_its_field(keys, change, words: str) -> None:
    page = _signed(keys, IdBlock(launch_digest=bytes(48))).write()
    with pytest.raises(BadIdBlock, match=words):
        read_id_auth(change(page))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (IdBlock(launch_digest=bytes(32)), "launch digest has 32 bytes"),
        (IdBlock(launch_digest=bytes(48), family_id=b"x"), "family id has 1 bytes"),
        (IdBlock(launch_digest=bytes(48), guest_svn=1 << 32), "guest SVN"),
        (IdBlock(launch_digest=bytes(48), policy=0x10000), "bit 17"),
        (IdBlock(launch_digest=bytes(48), policy=1 << 64), "64 bits"),
        (IdBlock(launch_digest=bytes(48), policy=0x2030000), "bits above 24"),
    ],
)
def test_values_that_do_not_fit_are_refused(block: IdBlock, words: str) -> None:
    with pytest.raises(BadIdBlock, match=words):
        block.write()


def test_a_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    _write_key(tmp_path / "p256.pem", ec.SECP256R1())
    with pytest.raises(KeyUnsuitable, match="P-384"):
        sign_id_block(IdBlock(launch_digest=bytes(48)), open_owner_key(str(tmp_path / "p256.pem")))


def test_a_policy_is_said_in_words() -> None:
    assert policy_words(0x30000 | 1 << 19 | 1 << 20) == (
        "SMT allowed",
        "debugging allowed",
        "single socket only",
    )


def test_an_id_block_is_checked_against_what_was_measured(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(make_ovmf())

    def measured(**more: object):
        options = MeasureOptions(machine=Machine(vcpus=(1, 2), **more))  # type: ignore[arg-type]
        return measure_snp(path, options).measurements

    value = bytes.fromhex(str(measured()[1].claims["measurement"]))
    block = IdBlock(launch_digest=value, guest_svn=5, image_id=b"i" * 16, policy=0xB0000)
    auth = _signed(keys, block)
    one, two = measured(id_block=block.write(), id_auth=auth.write())
    require_passed((one, two))
    assert set(one.claims) == {"measurement"}
    assert two.claims == {
        "measurement": value.hex(),
        "policy": "0x00000000000b0000",
        "guest_svn": 5,
        "family_id": "00" * 16,
        "image_id": b"i".hex() * 16,
        "id_key_digest": auth.id_key_digest.hex(),
        "author_key_digest": auth.author_key_digest.hex(),
    }
    assert [check.status for check in two.checks if check.id.startswith("id-")] == ["passed"] * 3
    other = msgspec.structs.replace(block, launch_digest=bytes(48))
    with pytest.raises(CheckFailed, match="id-block"):
        require_passed(measured(id_block=other.write()))
    with pytest.raises(SignatureCheckFailed, match="id-block-signature"):
        require_passed(
            measured(id_block=msgspec.structs.replace(block, guest_svn=6).write(), id_auth=auth.write())
        )
    with pytest.raises(CheckFailed, match="id-block-policy"):
        require_passed(measured(id_block=block.write(), policy=0x30000))
