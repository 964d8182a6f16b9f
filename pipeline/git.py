"""Git, read with plumbing alone: a commit's tree comes out the same on every machine.

Content is read with `ls-tree` and `cat-file`, so no filter, line-end setting, umask, attribute, hook or
replacement object changes it. What comes from outside is fetched into a bare repository of our own with
the user's and the system's configuration switched off; proxies and certificates come from the environment.

    Cost: one process for the names, one for all contents; files are streamed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pipeline.store import Store
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.digest import CHUNK_BYTES
from provenance.errors import EnvironmentFailure, SpecError

COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_KEPT_VARIABLES: Final = (
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSH_COMMAND",
    "GIT_ASKPASS",
    "GIT_SSL_CERT",
)
_NEUTRAL: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:file:ssh",
}
_ALWAYS: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C.UTF-8",
}
_SWITCHES: Final = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "gc.auto=0")
_TIMEOUT_S: Final = 3600.0


class GitFailed(EnvironmentFailure):
    """Git is not installed, or a git command failed: no network, no permission, a broken repository.

    Cure: the message has git's own words; run the command by hand to see more. `rvp rebuild --source` takes a
    mirror or a clone of the repository.
    """

    code = "RVP-1320"


class SubmoduleRefused(SpecError):
    """The source has a git submodule, whose content is not part of the commit.

    Cure: make the submodule a source of its own (`[source.NAME]` with git and rev), and list its folder
    under `exclude` here.
    """

    code = "RVP-1322"


class LargeFilePointer(SpecError):
    """A file of the source is a Git LFS pointer: its content is not in the repository.

    Cure: make the content a source of its own (`url` with `sha256`), and list the file under `exclude` here.
    """

    code = "RVP-1323"


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A commit: its full ref (empty for a bare commit id), object ids, and committer time in Unix seconds."""

    ref: str
    commit: str
    tree: str
    commit_time: int


class FolderState(msgspec.Struct, frozen=True, kw_only=True):
    """What git says of a folder.

    Attributes:
        prefix: the folder inside the repository, with `/` at its end; empty for the root.
        repository: the address of `origin` without credentials; empty when there is none.
        revision: what is checked out.
        changed: paths below the folder that differ from the commit, or are neither tracked nor ignored.
    """

    prefix: str
    repository: str
    revision: Revision
    changed: tuple[str, ...]


def run_git(arguments: Iterable[str], *, folder: Path | None = None, neutral: bool = False) -> bytes:
    """Run one git command and return what it printed.

    Args:
        arguments: the command and its arguments.
        folder: where to run it.
        neutral: switch off the user's and the system's configuration.

    Raises:
        GitFailed: RVP-1320.
    """
    command = ["git", *_SWITCHES, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(neutral=neutral),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise GitFailed("git is not installed", hint="apt-get install git") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitFailed(f"git {command[len(_SWITCHES) + 1]}: {error}") from error
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitFailed(f"git {command[len(_SWITCHES) + 1]}: {words[-1] if words else done.returncode}")
    return done.stdout


def _environment(*, neutral: bool) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _KEPT_VARIABLES
    }
    return {**kept, **_ALWAYS, **(_NEUTRAL if neutral else {})}


def describe_folder(folder: Path) -> FolderState | None:
    """Tell what git knows of a folder; None when it lies in no repository, or in one without a commit.

    A tag on the commit that is checked out is the ref; without one, the branch.
    """
    try:
        lines = run_git(["rev-parse", "--show-prefix", "HEAD^{commit}"], folder=folder).decode().splitlines()
    except GitFailed as error:
        if "dubious ownership" in error.message:
            raise
        return None
    prefix, commit = lines[0], lines[1]
    tags = run_git(["tag", "--points-at", commit, "--sort=-version:refname"], folder=folder).decode().split()
    ref = f"refs/tags/{tags[0]}" if tags else _or_empty(["symbolic-ref", "-q", "HEAD"], folder)
    status = run_git(
        ["status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--", "."], folder=folder
    )
    changed = [record[3:].decode("utf-8", "surrogateescape") for record in status.split(b"\0") if record]
    return FolderState(
        prefix=prefix,
        repository=without_credentials(_or_empty(["remote", "get-url", "origin"], folder)),
        revision=describe_commit(folder, commit, ref),
        changed=tuple(sorted(path.removeprefix(prefix) for path in changed)),
    )


def _or_empty(arguments: list[str], folder: Path) -> str:
    try:
        return run_git(arguments, folder=folder).decode().strip()
    except GitFailed:
        return ""


