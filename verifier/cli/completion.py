"""`rvp completion`: the script that makes a shell complete rvp's commands and options."""

from __future__ import annotations

import click

from verifier.cli.terminal import Settings

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  rvp completion bash > ~/.local/share/bash-completion/completions/rvp
  rvp completion zsh > ~/.zfunc/_rvp
  rvp completion fish > ~/.config/fish/completions/rvp.fish
"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_obj
def completion(settings: Settings, shell: str) -> None:
    """Print the completion script of a shell.

    Bash needs version 4.4 or newer.
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kinds: dict[str, type[BashComplete | FishComplete | ZshComplete]] = {
        "bash": BashComplete,
        "zsh": ZshComplete,
        "fish": FishComplete,
    }
    root = click.get_current_context().find_root().command
    script = kinds[shell](root, {}, "rvp", "_RVP_COMPLETE")
    settings.out((script.source_template % script.source_vars()).strip())
