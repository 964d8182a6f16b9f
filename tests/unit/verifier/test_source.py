"""The source of a recipe is checked before anything of it runs."""

import msgspec
import pytest

from provenance.bundle import Bundle, pack_files
from provenance.canonical import canonical_json
from provenance.oci import TITLE, blob_of
from provenance.policy import FurtherSource, Policy, QuorumPolicy, SourcePolicy, TrustPolicy
from provenance.policy import Product as ProductPolicy
from provenance.ustar import TooLarge
from verifier.verify.source import SourceRefused, check_before_rebuild, git_objects_of

REPOSITORY = "https://example.org/app.git"


def bundle(*sources: dict[str, object]) -> Bundle:
    return Bundle(recipe=pack_files({"origin.json": canonical_json({"sources": list(sources)})}))


def source(**changes: object) -> dict[str, object]:
    return {
        "name": "app",
        "tree": "00" * 32,
        "repository": REPOSITORY,
        "ref": "refs/tags/v1",
        "commit": "c" * 40,
    } | changes


def trust(**changes: object) -> TrustPolicy:
    expected = msgspec.structs.replace(SourcePolicy(repository=REPOSITORY, refs=("refs/tags/v*",)), **changes)
    policy = Policy(
        schema="rvp/policy/v1",
        product=ProductPolicy(name="app"),
        source=expected,
        quorum=QuorumPolicy(n=1),
        operator=(),
    )
    return TrustPolicy(
        policy=policy, digest=b"", operator_keys={}, also_signers=tuple(() for _ in expected.also)
    )


def test_the_expected_source_may_be_rebuilt() -> None:
    checks = check_before_rebuild(bundle(source()), trust())
    assert [check.status for check in checks] == ["passed", "passed", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"repository": "https://example.org/evil.git"}, "source-repository"),
        ({"repository": ""}, "source-repository"),
        ({"ref": "refs/heads/main"}, "source-ref"),
        ({"ref": ""}, "source-ref"),
        ({"dirty": True}, "source-ref"),
    ],
)
def test_another_source_is_refused_with_expected_and_got(change: dict[str, object], check: str) -> None:
    with pytest.raises(SourceRefused, match=check):
        check_before_rebuild(bundle(source(**change)), trust())


def test_a_second_repository_must_be_named() -> None:
    library = source(name="lib", repository="https://example.org/lib.git")
    with pytest.raises(SourceRefused, match=r"lib\.git"):
        check_before_rebuild(bundle(source(), library), trust())
    assert check_before_rebuild(
        bundle(source(), library), trust(also=(FurtherSource(repository="https://example.org/lib.git"),))
    )


def test_an_unsigned_revision_is_refused_when_a_signature_is_asked_for() -> None:
    with pytest.raises(SourceRefused, match="source-signature"):
        check_before_rebuild(bundle(source()), trust(signed_by=("m.pub",)))


def test_a_bundle_without_a_recipe_is_refused() -> None:
    with pytest.raises(SourceRefused, match="no recipe"):
        check_before_rebuild(Bundle(), trust())


def test_many_titles_of_one_git_object_do_not_fill_the_memory() -> None:
    blob = blob_of(b"x" * (1 << 20), "")
    inputs = tuple(
        msgspec.structs.replace(blob, annotations={TITLE: f"git/app/tree/{number}"}) for number in range(70)
    )
    with pytest.raises(TooLarge, match="70 git objects"):
        git_objects_of(Bundle(inputs=inputs))
