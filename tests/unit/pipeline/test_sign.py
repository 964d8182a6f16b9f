"""Signing a build: only what was built, measured again, and repeated."""

import json

import msgspec
import pytest

from pipeline.build_check import (
    ArtifactChanged,
    NotReproduced,
    NotSignable,
    RecipeOther,
    ValuesChanged,
    layer_name,
    measure_again,
    measure_artifact,
)
from pipeline.build_result import Artifact, NoBuild, read_result
from pipeline.recipe import RecipeDamaged
from pipeline.sign import Times, sign_statements, state_build, state_files
from provenance.claims import Measurement, Subject
from provenance.dsse import NotVerified
from provenance.own_output import OwnOutputRefused, check_own_output
from provenance.predicates.core import core_digest
from provenance.predicates.reference_values import read_reference_values
from provenance.predicates.slsa_provenance import read_provenance
from provenance.public_key import KeyType
from provenance.signers.key_file import make_key, open_signer
from provenance.sigstore_bundle import read_bundle, sign_statement, verify_envelope
from provenance.statement import make_statement
from tests.fakes.build_folder import ENCLAVE, sgxs_enclave, write_build, write_result

BUILDER = "https://example.org/builder"


@pytest.fixture
def build(tmp_path):
    write_build(tmp_path / "build")
    return tmp_path / "build"


@pytest.fixture
def signer(tmp_path):
    make_key(tmp_path / "k", KeyType.P256)
    return open_signer(str(tmp_path / "k"))


def change(folder, **fields):
    write_result(folder, msgspec.structs.replace(read_result(folder), **fields))


def test_what_is_signed_is_verified_by_a_stranger(build, signer):
    signed = sign_statements(state_build(build, builder_id=BUILDER), signer)
    assert [one.file_name.partition(".")[0] for one in signed] == ["slsa-provenance", "reference-values"]
    statement = verify_envelope(read_bundle(signed[1].data), [signer.public_key]).statement
    values = read_reference_values(statement)
    assert values.level == "reproduced"
    assert values.builder.id == BUILDER
    assert values.core.sources[0].ref == "refs/tags/v1.2.0"
    assert (
        values.core.sets[0].claims["mrenclave"].exact
        == read_result(build).measurements[0].measurements[0].claims["mrenclave"]
    )


def test_signing_twice_gives_equal_bytes(build, signer):
    first = sign_statements(state_build(build, builder_id=BUILDER), signer)
    assert first == sign_statements(state_build(build, builder_id=BUILDER), signer)


def test_two_rebuilders_have_one_core(build, tmp_path):
    write_build(tmp_path / "other", times=3, nodes=_three_runs(build))
    one = state_build(build, builder_id=BUILDER)
    two = state_build(
        tmp_path / "other",
        builder_id="https://other.example/b",
        times=Times(finished_on="2026-01-01T00:00:00Z"),
    )
    assert core_digest(one.core) == core_digest(two.core)
    assert one.statements["reference-values"] != two.statements["reference-values"]


def _three_runs(build):
    node = read_result(build).nodes[0]
    third = msgspec.structs.replace(node.runs[1], run=3)
    return (msgspec.structs.replace(node, runs=(*node.runs, third)),)


def test_another_content_is_another_core(build, tmp_path):
    write_build(tmp_path / "other", content=b"other code")
    assert core_digest(state_build(build, builder_id=BUILDER).core) != core_digest(
        state_build(tmp_path / "other", builder_id=BUILDER).core
    )


def test_provenance_says_what_went_in_and_what_did_not_vary(build):
    provenance = read_provenance(state_build(build, builder_id=BUILDER).statements["slsa-provenance"])
    definition = provenance.build_definition
    names = [one.name for one in definition.resolved_dependencies]
    assert names == ["source.app", "Release debian bookworm", "gcc"]
    assert definition.external_parameters["recipeDigest"] == {"sha256": read_result(build).recipe}
    assert definition.internal_parameters["notExercised"] == [
        {"step": "step.enclave", "variation": "time", "reason": "the compiler is static"}
    ]
    assert [one.name for one in provenance.run_details.byproducts] == [
        "log of step.enclave, run 1",
        "log of step.enclave, run 2",
        "enclave.json",
    ]


