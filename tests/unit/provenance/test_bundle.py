"""The bundle: contents in, equal bytes out, whatever the order; two operators' bundles become one."""

import base64
import json
from pathlib import Path

import msgspec
import pytest

from provenance.bundle import (
    Bundle,
    NotABundle,
    RecipeDiffers,
    extract_inputs,
    extract_recipe,
    lay_out,
    merge,
    pack_files,
    pack_folder,
    read_bundle,
    unpack_files,
    write_bundle,
)
from provenance.oci import Manifest, blob_of, layout_of, write_layout
from provenance.strict import NotReadable


def statement(text: str) -> bytes:
    payload = base64.b64encode(json.dumps({"predicateType": f"urn:{text}"}).encode()).decode()
    return json.dumps({"dsseEnvelope": {"payload": payload}}).encode()


WHOLE = Bundle(
    statements=(statement("a"), statement("b")),
    logs=(blob_of(b"{}", "", title="enclave.log.json"),),
    recipe=pack_files({"rvp.toml": b"schema = 1", "files/x": b""}),
    inputs=(blob_of(b"source", "", title="app.tar"),),
)


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    written = write_bundle(tmp_path / name, WHOLE)
    found = read_bundle(tmp_path / name)
    assert sorted(found.statements) == sorted(WHOLE.statements)
    assert found.digest == written.digest
    assert unpack_files(found.recipe) == {"rvp.toml": b"schema = 1", "files/x": b""}
    assert [blob.annotations for blob in found.logs] == [
        {"org.opencontainers.image.title": "enclave.log.json"}
    ]


def test_a_bundle_read_and_written_again_has_the_same_bytes(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.tar", WHOLE)
    write_bundle(tmp_path / "b.tar", read_bundle(tmp_path / "a.tar"))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_merging_is_the_same_in_both_directions() -> None:
    first = msgspec.structs.replace(WHOLE, statements=WHOLE.statements[:1], inputs=())
    second = msgspec.structs.replace(WHOLE, statements=WHOLE.statements[1:], recipe=None)
    assert lay_out(merge(first, second)).index == lay_out(merge(second, first)).index == lay_out(WHOLE).index


def test_another_recipe_cannot_be_merged() -> None:
    with pytest.raises(RecipeDiffers):
        merge(WHOLE, Bundle(recipe=pack_files({"rvp.toml": b"other"})))


def test_statements_carry_the_annotations_of_sigstore() -> None:
    annotations = [m.annotations for m in lay_out(WHOLE).manifests if "sigstore" in m.artifact_type]
    assert {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "urn:a",
    } in annotations


def test_an_artifact_of_an_unknown_type_survives(tmp_path: Path) -> None:
    other = Manifest(artifact_type="application/x-later", layers=(blob_of(b"?", "text/plain"),))
    write_bundle(tmp_path / "a", msgspec.structs.replace(WHOLE, others=(other,)))
    found = read_bundle(tmp_path / "a")
    assert [m.artifact_type for m in found.others] == ["application/x-later"]
    assert len(found.statements) == 2


def test_two_recipes_are_refused(tmp_path: Path) -> None:
    kind = "application/vnd.rvp.recipe.v1"
    manifests = [Manifest(artifact_type=kind, layers=(blob_of(data, "x"),)) for data in (b"1", b"2")]
    write_layout(tmp_path / "a", layout_of(manifests))
    with pytest.raises(NotABundle):
        read_bundle(tmp_path / "a")


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b'{"dsseEnvelope":{"payload":"%%"}}', b'{"dsseEnvelope":{"payload":"MQ=="}}']
)
def test_what_is_no_statement_cannot_be_written(data: bytes) -> None:
    with pytest.raises(NotABundle):
        lay_out(Bundle(statements=(data,)))


def test_a_recipe_goes_through_the_bundle_unchanged(tmp_path: Path) -> None:
    (tmp_path / "recipe" / "files").mkdir(parents=True)
    (tmp_path / "recipe" / "rvp.lock").write_bytes(b"lock")
    (tmp_path / "recipe" / "files" / "a").write_bytes(b"\0")
    bundle = Bundle(recipe=pack_folder(tmp_path / "recipe"))
    extract_recipe(bundle, tmp_path / "out")
    assert pack_folder(tmp_path / "out").digest == bundle.recipe.digest


def test_a_link_cannot_enter_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotABundle):
        pack_folder(tmp_path)


@pytest.mark.parametrize("title", ["../evil", "/evil", "a/../../evil", "."])
def test_an_input_cannot_be_written_outside(tmp_path: Path, title: str) -> None:
    with pytest.raises(NotABundle):
        extract_inputs(Bundle(inputs=(blob_of(b"x", "", title=title),)), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_inputs_do_not_overwrite(tmp_path: Path) -> None:
    extract_inputs(WHOLE, tmp_path)
    assert (tmp_path / "app.tar").read_bytes() == b"source"
    with pytest.raises(NotReadable):
        extract_inputs(WHOLE, tmp_path)


def test_a_bundle_without_a_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotABundle, match="no recipe"):
        extract_recipe(Bundle(), tmp_path)


def test_a_changed_annotation_in_the_index_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", WHOLE)
    index = tmp_path / "a" / "index.json"
    index.write_bytes(index.read_bytes().replace(b"urn:a", b"urn:c", 1))
    with pytest.raises(NotABundle, match="annotation"):
        read_bundle(tmp_path / "a")


def test_text_that_is_not_unicode_is_refused_not_a_crash() -> None:
    payload = base64.b64encode(b'{"predicateType": "urn:\\ud800"}').decode()
    with pytest.raises(NotABundle):
        lay_out(Bundle(statements=(json.dumps({"dsseEnvelope": {"payload": payload}}).encode(),)))


def test_an_input_has_a_title_of_its_own(tmp_path: Path) -> None:
    """Two readers could take different ones: a signed tag and another, say."""
    tags = [blob_of(data, "application/octet-stream", title="git/app/tag") for data in (b"one", b"two")]
    first, second = (Bundle(inputs=(tag,)) for tag in tags)
    both = Manifest(artifact_type="application/vnd.rvp.inputs.v1", layers=tuple(tags))
    write_layout(tmp_path / "b", layout_of([both]))
    with pytest.raises(NotABundle, match="2 inputs with 1 titles"):
        read_bundle(tmp_path / "b")
    assert merge(first, second).inputs == first.inputs


def test_more_statements_than_anybody_makes_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch
) -> None:
    from provenance import bundle
    from provenance.ustar import TooLarge

    blob = blob_of(b"x" * 100, bundle.STATEMENT)
    write_layout(tmp_path / "b", layout_of([Manifest(artifact_type=bundle.STATEMENT, layers=(blob,))]))
    monkeypatch.setattr(bundle, "MAX_STATEMENTS_BYTES", 99)
    with pytest.raises(TooLarge, match="1 statements of 100 bytes"):
        bundle.read_bundle(tmp_path / "b")
