"""Fetching revisions: what the cache has afterwards, and when the network is used."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.git import run_git
from pipeline.git_fetch import RevisionMissing, fetch_revision


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", folder, *arguments],
            check=True,
            capture_output=True,
        )

    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "a").write_text("a")
    git("add", "a")
    git("commit", "--quiet", "--message", "first")
    git("tag", "--annotate", "--message", "one", "v1")
    return folder


def head(folder: Path) -> str:
    return run_git(["rev-parse", "HEAD"], folder=folder).decode().strip()


def test_an_annotated_tag_comes_with_its_own_object(upstream: Path, tmp_path: Path) -> None:
    repository, revision = fetch_revision(upstream.as_uri(), "refs/tags/v1", tmp_path / "cache")
    assert revision.commit == head(upstream)
    assert run_git(["cat-file", "-t", "refs/tags/v1"], folder=repository, neutral=True).strip() == b"tag"


def test_a_tag_is_fetched_although_its_commit_is_there_already(upstream: Path, tmp_path: Path) -> None:
    commit = head(upstream)
    fetch_revision(upstream.as_uri(), commit, tmp_path / "cache")
    repository, _ = fetch_revision(upstream.as_uri(), "refs/tags/v1", tmp_path / "cache", commit=commit)
    assert run_git(["cat-file", "-t", "refs/tags/v1"], folder=repository, neutral=True).strip() == b"tag"


def test_what_the_cache_has_is_not_fetched_again(upstream: Path, tmp_path: Path) -> None:
    commit = head(upstream)
    address = upstream.as_uri()
    fetch_revision(address, "refs/tags/v1", tmp_path / "cache", commit=commit)
    upstream.rename(tmp_path / "gone")
    repository, revision = fetch_revision(address, "refs/tags/v1", tmp_path / "cache", commit=commit)
    assert revision.commit == commit
    assert repository.is_dir()


def test_a_tag_that_was_moved_still_gives_the_pinned_commit(upstream: Path, tmp_path: Path) -> None:
    commit = head(upstream)
    (upstream / "a").write_text("b")
    for arguments in (("commit", "-aqm", "second"), ("tag", "--force", "-am", "moved", "v1")):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", upstream, *arguments],
            check=True,
            capture_output=True,
        )
    _, revision = fetch_revision(upstream.as_uri(), "refs/tags/v1", tmp_path / "cache", commit=commit)
    assert revision.commit == commit


def test_a_revision_that_is_not_there_is_told(upstream: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionMissing, match="v9"):
        fetch_revision(upstream.as_uri(), "v9", tmp_path / "cache")
