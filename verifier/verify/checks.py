"""The checks of `rvp verify`: one function each, one table, in the order in which they are told.

A check is a pure function of the case. It answers passed, failed, warning, or skipped with the reason in
`got`. The table says which class of error a failure is: its family gives the exit code, its docstring the
entry in docs/reference/errors.md. A mandatory check that is skipped makes the verdict inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from provenance.bundle import unpack_files
from provenance.claims import Check
from provenance.digest import sha256
from provenance.errors import RvpError
from provenance.policy import LEVELS, TrustPolicy, duration_s
from provenance.predicates.core import Core
from provenance.predicates.shapes import format_moment
from provenance.strict import parse_json
from verifier.verify.case import Case
from verifier.verify.failures import (
    ArtifactUnknown,
    BundleBroken,
    Conflict,
    HoleTooWide,
    LevelTooLow,
    NoKnownOperator,
    NoQuorum,
    NotReleased,
    NotValidNow,
    OtherProduct,
    OtherRecipe,
    OtherRef,
    OtherRepository,
    RecipeNotCommitted,
    RequiredMissing,
    SourceUnsigned,
    Stale,
    StatementForged,
    Withdrawn,
)
from verifier.verify.source import check_committed, check_ref, check_repository, check_signature


def _say(id_: str, status: str, got: str, *, expected: str = "", source: str = "", hint: str = "") -> Check:
    return msgspec.convert(
        {"id": id_, "status": status, "expected": expected, "got": got, "source": source, "hint": hint}, Check
    )


def _no_policy(id_: str) -> Check:
    return _say(id_, "skipped", "there is no policy", hint="--policy POLICY.toml; rvp policy init writes one")


def _not_reached(id_: str, why: str = "nothing was agreed on") -> Check:
    return _say(id_, "skipped", why)


def bundle(case: Case) -> Check:
    """The bundle is whole: every blob has its digest and size, nothing else is there."""
    if case.bundle is None:
        expected, got = "a whole bundle", case.unreadable
        if "\n" in got and "expected " in got:
            head, _, got = got.partition("\n")
            expected, got = head.partition("expected ")[2], got.strip().removeprefix("got ")
        return _say(
            "bundle", "failed", got, expected=expected, hint="get the bundle again from its publisher"
        )
    return _say("bundle", "passed", f"sha256:{case.bundle.digest.hex()}")


def policy(case: Case) -> Check:
    """There is a policy: nothing is trusted without one."""
    if case.trust is None:
        return _no_policy("policy")
    if case.trust.policy.quorum.minority_quorum:
        n, m = case.trust.policy.quorum.n, len(case.trust.policy.operator)
        return _say(
            "policy",
            "warning",
            f"minority quorum: {n} of {m} operators decide, the others may all disagree",
            hint=f"n = {m // 2 + 1}",
        )
    return _say("policy", "passed", f"sha256:{case.trust.digest.hex()}")


def signatures(case: Case) -> Check:
    """Every statement that claims a key of the policy is signed by it and well-formed."""
    if case.bundle is None or case.trust is None:
        return _not_reached("signatures", "no bundle or no policy")
    said, total = case.said, len(case.bundle.statements)
    if said.forged:
        return _say(
            "signatures",
            "failed",
            "\n".join(said.forged),
            expected="each statement verifies with the key that it names",
            source="policy [[operator]], [release], [[require]]",
            hint="get the bundle again; if it is as published, ask the signer",
        )
    if not total:
        return _not_reached("signatures", "the bundle has no statement")
    parts = [f"{total - said.strangers - said.keyless} of {total} statements verified"]
    parts += (
        [f"{said.strangers} by keys that the policy does not name: not counted"] if said.strangers else []
    )
    parts += [f"{said.keyless} keyless: not verified here, not counted"] if said.keyless else []
    return _say("signatures", "passed", "; ".join(parts))


def operators(case: Case) -> Check:
    """An operator of the policy has signed reference values, as the builder that the policy expects."""
    if case.bundle is None or case.trust is None:
        return _not_reached("operators", "no bundle or no policy")
    if not case.bundle.statements:
        return _not_reached("operators", "the bundle has no statement")
    names = sorted({one.operator for one in case.said.values})
    others = "; ".join(f"another builder: {other}" for other in case.said.other_builders)
    expected = ", ".join(
        f"{one.name} ({_key_of(case.trust, one.name)})" for one in case.trust.policy.operator
    )
    if not names:
        return _say(
            "operators",
            "failed",
            others or "no reference values by any of them",
            expected=expected,
            source="policy [[operator]]",
            hint="rvp show BUNDLE prints who signed, unverified",
        )
    got = ", ".join(names)
    return _say(
        "operators",
        "warning" if others else "passed",
        f"{got}; {others}" if others else got,
        expected=expected,
    )


def _key_of(trust: TrustPolicy, name: str) -> str:
    key = trust.operator_keys.get(name)
    return f"key {key.fingerprint.hex()}" if key else "keyless"


def _without_source(id_: str, trust: TrustPolicy, core: Core) -> Check | None:
    """Values that were measured state no source; only a policy that accepts this level goes on."""
    if core.sources or core.recipe_digest:
        return None
    status = "warning" if trust.policy.quorum.level == "measured" else "skipped"
    return _say(id_, status, "the values were measured, not built: no source is stated")


def product(case: Case) -> Check:
    """The values are of the expected product."""
    if case.trust is None or case.looked_at is None:
        return _not_reached("product")
    expected, got = case.trust.policy.product.name, case.looked_at.product
    return _say(
        "product",
        "passed" if got == expected else "failed",
        got,
        expected=expected,
        source="policy [product] name",
        hint="" if got == expected else "give the bundle of the expected product",
    )


def source_repository(case: Case) -> Check:
    """The expected repository was built."""
    if case.trust is None or case.looked_at is None:
        return _not_reached("source-repository")
    measured = _without_source("source-repository", case.trust, case.looked_at)
    return measured or check_repository(case.trust.policy.source, case.looked_at.sources)


def source_ref(case: Case) -> Check:
    """An expected ref was built, as it was committed."""
    if case.trust is None or case.looked_at is None:
        return _not_reached("source-ref")
    measured = _without_source("source-ref", case.trust, case.looked_at)
    return measured or check_ref(case.trust.policy.source, case.looked_at.sources)


def source_signature(case: Case) -> Check:
    """A maintainer signed the revision."""
    if case.trust is None or case.looked_at is None:
        return _not_reached("source-signature")
    return check_signature(
        case.trust.policy.source, case.trust.source_signers, case.looked_at.sources, case.objects
    )


def recipe(case: Case) -> Check:
    """The recipe in the bundle is the one that was signed, part by part, and one that the policy accepts."""
    if case.bundle is None or case.trust is None or case.looked_at is None:
        return _not_reached("recipe")
    digest = case.looked_at.recipe_digest
    signed = digest.sha256 if digest else ""
    accepted = case.trust.policy.source.recipes
    if accepted and signed not in accepted:
        return _say(
            "recipe",
            "failed",
            signed or "no recipe",
            expected=" or ".join(accepted),
            source="policy [source] recipes",
            hint="the steps that were run are not the ones that the policy accepts",
        )
    if case.bundle.recipe is None:
        return _say("recipe", "skipped", "the bundle has no recipe: nobody can rebuild from it")
    try:
        files = unpack_files(case.bundle.recipe)
        core = files.get("recipe.json", b"")
        wrong = _recipe_parts(files, parse_json(core or b"{}", name="recipe.json"))
    except RvpError as error:
        return _say("recipe", "failed", str(error), expected="a whole recipe")
    got = sha256(core).hex()
    if got != signed or wrong:
        return _say(
            "recipe",
            "failed",
            got if got != signed else wrong,
            expected=signed or "no recipe: the values were measured, not built",
            source="the agreed statements",
            hint="the recipe was replaced: get the bundle again",
        )
    return _say("recipe", "passed", got, expected=signed)


def recipe_committed(case: Case) -> Check:
    """Spec and lock are the ones of the revision that a maintainer signed."""
    if case.bundle is None or case.trust is None or case.looked_at is None:
        return _not_reached("recipe-committed")
    if recipe(case).status == "failed":
        return _not_reached("recipe-committed", "the recipe is not the one that was signed")
    files = unpack_files(case.bundle.recipe) if case.bundle.recipe else {}
    return check_committed(case.trust.policy.source, case.looked_at.sources, files, case.objects)


def _recipe_parts(files: dict[str, bytes], core: object) -> str:
    """Compare the spec, the lock and the pinned files with the digests in the recipe's core."""
    if not isinstance(core, dict):
        return "recipe.json is not an object"
    pinned = core.get("files")
    named = {"rvp.toml": core.get("spec"), "rvp.lock": core.get("lock")}
    if isinstance(pinned, dict):
        named |= {f"files/{path}": digest for path, digest in pinned.items()}
    for path, digest in named.items():
        got = sha256(files[path]).hex() if path in files else "nothing"
        if got != digest:
            return f"{path} is {got}, recipe.json names {digest}"
    extra = sorted(set(files) - set(named) - {"recipe.json", "origin.json"})
    return f"{extra[0]} is not part of the recipe" if extra else ""


