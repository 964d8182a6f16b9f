"""The front door: a table from command to the module that has it, loaded when it is called.

`rvp --help` imports nothing but click; a command whose packages are missing names the extra to install.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any, Final

import click

# command: (module with a click command of the same name, extra it needs, one line for the help)
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "init": ("pipeline.cli.init", "pipeline", "Write a commented spec, from nothing or from what you have."),
    "lock": ("pipeline.cli.lock", "pipeline", "Pin every input by content."),
    "plan": ("pipeline.cli.plan", "pipeline", "Show what would run, and why."),
    "build": ("pipeline.cli.build", "pipeline", "Rebuild hermetically, compare, measure."),
    "rebuild": ("pipeline.cli.rebuild", "pipeline", "Rebuild somebody's bundle from nothing but its recipe."),
    "measure": ("pipeline.cli.measure", "pipeline", "Compute the measurements of an existing file."),
    "sgx": ("pipeline.cli.sgx", "pipeline", "Pack, sign and take apart SGX enclaves."),
    "snp": ("pipeline.cli.snp", "pipeline", "Sign and read the ID blocks of SEV-SNP guests."),
    "sign": ("pipeline.cli.sign", "pipeline", "Sign the statements of a build that you ran."),
    "release": ("verifier.cli.release", "", "Sign a release: these values, this sequence, this validity."),
    "publish": ("pipeline.cli.publish", "pipeline", "Write the bundle that others verify and rebuild."),
    "verify": ("verifier.cli.verify", "", "Judge a bundle under your policy."),
    "replay": ("verifier.cli.replay", "", "Replay an event log: what it says, what it folds to."),
    "policy": ("verifier.cli.policy", "", "Write a policy, or find what is weak in one."),
    "key": ("verifier.cli.key", "", "Make and show signing keys."),
    "show": ("verifier.cli.show", "", "Print any of our files readably."),
    "explain": ("pipeline.cli.explain", "", "Explain an error code, a check, or why two enclaves differ."),
    "summary": ("pipeline.cli.summary", "", "Summarise a build and its verdict for a CI host."),
    "schema": ("pipeline.cli.schema", "", "Print the JSON Schema of a format."),
    "engine": ("pipeline.cli.engine", "pipeline", "Start, stop and show a private Docker engine."),
    "completion": ("verifier.cli.completion", "", "Print the completion script of a shell."),
    "doctor": (
        "pipeline.cli.doctor",
        "",
        "Check this machine: engine, space, clock, tools; each with its fix.",
    ),
}


# What shows that an extra is installed.
MARKERS: Final = {"pipeline": ("docker", "networkx", "numpy", "rich", "zstandard")}


def missing_package(extra: str) -> str:
    """Name a package of an extra that is not installed; empty when all are there. Imports nothing."""
    for name in MARKERS.get(extra, ()):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return name
    return ""


EPILOG: Final = """\b
Begin with:
  rvp measure FILE           the values of a file that you have
  rvp init                   a spec for your own build; then lock, plan, build, sign, publish
  rvp verify BUNDLE --policy POLICY
\b
Exit codes: 0 passed, 1 internal, 2 usage, 3 spec or lock, 4 environment, 5 step failed,
10 signature, 11 diverged, 12 measurement, 13 policy, 14 evidence, 20 inconclusive, 130 interrupted.
"""


class FrontDoor(click.Group):
    """Finds commands in the table and loads the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the work."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, extra, _ = COMMANDS[cmd_name]
        if missing := missing_package(extra):
            from verifier.cli.terminal import missing_extra

            return missing_extra(cmd_name, extra, missing)
        found = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        if not isinstance(found, click.Command):
            raise TypeError(f"{module} has no command {cmd_name}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, loading none."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Propose the nearest command for a name that does not exist."""
        name = click.utils.make_str(args[0])
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f'no command "{name}"' + (f', did you mean "{near[0]}"?' if near else ""))
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001  click calls it
    del param
    if value and not ctx.resilient_parsing:
        from provenance.version import version

        click.echo(f"rvp {version()}")
        ctx.exit()


@click.group(cls=FrontDoor, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", metavar="DIR", help="Work in DIR.")
@click.option("-v", "--verbose", count=True, help="Say more; tracebacks of internal errors.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def cli(ctx: click.Context, folder: str | None, verbose: int, *, quiet: bool) -> None:
    """rvp: reference values for confidential computing.

    From source to values that a verifier can rely on: rebuilt, measured, signed, published, judged.
    """
    from verifier.cli.terminal import enter

    enter(ctx, folder=folder, verbose=verbose, quiet=quiet)


def main(argv: list[str] | None = None) -> Any:
    """Run the command line and exit with its code."""
    from verifier.cli.terminal import run

    sys.exit(run(cli, argv))


if __name__ == "__main__":
    main()
