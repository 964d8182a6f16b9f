"""Sources: the same tree from every checkout; dirt is seen; what is pinned is checked."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import msgspec
import pytest

from pipeline.download import DownloadFailed, WrongDigest
from pipeline.git import GitFailed, LargeFilePointer, SubmoduleRefused
from pipeline.git_fetch import RevisionMissing
from pipeline.lock import LockedSource
from pipeline.recorded_source import load_recorded
from pipeline.sources import LoadedSource, SourceChanged, SourceMissing, load_source
from pipeline.spec import Source
from pipeline.store import FolderStore
from pipeline.tree import BadEntry, BadPath, read_folder
from pipeline.unpack import BadArchive
from provenance.events import ignore

ENVIRONMENT = {
    **os.environ,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src" / "bin").mkdir(parents=True)
    (folder / "src" / "main.c").write_bytes(b"int main;\r\nend\n")
    (folder / "src" / "bin" / "run").write_text("#!/bin/sh\n")
    (folder / "src" / "bin" / "run").chmod(0o755)
    (folder / "src" / "link").symlink_to("main.c")
    (folder / "README").write_text("x")
    (folder / ".gitignore").write_text("*.o\n.rvp/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "remote", "add", "origin", "https://user:secret@example.org/project.git")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def load(
    folder: Path, store: FolderStore, source: Source | None = None, locked: LockedSource | None = None
) -> LoadedSource:
    return load_source(
        "app", source or Source(path="src"), folder=folder, store=store, locked=locked, observer=ignore
    )


def test_a_clean_folder_is_its_commit(project: Path, store: FolderStore) -> None:
    loaded = load(project, store)
    assert loaded.commit == git(project, "rev-parse", "HEAD")
    assert (loaded.ref, loaded.folder, loaded.commit_time) == ("refs/heads/main", "src", 1700000000)
    assert [entry.path for entry in loaded.tree.entries] == ["bin/run", "link", "main.c"]
    assert loaded.tree.entries[0].executable
    assert not loaded.dirty
    with store.get(bytes.fromhex(loaded.tree.entries[2].sha256)) as stream:
        assert stream.read() == b"int main;\r\nend\n"


def test_credentials_of_the_remote_are_not_kept(project: Path, store: FolderStore) -> None:
    assert load(project, store).repository == "https://example.org/project.git"


def test_a_tag_on_the_commit_is_the_ref(project: Path, store: FolderStore) -> None:
    git(project, "tag", "v1.9")
    git(project, "tag", "v1.10")
    assert load(project, store).ref == "refs/tags/v1.10"


def test_line_ends_umask_and_replacements_of_a_checkout_change_nothing(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    before = load(project, store)
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", f"file://{project}", str(other))
    for path in other.rglob("*"):
        if path.is_file() and not path.is_symlink() and ".git" not in path.parts:
            path.chmod(path.stat().st_mode & 0o700)
    blob = git(other, "rev-parse", "HEAD:README")
    git(other, "replace", git(other, "rev-parse", "HEAD:src/main.c"), blob)
    loaded = load(other, FolderStore(tmp_path / "store2"))
    assert loaded.tree == before.tree


@pytest.mark.parametrize("change", ["edit", "new", "remove", "mode"])
def test_a_changed_folder_is_dirty_and_read_from_the_disk(
    project: Path, store: FolderStore, change: str
) -> None:
    clean = load(project, store)
    match change:
        case "edit":
            (project / "src" / "main.c").write_text("other")
        case "new":
            (project / "src" / "new.c").write_text("new")
        case "remove":
            (project / "src" / "main.c").unlink()
        case _:
            (project / "src" / "main.c").chmod(0o755)
    loaded = load(project, store)
    assert loaded.dirty
    assert loaded.tree != clean.tree
    assert not loaded.for_recipe().fetchable


def test_ignored_files_and_changes_elsewhere_do_not_make_it_dirty(project: Path, store: FolderStore) -> None:
    clean = load(project, store)
    (project / "src" / "main.o").write_text("object")
    (project / "README").write_text("changed")
    (project / ".rvp").mkdir()
    (project / ".rvp" / "x").write_text("x")
    assert load(project, store) == clean
    (project / "src" / "main.c").write_text("other")
    assert "main.o" not in [entry.path for entry in load(project, store).tree.entries]


def test_include_and_exclude_choose(project: Path, store: FolderStore) -> None:
    chosen = load(project, store, Source(path=".", include=("src", "README"), exclude=("src/bin",)))
    assert [entry.path for entry in chosen.tree.entries] == ["README", "src/link", "src/main.c"]


def test_a_folder_without_repository_is_read_whole(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "p" / "src" / "deep").mkdir(parents=True)
    (tmp_path / "p" / "src" / "deep" / "x").write_text("x")
    loaded = load(tmp_path / "p", store)
    assert [entry.path for entry in loaded.tree.entries] == ["deep/x"]
    assert (loaded.commit, loaded.commit_time, loaded.for_recipe().fetchable) == ("", None, False)


@pytest.mark.parametrize("path", ["missing", "empty"])
def test_a_missing_or_empty_folder_is_told(tmp_path: Path, store: FolderStore, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissing):
        load(tmp_path, store, Source(path=path))


def test_a_folder_that_leads_outside_by_a_link_is_refused(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "src").symlink_to("/etc")
    with pytest.raises(SourceMissing, match="outside"):
        load(tmp_path / "p", store)


def test_a_link_out_of_the_source_is_refused(project: Path, store: FolderStore) -> None:
    (project / "src" / "out").symlink_to("../../../etc/passwd")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "link")
    with pytest.raises(BadEntry):
        load(project, store)


def test_a_submodule_is_refused_and_can_be_excluded(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "submodule", "add", "-q", f"file://{project}", "src/sub")
    git(project, "commit", "-q", "-m", "sub")
    with pytest.raises(SubmoduleRefused, match="sub"):
        load(project, store)
    assert load(project, store, Source(path="src", exclude=("sub",))).tree.entries


def test_a_large_file_pointer_is_refused(project: Path, store: FolderStore) -> None:
    (project / "src" / "big").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "big")
    with pytest.raises(LargeFilePointer, match="big"):
        load(project, store)


def git_source(project: Path, rev: str) -> Source:
    return Source(git=f"file://{project}", rev=rev)


def test_a_git_revision_is_pinned_and_not_fetched_twice(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "tag", "-a", "-m", "one", "v1")
    source = git_source(project, "v1")
    first = load(tmp_path, store, source)
    assert first.locked is not None
    assert first.commit == git(project, "rev-parse", "HEAD")
    assert first.ref == "refs/tags/v1"
    project.rename(tmp_path / "gone")
    assert load(tmp_path, store, source, first.locked).tree == first.tree
    fresh = FolderStore(tmp_path / "store2")
    assert load(tmp_path, fresh, source, first.locked).tree == first.tree, "the clone is still there"


def test_a_moved_branch_does_not_move_a_lock(project: Path, tmp_path: Path, store: FolderStore) -> None:
    source = git_source(project, "main")
    first = load(tmp_path, store, source)
    (project / "README").write_text("new")
    git(project, "commit", "-q", "-a", "-m", "second")
    other = tmp_path / "other"
    other.mkdir()
    assert load(other, FolderStore(tmp_path / "s2"), source, first.locked).tree == first.tree
    assert load(other, store, source).tree != first.tree


@pytest.mark.parametrize("rev", ["v9", "--upload-pack=x", "main..x", "0" * 40, "HEAD~1", "abc1234"])
def test_a_revision_that_is_not_there_is_told(
    project: Path, tmp_path: Path, store: FolderStore, rev: str
) -> None:
    with pytest.raises((RevisionMissing, GitFailed)):
        load(tmp_path, store, git_source(project, rev))


def test_hooks_and_configuration_are_not_run(
    project: Path, tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "ran"
    configuration = tmp_path / "gitconfig"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "reference-transaction", "fsmonitor"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {witness}\n")
        (hooks / hook).chmod(0o755)
    configuration.write_text(
        f'[core]\nhooksPath = {hooks}\nfsmonitor = {hooks}/fsmonitor\n[url "https://evil.invalid/"]\ninsteadOf = file://\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(configuration.read_text())
    load(tmp_path, store, git_source(project, "main"))
    load(project, store)
    assert not witness.exists()


def test_another_tree_than_the_locked_one_is_refused(
    project: Path, tmp_path: Path, store: FolderStore
) -> None:
    source = git_source(project, "main")
    first = load(tmp_path, store, source)
    assert first.locked is not None
    wrong = LockedSource(commit=first.commit, tree="00" * 32)
    with pytest.raises(SourceChanged) as caught:
        load(tmp_path, store, source, wrong)
    assert caught.value.exit_code == 3
    assert first.tree.digest.hex() in caught.value.message


def test_a_recorded_folder_is_found_again_in_its_repository(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "remote", "set-url", "origin", f"file://{project}")
    recorded = load(project, store).for_recipe()
    (project / "src" / "main.c").write_text("later")
    git(project, "commit", "-q", "-a", "-m", "later")
    found = load_recorded(
        recorded,
        Source(path="src"),
        store=FolderStore(tmp_path / "s2"),
        locked=None,
        observer=ignore,
        cache=tmp_path / "cache",
    )
    assert found.tree.digest.hex() == recorded.tree


def recorded_again(recorded, project: Path, store: FolderStore, cache: Path, **options):
    return load_recorded(
        recorded, Source(path="src"), store=store, locked=None, observer=ignore, cache=cache, **options
    )


def test_a_tree_that_came_with_a_recipe_is_not_believed_to_be_the_commits(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "remote", "set-url", "origin", f"file://{project}")
    honest = load(project, store).for_recipe()
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "main.c").write_text("int evil;")
    evil = read_folder(tmp_path / "evil", store)
    store.put([evil.to_json()])  # as the inputs of a bundle are
    lying = msgspec.structs.replace(honest, tree=evil.digest.hex())
    with pytest.raises(SourceChanged, match="not the one of the recipe"):
        recorded_again(lying, project, store, tmp_path / "cache")


def test_a_commit_that_is_not_on_its_ref_is_refused(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "remote", "set-url", "origin", f"file://{project}")
    git(project, "tag", "v1")
    git(project, "checkout", "-q", "-b", "fork")
    (project / "src" / "main.c").write_text("int evil;")
    git(project, "commit", "-q", "-a", "-m", "nobody merged this")
    forked = load(project, store).for_recipe()
    for ref in ("refs/tags/v1", "refs/heads/main"):
        lying = msgspec.structs.replace(forked, ref=ref)
        with pytest.raises(SourceChanged, match=f"not the one of {ref}"):
            recorded_again(lying, project, store, tmp_path / "cache")
    recorded_again(forked, project, store, tmp_path / "cache")


def test_where_the_repository_is_out_of_reach_nothing_is_said_of_the_place(
    project: Path, store: FolderStore, tmp_path: Path
) -> None:
    git(project, "remote", "set-url", "origin", f"file://{tmp_path}/nowhere")
    tree = load(project, store)
    store.put([tree.tree.to_json()])
    found = recorded_again(tree.for_recipe(), project, store, tmp_path / "cache")
    assert found.tree == tree.tree
    assert (found.repository, found.ref, found.commit) == ("", "", "")
    with pytest.raises(GitFailed):
        recorded_again(tree.for_recipe(), project, store, tmp_path / "cache", must_prove=True)


def test_a_place_without_a_commit_is_not_repeated(project: Path, store: FolderStore, tmp_path: Path) -> None:
    tree = load(project, store)
    store.put([tree.tree.to_json()])
    lying = msgspec.structs.replace(tree.for_recipe(), repository="https://example.org/good.git", commit="")
    assert recorded_again(lying, project, store, tmp_path / "cache").repository == ""


def archive_of(kind: str, names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in names.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as tar:
            for name, data in names.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def url_source(path: Path, data: bytes, sha256: str | None = None) -> Source:
    path.write_bytes(data)
    return Source(url=f"file://{path}", sha256=sha256 or hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "", "zip"])
def test_archives_are_unpacked(tmp_path: Path, store: FolderStore, kind: str) -> None:
    data = archive_of(kind, {"x-1/a": b"A", "./x-1/b": b"B"})
    loaded = load(tmp_path, store, url_source(tmp_path / "x.bin", data))
    assert [entry.path for entry in loaded.tree.entries] == ["x-1/a", "x-1/b"]


def test_a_single_file_is_a_tree_of_one(tmp_path: Path, store: FolderStore) -> None:
    loaded = load(tmp_path, store, url_source(tmp_path / "firmware.fd", b"PK but no zip"))
    assert [entry.path for entry in loaded.tree.entries] == ["firmware.fd"]
    assert loaded.locked is not None
    assert loaded.locked.files[0].size == 13
    (tmp_path / "firmware.fd").unlink()
    assert load(tmp_path, store, Source(url="file:///gone"), loaded.locked).tree == loaded.tree


@pytest.mark.parametrize("kind", ["", "zip"])
@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_an_archive_that_climbs_out_is_refused(
    tmp_path: Path, store: FolderStore, kind: str, name: str
) -> None:
    with pytest.raises(BadPath):
        load(tmp_path, store, url_source(tmp_path / "x.bin", archive_of(kind, {name: b"x"})))


def test_a_device_in_an_archive_is_refused(tmp_path: Path, store: FolderStore) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        device = tarfile.TarInfo("null")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    with pytest.raises(BadArchive, match="null"):
        load(tmp_path, store, url_source(tmp_path / "x.tar", out.getvalue()))


def test_a_truncated_archive_is_told(tmp_path: Path, store: FolderStore) -> None:
    data = archive_of("gz", {"a": os.urandom(200000)})
    with pytest.raises(BadArchive):
        load(tmp_path, store, url_source(tmp_path / "x.tgz", data[:100000]))


def test_another_sha256_is_refused_with_both(tmp_path: Path, store: FolderStore) -> None:
    with pytest.raises(WrongDigest) as caught:
        load(tmp_path, store, url_source(tmp_path / "x", b"x", sha256="00" * 32))
    assert "00" * 32 in caught.value.message
    assert hashlib.sha256(b"x").hexdigest() in caught.value.message
    assert caught.value.exit_code == 3


def test_a_file_that_is_not_there_is_told(tmp_path: Path, store: FolderStore) -> None:
    with pytest.raises(DownloadFailed):
        load(tmp_path, store, Source(url=f"file://{tmp_path}/missing"))


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c touch% {}",
        "-c core.sshCommand=touch {}",
        "--upload-pack=touch {}",
        "ssh://-oProxyCommand=touch {}/x",
    ],
)
def test_an_address_that_a_stranger_chose_runs_nothing(
    project: Path, store: FolderStore, tmp_path: Path, address: str
) -> None:
    mark = tmp_path / "owned"
    lying = msgspec.structs.replace(load(project, store).for_recipe(), repository=address.format(mark))
    with pytest.raises(GitFailed):
        recorded_again(lying, project, FolderStore(tmp_path / "s2"), tmp_path / "cache")
    assert not mark.exists()


@pytest.mark.parametrize("commit", ["--output=owned", "HEAD", "main", "c" * 39])
def test_a_commit_that_is_no_commit_id_is_refused(
    project: Path, store: FolderStore, tmp_path: Path, commit: str
) -> None:
    lying = msgspec.structs.replace(
        load(project, store).for_recipe(), commit=commit, repository=f"file://{project}"
    )
    with pytest.raises(RevisionMissing, match=r"not a full commit id|not the name"):
        recorded_again(lying, project, FolderStore(tmp_path / "s2"), tmp_path / "cache")
