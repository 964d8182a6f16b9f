"""Two sequences of runs: the first unit that differs, and all of them, against a plain comparison unit by unit."""

from __future__ import annotations

import random

import pytest

from pipeline.explain.walk import Run, all_changes, first_split

UNIT = 64


def run(address: int, *units: int, flags: int = 3, **more: object) -> Run:
    content = b"".join(bytes([one]) * UNIT for one in units)
    return Run(op="ADD", address=address, count=len(units), unit=UNIT, flags=flags, content=content, **more)  # type: ignore[arg-type]


def bare(address: int, count: int, flags: int = 3) -> Run:
    return Run(op="ADD", address=address, count=count, unit=UNIT, flags=flags, content=b"")


def units(runs: list[Run]) -> list[tuple[int, int, bytes]]:
    return [
        (one.address + index * UNIT, one.flags, bytes(one.content_at(index)))
        for one in runs
        for index in range(one.count)
    ]


def test_equal_runs_do_not_part_however_they_are_cut() -> None:
    one = [run(0, 1, 2, 3), run(3 * UNIT, 3, 3)]
    other = [run(0, 1), run(UNIT, 2, 3, 3), run(4 * UNIT, 3)]
    filled = [
        run(0, 1, 2),
        Run(op="ADD", address=2 * UNIT, count=3, unit=UNIT, flags=3, content=b"\3" * UNIT),
    ]
    assert first_split(one, other) is None
    assert first_split(one, filled) is None
    assert not list(all_changes(one, other, key=lambda _: ""))


@pytest.mark.parametrize(
    ("right", "kind", "number"),
    [
        ([run(0, 1, 2, 9)], "content", 3),
        ([run(0, 1, 2), run(2 * UNIT, 3, flags=1)], "flags", 3),
        ([run(0, 1, 2), run(4 * UNIT, 3)], "address", 3),
        ([run(0, 1, 2), bare(2 * UNIT, 1)], "measured", 3),
        ([run(0, 1, 2, 3, 4)], "missing", 4),
        ([run(0, 1, 2)], "extra", 3),
    ],
)
def test_each_kind_of_divergence_is_named(right: list[Run], kind: str, number: int) -> None:
    found = first_split([run(0, 1, 2, 3)], right)
    assert found is not None
    assert (found.kind, found.number) == (kind, number)


def test_the_first_divergence_is_what_a_plain_comparison_finds() -> None:
    chance = random.Random(7)
    for _ in range(300):
        sides = []
        for _side in range(2):
            at, runs = 0, []
            for _run in range(4):
                values = [chance.choice((1, 1, 1, 1, 1, 1, 1, 2)) for _ in range(chance.randint(1, 4))]
                runs.append(run(at, *values, flags=chance.choice((3, 3, 3, 3, 3, 1))))
                at += len(values) * UNIT + (UNIT if chance.random() < 0.1 else 0)
            sides.append(runs)
        ones, others = (units(side) for side in sides)
        expected = next(
            (index for index, pair in enumerate(zip(ones, others, strict=False)) if pair[0] != pair[1]),
            min(len(ones), len(others)) if len(ones) != len(others) else None,
        )
        found = first_split(*sides)
        assert (None if found is None else found.number - 1) == expected


def test_all_changes_are_what_a_plain_comparison_by_address_finds() -> None:
    chance = random.Random(8)
    for _ in range(300):
        sides = []
        for _side in range(2):
            at, runs = 0, []
            for _run in range(4):
                values = [chance.choice((1, 1, 1, 2)) for _ in range(chance.randint(1, 4))]
                runs.append(run(at, *values, flags=chance.choice((3, 3, 3, 1))))
                at += len(values) * UNIT + (UNIT if chance.random() < 0.3 else 0)
            sides.append(runs)
        ones, others = ({one[0]: one[1:] for one in units(side)} for side in sides)
        expected = {address for address in {*ones, *others} if ones.get(address) != others.get(address)}
        found: set[int] = set()
        for change in all_changes(*sides, key=lambda _: ""):
            side, index = (
                (change.left, change.left_index) if change.left else (change.right, change.right_index)
            )
            assert side is not None
            found |= {side.address + (index + unit) * UNIT for unit in range(change.count)}
        assert found == expected


def test_digests_of_equal_runs_are_compared() -> None:
    one = [Run(op="ADD", address=0, count=8, unit=UNIT, digest="aa", label="x")]
    other = [Run(op="ADD", address=0, count=8, unit=UNIT, digest="bb", label="x")]
    found = first_split(one, other)
    assert found is not None
    assert (found.kind, found.units) == ("content", 8)
    assert first_split(one, one) is None


def test_digests_of_runs_that_were_cut_differently_say_so() -> None:
    one = [Run(op="ADD", address=0, count=8, unit=UNIT, digest="aa")]
    other = [
        Run(op="ADD", address=0, count=4, unit=UNIT, digest="bb"),
        Run(op="ADD", address=4 * UNIT, count=4, unit=UNIT, digest="cc"),
    ]
    found = first_split(one, other)
    assert found is not None
    assert found.kind == "content"
    assert found.unknown + found.units >= 4


def test_runs_of_one_key_are_laid_over_each_other_wherever_they_lie() -> None:
    one = [run(0, 1, 2, label="a"), run(4 * UNIT, 7, 8, label="b")]
    other = [run(0, 1, 2, label="a"), run(9 * UNIT, 7, 9, label="b")]
    (change,) = all_changes(one, other, key=lambda each: each.label)
    assert change.kind == "content"
    assert change.left is not None
    assert change.left.address + change.left_index * UNIT == 5 * UNIT
