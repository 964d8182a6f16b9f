"""Release statements: what is released, for how long, in which order."""

import msgspec
import pytest

from provenance.predicates.core import Core, Source, core_digest
from provenance.predicates.release import Release, Validity, make_release, read_release
from provenance.predicates.shapes import (
    MomentMalformed,
    PredicateRefused,
    PredicateTypeUnexpected,
    Sha256Digest,
    format_moment,
    parse_moment,
)
from provenance.statement import make_statement
from provenance.strict import UnknownKey, WrongType
from tests.unit.provenance.predicates.test_reference_values import example

CORE = example().core


def release(core=CORE, **changes):
    return Release(
        **{
            "product": "keyservice",
            "series": "stable",
            "sequence": 7,
            "version": "1.2.0",
            "validity": Validity(not_before="2026-01-01T00:00:00Z", not_after="2027-01-01T00:00:00Z"),
            "core_digest": Sha256Digest(sha256=core_digest(core).hex()),
            **changes,
        }
    )


def read(**changes):
    made = make_release(release(), CORE)
    return read_release(make_statement(made.subjects, made.predicate_type, {**made.predicate, **changes}))


def test_it_reads_back():
    assert read_release(make_release(release(), CORE)) == release()


def test_its_subjects_are_the_artifacts():
    assert [one.name for one in make_release(release(), CORE).subjects] == ["enclave.signed.so", "vm.img"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"colour": "red"}, UnknownKey),
        ({"sequence": -1}, WrongType),
        ({"sequence": 2**53 - 1, "series": "Stable!"}, WrongType),
        ({"sequence": "7"}, WrongType),
        ({"version": ""}, WrongType),
        ({"validity": {"notBefore": "2026-01-01T00:00:00Z"}}, WrongType),
        (
            {"validity": {"notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-01-01T00:00:00Z"}},
            PredicateRefused,
        ),
        (
            {"validity": {"notBefore": "2026-02-31T00:00:00Z", "notAfter": "2027-01-01T00:00:00Z"}},
            MomentMalformed,
        ),
        ({"coreDigest": {"sha256": "00" * 31}}, WrongType),
        ({"coreDigest": {"sha512": "00" * 64}}, (UnknownKey, WrongType)),
        ({"supersedes": [{"sha256": "11" * 32}, {"sha256": "00" * 32}]}, PredicateRefused),
        ({"supersedes": [{"sha256": core_digest(CORE).hex()}]}, PredicateRefused),
    ],
)
def test_what_breaks_a_rule_is_refused(changes, error):
    with pytest.raises(error):
        read(**changes)


def test_another_type_is_refused():
    made = make_release(release(), CORE)
    with pytest.raises(PredicateTypeUnexpected):
        read_release(make_statement(made.subjects, "https://example.org/x", made.predicate))


def test_another_core_is_not_released():
    other = msgspec.structs.replace(CORE, recipe_digest=None)
    with pytest.raises(PredicateRefused, match="names the core"):
        make_release(release(), other)


def test_another_product_is_not_released():
    with pytest.raises(PredicateRefused, match="other"):
        make_release(release(product="other"), CORE)


def test_files_that_are_in_no_commit_are_not_released():
    dirty = Core(
        product=CORE.product,
        recipe_digest=CORE.recipe_digest,
        sources=(Source(name="app", tree_digest=Sha256Digest(sha256="77" * 32), dirty=True),),
        subjects=CORE.subjects,
        sets=CORE.sets,
    )
    with pytest.raises(PredicateRefused, match="no commit: source app"):
        make_release(release(dirty), dirty)


@pytest.mark.parametrize("text", ["", "now", "2026-01-01", "2026-01-01T00:00:00", "-1", "²", "1" * 13])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(MomentMalformed):
        parse_moment(text)


def test_moments_are_rfc_3339_or_unix_seconds():
    assert parse_moment("2026-01-01T00:00:00Z") == parse_moment("1767225600") == 1767225600
    assert format_moment(1767225600) == "2026-01-01T00:00:00Z"
