"""SSH signatures, against git and ssh-keygen as the oracle."""

import subprocess
from pathlib import Path

import pytest

from provenance.predicates.core import Source
from provenance.predicates.shapes import Sha256Digest
from verifier.verify.source import object_title, read_git_objects, uncommitted, unsigned
from verifier.verify.ssh_signature import object_id, read_commit, read_tag, verify_ssh_signature


def git(folder: Path, *arguments: str) -> str:
    home = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}
    chosen = (
        "user.name=M",
        "user.email=m@example.org",
        "gpg.format=ssh",
        f"user.signingkey={folder}/key.pub",
    )
    options = [part for one in chosen for part in ("-c", one)]
    done = subprocess.run(
        ["git", *options, *arguments], cwd=folder, env=home, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(params=["ed25519", "ecdsa", "rsa"])
def clone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", request.param, "-N", "", "-f", tmp_path / "key"], check=True)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-S", "-m", "signed")
    git(tmp_path, "tag", "-s", "-m", "release", "v1.0")
    return tmp_path


def source(clone: Path, ref: str = "refs/tags/v1.0") -> Source:
    return Source(
        name="app", repository="r", ref=ref, commit=git(clone, "rev-parse", "HEAD"),
        tree_digest=Sha256Digest(sha256="00" * 32),
    )  # fmt: skip


def signers(clone: Path) -> tuple[str, ...]:
    return (" ".join((clone / "key.pub").read_text().split()[:2]),)


def test_a_tag_and_a_commit_that_git_signed_are_verified(clone: Path) -> None:
    objects = read_git_objects(clone, source(clone))
    tag, commit = objects[object_title("app", "tag")], objects[object_title("app", "commit")]
    for parsed in (read_tag(tag), read_commit(commit)):
        assert verify_ssh_signature(parsed.payload, parsed.signature, signers(clone)) == ""
    assert object_id("commit", commit, digits=40) == source(clone).commit
    assert unsigned(source(clone), signers(clone), objects) == ""
    assert unsigned(source(clone), signers(clone), {object_title("app", "tag"): tag}) == ""
    assert unsigned(source(clone), signers(clone), {object_title("app", "commit"): commit}) == ""


def test_each_changed_byte_of_the_payload_is_refused(clone: Path) -> None:
    parsed = read_tag(read_git_objects(clone, source(clone))[object_title("app", "tag")])
    for at in range(len(parsed.payload)):
        changed = parsed.payload[:at] + bytes([parsed.payload[at] ^ 1]) + parsed.payload[at + 1 :]
        assert "does not match" in verify_ssh_signature(changed, parsed.signature, signers(clone))


def test_a_key_that_nobody_named_is_told(clone: Path) -> None:
    parsed = read_tag(read_git_objects(clone, source(clone))[object_title("app", "tag")])
    assert "does not name" in verify_ssh_signature(parsed.payload, parsed.signature, ())


def test_a_signature_for_another_purpose_is_refused(clone: Path) -> None:
    (clone / "file").write_bytes(b"payload")
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", clone / "key", clone / "file"], check=True
    )
    assert "not for git" in verify_ssh_signature(
        b"payload", (clone / "file.sig").read_bytes(), signers(clone)
    )


@pytest.mark.parametrize(
    "armoured",
    [
        b"",
        b"-----BEGIN PGP SIGNATURE-----",
        b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----",
    ],
)
def test_what_is_no_ssh_signature_is_refused(armoured: bytes) -> None:
    assert verify_ssh_signature(b"payload", armoured, ("ssh-ed25519 AAAA",))


@pytest.mark.parametrize("place", ["", "examples/app"])
def test_spec_and_lock_are_found_in_the_commit_where_git_put_them(clone: Path, place: str) -> None:
    files = {"rvp.toml": b"spec", "rvp.lock": b"lock", "recipe.json": b"{}"}
    folder = clone / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("rvp.toml", "rvp.lock"):
        (folder / name).write_bytes(files[name])
    git(clone, "add", "--", *(f"./{place}/{name}" for name in ("rvp.toml", "rvp.lock")))
    git(clone, "commit", "-q", "-S", "-m", "spec")
    git(clone, "tag", "-s", "-m", "release", "v2.0")
    meant = source(clone, "refs/tags/v2.0")
    objects = read_git_objects(folder, meant)
    assert uncommitted(meant, files, objects) == ""
    assert "another" in uncommitted(meant, files | {"rvp.toml": b"evil"}, objects)
    assert "no recipe" in uncommitted(meant, {}, objects)
    assert "commit object" in uncommitted(meant, files, {})
    only_commit = {title: data for title, data in objects.items() if "tree" not in title}
    assert "tree object" in uncommitted(meant, files, only_commit)


def test_only_the_tag_of_a_commit_is_read_as_one() -> None:
    head = b"object " + b"c" * 40 + b"\ntype %b\ntag v1\ntagger M <m@example.org> 1 +0000\n\nv1\n"
    assert read_tag(head % b"commit").target == "c" * 40
    assert read_tag(head % b"tag").target == ""  # a tag of a tag
    later = b"type commit\n" + (head % b"commit")
    assert read_tag(later).target == ""
    assert read_tag(b"tree x\nobject y\ntag v1\n\n").name == ""
