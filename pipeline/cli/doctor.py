"""`rvp doctor`: what this machine has and lacks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from pipeline.doctor import diagnose
from provenance.errors import EnvironmentFailure
from verifier.cli.terminal import Settings, format_option, styled


class MachineUnfit(EnvironmentFailure):
    """Something that a build needs is missing on this machine.

    Cure: each finding that failed has its fix beside it.
    """

    code = "RVP-2030"


@click.command(epilog="\b\nExample:\n  rvp doctor --format json")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=lambda: os.environ.get("RVP_STORE") or ".rvp/store",
    help="Where the store lies.",
)
@format_option()
@click.pass_obj
def doctor(settings: Settings, store: Path, output_format: str) -> None:
    """Check this machine: engine, space, clock, tools; each with its fix.

    Exit code 4 when something is missing that a build cannot do without.
    """
    diagnosis = diagnose(Path(store), now=time.time())
    if output_format == "json":
        settings.out_json(diagnosis)
    else:
        width = max(len(finding.id) for finding in diagnosis.findings)
        for finding in diagnosis.findings:
            mark = styled(finding.status) + " " * (8 - len(finding.status))
            settings.out(f"{mark} {finding.id:<{width}}  {finding.found}")
            if finding.fix:
                settings.out(f"{'':<10} {'':<{width}}  fix: {finding.fix}")
    if not diagnosis.is_healthy:
        failed = [finding.id for finding in diagnosis.findings if finding.status == "failed"]
        raise MachineUnfit(f"a build cannot work here: {', '.join(failed)}", hint="see the fixes above")
