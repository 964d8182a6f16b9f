from __future__ import annotations

import pytest

from pipeline.debian.apt import NotResolvable
from pipeline.debian.indexes import parse_packages
from pipeline.debian.relations import Relation, parse_relations
from pipeline.debian.resolve import resolve

FILE = "Version: {version}\nArchitecture: {arch}\nFilename: a.deb\nSize: 1\nSHA256: " + "0" * 64


def chosen(*paragraphs: str, wanted: str, pins: dict[tuple[str, str], int] | None = None) -> list[str]:
    packages = []
    for text in paragraphs:
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        version, arch = fields.pop("Version", "1.0"), fields.pop("Architecture", "amd64")
        suite = fields.pop("Suite", "stable")
        body = "\n".join(f"{key}: {value}" for key, value in fields.items())
        paragraph = body + "\n" + FILE.format(version=version, arch=arch)
        packages += list(parse_packages(paragraph.encode(), suite=suite))
    found = resolve(packages, wanted.split(), architecture="amd64", pins=pins)
    return [f"{one.name} {one.version}" if one.version != "1.0" else one.name for one in found]


def test_dependencies_and_pre_dependencies_are_followed() -> None:
    found = chosen(
        "Package: a\nDepends: b (>= 1.0), c",
        "Package: b\nPre-Depends: d",
        "Package: c",
        "Package: d",
        wanted="a",
    )
    assert found == ["a", "b", "c", "d"]


def test_the_first_alternative_that_can_be_had_is_taken() -> None:
    assert chosen("Package: a\nDepends: x | b | c", "Package: b", "Package: c", wanted="a") == ["a", "b"]


def test_an_alternative_that_is_chosen_already_is_kept() -> None:
    assert chosen("Package: a\nDepends: b | c", "Package: b", "Package: c", wanted="a c") == ["a", "c"]


def test_a_virtual_package_takes_the_provider_of_the_highest_priority() -> None:
    found = chosen(
        "Package: a\nDepends: awk",
        "Package: gawk\nProvides: awk\nPriority: optional",
        "Package: mawk\nProvides: awk\nPriority: required",
        wanted="a",
    )
    assert found == ["a", "mawk"]


def test_a_provider_without_a_version_does_not_satisfy_a_versioned_relation() -> None:
    with pytest.raises(NotResolvable, match=r"v \(>= 1\)"):
        chosen("Package: a\nDepends: v (>= 1)", "Package: p\nProvides: v", wanted="a")


def test_a_versioned_provider_satisfies_a_versioned_relation() -> None:
    both = (
        "Package: a\nDepends: v (>= 2)",
        "Package: p\nProvides: v (= 2.1)",
        "Package: q\nProvides: v (= 1)",
    )
    assert chosen(*both, wanted="a") == ["a", "p"]


def test_a_conflict_makes_the_other_alternative_be_taken() -> None:
    found = chosen(
        "Package: a\nDepends: b | c", "Package: b\nConflicts: d", "Package: c", "Package: d", wanted="a d"
    )
    assert found == ["a", "c", "d"]


def test_a_conflict_deep_below_an_alternative_is_gone_back_from() -> None:
    found = chosen(
        "Package: a\nDepends: b | c",
        "Package: b\nDepends: e",
        "Package: c",
        "Package: d\nBreaks: e (<< 2)",
        "Package: e",
        wanted="a d",
    )
    assert found == ["a", "c", "d"]


def test_breaks_of_older_versions_leave_newer_ones_alone() -> None:
    assert chosen("Package: a\nBreaks: b (<< 1.0)", "Package: b", wanted="a b") == ["a", "b"]


def test_a_package_may_conflict_with_what_it_provides_itself() -> None:
    assert chosen("Package: a\nProvides: mta\nConflicts: mta", wanted="a") == ["a"]


def test_two_providers_that_conflict_with_the_virtual_package_cannot_be_together() -> None:
    with pytest.raises(NotResolvable, match="together"):
        chosen(
            "Package: a\nProvides: mta\nConflicts: mta",
            "Package: b\nProvides: mta\nConflicts: mta",
            wanted="a b",
        )


def test_what_is_missing_is_told_with_who_needs_it_and_which_version_there_is() -> None:
    with pytest.raises(NotResolvable) as caught:
        chosen("Package: a\nDepends: b (>= 2)", "Package: b", wanted="a")
    assert "a needs b (>= 2), and there is only b 1.0" in caught.value.message
    assert caught.value.exit_code == 3


def test_a_name_that_no_suite_has_is_told() -> None:
    with pytest.raises(NotResolvable, match="the spec needs gccc, which no suite has"):
        chosen("Package: gcc", wanted="gccc")


def test_the_newest_version_of_all_suites_is_the_candidate() -> None:
    both = ("Package: a\nVersion: 1.9", "Package: a\nVersion: 1.10\nSuite: other")
    assert chosen(*both, wanted="a") == ["a 1.10"]


def test_a_suite_that_is_not_taken_from_by_itself_ranks_lower() -> None:
    both = ("Package: a", "Package: a\nVersion: 2.0\nSuite: backports")
    assert chosen(*both, wanted="a", pins={("", "backports"): 100}) == ["a"]


def test_qualifiers_any_and_the_own_architecture_are_answered() -> None:
    assert chosen("Package: a\nDepends: b:any, c:amd64", "Package: b", "Package: c", wanted="a") == [
        "a",
        "b",
        "c",
    ]
    with pytest.raises(NotResolvable):
        chosen("Package: a\nDepends: b:i386", "Package: b", wanted="a")


def test_packages_of_another_architecture_are_not_there() -> None:
    assert chosen("Package: a\nVersion: 2.0\nArchitecture: arm64", "Package: a", wanted="a") == ["a"]


def test_a_circle_of_dependencies_is_no_problem() -> None:
    assert chosen("Package: a\nDepends: b", "Package: b\nDepends: a", wanted="a") == ["a", "b"]


@pytest.mark.parametrize(
    ("operator", "version", "fits"),
    [
        ("<<", "1.0", False),
        ("<=", "1.0", True),
        ("=", "1.0~rc1", False),
        (">=", "0.9", True),
        (">>", "1.0", False),
    ],
)
def test_versions_compare_as_in_dpkg(operator: str, version: str, *, fits: bool) -> None:
    assert Relation("a", "", operator, version).allows("1.0") is fits


def test_relations_are_parsed_with_folds_and_spaces() -> None:
    ((one, two), (three,)) = parse_relations("a:any(>=1:2.0-1)|b\n , c ( << 3~ )")
    assert (one, two, three) == (
        Relation("a", "any", ">=", "1:2.0-1"),
        Relation("b"),
        Relation("c", "", "<<", "3~"),
    )
