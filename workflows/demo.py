"""The demonstration that workflows/demo runs: two operators, one release, one verdict, four attacks.

Every line that starts with `$` is a command that a person could type; what it prints is shown as it is.
A command that ends with another exit code than the story needs ends the demonstration with an error.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "keyservice"
VERSION = tomllib.loads((EXAMPLE / "rvp.toml").read_text())["project"]["version"]
# The example's history is made here, with fixed dates, so that every demonstration has the same commit.
GIT = {
    "GIT_AUTHOR_NAME": "keyservice maintainers",
    "GIT_AUTHOR_EMAIL": "maintainers@keyservice.example",
    "GIT_COMMITTER_NAME": "keyservice maintainers",
    "GIT_COMMITTER_EMAIL": "maintainers@keyservice.example",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


POLICY = """schema = "rvp/policy/v1"

[product]
name = "keyservice"
series = "stable"
minimum_release = 1

[source]
repository = "{repository}"
refs = ["refs/tags/v*"]
signed_by = ["maintainers.pub"]

[quorum]
n = 2

[[operator]]
name = "acme"
key = "acme.pem.pub"

[[operator]]
name = "auditor"
key = "auditor.pem.pub"

[release]
signed_by = ["release.pem.pub"]
threshold = 1
"""


class Story:
    """Tells what happens, runs the commands, and checks how each one ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.monotonic()
        self.outcomes: list[tuple[str, int, str]] = []

    def chapter(self, title: str, *lines: str) -> None:
        print(f"\n━━ {title} " + "━" * max(3, 96 - len(title)), flush=True)
        for line in lines:
            print(f"   {line}", flush=True)

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        code: int = 0,
        store: str = "",
        quiet: bool = False,
    ) -> str:
        """Show a command and what it prints; check its exit code."""
        words = [str(word) for word in command]
        print(f"\n$ {shlex.join(self._short(word) for word in words)}", flush=True)
        environment = {**os.environ, **GIT, **({"RVP_STORE": str(self.folder / store)} if store else {})}
        with subprocess.Popen(
            words,
            cwd=cwd or self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line)
                if not quiet:
                    print(f"  {self._short(line)}", end="", flush=True)
        if process.returncode != code:
            print("".join(lines) if quiet else "", end="")
            sys.exit(f"the demonstration failed: exit code {process.returncode}, expected {code}")
        if code:
            print(f"  (exit code {code}, as it must be)")
        return "".join(lines)

    def attack(self, what: str, bundle: Path, *artifacts: Path, code: int) -> None:
        """Run a verification that must fail, and keep how it ended for the summary."""
        text = self.run(
            "rvp", "verify", bundle, *artifacts, "--policy", self.folder / "policy.toml", code=code
        )
        reason = next((line for line in text.splitlines() if line.startswith("FAILED")), "")
        self.outcomes.append((what, code, reason))

    def _short(self, text: str) -> str:
        return text.replace(str(self.folder) + "/", "").replace(str(ROOT) + "/", "")


def make_repository(story: Story, name: str, *, change: tuple[str, str, str] | None = None) -> Path:
    """Make the public repository of the example, with a release tag signed by its maintainers."""
    work, bare = story.folder / f"{name}-history", story.folder / f"{name}.git"
    shutil.copytree(EXAMPLE, work, ignore=shutil.ignore_patterns(".rvp", "published"))
    if change:
        path, old, new = change
        text = (work / path).read_text()
        assert old in text
        (work / path).write_text(text.replace(old, new))
    key = story.folder / "maintainers"
    if not key.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "maintainers", "-f", key], check=True
        )

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", work, *arguments], check=True, env={**os.environ, **GIT}, stdout=subprocess.DEVNULL
        )

    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"keyservice {VERSION}")
    git(
        "-c",
        "gpg.format=ssh",
        "-c",
        f"user.signingkey={key}.pub",
        "tag",
        "--sign",
        "--message",
        VERSION,
        f"v{VERSION}",
    )
    subprocess.run(["git", "clone", "--quiet", "--bare", work, bare], check=True, env={**os.environ, **GIT})
    shutil.rmtree(work)
    return bare