def without_credentials(address: str) -> str:
    """Remove user and password from an address.

    Example:
        >>> without_credentials("https://user:token@example.org/x.git")
        'https://example.org/x.git'
    """
    parts = urlsplit(address)
    if parts.scheme not in {"https", "http"} or "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def describe_commit(repository: Path, commit: str, ref: str) -> Revision:
    """Read a commit's tree and time."""
    found = run_git(
        ["show", "-s", "--no-show-signature", "--format=%H %T %ct", commit, "--"], folder=repository
    )
    full, tree, time = found.decode().split()
    return Revision(ref=ref, commit=full, tree=tree, commit_time=int(time))


def listed_files(folder: Path) -> tuple[str, ...]:
    """Name the files of a working folder that are tracked, or neither tracked nor ignored.

    Raises:
        SubmoduleRefused: RVP-1322.
    """
    staged = run_git(["ls-files", "-z", "--stage"], folder=folder).decode("utf-8", "surrogateescape")
    names: set[str] = set()
    for record in filter(None, staged.split("\0")):
        mode, _, path = record.partition("\t")
        if mode.startswith("160000"):
            raise _submodule(path)
        names.add(path)
    others = run_git(["ls-files", "-z", "--others", "--exclude-standard"], folder=folder)
    names |= set(filter(None, others.decode("utf-8", "surrogateescape").split("\0")))
    return tuple(sorted(names))


def tracks(folder: Path, path: str) -> bool:
    """Tell whether git has a path of a folder, or anything below it; False outside a repository."""
    try:
        return bool(run_git(["ls-files", "-z", "--", path], folder=folder))
    except GitFailed:
        return False


def _submodule(path: str) -> SubmoduleRefused:
    hint = "make it a source of its own and list it under exclude here"
    return SubmoduleRefused(f'"{path}" is a git submodule', hint=hint)


def read_commit(
    repository: Path, tree: str, store: Store, *, prefix: str = "", chosen: Callable[[str], bool]
) -> Tree:
    """Copy a commit's tree into the store.

    Args:
        repository: where the objects are.
        tree: the object id of the commit's tree (or of the commit).
        store: receives the content.
        prefix: the folder to read, with `/` at its end; its name is not part of the paths.
        chosen: tells whether a path, relative to the folder, is wanted.

    Raises:
        GitFailed: RVP-1320. SubmoduleRefused: RVP-1322. LargeFilePointer: RVP-1323. BadPath, BadEntry.
    """
    where = f"{tree}:{prefix.rstrip('/')}" if prefix else tree
    listed = run_git(["ls-tree", "-r", "-z", "--full-tree", where], folder=repository)
    wanted: list[tuple[str, str, str]] = []
    for record in filter(None, listed.split(b"\0")):
        head, _, raw = record.partition(b"\t")
        mode, _, name = head.decode().split()
        path = raw.decode("utf-8", "surrogateescape")
        if not chosen(path):
            continue
        if mode == "160000":
            raise _submodule(path)
        wanted.append((path, mode, name))
    return make_tree(_contents(repository, wanted, store))


def _contents(repository: Path, wanted: list[tuple[str, str, str]], store: Store) -> Iterator[TreeEntry]:
    if not wanted:
        return
    with subprocess.Popen(
        ["git", *_SWITCHES, "cat-file", "--batch"],
        cwd=repository,
        env=_environment(neutral=False),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        if process.stdin is None or process.stdout is None:  # pipes were asked for
            raise GitFailed("git cat-file has no pipes")
        try:
            for path, mode, name in wanted:
                process.stdin.write(f"{name}\n".encode())
                process.stdin.flush()
                yield _entry(path, mode, name, process.stdout, store)
            process.stdin.close()
        finally:
            process.kill()


def _entry(path: str, mode: str, name: str, answers: IO[bytes], store: Store) -> TreeEntry:
    head = answers.readline().split()
    if len(head) != 3 or head[1] != b"blob":
        raise GitFailed(f"the repository lacks the object {name} ({path})", hint="fetch it in full: git fsck")
    size_bytes = int(head[2])
    if mode == "120000":
        target = answers.read(size_bytes).decode("utf-8", "surrogateescape")
        entry = TreeEntry(path=path, kind="symlink", target=target)
    else:
        digest, _ = store.put(_blob(path, size_bytes, answers))
        entry = TreeEntry(
            path=path, kind="file", executable=mode == "100755", sha256=digest.hex(), size_bytes=size_bytes
        )
    answers.read(1)  # each answer ends with a newline
    return entry


def _blob(path: str, size_bytes: int, answers: IO[bytes]) -> Iterator[bytes]:
    left, first = size_bytes, True
    while left:
        chunk = answers.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise GitFailed(f"git stopped in the middle of {path}")
        if first and chunk.startswith(_POINTER):
            hint = "make the content a source of its own (url and sha256)"
            raise LargeFilePointer(f'"{path}" is a Git LFS pointer', hint=hint)
        first = False
        left -= len(chunk)
        yield chunk
