"""Where two cores first differ."""

from msgspec.structs import replace

from provenance.claims import Unpredicted
from provenance.predicates.constraint import Constraint
from provenance.predicates.core import Core, Layer, MeasurementSet, Source
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject, Sha256Digest
from verifier.verify.disagreement import first_difference

LAYER = Layer(name="workload", provider="acme")
SET = MeasurementSet(
    id="sgx/e.so",
    tee="sgx",
    subject="e.so",
    layer=LAYER,
    claims={"mrenclave": Constraint(exact="11" * 32), "isvsvn": Constraint(minimum=1)},
)
CORE = Core(
    product="e",
    recipe_digest=Sha256Digest(sha256="22" * 32),
    sources=(Source(name="app", ref="refs/tags/v1", tree_digest=Sha256Digest(sha256="33" * 32)),),
    subjects=(ArtifactSubject(name="e.so", digest=ArtifactDigest(sha256="44" * 32, sha384="55" * 48)),),
    sets=(SET,),
)


def found(other: Core) -> tuple[str, str, str]:
    one = first_difference(CORE, other)
    return one.what, one.left, one.right


def with_claims(**claims: Constraint) -> Core:
    return replace(CORE, sets=(replace(SET, claims=claims),))


def test_a_claim_comes_before_everything_that_explains_it() -> None:
    other = replace(
        with_claims(mrenclave=Constraint(exact="99" * 32), isvsvn=Constraint(minimum=1)),
        recipe_digest=None,
        product="f",
    )
    assert found(other) == ("sgx/e.so: mrenclave", "11" * 32, "99" * 32)


def test_a_constraint_is_told_in_words_and_a_claim_that_is_missing_as_nothing() -> None:
    looser = with_claims(mrenclave=SET.claims["mrenclave"], isvsvn=Constraint(minimum=0))
    assert found(looser) == ("sgx/e.so: isvsvn", "at least 1", "at least 0")
    assert found(with_claims(mrenclave=SET.claims["mrenclave"])) == (
        "sgx/e.so: isvsvn",
        "at least 1",
        "nothing",
    )


def test_a_claim_that_only_the_other_has_is_told() -> None:
    more = with_claims(**SET.claims, isvprodid=Constraint(exact=3))
    assert found(more) == ("sgx/e.so: isvprodid", "nothing", "3")


def test_artifact_source_recipe_and_product_follow_in_this_order() -> None:
    product = replace(CORE, product="f")
    recipe = replace(product, recipe_digest=None)
    ref = replace(recipe, sources=(replace(CORE.sources[0], ref="refs/heads/x"),))
    artifact = replace(ref, subjects=(replace(CORE.subjects[0], name="f.so"),))
    assert found(product) == ("product", "e", "f")
    assert found(recipe) == ("recipe", "22" * 32, "none")
    assert found(ref) == ("source app: ref", "refs/tags/v1", "refs/heads/x")
    assert found(artifact) == ("e.so: sha256", "44" * 32, "nothing")


def test_what_has_no_words_is_told_by_digest() -> None:
    hole = Unpredicted(register="isvprodid", event="x", reason="y")
    assert found(replace(CORE, sets=(replace(SET, unpredicted=(hole,)),)))[1:] == ("nothing", "not predicted")
    what, left, right = found(replace(CORE, sets=(replace(SET, layer=replace(LAYER, provider="other")),)))
    assert (what, len(left), left != right) == ("core", 64, True)
