"""`rvp verify`: judge a bundle under a policy."""

from __future__ import annotations

import time
from pathlib import Path

import click

from provenance.bundle import read_bundle
from provenance.digest import chunks_of, hash_stream
from provenance.errors import SignatureFailure
from provenance.oci import open_regular
from provenance.policy import load_policy
from provenance.predicates.shapes import parse_moment
from provenance.strict import NotReadable
from verifier.cli.terminal import Settings, format_option
from verifier.verify.report import as_junit, as_sarif, as_text
from verifier.verify.result import Artifact, Verdict
from verifier.verify.verify import verify as judge

EPILOG = """\b
Example:
  rvp verify keyservice.bundle keyservice.signed.so --policy policy.toml
\b
Without --policy nothing is trusted: the result is inconclusive (20) at best.
The exit code is that of the first failing check: docs/reference/verify.md has the table.
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="The trust policy.")
@click.option(
    "--at", "moment", metavar="TIME", help="Verify as of TIME: RFC 3339 or Unix seconds. Default: now."
)
@format_option("text", "json", "sarif", "junit")
@click.pass_obj
def verify(
    settings: Settings,
    bundle: Path,
    artifacts: tuple[Path, ...],
    policy_path: Path | None,
    moment: str | None,
    output_format: str,
) -> int:
    """Judge BUNDLE, and each ARTIFACT, under your policy."""
    at = parse_moment(moment) if moment else int(time.time())
    trust = load_policy(policy_path) if policy_path else None
    asked = tuple(_artifact(path) for path in artifacts)
    try:
        verdict = judge(read_bundle(bundle), trust, asked, at=at)
    except SignatureFailure as error:
        verdict = judge(None, trust, asked, at=at, unreadable=f"{error} [{error.code}]")
    _print(settings, verdict, output_format, str(bundle), str(policy_path or ""))
    return verdict.exit_code


def _artifact(path: Path) -> Artifact:
    try:
        with open_regular(path) as stream:
            digests, _ = hash_stream(chunks_of(stream))
    except OSError as error:
        raise NotReadable(f"cannot read the file: {error.strerror}", place=str(path)) from error
    return Artifact(name=path.name, sha256=digests.sha256.hex(), sha384=digests.sha384.hex())


def _print(settings: Settings, verdict: Verdict, output_format: str, bundle: str, policy: str) -> None:
    match output_format:
        case "json":
            settings.out_json(verdict)
        case "sarif":
            settings.out_json(as_sarif(verdict, policy))
        case "junit":
            settings.out(as_junit(verdict))
        case _:
            settings.out(as_text(verdict, bundle, policy))
