"""`rvp engine`: a private Docker engine for a machine that has none."""

from __future__ import annotations

from typing import Literal

import click
import msgspec

from pipeline import private_engine
from pipeline.private_engine import EngineStatus
from provenance.errors import EnvironmentFailure
from verifier.cli.terminal import Settings, format_option


@click.group(epilog="\b\nExample:\n  rvp engine start && rvp build; rvp engine stop")
def engine() -> None:
    """Start, stop and show a private Docker engine.

    It has its own data folder and socket, no network bridge, and sets no firewall rules. rvp uses it
    by itself when DOCKER_HOST is not set and no other engine answers.
    """


@engine.command(epilog="\b\nExample:\n  rvp engine start")
@click.option("--download", is_flag=True, help="Fetch Debian's packages even where Docker is installed.")
@format_option()
@click.pass_obj
def start(settings: Settings, output_format: str, *, download: bool) -> None:
    """Start the private engine; as root."""
    was_running = private_engine.running_url() is not None
    if not was_running:
        settings.say("starting a private engine …")
    _show(settings, output_format, private_engine.start(download=download))


@engine.command(epilog="\b\nExample:\n  rvp engine stop")
@format_option()
@click.pass_obj
def stop(settings: Settings, output_format: str) -> None:
    """Stop the private engine and unmount what it left; its data stays."""
    private_engine.stop()
    _show(settings, output_format, private_engine.status())


@engine.command(epilog="\b\nExample:\n  rvp engine status --format json")
@format_option()
@click.pass_context
def status(ctx: click.Context, output_format: str) -> None:
    """Show the engine that builds would use, and the private one. Exit code 4: none answers."""
    settings: Settings = ctx.obj
    used = _used()
    private = private_engine.status()
    if output_format == "json":
        settings.out_json(FoundEngines(engine=used, private=private))
    else:
        settings.out(
            f"engine   {used.url}, Docker {used.version}, {used.storage}" if used else "engine   none answers"
        )
        settings.out("private")
        _show(settings, output_format, private)
    if used is None:
        if not ctx.obj.quiet:
            settings.say("  hint: start Docker, set DOCKER_HOST, or: rvp engine start")
        ctx.exit(EnvironmentFailure.exit_code)


class UsedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that `rvp build` would use: DOCKER_HOST, else the machine's, else the private one."""

    url: str
    version: str
    storage: str


class FoundEngines(msgspec.Struct, frozen=True, kw_only=True):
    """What `rvp engine status` found."""

    schema: Literal["rvp/engine/v1"] = "rvp/engine/v1"
    engine: UsedEngine | None
    private: EngineStatus


def _used() -> UsedEngine | None:
    from pipeline.engine import connect

    try:
        found = connect()
    except EnvironmentFailure:
        return None
    return UsedEngine(
        url=found.url,
        version=str(found.info.get("ServerVersion", "")),
        storage=str(found.info.get("Driver", "")),
    )


def _show(settings: Settings, output_format: str, found: EngineStatus) -> None:
    if output_format == "json":
        settings.out_json(found)
        return
    settings.out(f"running  {'yes, pid ' + str(found.pid) if found.running else 'no'}")
    settings.out(f"address  {found.url}")
    if found.program:
        settings.out(f"program  {found.program}")
    settings.out(f"data     {found.data}")
    settings.out(f"log      {found.log}")
