"""What every command shares: how results, talk and errors reach a person or a program.

stdout is data (one document with `--format json`), stderr is talk. A result is a glyph and a word, never
colour alone; `NO_COLOR` is respected. An error has its place, its code and its cure.

A command looks like this:

    @click.command()
    @format_option()
    @click.pass_obj
    def measure(settings: Settings, output_format: str) -> None:
        ...
        settings.out(text)            # data
        settings.say("measuring …")   # talk, not with --quiet
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from provenance.errors import CommandLine, InternalError, Interrupted, MachineRefused, MissingExtra, RvpError
from provenance.plain_text import plain, plain_but_coloured, plain_json

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

GLYPHS: Final = {"passed": "✓", "failed": "✗", "skipped": "-", "warning": "!", "inconclusive": "?"}
_COLOURS: Final = {
    "passed": "green",
    "failed": "red",
    "warning": "yellow",
    "inconclusive": "yellow",
    "skipped": "bright_black",
}


class Settings:
    """The global options, and the two ways to speak."""

    def __init__(self, *, verbose: int = 0, quiet: bool = False) -> None:
        self.verbose = verbose
        self.quiet = quiet
        self.has_printed = False

    def out(self, text: str) -> None:
        """Print data to stdout; what could steer a terminal is escaped."""
        self.has_printed = True
        click.echo(plain_but_coloured(text))

    def out_json(self, document: Any) -> None:
        """Print one JSON document to stdout."""
        self.has_printed = True
        click.echo(plain_json(msgspec.to_builtins(document)))

    def say(self, text: str) -> None:
        """Talk on stderr, unless --quiet."""
        if not self.quiet:
            click.echo(plain_but_coloured(text), err=True)

    def warn(self, text: str) -> None:
        """Warn on stderr, always."""
        click.echo(f"{styled('warning')} {plain(text)}", err=True)


def styled(status: str, text: str | None = None) -> str:
    """Write a status as glyph and word, coloured where the terminal wants it."""
    word = text if text is not None else f"{GLYPHS.get(status, '·')} {status}"
    if os.environ.get("NO_COLOR"):
        return word
    return click.style(word, fg=_COLOURS.get(status), bold=True if status == "failed" else None)


def format_option(*formats: str) -> Callable[[Decorated], Decorated]:
    """Add `--format`; the command gets it as `output_format`. Default: text."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(formats or ("text", "json")),
        default="text",
        show_default=True,
        help="How to print the result.",
    )


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise MachineRefused(
            f"cannot write the file: {error.strerror}",
            place=str(path),
            hint="name a folder that exists and is yours",
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def enter(ctx: click.Context, *, folder: str | None, verbose: int, quiet: bool) -> None:
    """Apply the global options."""
    if folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise click.BadParameter(f"{folder}: {error.strerror}", param_hint="-C") from error
    settings = ctx.ensure_object(Settings)
    settings.verbose, settings.quiet = verbose, quiet


def missing_extra(command: str, extra: str, module: str) -> click.Command:
    """Stand in for a command whose packages are not installed: its call says what to install."""

    def tell(_args: tuple[str, ...]) -> None:
        raise MissingExtra(
            f'"rvp {command}" needs the package {module}, which is not installed',
            hint=f"pip install 'reference-value-pipeline[{extra}]'",
        )

    return click.Command(
        command,
        callback=tell,
        params=[click.Argument(["_args"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )


def print_error(error: RvpError) -> None:
    """Print an error to stderr: place and message, code, cure."""
    first = f"error[{error.code}]" if error.code else "error"
    place = f"{plain(error.place)}: " if error.place else ""
    click.echo(f"{place}{styled('failed', first)}: {plain(error.message)}", err=True)
    if error.hint:
        for line in plain(error.hint).splitlines():
            click.echo(f"  hint: {line}", err=True)
    if error.code:
        click.echo(f"  more: rvp explain {error.code}", err=True)


def _for_people(error: RvpError) -> RvpError:
    """Shorten paths below the current folder, as people type them; for want of a hint, give the cure."""
    if not error.hint:
        error.hint = " ".join((type(error).__doc__ or "").partition("Cure:")[2].split())
    try:
        here = f"{Path.cwd()}{os.sep}"
    except OSError:  # the folder is gone
        return error
    if here != os.sep * 2:
        error.place = error.place.removeprefix(here)
        error.hint = error.hint.replace(here, "")
    return error


def run(cli: click.Command, argv: list[str] | None) -> int:
    """Run the command line; turn every outcome into an exit code.

    Where `--format json` was asked for and nothing was printed yet, the error itself is the one document.

    Returns:
        The exit code of design section 7.
    """
    signal.signal(signal.SIGTERM, _terminate)
    arguments = sys.argv[1:] if argv is None else argv
    settings = Settings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without ✓ is no reason to fail
    try:
        result = cli.main(args=argv, prog_name="rvp", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as group:
        click.echo(group.format_message(), err=True)
        return CommandLine.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last place before the user
        if settings.verbose and not isinstance(error, click.ClickException | click.Abort):
            traceback.print_exc()
        return _fail(error_of(error), settings, arguments)
    return result if isinstance(result, int) else 0


def error_of(error: BaseException) -> RvpError:
    """Say in our words what ended a command."""
    match error:
        case RvpError():
            return error
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "rvp"
            return CommandLine(error.format_message().rstrip("."), hint=f"{where} --help")
        case click.ClickException():
            return CommandLine(error.format_message().rstrip("."))
        case click.Abort() | KeyboardInterrupt():
            return Interrupted("interrupted", hint="the same command goes on from what was finished")
        case OSError() if error.strerror:
            return MachineRefused(error.strerror, place=str(error.filename or ""))
        case _:
            return InternalError(
                f"{type(error).__name__}: {error}", hint="run it again with -v and report it"
            )


def _fail(error: RvpError, settings: Settings, arguments: Sequence[str]) -> int:
    print_error(_for_people(error))
    if not settings.has_printed and _wants_json(arguments):
        from verifier.cli.documents import Failure

        settings.out_json(
            Failure(
                code=error.code,
                exit_code=error.exit_code,
                message=error.message,
                place=error.place,
                hint=error.hint,
            )
        )
    return error.exit_code


def _wants_json(arguments: Sequence[str]) -> bool:
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(pair == ("--format", "json") or pair[0] == "--format=json" for pair in pairs)


def _terminate(signum: int, frame: Any) -> None:
    del signum, frame
    raise KeyboardInterrupt
