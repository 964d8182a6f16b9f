"""`rvp lock`: pin every input by content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verifier.cli.terminal import Settings, format_option, styled

if TYPE_CHECKING:
    from pipeline.resolve import Change
    from provenance.events import Event

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_DIGEST_DIGITS = 64


@click.command(
    epilog="""\b
Examples:
  rvp lock                       resolve what is new or stale
  rvp lock --check               exit 3 when rvp.lock is not current (for CI)
  rvp lock --upgrade             resolve everything again
  rvp lock --upgrade toolchain   resolve base.toolchain again
"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--check", is_flag=True, help="Change nothing; exit 3 and say why when it is not current.")
@click.option("--upgrade", is_flag=True, help="Resolve again: the parts named, or everything.")
@click.option("--store", metavar="DIR", envvar="RVP_STORE", help="Where to keep what is fetched.")
@format_option()
@click.pass_obj
def lock(
    settings: Settings,
    names: tuple[str, ...],
    output_format: str,
    store: str | None,
    *,
    check: bool,
    upgrade: bool,
) -> None:
    """Pin every input of rvp.toml by content, in rvp.lock.

    Packages, images, revisions, downloads and fetches are resolved when they are new or when their part of
    the spec changed; the rest stays as it is. The lock has no host name, and is committed with the spec.
    """
    from pipeline.cli.documents import LockChanges
    from pipeline.lock import LOCK_NAME, Lock, LockMissing, LockNotReadable, read_lock, write_lock
    from pipeline.resolve import EVERYTHING, compare_locks, resolve_lock
    from pipeline.spec import read_spec
    from pipeline.store import FolderStore

    if names and not upgrade:
        raise click.UsageError("names belong to --upgrade")
    if check and upgrade:
        raise click.UsageError("--check changes nothing, --upgrade does: choose one")
    folder = Path.cwd()
    spec = read_spec(Path("rvp.toml"))
    path = Path(LOCK_NAME)
    kept = FolderStore(Path(store) if store else folder / ".rvp" / "store")
    if check:
        _check(settings, spec, read_lock(path), folder, kept, output_format)
        return
    try:
        previous = read_lock(path)
    except LockMissing:
        previous = Lock()
    except LockNotReadable as error:
        settings.warn(f"{error}: writing it anew")
        previous = Lock()
    made = resolve_lock(
        spec,
        folder,
        store=kept,
        previous=previous,
        observer=_Talk(settings),
        engine=_engine,
        upgrade=(names or (EVERYTHING,)) if upgrade else (),
    )
    changes = compare_locks(previous, made)
    write_lock(made, path)
    if output_format == "json":
        settings.out_json(LockChanges(lock=LOCK_NAME, changes=changes))
        return
    for line in changed_lines(changes):
        settings.out(line)
    packages = sum(len(base.packages) for base in made.base.values())
    parts = [_count(len(made.base), "base"), _count(packages, "package"), _count(len(made.source), "source")]
    parts.append(_count(len(made.fetch), "fetch", "fetches"))
    settings.say(
        f"{styled('passed')} {LOCK_NAME}: {', '.join(parts)}{'' if changes else '; nothing changed'}"
    )


def _check(settings: Settings, spec: Any, found: Any, folder: Path, store: Any, output_format: str) -> None:
    from pipeline.cli.documents import LockCheck
    from pipeline.lock import LOCK_NAME, LockStale, check_lock
    from pipeline.resolve import stale

    reasons = stale(spec, found, folder, store=store, observer=_Talk(settings))
    if output_format == "json":
        settings.out_json(LockCheck(current=not reasons, stale=reasons))
    if not reasons:
        settings.say(f"{styled('passed')} {LOCK_NAME} is current")
        return
    check_lock(spec, found, folder)  # says it in the best words when the spec alone shows it
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise LockStale(f"the lock is stale: {told}", hint="run `rvp lock`", place=LOCK_NAME)


def _engine() -> Any:
    from pipeline.engine import connect

    return connect()


def _count(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"


def changed_lines(changes: tuple[Change, ...]) -> list[str]:
    """Write the changes as lines, one heading for each part.

    Example:
        >>> from pipeline.resolve import Change
        >>> for line in changed_lines((
        ...     Change(part="base.t", kind="added", name="gcc", after="12.2.0-3"),
        ...     Change(part="base.t", kind="changed", name="make", before="4.3-4", after="4.4"),
        ... )): print(line)
        base.t
          + gcc 12.2.0-3
          ~ make 4.3-4 → 4.4
    """
    lines: list[str] = []
    heading = ""
    for change in changes:
        before, after = _short(change.before), _short(change.after)
        said = f"{before} → {after}" if change.kind == "changed" else before or after
        if not change.name:
            lines.append(f"{_SIGNS[change.kind]} {change.part} {said}")
            heading = change.part
            continue
        if heading != change.part:
            heading = change.part
            lines.append(heading)
        lines.append(f"  {_SIGNS[change.kind]} {change.name} {said}")
    return lines


def _short(text: str) -> str:
    is_digest = len(text) == _DIGEST_DIGITS and set(text) <= set("0123456789abcdef")
    return text[:16] if is_digest else text


class _Talk:
    """Tells of phases and warnings, one line each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, event: Event) -> None:
        from provenance.events import Note, Phase, StepOutput

        match event:
            case Phase(what=what, done=False):
                self.settings.say(f"{what} …")
            case Note(text=text, level="warning"):
                self.settings.warn(text)
            case Note(text=text):
                self.settings.say(text)
            case StepOutput(line=line) if self.settings.verbose:
                self.settings.say(f"  {line}")
            case _:
                pass
