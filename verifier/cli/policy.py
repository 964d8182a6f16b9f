"""`rvp policy init|check`: write a policy, or find what is weak in one."""

from __future__ import annotations

import os
from pathlib import Path

import click

from provenance.bundle import Bundle, peek_statement, read_bundle
from provenance.errors import PolicyFailure, UsageError
from provenance.policy import load_policy
from provenance.policy_weakness import weaknesses
from provenance.predicates.type_uri import REFERENCE_VALUES, RELEASE
from provenance.public_key import load_public_key
from provenance.strict import read_file
from verifier.cli.documents import PolicyCheck, Sha256
from verifier.cli.terminal import Settings, format_option, styled, write_file

_WEAK_EXIT = PolicyFailure.exit_code


class PolicyExists(UsageError):
    """A policy is there already, and is not overwritten.

    Cure: edit it, or choose another name with `--out`.
    """

    code = "RVP-6302"


@click.group(
    epilog="""\b
Examples:
  rvp policy init keyservice.bundle --operator acme=acme.pub --operator auditor=auditor.pub
  rvp policy check policy.toml
"""
)
def policy() -> None:
    """Write a policy, or find what is weak in one."""


@policy.command(
    epilog="""\b
Example:
  rvp policy init keyservice.bundle --operator acme=acme.pub --operator auditor=auditor.pub \\
      --release-signer release-a.pub --release-signer release-b.pub --source-signer maintainers.pub

What is taken from the bundle is unverified: read it before you rely on it.
"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--operator", "operators", multiple=True, metavar="NAME=KEY.pub", help="Somebody who rebuilds.")
@click.option(
    "--release-signer", "release_signers", multiple=True, metavar="KEY.pub", help="Somebody who releases."
)
@click.option("--source-signer", "source_signers", multiple=True, metavar="KEY.pub", help="SSH public keys.")
@click.option("--product", help="The product. Default: what the bundle says.")
@click.option("--series", help="The series of releases. Default: what the bundle says.")
@click.option("--repository", help="The expected source. Default: what the bundle says.")
@click.option(
    "--n", type=click.IntRange(min=1), help="How many operators must agree. Default: more than half."
)
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    type=click.Path(path_type=Path),
    default=Path("policy.toml"),
    show_default=True,
    help="The file.",
)
@click.pass_obj
def init(
    settings: Settings,
    bundle: Path | None,
    operators: tuple[str, ...],
    release_signers: tuple[str, ...],
    source_signers: tuple[str, ...],
    product: str | None,
    series: str | None,
    repository: str | None,
    n: int | None,
    out: Path,
) -> None:
    """Write a commented policy from keys, and from what BUNDLE says."""
    if os.path.lexists(out):
        raise PolicyExists("there is a file already", place=str(out), hint="edit it, or --out ANOTHER")
    named = [_operator(text) for text in operators]
    for key in (*(key for _, key in named), *release_signers):
        load_public_key(Path(key))
    if not named:
        raise click.UsageError("a policy needs at least one --operator NAME=KEY.pub")
    said = _said(read_bundle(bundle)) if bundle else {}
    expected = repository or said.get("repository", "https://example.org/REPOSITORY.git")
    named_there = dict.fromkeys(said.get("repositories", "").splitlines())
    text = _policy_text(
        product=product or said.get("product", "PRODUCT"),
        series=series or said.get("series", "stable"),
        sequence=said.get("sequence", "0"),
        repository=expected,
        also=[one for one in named_there if one != expected],
        n=n or max(2 if len(named) > 1 else 1, len(named) // 2 + 1),
        operators=[(name, _beside(key, out)) for name, key in named],
        release_signers=[_beside(key, out) for key in release_signers],
        source_signers=[_beside(key, out) for key in source_signers],
    )
    write_file(out, text.encode())
    settings.out(str(out))
    if bundle:
        settings.warn("product, series, repository and sequence come from the bundle, unverified: read them")
        if said.get("ref", "").startswith("refs/heads/"):
            settings.warn(
                f"the bundle was built from {said['ref']}; this policy accepts tags alone: see refs in {out}"
            )
    settings.say(f"next: rvp policy check {out}")


def _operator(text: str) -> tuple[str, str]:
    name, separator, key = text.partition("=")
    if not (name and separator and key):
        raise click.BadParameter(f"{text!r} is not NAME=KEY.pub", param_hint="--operator")
    return name, key


def _beside(key: str, out: Path) -> str:
    return Path(os.path.relpath(key, out.parent)).as_posix()


def _said(bundle: Bundle) -> dict[str, str]:
    """Read what a bundle says of itself; unverified."""
    found: dict[str, str] = {}
    for data in bundle.statements:
        statement = peek_statement(data)
        predicate = statement.get("predicate")
        if not isinstance(predicate, dict):
            continue
        if statement.get("predicateType") == REFERENCE_VALUES and isinstance(
            core := predicate.get("core"), dict
        ):
            found["product"] = str(core.get("product", ""))
            sources = [one for one in core.get("sources") or () if isinstance(one, dict)]
            refs = [str(one["ref"]) for one in sources if one.get("ref")]
            found["ref"] = refs[0] if refs else ""
            repositories = [str(one["repository"]) for one in sources if one.get("repository")]
            if repositories:
                found["repository"], found["repositories"] = repositories[0], "\n".join(repositories)
        elif statement.get("predicateType") == RELEASE:
            found["series"] = str(predicate.get("series", ""))
            sequence = predicate.get("sequence")
            is_number = isinstance(sequence, int) and not isinstance(sequence, bool) and sequence >= 0
            found["sequence"] = str(sequence if is_number else 0)
    return found


def _quote(text: str) -> str:
    escaped = "".join(
        {'"': '\\"', "\\": "\\\\"}.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text
    )
    return f'"{escaped}"'


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(_quote(text) for text in texts) + "]"


def _further(repositories: list[str]) -> list[str]:
    lines = []
    for repository in repositories:
        lines += [
            "",
            "# A further repository that may go in; its rule is its own.",
            "[[source.also]]",
            f"repository = {_quote(repository)}",
            'refs = ["refs/tags/v*"]',
            '# signed_by = ["its-maintainers.pub"]',
        ]
    return lines


def _policy_text(
    *,
    product: str,
    series: str,
    sequence: str,
    repository: str,
    also: list[str],
    n: int,
    operators: list[tuple[str, str]],
    release_signers: list[str],
    source_signers: list[str],
) -> str:
    lines = [
        "# The trust policy. It is yours: nothing that is published can loosen it.",
        "# Every key: docs/reference/policy.md. What is weak in it: rvp policy check.",
        'schema = "rvp/policy/v1"',
        "",
        "[product]",
        f"name = {_quote(product)}",
        f"series = {_quote(series)}",
        "# Raise it whenever you have accepted a newer one: that stops rollback.",
        f"minimum_release = {sequence}",
        "# The greatest age of the release:",
        '# max_age = "30d"',
        "",
        "[source]",
        "# Values count only for this source.",
        f"repository = {_quote(repository)}",
        'refs = ["refs/tags/v*"]',
        "# SSH public keys; one of them must have signed the tag or the commit.",
        f"signed_by = {_list(source_signers)}" if source_signers else '# signed_by = ["maintainers.pub"]',
        *_further(also),
        "",
        "[quorum]",
        f"# So many operators must say the same, of {len(operators)}.",
        f"n = {n}",
    ]
    for name, key in operators:
        lines += ["", "[[operator]]", f"name = {_quote(name)}", f"key = {_quote(key)}"]
    lines.append("")
    if release_signers:
        threshold = min(2, len(release_signers))
        lines += ["[release]", f"signed_by = {_list(release_signers)}", f"threshold = {threshold}"]
    else:
        lines += [
            "# Without release signers nobody vouches for sequence and validity: verdicts stay inconclusive.",
            "# [release]",
            '# signed_by = ["release-a.pub", "release-b.pub"]',
            "# threshold = 2",
        ]
    return "\n".join(lines) + "\n"


@policy.command(
    epilog="""\b
Example:
  rvp policy check policy.toml
\b
Exit code 13 when something in it lets somebody through who should not be; warnings alone exit 0.
"""
)
@click.argument("path", type=click.Path(path_type=Path), metavar="POLICY")
@format_option()
@click.pass_obj
def check(settings: Settings, path: Path, output_format: str) -> int:
    """Find what is weak in POLICY."""
    trust = load_policy(path)
    found = weaknesses(trust.policy, read_file(path).decode(), trust)
    errors = sum(finding.severity == "error" for finding in found)
    if output_format == "json":
        settings.out_json(PolicyCheck(policy=Sha256(sha256=trust.digest.hex()), findings=found))
        return _WEAK_EXIT if errors else 0
    for finding in found:
        status = "failed" if finding.severity == "error" else "warning"
        head = styled(status, f"{'✗' if status == 'failed' else '!'} {finding.severity}")
        settings.out(f"{path}:{finding.line}: {head} {finding.id}: {finding.message}")
        settings.out(f"    cure: {finding.cure}")
    warnings = len(found) - errors
    settings.out(
        f"{_count(errors, 'error')}, {_count(warnings, 'warning')}" if found else "nothing weak was found"
    )
    return _WEAK_EXIT if errors else 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
