"""Where the values come from: product, repository, ref, revision, recipe.

A check is a pure function of the case; docs/reference/verify.md has the table.
"""

from __future__ import annotations

from provenance.bundle import unpack_files
from provenance.claims import Check
from provenance.digest import sha256
from provenance.errors import RvpError
from provenance.policy import TrustPolicy
from provenance.predicates.core import Core
from provenance.strict import parse_json
from verifier.verify.case import Case
from verifier.verify.checks.answer import not_reached, say
from verifier.verify.source import check_committed, check_ref, check_repository, check_signature


def _without_source(id_: str, trust: TrustPolicy, core: Core) -> Check | None:
    """Values that were measured state no source; only a policy that accepts this level goes on."""
    if core.sources or core.recipe_digest:
        return None
    status = "warning" if trust.policy.quorum.level == "measured" else "skipped"
    return say(id_, status, "the values were measured, not built: no source is stated")


def product(case: Case) -> Check:
    """The values are of the expected product."""
    if case.trust is None or case.looked_at is None:
        return not_reached("product")
    expected, got = case.trust.policy.product.name, case.looked_at.product
    return say(
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
        return not_reached("source-repository")
    measured = _without_source("source-repository", case.trust, case.looked_at)
    return measured or check_repository(case.trust.policy.source, case.looked_at.sources)


def source_ref(case: Case) -> Check:
    """An expected ref was built, as it was committed."""
    if case.trust is None or case.looked_at is None:
        return not_reached("source-ref")
    measured = _without_source("source-ref", case.trust, case.looked_at)
    return measured or check_ref(case.trust.policy.source, case.looked_at.sources)


def source_signature(case: Case) -> Check:
    """A maintainer signed the revision."""
    if case.trust is None or case.looked_at is None:
        return not_reached("source-signature")
    measured = _without_source("source-signature", case.trust, case.looked_at)
    if measured and any(rule.signed_by for rule, _ in case.trust.source_rules):
        return measured
    return check_signature(case.trust, case.looked_at.sources, case.objects)


def recipe(case: Case) -> Check:
    """The recipe in the bundle is the one that was signed, part by part, and one that the policy accepts."""
    if case.bundle is None or case.trust is None or case.looked_at is None:
        return not_reached("recipe")
    digest = case.looked_at.recipe_digest
    signed = digest.sha256 if digest else ""
    accepted, product_name = case.trust.policy.source.recipes, case.trust.policy.product.name
    if accepted and signed not in accepted:
        return say(
            "recipe",
            "failed",
            signed or "no recipe",
            expected=" or ".join(accepted),
            source="policy [source] recipes",
            hint="the steps that were run are not the ones that the policy accepts",
        )
    if case.bundle.recipe is None:
        return say("recipe", "skipped", "the bundle has no recipe: nobody can rebuild from it")
    try:
        files = unpack_files(case.bundle.recipe)
        core = files.get("recipe.json", b"")
        wrong = _recipe_parts(
            files, parse_json(core or b"{}", name="recipe.json"), case.looked_at, product_name
        )
    except RvpError as error:
        return say("recipe", "failed", str(error), expected="a whole recipe")
    got = sha256(core).hex()
    if got != signed or wrong:
        return say(
            "recipe",
            "failed",
            got if got != signed else wrong,
            expected=signed or "no recipe: the values were measured, not built",
            source="the agreed statements",
            hint="the recipe was replaced: get the bundle again",
        )
    return say("recipe", "passed", got, expected=signed)


def recipe_committed(case: Case) -> Check:
    """Spec and lock are the ones of the revision that a maintainer signed."""
    if case.bundle is None or case.trust is None or case.looked_at is None:
        return not_reached("recipe-committed")
    if recipe(case).status == "failed":
        return not_reached("recipe-committed", "the recipe is not the one that was signed")
    files = unpack_files(case.bundle.recipe) if case.bundle.recipe else {}
    return check_committed(case.trust.policy.source, case.looked_at.sources, files, case.objects)


def _recipe_parts(files: dict[str, bytes], core: object, said: Core, product_name: str) -> str:
    """Compare the recipe's core with the files beside it, and with what the operators say was built."""
    if not isinstance(core, dict):
        return "recipe.json is not an object"
    if said.product == product_name != core.get("project"):
        return f"the recipe is of {core.get('project')!r}, not of {product_name!r}"
    if core.get("sources") != {source.name: source.tree_digest.sha256 for source in said.sources}:
        return "the recipe has other sources than the agreed statements"
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
