"""A key behind a command: `exec:COMMAND ARGUMENT…` reads bytes on stdin and writes their signature on stdout.

For every device and service that has a tool of its own. No shell runs: the text is split into words as a
shell would split them, and nothing is expanded. What the command says on stderr reaches the terminal.

RSA: 384 bytes, big-endian (for a 3072-bit key). ECDSA: DER (r, s).

Example:
    >>> split_command("openssl dgst -sha256 -sign 'my key.pem'")
    ('openssl', 'dgst', '-sha256', '-sign', 'my key.pem')
"""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING, Final

from provenance.errors import EnvironmentFailure, UsageError
from provenance.signers.remote_key import Scheme, Secret, read_public

if TYPE_CHECKING:
    from provenance.signers.remote_key import AnyPublicKey

TIMEOUT_S: Final = 600  # somebody may have to find their card and touch a button


class CommandUnusable(UsageError):
    """A key of the kind `exec:` lacks its command or its public key, or the command cannot be started.

    Cure: `--key 'exec:COMMAND ARGUMENT…' --public-key owner.pub`, with a command that is installed.
    """

    code = "RVP-6056"


class CommandFailed(EnvironmentFailure):
    """The command that signs ended with an error, took too long, or wrote nothing.

    Cure: run the command by hand: it reads what is to be signed on stdin and writes the signature on stdout.
    """

    code = "RVP-6057"


class CommandKey:
    """Signs by running a command."""

    def __init__(
        self, argv: tuple[str, ...], public_key: AnyPublicKey, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._argv = argv
        self._public_key = public_key
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The command's name; its arguments may be private."""
        return f"exec:{self._argv[0]}"

    def public_key(self) -> AnyPublicKey:
        """Give the public half, as it was given."""
        return self._public_key

    def sign(self, data: bytes, scheme: Scheme) -> bytes:
        """Run the command.

        Raises:
            CommandUnusable: RVP-6056. CommandFailed: RVP-6057.
        """
        del scheme  # the command knows its key
        try:
            done = subprocess.run(
                self._argv, input=data, stdout=subprocess.PIPE, timeout=self._timeout_s, check=False
            )
        except OSError as error:
            raise CommandUnusable(f"cannot be started: {error.strerror}", place=self.name) from error
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"not done after {self._timeout_s:g} s", place=self.name) from error
        if done.returncode != 0:
            raise CommandFailed(f"ended with exit code {done.returncode}", place=self.name)
        if not done.stdout:
            raise CommandFailed("wrote no signature on stdout", place=self.name)
        return done.stdout


def split_command(text: str) -> tuple[str, ...]:
    """Split the words of a command as a shell would; nothing is expanded.

    Raises:
        CommandUnusable: RVP-6056.
    """
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise CommandUnusable(f"the quotes are not closed: {error}", place="exec:") from error
    if not argv:
        raise CommandUnusable("no command stands after exec:", place="exec:")
    return argv


def open_key(location: str, *, secret: Secret, public_key: bytes | None) -> CommandKey:
    """Prepare a command; it is started when something is to be signed.

    Raises:
        CommandUnusable: RVP-6056. KeyUnsuitable: RVP-6065.
    """
    del secret
    argv = split_command(location)
    if public_key is None:
        raise CommandUnusable(
            "a command signs, but whose key is it?",
            place=f"exec:{argv[0]}",
            hint="give the public half with --public-key",
        )
    return CommandKey(argv, read_public(public_key))
