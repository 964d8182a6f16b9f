"""The demonstration that workflows/demo runs: two operators, one release, one verdict, five attacks.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "keyservice"
VERSION = "1.2.0"
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

    def attack(self, what: str, *command: str | Path, code: int, cwd: Path | None = None) -> None:
        """Run a verification that must fail, and keep how it ended for the summary."""
        text = self.run(*command, code=code, cwd=cwd)
        reason = next((line.strip() for line in text.splitlines() if line.startswith("FAILED")), "")
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


def main(folder: Path) -> None:
    story = Story(folder)
    public = folder / "public"
    public.mkdir()

    story.chapter(
        "The source",
        "A small SGX enclave in C, its host program, and a spec; the maintainers signed the tag.",
    )
    repository = make_repository(story, "keyservice")
    url = repository.as_uri()
    story.run("cat", EXAMPLE / "rvp.toml")

    story.chapter(
        "Operator 1, acme: rebuild",
        "Each step runs in its own container without network, then again under variations.",
    )
    acme = folder / "acme"
    story.run(
        "git", "clone", "--quiet", "--branch", f"v{VERSION}", "-c", "advice.detachedHead=false", url, acme
    )
    story.run("rvp", "lock", "--check", cwd=acme, store="acme-store")
    story.run("rvp", "plan", cwd=acme, store="acme-store")
    story.run("rvp", "build", cwd=acme, store="acme-store")

    story.chapter(
        "acme signs what it got",
        "The key was not there during the build; artifacts are hashed and measured again.",
    )
    for name in ("acme", "auditor", "release"):
        story.run("rvp", "key", "new", folder / f"{name}.pem")
    story.run(
        "rvp", "sign", "--key", folder / "acme.pem", "--builder-id", "https://acme.example/builder", cwd=acme
    )

    story.chapter("acme publishes", "Statements, logs and the recipe in one bundle: an OCI image layout.")
    bundle = public / "keyservice"
    story.run("rvp", "publish", bundle, "--with-inputs", cwd=acme, store="acme-store")
    shutil.copytree(bundle, folder / "one-signer")

    story.chapter(
        "The Verifier Owner's policy", "Two of two operators must agree on the values of the expected source."
    )
    (folder / "policy.toml").write_text(f"""schema = "rvp/policy/v1"

[product]
name = "keyservice"
series = "stable"
minimum_release = 1

[source]
repository = "{url}"
refs = ["refs/tags/v*"]
signed_by = ["maintainers.pub"]

[quorum]
n = 2

[[operator]]
name = "acme"
key = "acme.pub"

[[operator]]
name = "auditor"
key = "auditor.pub"

[release]
signed_by = ["release.pub"]
threshold = 1
""")
    story.run("cat", folder / "policy.toml")
    story.run("rvp", "policy", "check", folder / "policy.toml")

    story.chapter(
        "Operator 2, auditor: rebuild from the bundle alone",
        "A store of its own, no enclave key; it checks that the source is the expected one before it builds.",
    )
    auditor = folder / "auditor"
    story.run(
        "rvp", "rebuild", bundle, "--policy", folder / "policy.toml", "--source", url, "-o", auditor,
        store="auditor-store",
    )  # fmt: skip
    story.run(
        "rvp",
        "sign",
        "--key",
        folder / "auditor.pem",
        "--builder-id",
        "https://auditor.example/builder",
        cwd=auditor,
    )
    story.run("rvp", "publish", bundle, "--add", cwd=auditor, store="auditor-store")

    story.chapter(
        "The release engineers sign the release", "This product, this sequence, this validity, these values."
    )
    story.run(
        "rvp", "release", bundle, "--key", folder / "release.pem", "--series", "stable", "--sequence", "1",
        "--version", VERSION, "--not-before", "2023-11-14T00:00:00Z", "--not-after", "2099-01-01T00:00:00Z",
    )  # fmt: skip

    story.chapter("The verdict")
    artifacts = acme / ".rvp" / "build" / "artifacts"
    enclave = next(artifacts.rglob("keyservice.signed.so"))
    story.run("rvp", "show", bundle)
    story.run("rvp", "verify", bundle, enclave, "--policy", folder / "policy.toml")

    story.chapter("Attack 1: one byte of the published bundle is flipped")
    shutil.copytree(bundle, folder / "flipped")
    statements = [
        p for p in (folder / "flipped" / "blobs" / "sha256").iterdir() if b"dsseEnvelope" in p.read_bytes()
    ]
    flip_one_byte(sorted(statements)[0])
    story.attack(
        "one byte of the bundle flipped",
        "rvp",
        "verify",
        folder / "flipped",
        "--policy",
        folder / "policy.toml",
        code=10,
    )

    story.chapter("Attack 2: one operator only")
    story.run(
        "rvp", "release", folder / "one-signer", "--key", folder / "release.pem", "--series", "stable", "--sequence", "1",
        "--version", VERSION, "--not-before", "2023-11-14T00:00:00Z", "--not-after", "2099-01-01T00:00:00Z", quiet=True,
    )  # fmt: skip
    story.attack(
        "one operator only",
        "rvp",
        "verify",
        folder / "one-signer",
        "--policy",
        folder / "policy.toml",
        code=13,
    )

    story.chapter("Attack 3: the artifact differs by one byte")
    shutil.copy(enclave, folder / "keyservice.signed.so")
    flip_one_byte(folder / "keyservice.signed.so")
    story.attack(
        "an artifact with one other byte", "rvp", "verify", bundle, folder / "keyservice.signed.so",
        "--policy", folder / "policy.toml", code=12,
    )  # fmt: skip

    story.chapter(
        "Attack 4: another source, honestly rebuilt by both operators",
        "A fork that leaks the key. Everything is genuine, and it is not what the policy expects.",
    )
    fork = make_repository(story, "fork", change=("README.md", "#", "# Not"))
    for name in ("acme", "auditor"):
        other = folder / f"{name}-fork"
        story.run(
            "git",
            "clone",
            "--quiet",
            "--branch",
            f"v{VERSION}",
            "-c",
            "advice.detachedHead=false",
            fork.as_uri(),
            other,
        )
        story.run("rvp", "build", cwd=other, store=f"{name}-store", quiet=True)
        story.run("rvp", "sign", "--key", folder / f"{name}.pem", cwd=other, quiet=True)
        story.run(
            "rvp",
            "publish",
            public / "fork",
            *(["--with-inputs"] if name == "acme" else ["--add"]),
            cwd=other,
            store=f"{name}-store",
            quiet=True,
        )
    story.run(
        "rvp", "release", public / "fork", "--key", folder / "release.pem", "--series", "stable", "--sequence", "2",
        "--version", VERSION, "--not-before", "2023-11-14T00:00:00Z", "--not-after", "2099-01-01T00:00:00Z", quiet=True,
    )  # fmt: skip
    story.attack(
        "another source, honestly rebuilt by both",
        "rvp",
        "verify",
        public / "fork",
        "--policy",
        folder / "policy.toml",
        code=13,
    )

    story.chapter("Summary")
    print(f"   {'the published bundle':44} exit code  0   PASSED")
    for what, code, reason in story.outcomes:
        print(f"   {what:44} exit code {code:2}   {reason}")
    print(f"\n   {time.monotonic() - story.started:.0f} s; every command above ended as the story needs it.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        target = Path(sys.argv[1]).resolve()
        target.mkdir(parents=True, exist_ok=False)
        main(target)
    else:
        with tempfile.TemporaryDirectory(prefix="rvp-demo-") as temporary:
            main(Path(temporary).resolve())