def agreement(case: Case) -> Check:
    """As many distinct operators as the policy asks for say the same, byte for byte."""
    if case.trust is None or not case.said.values:
        return _not_reached("agreement", "no reference values by an operator")
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
        return _say(
            "agreement",
            "failed",
            got,
            expected=expected,
            source="policy [quorum] n",
            hint="let a further operator rebuild: rvp rebuild, rvp sign, rvp publish",
        )
    return _say("agreement", "passed", got, expected=expected, source="policy [quorum] n")


def conflict(case: Case) -> Check:
    """No second set of values reaches n as well."""
    if case.trust is None or not case.tally.reached:
        return _not_reached("conflict")
    if case.tally.conflict:
        return _say(
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
    return _say("conflict", "passed", "one set of values reaches n")


def equivocation(case: Case) -> Check:
    """No operator says two different things about one recipe."""
    if case.trust is None or not case.said.values:
        return _not_reached("equivocation")
    names = case.tally.equivocating
    if names:
        return _say(
            "equivocation",
            "warning",
            f"{', '.join(names)} said two different things about one recipe: not counted",
            expected="each operator says one thing about a recipe",
            hint="ask that operator; its builds may not be reproducible, or its key is used by two",
        )
    return _say("equivocation", "passed", "none")


def dissent(case: Case) -> Check:
    """Operators that say something else than what was agreed are told; they have no veto."""
    if not case.agreed:
        return _not_reached("dissent")
    if case.tally.dissent:
        return _say(
            "dissent",
            "warning",
            "; ".join(
                f"{', '.join(group.operators)} said core {sha256(group.core).hex()}"
                for group in case.tally.dissent
            ),
            expected=f"core {case.agreed[0].core_digest}",
            hint="dissent is no veto; find out what differed: rvp show BUNDLE --as values",
        )
    return _say("dissent", "passed", "none")


def level(case: Case) -> Check:
    """Enough of those who agree have rebuilt, not only measured."""
    if case.trust is None or not case.agreed:
        return _not_reached("level")
    wanted = case.trust.policy.quorum.level
    best: dict[str, int] = {}
    for one in case.agreed:
        found = LEVELS.index(one.predicate.level)
        best[one.operator] = max(found, best.get(one.operator, 0))
    counted = set(next(g.operators for g in case.tally.reached))
    enough = sum(1 for name in counted if best.get(name, 0) >= LEVELS.index(wanted)) >= case.tally.n
    return _say(
        "level",
        "passed" if enough else "failed",
        ", ".join(f"{name} {LEVELS[best[name]]}" for name in sorted(best)),
        expected=f"{case.tally.n} operators {wanted}",
        source="policy [quorum] level",
        hint="" if enough else "who only measured an artifact says nothing about where it comes from",
    )


def artifacts(case: Case) -> Check:
    """Every file that was given is one that the agreed statements are about."""
    if not case.artifacts:
        return _say("artifacts", "skipped", "no file was given")
    if case.core is None:
        return _not_reached("artifacts")
    known = {subject.digest.sha256: subject for subject in case.core.subjects}
    names = {subject.name: subject for subject in case.core.subjects}
    passed, wrong, expected = [], [], []
    for one in case.artifacts:
        subject = known.get(one.sha256)
        if subject and subject.digest.sha384 == one.sha384:
            passed.append(f"{one.name} is {subject.name}, sha256:{one.sha256}")
            continue
        wrong.append(f"sha256:{one.sha256}  {one.name}")
        meant = [names[one.name]] if one.name in names else list(case.core.subjects)
        expected += [f"sha256:{subject.digest.sha256}  {subject.name}" for subject in meant]
    if wrong:
        return _say(
            "artifacts",
            "failed",
            "\n".join(wrong),
            expected="\n".join(dict.fromkeys(expected)),
            source="the agreed statements",
            hint="the file is not what was built from the source",
        )
    return _say("artifacts", "passed", "\n".join(passed))


def release(case: Case) -> Check:
    """Enough release signers released exactly these values."""
    if case.trust is None or not case.agreed:
        return _not_reached("release")
    wanted = case.trust.policy.release
    if wanted is None:
        return _say(
            "release",
            "skipped",
            "the policy names no release signers",
            hint="[release] signed_by: without it nobody vouches for sequence and validity",
        )
    product_name = case.trust.policy.product
    expected = (
        f"{wanted.threshold} of {len(wanted.signed_by)} signers release core {case.agreed[0].core_digest}"
    )
    found = case.release
    if found is None or found.product != product_name.name:
        signers = {
            one.key.fingerprint
            for one in case.said.releases
            if one.predicate.core_digest.sha256 == case.agreed[0].core_digest
        }
        return _say(
            "release",
            "failed",
            f"{len(signers)} signed a release of it"
            if found is None
            else f'it is a release of "{found.product}"',
            expected=expected,
            source="policy [release]",
            hint="rvp release by the missing signers, then publish again",
        )
    return _say("release", "passed", f"{found.series} {found.sequence} ({found.version})", expected=expected)


def sequence(case: Case) -> Check:
    """The release is of the expected series and not older than the policy accepts."""
    if case.trust is None or case.release is None:
        return _not_reached("sequence", "no release")
    wanted = case.trust.policy.product
    got = f"{case.release.series} {case.release.sequence}"
    expected = f"{wanted.series or 'any series'} {wanted.minimum_release or 0} or later"
    good = wanted.series in {"", case.release.series} and case.release.sequence >= (
        wanted.minimum_release or 0
    )
    return _say(
        "sequence",
        "passed" if good else "failed",
        got,
        expected=expected,
        source="policy [product] series, minimum_release",
        hint="" if good else "use the newest release",
    )


def validity(case: Case) -> Check:
    """The release is valid at the time that was asked about."""
    if case.trust is None or case.release is None:
        return _not_reached("validity", "no release")
    span = case.release.validity
    good = span.not_before_s <= case.at <= span.not_after_s
    return _say(
        "validity",
        "passed" if good else "failed",
        format_moment(case.at),
        expected=f"{span.not_before} to {span.not_after}",
        source="the release statement",
        hint="" if good else "use the newest release; check the clock or --at",
    )


def freshness(case: Case) -> Check:
    """A minimum release, or a signed moment not older than max_age, proves that this is not an old state."""
    if case.trust is None or not case.agreed:
        return _not_reached("freshness")
    wanted = case.trust.policy.product
    limit_s = duration_s(wanted.max_age) if wanted.max_age else None
    if case.release is None:
        return _say(
            "freshness",
            "skipped",
            "nothing in the bundle has a trusted sequence or time",
            source="policy [product] minimum_release, max_age",
            hint="[release] in the policy and a signed release in the bundle",
        )
    age_s = case.at - case.release.validity.not_before_s
    if limit_s is not None and age_s > limit_s:
        return _say(
            "freshness",
            "failed",
            f"released {case.release.validity.not_before}, {age_s // 86400} days earlier",
            expected=f"not older than {wanted.max_age}",
            source="policy [product] max_age",
            hint="use a newer release, or have this one signed again",
        )
    if limit_s is None and wanted.minimum_release is None:
        return _say(
            "freshness",
            "skipped",
            "the policy has neither minimum_release nor max_age: an old release cannot be told",
            source="policy [product] minimum_release, max_age",
            hint=f"minimum_release = {case.release.sequence}",
        )
    proofs = [f"release {case.release.sequence}"] if wanted.minimum_release is not None else []
    proofs += [f"released {case.release.validity.not_before}"] if limit_s is not None else []
    return _say("freshness", "passed", ", ".join(proofs))


def unpredicted(case: Case) -> Check:
    """Only events that the policy names may be unknown at build time."""
    if case.trust is None or case.core is None:
        return _not_reached("unpredicted")
    holes: list[str] = []
    allowed_all: list[str] = []
    for one in case.core.sets:
        evidence = case.trust.policy.evidence.get(one.tee)
        allowed = evidence.allow_unpredicted if evidence else ()
        allowed_all += [f"{one.tee} {event}" for event in allowed]
        holes += [
            f"{one.id}: {event.register} {event.event} ({event.reason})"
            for event in one.unpredicted
            if event.event not in allowed
        ]
    return _say(
        "unpredicted",
        "failed" if holes else "passed",
        "\n".join(holes) or "nothing that is not allowed",
        expected=", ".join(dict.fromkeys(allowed_all)) or "every event is predicted",
        source="policy [evidence] allow_unpredicted",
        hint="allow the event by its name, if you can live with not knowing it" if holes else "",
    )


def require(case: Case) -> Check:
    """Every further statement that the policy requires is there, about every artifact."""
    if case.trust is None or case.core is None:
        return _not_reached("require")
    wanted = case.trust.policy.require
    if not wanted:
        return _say("require", "skipped", "the policy requires no further statement")
    needed = {subject.digest.sha256 for subject in case.core.subjects}
    missing = []
    for index, one in enumerate(wanted):
        signers = {
            found.key.fingerprint
            for found in case.said.required
            if found.index == index and needed <= found.subjects
        }
        if len(signers) < one.threshold:
            missing.append(f"{one.predicate_type}: {len(signers)} of {one.threshold}")
    return _say(
        "require",
        "failed" if missing else "passed",
        "; ".join(missing) or f"{len(wanted)} of {len(wanted)}",
        expected="; ".join(f"{one.predicate_type} by {one.threshold}" for one in wanted),
        source="policy [[require]]",
        hint="ask its signers for the statement" if missing else "",
    )


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    run: Callable[[Case], Check]
    failure: type[RvpError]
    mandatory: bool
    only_warns: bool = False

    @property
    def id(self) -> str:
        """The check's id: its function's name, with dashes."""
        return self.run.__name__.replace("_", "-")

    @property
    def meaning(self) -> str:
        """One sentence."""
        return (self.run.__doc__ or "").splitlines()[0]


CHECKS: Final[tuple[Rule, ...]] = tuple(
    Rule(run=run, failure=failure, mandatory=mandatory, only_warns=run in {policy, equivocation, dissent})
    for run, failure, mandatory in (
        (bundle, BundleBroken, True),
        (policy, NoQuorum, True),
        (signatures, StatementForged, True),
        (operators, NoKnownOperator, True),
        (product, OtherProduct, True),
        (source_repository, OtherRepository, True),
        (source_ref, OtherRef, True),
        (source_signature, SourceUnsigned, False),
        (recipe, OtherRecipe, False),
        (recipe_committed, RecipeNotCommitted, False),
        (agreement, NoQuorum, True),
        (conflict, Conflict, True),
        (equivocation, NoQuorum, True),
        (dissent, NoQuorum, True),
        (level, LevelTooLow, True),
        (artifacts, ArtifactUnknown, False),
        (release, NotReleased, False),
        (sequence, Withdrawn, False),
        (validity, NotValidNow, False),
        (freshness, Stale, True),
        (unpredicted, HoleTooWide, True),
        (require, RequiredMissing, False),
    )
)
