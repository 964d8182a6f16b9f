"""Revisions fetched into bare repositories of our own, from addresses and under names that strangers chose.

No configuration, hook or helper of theirs runs: three protocols, names that cannot be options, and nothing is
checked out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pipeline.git import COMMIT, GitFailed, Revision, describe_commit, run_git, without_credentials
from provenance.digest import sha256
from provenance.errors import SpecError

_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]*")
_FETCH: Final = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")


class RevisionMissing(SpecError):
    """The repository has no such branch, tag or commit.

    Cure: write a branch, a tag, or a full commit id; abbreviated ids are not accepted.
    """

    code = "RVP-1321"


def fetch_revision(address: str, revision: str, cache: Path, *, commit: str = "") -> tuple[Path, Revision]:
    """Fetch a revision into a bare repository of our own.

    Args:
        address: https://, ssh:// or file://.
        revision: a branch, a tag, a full ref or a full commit id.
        cache: folder of our repositories.
        commit: the commit that the lock pins; when the cache has it, and the full ref where one is asked
            for, the network is not used.

    Returns:
        The repository, and what the revision is.

    Raises:
        GitFailed: RVP-1320. RevisionMissing: RVP-1321.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise RevisionMissing(f'"{revision}" is not the name of a branch, a tag or a commit')
    if commit and not COMMIT.fullmatch(commit):
        raise RevisionMissing(f'"{commit}" is not a full commit id')
    repository = cache / sha256(address.encode()).hex()[:32]
    if not (repository / "HEAD").exists():
        repository.mkdir(parents=True, exist_ok=True)
        run_git(["init", "--bare", "--quiet", "--template=", "."], folder=repository, neutral=True)
    if commit and _has_commit(repository, commit) and _has_ref(repository, revision):
        return repository, describe_commit(repository, commit, "")
    ref, found = _look_up(address, revision)
    wanted = commit or found
    if not _has_commit(repository, wanted) or not _has_ref(repository, ref):
        _fetch(repository, address, wanted, ref)
    if not _has_commit(repository, wanted):
        raise RevisionMissing(
            f'the repository has no commit {wanted} (revision "{revision}")',
            hint="was the branch or tag moved, the commit deleted? `rvp lock --upgrade` takes the new one",
            place=without_credentials(address),
        )
    return repository, describe_commit(repository, f"{wanted}^{{commit}}", ref)


def _has_commit(repository: Path, commit: str) -> bool:
    try:
        run_git(["cat-file", "-e", f"{commit}^{{commit}}"], folder=repository, neutral=True)
    except GitFailed:
        return False
    return True


def _has_ref(repository: Path, ref: str) -> bool:
    """Tell whether a full ref is there (a tag has an object of its own, with its signature)."""
    if not ref.startswith("refs/"):
        return True
    try:
        run_git(["show-ref", "--verify", "--quiet", ref], folder=repository, neutral=True)
    except GitFailed:
        return False
    return True


def is_on_ref(repository: Path, address: str, ref: str, commit: str) -> bool:
    """Tell whether a ref of a repository names a commit: a tag that is it, a branch that it is on.

    A host that keeps forks in one place serves a fork's commit under the address of the original, so that the
    address and the commit alone do not say that anybody there took it.

    Raises:
        GitFailed: RVP-1320. RevisionMissing: RVP-1321: there is no such ref.

    Cost: one look at the refs; the branch's history when it moved on.
    """
    full, found = _look_up(address, ref)
    if found == commit or not full.startswith("refs/heads/"):
        return found == commit
    everything = "--depth=2147483647"  # of a shallow clone, too
    run_git([*_FETCH, everything, "--", address, f"+{full}:{full}"], folder=repository, neutral=True)
    try:
        run_git(["merge-base", "--is-ancestor", commit, full], folder=repository, neutral=True)
    except GitFailed:
        return False
    return True


def _look_up(address: str, revision: str) -> tuple[str, str]:
    """Find the full ref and the object id of a revision: a full ref, then a tag, then a branch."""
    if COMMIT.fullmatch(revision):
        return "", revision
    listed = run_git(["ls-remote", "--", address], neutral=True).decode("utf-8", "replace")
    there: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, ref = line.partition("\t")
        there[ref] = name
    for ref in (revision, f"refs/tags/{revision}", f"refs/heads/{revision}"):
        if ref.startswith("refs/") and ref in there:
            return ref, there.get(f"{ref}^{{}}", there[ref])
    raise RevisionMissing(
        f'the repository has no branch, tag or full commit id "{revision}"',
        hint="abbreviated commit ids are not accepted",
        place=without_credentials(address),
    )


def _fetch(repository: Path, address: str, commit: str, ref: str) -> None:
    everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    attempts = [["--depth=1", "--", address, f"+{ref}:{ref}"]] if ref else []
    attempts += [["--depth=1", "--", address, commit], ["--", address, *everything]]
    for number, attempt in enumerate(attempts, start=1):
        try:
            run_git([*_FETCH, *attempt], folder=repository, neutral=True)
        except GitFailed:
            if number == len(attempts):
                raise
        if _has_commit(repository, commit):
            return