def flip_one_byte(path: Path, *, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


class Operator:
    """Somebody who rebuilds: a name, a key, a store of their own."""

    def __init__(self, story: Story, name: str) -> None:
        self.story, self.name = story, name
        self.key = story.folder / f"{name}.pem"

    def run(self, *command: str | Path, cwd: Path, quiet: bool = False) -> None:
        self.story.run(*command, cwd=cwd, store=f"{self.name}-store", quiet=quiet)

    def clone(self, repository: Path, folder: Path, *, quiet: bool = False) -> None:
        options = ("--quiet", "--branch", f"v{VERSION}", "-c", "advice.detachedHead=false")
        self.story.run("git", "clone", *options, repository.as_uri(), folder, quiet=quiet)

    def sign(self, folder: Path, *, quiet: bool = False) -> None:
        builder = f"https://{self.name}.example/builder"
        self.run("rvp", "sign", "--key", self.key, "--builder-id", builder, cwd=folder, quiet=quiet)


def release(story: Story, bundle: Path, sequence: int, *, quiet: bool = False) -> None:
    """Sign a release of what a bundle states, and add the signed statement to the bundle."""
    keys = [
        word for name in ("acme", "auditor") for word in ("--signed-by", story.folder / f"{name}.pem.pub")
    ]
    validity = ("--not-before", "2023-11-14T00:00:00Z", "--not-after", "2099-01-01T00:00:00Z")
    names = ("--series", "stable", "--sequence", str(sequence), "--version", VERSION)
    signed = story.folder / f"release-{bundle.name}"
    key = story.folder / "release.pem"
    story.run("rvp", "release", bundle, "--key", key, *keys, *names, *validity, "--out", signed, quiet=quiet)
    story.run("rvp", "publish", bundle, "--add", "--statements", signed, quiet=quiet)


def main(folder: Path) -> None:
    story = Story(folder)
    acme, auditor = Operator(story, "acme"), Operator(story, "auditor")
    bundle, policy = folder / "public" / "keyservice", folder / "policy.toml"
    bundle.parent.mkdir()

    story.chapter(
        "The source", "A small SGX enclave in C and its host program; the maintainers signed the tag."
    )
    repository = make_repository(story, "keyservice")
    story.run("cat", EXAMPLE / "rvp.toml")

    story.chapter(
        "Operator 1, acme: rebuild",
        "Each step runs in its own container without network, then again under variations.",
    )
    built = folder / "acme"
    acme.clone(repository, built)
    acme.run("rvp", "lock", "--check", cwd=built)
    acme.run("rvp", "plan", cwd=built)
    acme.run("rvp", "build", cwd=built)

    story.chapter(
        "acme signs what it got", "No key was there during the build; all is hashed and measured again."
    )
    for name in ("acme", "auditor", "release"):
        story.run("rvp", "key", "new", folder / f"{name}.pem")
    acme.sign(built)

    story.chapter("acme publishes", "Statements, logs, recipe and inputs in one bundle: an OCI image layout.")
    acme.run("rvp", "publish", bundle, "--with-inputs", cwd=built)
    shutil.copytree(bundle, folder / "one-signer")

    story.chapter(
        "The Verifier Owner's policy", "Two of two operators must agree on values of the expected source."
    )
    policy.write_text(POLICY.format(repository=repository.as_uri()))
    story.run("cat", policy)
    story.run("rvp", "policy", "check", policy)

    story.chapter(
        "Operator 2, auditor: rebuild from the bundle alone",
        "A store of its own, no enclave key, and no repository: it is out of reach meanwhile.",
        "(One machine plays every part here. In earnest no signing key is on the engine's host while steps run.)",
        "Tag, commit and trees in the bundle prove that the source is the expected one, before anything is built.",
    )
    rebuilt = folder / "auditor"
    story.run("mv", repository, folder / "out-of-reach.git")
    auditor.run("rvp", "rebuild", bundle, "--policy", policy, "-o", rebuilt, cwd=folder)
    story.run("mv", folder / "out-of-reach.git", repository)
    auditor.sign(rebuilt)
    auditor.run("rvp", "publish", bundle, "--add", cwd=rebuilt)

    story.chapter(
        "The release engineers release it", "This product, this sequence, this validity, these values."
    )
    release(story, bundle, 1)

    story.chapter("The verdict")
    enclave = next((built / ".rvp" / "build" / "artifacts").glob("*.signed.so"))
    story.run("rvp", "show", bundle)
    story.run("rvp", "verify", bundle, enclave, "--policy", policy)

    story.chapter(
        "The enclave alone", "Its value computed from its pages; what its owner signed, field by field."
    )
    story.run("rvp", "measure", enclave)
    story.run("rvp", "sgx", "show", enclave)

    story.chapter("Attack 1: one byte of the published bundle is flipped")
    shutil.copytree(bundle, folder / "flipped")
    blobs = sorted((folder / "flipped" / "blobs" / "sha256").iterdir())
    flip_one_byte(next(blob for blob in blobs if b"dsseEnvelope" in blob.read_bytes()))
    story.attack("one byte of the bundle flipped", folder / "flipped", code=10)

    story.chapter("Attack 2: one operator only")
    release(story, folder / "one-signer", 1, quiet=True)
    story.attack("one operator only", folder / "one-signer", code=13)

    story.chapter("Attack 3: the artifact differs by one byte")
    other = folder / enclave.name
    shutil.copy(enclave, other)
    flip_one_byte(other, at=0x2100)
    story.attack("an artifact with one other byte", bundle, other, code=12)
    print("\n   Which byte, and whose is it?")
    story.run("rvp", "explain", enclave, other, code=12)

    story.chapter(
        "Attack 4: another source, honestly rebuilt by both operators",
        "A fork with another host program. Every signature is genuine; it is not the source that is expected.",
    )
    fork = make_repository(story, "fork", change=("src/host/main.c", "SIMULATED", "NOT TO BE TRUSTED"))
    for operator in (acme, auditor):
        place = folder / f"{operator.name}-fork"
        operator.clone(fork, place, quiet=True)
        operator.run("rvp", "build", cwd=place, quiet=True)
        operator.sign(place, quiet=True)
        operator.run("rvp", "publish", bundle.parent / "fork", "--with-inputs", cwd=place, quiet=True)
    release(story, bundle.parent / "fork", 2, quiet=True)
    story.attack("another source, honestly rebuilt by both", bundle.parent / "fork", code=13)

    story.chapter("Summary")
    print(f"   {'the published bundle':42} exit code  0  PASSED")
    for what, code, reason in story.outcomes:
        print(f"   {what:42} exit code {code:2}  {reason}")
    print(f"\n   {time.monotonic() - story.started:.0f} s; every command above ended as the story needs it.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        target = Path(sys.argv[1]).resolve()
        target.mkdir(parents=True, exist_ok=False)
        main(target)
    else:
        with tempfile.TemporaryDirectory(prefix="rvp-demo-") as temporary:
            main(Path(temporary).resolve())
