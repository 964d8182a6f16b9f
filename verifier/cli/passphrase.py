"""Where a command gets the passphrase of a key from: a file descriptor, the environment, or a person."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from provenance.signers import Passphrase

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

VARIABLE: Final = "RVP_PASSPHRASE"
_LIMIT_BYTES: Final = 4096


def passphrase_option() -> Callable[[Decorated], Decorated]:
    """Add `--passphrase-fd`; the command gets it as `passphrase_fd`."""
    return click.option(
        "--passphrase-fd",
        type=click.IntRange(min=0),
        metavar="N",
        help=f"Read the key's passphrase from file descriptor N (else {VARIABLE}, else ask).",
    )


def passphrase_from(descriptor: int | None, *, confirm: bool = False, what: str = "key") -> Passphrase:
    """Return a function that gets the passphrase when it is needed; it is asked for once.

    Args:
        descriptor: of `--passphrase-fd`.
        confirm: ask a person twice.
        what: whose passphrase, for the question.
    """
    got: list[bytes | None] = []

    def get() -> bytes | None:
        if not got:
            got.append(_get(descriptor, confirm=confirm, what=what))
        return got[0]

    return get


def _get(descriptor: int | None, *, confirm: bool, what: str) -> bytes | None:
    if descriptor is not None:
        try:
            data = os.read(descriptor, _LIMIT_BYTES)
        except OSError as error:
            raise click.BadParameter(
                f"{descriptor}: {error.strerror}", param_hint="--passphrase-fd"
            ) from error
        return data.removesuffix(b"\n").removesuffix(b"\r")
    if VARIABLE in os.environ:
        return os.environb[VARIABLE.encode("ascii")]
    if not sys.stdin.isatty():
        return None
    answer: str = click.prompt(
        f"Passphrase of {what}",
        hide_input=True,
        confirmation_prompt=confirm,
        err=True,
        default="",
        show_default=False,
    )
    return answer.encode("utf-8")
