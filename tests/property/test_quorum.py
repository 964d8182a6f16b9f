"""The quorum, over all votes that hypothesis can think of."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from provenance.quorum import Vote, count

votes = st.lists(
    st.builds(
        Vote,
        operator=st.sampled_from("abcd"),
        key=st.sampled_from([b"1", b"2", b"3", b"4"]),
        recipe=st.sampled_from(["r", "s"]),
        core=st.sampled_from([b"x", b"y", b"z"]),
    ),
    max_size=10,
)
honest = st.lists(st.sampled_from("abcdefg"), unique=True)


def own(operator: str, core: bytes, recipe: str = "r") -> Vote:
    return Vote(operator=operator, key=operator.encode(), recipe=recipe, core=core)


@given(votes, st.integers(1, 4), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(found: list[Vote], n: int, random: object) -> None:
    shuffled = found * 2
    random.shuffle(shuffled)
    assert count(shuffled, n=n) == count(found, n=n)


@given(votes, st.integers(1, 4))
def test_no_group_has_more_members_than_there_are_keys_or_names(found: list[Vote], n: int) -> None:
    for group in count(found, n=n).groups:
        mine = [vote for vote in found if vote.core == group.core]
        assert len(group.operators) <= min(len({v.key for v in mine}), len({v.operator for v in mine}))


@given(votes)
def test_who_says_two_things_about_one_recipe_is_in_no_group_for_it(found: list[Vote]) -> None:
    only = [vote for vote in found if vote.recipe == "r"]
    tally = count(only, n=1)
    for name in tally.equivocating:
        assert all(name not in group.operators for group in tally.groups)
    for vote, other in itertools.combinations(only, 2):
        if vote.operator == other.operator and vote.core != other.core:
            assert tally.equivocating


@given(honest, honest)
def test_dissent_is_never_a_veto(agreeing: list[str], others: list[str]) -> None:
    dissenting = [name for name in others if name not in agreeing]
    if len(agreeing) <= len(dissenting):
        return
    tally = count(
        [own(a, b"x") for a in agreeing] + [own(d, b"y%d" % i) for i, d in enumerate(dissenting)],
        n=max(len(agreeing), 2),
    )
    assert tally.agreed == (b"x" if len(agreeing) >= 2 else None)
    assert not tally.conflict


@given(st.integers(2, 4))
def test_two_groups_that_reach_n_are_a_conflict_and_nothing_is_agreed(n: int) -> None:
    tally = count([own(f"a{i}", b"x") for i in range(n)] + [own(f"b{i}", b"y") for i in range(n)], n=n)
    assert tally.conflict
    assert tally.agreed is None


@given(votes, st.integers(1, 4))
def test_what_is_agreed_was_said_by_n_operators(found: list[Vote], n: int) -> None:
    tally = count(found, n=n)
    if tally.agreed is not None:
        assert len({vote.operator for vote in found if vote.core == tally.agreed}) >= n


def test_one_key_under_two_names_counts_once_also_through_a_chain() -> None:
    chain = [
        Vote(operator="a", key=b"1", recipe="r", core=b"x"),
        Vote(operator="b", key=b"1", recipe="r", core=b"x"),
        Vote(operator="b", key=b"2", recipe="r", core=b"x"),
        Vote(operator="c", key=b"2", recipe="r", core=b"x"),
    ]
    assert count(chain, n=2).agreed is None
    assert count(chain, n=1).groups[0].operators == ("a",)


def test_two_recipes_of_one_operator_are_no_equivocation() -> None:
    assert count([own("a", b"x", "r"), own("a", b"y", "s")], n=1).equivocating == ()