def test_an_artifact_that_changed_by_one_byte_is_not_signed(build):
    path = build / "artifacts" / ENCLAVE
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactChanged, match="sha256") as raised:
        state_build(build, builder_id=BUILDER)
    assert raised.value.exit_code == 12


def test_a_result_that_leaves_out_a_digest_is_not_signed(build):
    result = read_result(build)
    digest = {"sha256": result.artifacts[0].digest["sha256"]}
    change(build, artifacts=(msgspec.structs.replace(result.artifacts[0], digest=digest),))
    with pytest.raises(ArtifactChanged, match="sha384"):
        state_build(build, builder_id=BUILDER)


def test_a_value_that_measuring_again_does_not_give_is_not_signed(build):
    result = read_result(build)
    node = result.measurements[0]
    lie = msgspec.structs.replace(node.measurements[0], claims={"mrenclave": "00" * 32})
    change(build, measurements=(msgspec.structs.replace(node, measurements=(lie,), logs=()),))
    with pytest.raises(ValuesChanged, match="mrenclave") as raised:
        state_build(build, builder_id=BUILDER)
    assert raised.value.exit_code == 12


def test_an_open_event_that_measuring_again_does_not_leave_is_not_signed(build):
    result = read_result(build)
    node = result.measurements[0]
    lie = msgspec.structs.replace(node.measurements[0], policy_inputs=("configsvn",))
    change(build, measurements=(msgspec.structs.replace(node, measurements=(lie,)),))
    with pytest.raises(ValuesChanged, match="open"):
        state_build(build, builder_id=BUILDER)


def test_values_of_a_file_that_is_no_artifact_are_not_signed(build):
    result = read_result(build)
    node = result.measurements[0]
    subject = msgspec.structs.replace(node.measurements[0].subject, digest={"sha256": "00" * 32})
    lie = msgspec.structs.replace(node.measurements[0], subject=subject)
    change(build, measurements=(msgspec.structs.replace(node, measurements=(lie,)),))
    with pytest.raises(ValuesChanged, match="not among the artifacts"):
        state_build(build, builder_id=BUILDER)


def test_a_log_of_another_value_is_not_signed(build):
    path = build / "measurement-logs" / "enclave.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "value": "00" * 32}))
    with pytest.raises(ValuesChanged, match="folds to"):
        state_build(build, builder_id=BUILDER)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"verdict": "diverged"}, NotReproduced),
        ({"verdict": "not rebuilt", "times": 1}, NotSignable),
        ({"complete": False}, NotSignable),
        ({"recipe": ""}, NotSignable),
        ({"measurements": ()}, NotSignable),
        ({"artifacts": ()}, NotSignable),
        ({"times": 3}, NotReproduced),
        ({"recipe": "00" * 32}, RecipeOther),
        ({"project": "other"}, RecipeOther),
        ({"version": "9"}, RecipeOther),
        ({"epoch": 1}, RecipeOther),
    ],
)
def test_a_result_that_is_not_enough_is_not_signed(build, fields, error):
    change(build, **fields)
    with pytest.raises(error):
        state_build(build, builder_id=BUILDER)


def test_a_verdict_is_not_believed_when_the_runs_say_otherwise(build):
    node = read_result(build).nodes[0]
    other = msgspec.structs.replace(node.runs[1], outputs="ee" * 32)
    change(build, nodes=(msgspec.structs.replace(node, runs=(node.runs[0], other)),))
    with pytest.raises(NotReproduced, match=r"step\.enclave"):
        state_build(build, builder_id=BUILDER)


def test_a_recipe_that_was_touched_is_not_signed(build):
    path = build / "recipe" / "rvp.toml"
    path.write_bytes(path.read_bytes() + b"\n# more\n")
    with pytest.raises(RecipeDamaged):
        state_build(build, builder_id=BUILDER)


def test_a_path_that_leads_out_is_not_followed(build):
    result = read_result(build)
    change(build, artifacts=(msgspec.structs.replace(result.artifacts[0], path="../../etc/hostname"),))
    with pytest.raises(NotSignable, match="leads out"):
        state_build(build, builder_id=BUILDER)


