"""Who agrees with whom: agreement, conflict, equivocation, dissent, level.

A check is a pure function of the case; docs/reference/verify.md has the table.
"""

from __future__ import annotations

from provenance.claims import Check
from provenance.digest import sha256
from provenance.policy import LEVELS
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say
from verifier.verify.disagreement import first_difference


def agreement(case: Case) -> Check:
    """As many distinct operators as the policy asks for say the same, byte for byte."""
    if case.trust is None or not case.said.values:
        return not_reached("agreement", "no reference values by an operator")
    tally = case.tally
    total = len(case.trust.policy.operator)
    expected = f"{tally.n} of {total} operators agree"
    groups = "; ".join(
        f"{', '.join(group.operators)} on core {sha256(group.core).hex()}" for group in tally.groups
    )
    silent = sorted(
        {one.name for one in case.trust.policy.operator} - {one.operator for one in case.said.values}
    )
    got = groups or "nobody who counts"
    if silent:
        got += f"; nothing by {', '.join(silent)}"
    if not tally.reached:
        if len(tally.groups) > 1:
            got += "\n" + _first_difference(case)
        return say(
            "agreement",
            "failed",
            got,
            expected=expected,
            source="policy [quorum] n",
            hint="let a further operator rebuild: rvp rebuild, rvp sign, rvp publish",
        )
    return say("agreement", "passed", got, expected=expected, source="policy [quorum] n")


def _first_difference(case: Case) -> str:
    """Tell where the two largest groups first differ, and who says what."""
    one, two = case.tally.groups[:2]
    found = first_difference(case.cores[one.core], case.cores[two.core])
    said = ((one, found.left), (two, found.right))
    lines = [f"{', '.join(group.operators)}: {value}" for group, value in said]
    return "\n".join([f"first difference: {found.what}", *sorted(lines)])


def conflict(case: Case) -> Check:
    """No second set of values reaches n as well."""
    if case.trust is None or not case.tally.reached:
        return not_reached("conflict")
    if case.tally.conflict:
        return say(
            "conflict",
            "failed",
            "\n".join(
                f"core {sha256(group.core).hex()} by {', '.join(group.operators)}"
                for group in case.tally.reached
            ),
            expected="one set of values",
            source="policy [quorum]",
            hint="n over half of the operators makes this impossible",
        )
    return say("conflict", "passed", "one set of values reaches n")


def equivocation(case: Case) -> Check:
    """No operator says two different things about one recipe."""
    if case.trust is None or not case.said.values:
        return not_reached("equivocation")
    names = case.tally.equivocating
    if names:
        return say(
            "equivocation",
            "warning",
            f"{', '.join(names)} said two different things about one recipe: not counted",
            expected="each operator says one thing about a recipe",
            hint="ask that operator; its builds may not be reproducible, or its key is used by two",
        )
    return say("equivocation", "passed", "none")


def dissent(case: Case) -> Check:
    """Operators that say something else than what was agreed are told; they have no veto."""
    if not case.agreed:
        return not_reached("dissent")
    if case.tally.dissent:
        expected, got = [f"core {case.agreed[0].core_digest}"], []
        for group in case.tally.dissent:
            found = first_difference(case.agreed[0].predicate.core, case.cores[group.core])
            expected.append(f"{found.what} {found.left}")
            who = ", ".join(group.operators)
            got += [f"{who} said core {sha256(group.core).hex()}", f"{found.what} {found.right}"]
        return say(
            "dissent",
            "warning",
            "\n".join(got),
            expected="\n".join(dict.fromkeys(expected)),
            hint="dissent is no veto; find out what differed: rvp show BUNDLE --as values",
        )
    return say("dissent", "passed", "none")


def level(case: Case) -> Check:
    """Enough of those who agree have rebuilt, not only measured."""
    if case.trust is None or not case.agreed:
        return not_reached("level")
    wanted = case.trust.policy.quorum.level
    best: dict[str, int] = {}
    for one in case.agreed:
        found = LEVELS.index(one.predicate.level)
        best[one.operator] = max(found, best.get(one.operator, 0))
    counted = set(next(g.operators for g in case.tally.reached))
    enough = sum(1 for name in counted if best.get(name, 0) >= LEVELS.index(wanted)) >= case.tally.n
    return say(
        "level",
        "passed" if enough else "failed",
        ", ".join(f"{name} {LEVELS[best[name]]}" for name in sorted(best)),
        expected=f"{case.tally.n} operators {wanted}",
        source="policy [quorum] level",
        hint="" if enough else "who only measured an artifact says nothing about where it comes from",
    )
