"""An operator lies, others rebuild: what each of them types, and what a verifier is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pipeline.build_result import read_result
from pipeline.leaves import keep_base
from pipeline.lock import read_lock
from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from provenance.signers.key_file import open_signer
from provenance.sigstore_bundle import read_bundle, sign_statement
from provenance.statement import read_statement
from rvp import cli
from tests.fakes.build_folder import sgxs_enclave
from tests.fakes.executor import ProcessExecutor
from tests.fakes.project import step, write_project
from tests.unit.pipeline.test_sources import git
from verifier.cli import terminal

ENCLAVE = step("enclave", "cp {source.app}/enclave.sgxs {out}/enclave", "source.app")
MEASURE = '\n[[measure]]\nid = "enclave"\ntee = "sgx"\nimage = "step.enclave:enclave"\n'
LIE = "00" * 32
AT = "2026-01-10T00:00:00Z"
POLICY = """\
schema = "rvp/policy/v1"

[product]
name = "demo"
series = "stable"
minimum_release = 1

[source]
repository = "{repository}"
refs = ["refs/tags/v*"]

[quorum]
n = 2
{operators}
[release]
signed_by = ["release.key.pub"]
"""


class World:
    """The public repository, and what acme says that it built."""

    def __init__(self, folder: Path, rvp) -> None:
        self.folder, self.rvp = folder, rvp
        self.upstream = folder / "upstream"
        (self.upstream / "src").mkdir(parents=True)
        (self.upstream / "src" / "enclave.sgxs").write_bytes(sgxs_enclave())
        (self.upstream / ".gitignore").write_text(".rvp/\n")
        write_project(self.upstream, ENCLAVE, MEASURE, store=FolderStore(folder / "acme-store"))
        for command in (
            ["init", "-q", "-b", "main"],
            ["add", "."],
            ["commit", "-q", "-m", "1"],
            ["tag", "v1"],
        ):
            git(self.upstream, *command)
        for name in ("acme", "auditor", "third", "release"):
            self.run("key", "new", folder / f"{name}.key")
        self.bundle = folder / "demo.bundle"
        self.acme = folder / "acme"
        git(folder, "clone", "-q", "--branch", "v1", self.upstream.as_uri(), "acme")
        self.run("-C", self.acme, "build", "--store", folder / "acme-store")
        result = read_result(self.acme / ".rvp" / "build")
        self.value = result.measurements[0].measurements[0].claims["mrenclave"]
        self.sign("acme", self.acme)
        self.lie()
        self.run("-C", self.acme, "publish", self.bundle)

    def run(self, *arguments: object, expect: int = 0) -> str:
        code, out, err = self.rvp(*arguments)
        assert code == expect, out + err
        return out

    def sign(self, name: str, built: Path) -> None:
        builder = ("--builder-id", f"https://{name}.example/b")
        self.run("-C", built, "sign", "--key", self.folder / f"{name}.key", *builder)

    def lie(self) -> None:
        """Sign other values than the recipe gives, with a tool of acme's own."""
        (path,) = (self.acme / ".rvp" / "statements").glob("reference-values.*")
        payload = read_bundle(path.read_bytes()).envelope.payload
        claim = '"mrenclave":{{"exact":"{}"}}'.format
        changed = payload.replace(claim(self.value).encode(), claim(LIE).encode())
        assert changed != payload
        signer = open_signer(str(self.folder / "acme.key"))
        path.write_bytes(sign_statement(read_statement(changed), signer).to_json())

    def rebuild(self, name: str) -> None:
        """Rebuild what acme published, with a store of one's own; sign what came out, and add it."""
        built, store = self.folder / name, FolderStore(self.folder / f"{name}-store")
        locked = read_lock(self.upstream / "rvp.lock").base["t"]
        keep_base(locked, Rootfs(digest=hashlib.sha256(b"t").digest(), image=locked.image), store)
        policy = self.policy("acme", "auditor", "third")
        first = self.folder / "first.bundle"
        code, _, err = self.rvp("rebuild", first, "--policy", policy, "-o", built, "--store", store.folder)
        assert code == 12, err
        assert f"expected {LIE}\n       got {self.value}" in err
        self.sign(name, built)
        self.run("-C", built, "publish", self.bundle, "--add")

    def release(self, built: Path) -> None:
        names = ("--series", "stable", "--sequence", "1", "--version", "1", "--yes")
        validity = ("--at", "2026-01-01T00:00:00Z", "--not-after", "2027-01-01T00:00:00Z")
        statements = built / ".rvp" / "statements"
        key = ("--key", self.folder / "release.key")
        self.run("-C", built, "release", statements, *key, *names, *validity)
        self.run("-C", built, "publish", self.bundle, "--add")

    def policy(self, *operators: str) -> Path:
        named = "".join(f'\n[[operator]]\nname = "{one}"\nkey = "{one}.key.pub"\n' for one in operators)
        path = self.folder / "policy.toml"
        path.write_text(POLICY.format(repository=self.upstream.as_uri(), operators=named))
        return path

    def verify(self, *operators: str, expect: int) -> tuple[dict, str]:
        asked = ("verify", self.bundle, "--policy", self.policy(*operators), "--at", AT)
        found = json.loads(self.run(*asked, "--format", "json", expect=expect))
        return {one["id"]: one for one in found["checks"]}, self.run(*asked, expect=expect)


@pytest.fixture
def world(tmp_path: Path, monkeypatch, capsys) -> World:
    for name in ("RVP_STORE", "RVP_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, jobs: ProcessExecutor(jobs or 2))
    monkeypatch.chdir(tmp_path)

    def rvp(*arguments: object) -> tuple[int, str, str]:
        code = terminal.run(cli, [str(argument) for argument in arguments])
        monkeypatch.chdir(tmp_path)
        found = capsys.readouterr()
        return code, found.out, found.err

    made = World(tmp_path, rvp)
    shutil.copytree(made.bundle, tmp_path / "first.bundle")
    return made


def test_a_lying_operator_is_found_out_by_a_second_and_outvoted_by_a_third(world: World) -> None:
    world.rebuild("auditor")
    world.release(world.folder / "auditor")

    checks, text = world.verify("acme", "auditor", expect=13)
    assert [name for name, one in checks.items() if one["status"] == "failed"] == ["agreement"]
    assert "acme on core" in checks["agreement"]["got"]
    assert "auditor on core" in checks["agreement"]["got"]
    assert "first difference: sgx/enclave: mrenclave" in checks["agreement"]["got"]
    for name, value in (("acme", LIE), ("auditor", world.value)):
        assert f"\n{name}: {value}" in checks["agreement"]["got"]
    assert "FAILED  agreement (RVP-6409)  exit 13" in text

    world.rebuild("third")
    checks, text = world.verify("acme", "auditor", "third", expect=0)
    assert [name for name, one in checks.items() if one["status"] == "warning"] == ["dissent"]
    dissent = checks["dissent"]
    assert dissent["got"].startswith("acme said core ")
    assert dissent["got"].endswith(f"sgx/enclave: mrenclave {LIE}")
    assert dissent["expected"].endswith(f"sgx/enclave: mrenclave {world.value}")
    assert text.rstrip().endswith("PASSED")
    assert f"sgx/enclave: mrenclave {world.value}" in text