def test_a_layer_that_the_recipe_does_not_have_is_told(build):
    result = read_result(build)
    change(build, measurements=(msgspec.structs.replace(result.measurements[0], layer="firmware"),))
    with pytest.raises(RecipeOther):
        state_build(build, builder_id=BUILDER)


def test_a_layer_that_there_is_not_is_told():
    with pytest.raises(NotSignable, match="roof"):
        layer_name("roof")


def test_a_measurement_that_was_left_out_is_told(tmp_path):
    more = b'[[measure]]\nid = "second"\ntee = "sgx"\nimage = "step.enclave:enclave.sgxs"\n'
    write_build(tmp_path / "build", more_spec=more)
    with pytest.raises(RecipeOther, match=r"measure\.second"):
        state_build(tmp_path / "build", builder_id=BUILDER)


def test_a_detached_signature_is_taken_from_the_recipe(tmp_path):
    write_build(tmp_path / "build", sigstruct=b"the signature")
    seen = []

    def measure(path, tee, name, options):
        seen.append(options.sigstruct)
        return measure_again(path, tee, name)

    state_build(tmp_path / "build", builder_id=BUILDER, measure=measure)
    assert seen == [b"the signature"]


def test_an_image_that_is_a_folder_is_measured_as_a_whole(tmp_path):
    layout = tmp_path / "artifacts" / "image"
    blob = layout / "blobs" / "sha256" / ("ab" * 32)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"manifest")
    (layout / "oci-layout").write_text("{}")
    said = Measurement(
        tee="oci",
        subject=Subject(name="image", digest={"sha256": "ab" * 32}),
        claims={"config": "sha256:" + "cd" * 32},
    )
    listed = Artifact(
        name="image/manifest",
        path=str(blob.relative_to(tmp_path)),
        node="pack.image",
        size_bytes=8,
        digest={"sha256": "ab" * 32},
    )
    measured = []

    def measure(path, tee, name, options):
        measured.append(path)
        return (said,)

    assert measure_artifact(tmp_path, said, [listed], measure=measure).subject.name == "image/manifest"
    assert measured == [layout]


def test_no_build_is_told(tmp_path):
    with pytest.raises(NoBuild):
        state_build(tmp_path, builder_id=BUILDER)


def test_files_built_elsewhere_are_signed_at_the_lower_level(tmp_path, build, signer):
    (tmp_path / ENCLAVE).write_bytes(sgxs_enclave())
    stated = state_files([tmp_path / ENCLAVE], product="keyservice", builder_id=BUILDER)
    values = read_reference_values(sign_statements(stated, signer)[0].statement)
    assert values.level == "measured"
    assert values.core.recipe_digest is None
    reproduced = state_build(build, builder_id=BUILDER).core
    assert values.core.sets == reproduced.sets
    assert core_digest(values.core) != core_digest(reproduced)


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ENCLAVE).write_bytes(sgxs_enclave())
    with pytest.raises(NotSignable, match="same name"):
        state_files([tmp_path / "a" / ENCLAVE, tmp_path / "b" / ENCLAVE], product="p", builder_id=BUILDER)


def test_own_output_that_breaks_a_rule_is_not_given_out(build, signer):
    stated = state_build(build, builder_id=BUILDER)
    good = stated.statements["reference-values"]
    bad = make_statement(good.subjects, good.predicate_type, {**good.predicate, "level": "verified"})
    with pytest.raises(OwnOutputRefused, match="RVP-1014"):
        sign_statements(msgspec.structs.replace(stated, statements={"reference-values": bad}), signer)


def test_own_output_of_another_key_is_not_given_out(build, signer, tmp_path):
    make_key(tmp_path / "other", KeyType.P256)
    statement = state_build(build, builder_id=BUILDER).statements["reference-values"]
    data = sign_statement(statement, open_signer(str(tmp_path / "other"))).to_json()
    with pytest.raises(OwnOutputRefused, match=NotVerified.code):
        check_own_output(data, statement, signer)
