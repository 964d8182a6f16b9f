"""From a build to a released core, as a user types it, with local processes instead of containers."""

from __future__ import annotations

import json
import shutil

import pytest

from provenance.predicates.core import core_digest
from provenance.predicates.reference_values import read_reference_values
from provenance.public_key import load_public_key
from provenance.sigstore_bundle import read_bundle, verify_envelope
from rvp import cli
from tests.fakes.build_folder import sgxs_enclave
from tests.fakes.executor import ProcessExecutor
from tests.fakes.project import step, write_project
from verifier.cli import terminal

ENCLAVE = step("enclave", "cp {source.app}/enclave.sgxs {out}/enclave", "source.app")
MEASURE = '\n[[measure]]\nid = "enclave"\ntee = "sgx"\nimage = "step.enclave:enclave"\n'


@pytest.fixture
def rvp(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RVP_STORE", raising=False)
    monkeypatch.delenv("RVP_PASSPHRASE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, jobs: ProcessExecutor(jobs or 2))

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        code = terminal.run(cli, list(arguments))
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return run


def write(folder, *parts):
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "enclave.sgxs").write_bytes(sgxs_enclave())
    return write_project(folder, *parts)


def values_of(folder, key, kind="reference-values"):
    (path,) = (folder / ".rvp" / "statements").glob(f"{kind}.*")
    return read_reference_values(verify_envelope(read_bundle(path.read_bytes()), [key]).statement)


def test_two_operators_sign_one_core_and_it_is_released(rvp, tmp_path):
    one, two = write(tmp_path / "one", ENCLAVE, MEASURE), write(tmp_path / "two", ENCLAVE, MEASURE)
    digests = []
    for folder in (one, two):
        rvp(folder, "build")
        rvp(folder, "key", "new", "ci.key")
        rvp(folder, "sign", "--key", "ci.key", "--builder-id", f"https://{folder.name}.example/b")
        values = values_of(folder, load_public_key(folder / "ci.key.pub"))
        assert values.rebuild.exercised == ("time",)
        assert [log.register for log in values.logs] == ["mrenclave"]
        digests.append(core_digest(values.core))
    assert digests[0] == digests[1]
    for path in (two / ".rvp" / "statements").iterdir():
        shutil.copy(path, one / ".rvp" / "statements")
    shutil.copy(two / "ci.key.pub", one / "second.pub")
    rvp(one, "key", "new", "release.key")
    released = json.loads(
        rvp(
            one,
            *("release", ".rvp/statements", "--key", "release.key", "--series", "stable", "--sequence", "1"),
            *("--version", "1", "--at", "2026-01-01T00:00:00Z", "--not-after", "2027-01-01T00:00:00Z"),
            *("--signed-by", "ci.key.pub", "--signed-by", "second.pub", "--format", "json"),
        )
    )
    assert released["release"]["coreDigest"]["sha256"] == digests[0].hex()


def test_what_was_measured_alone_has_the_same_values_and_another_core(rvp, tmp_path):
    folder = write(tmp_path / "one", ENCLAVE, MEASURE)
    rvp(folder, "build")
    rvp(folder, "key", "new", "ci.key")
    rvp(folder, "sign", "--key", "ci.key")
    key = load_public_key(folder / "ci.key.pub")
    rvp(folder, "sign", "--measured", ".rvp/build/artifacts/enclave", "--product", "demo", "--key", "ci.key")
    built, measured = values_of(folder, key), values_of(folder, key, "measured-values")
    assert measured.core.sets == built.core.sets
    assert (built.level, measured.level) == ("reproduced", "measured")
    assert core_digest(measured.core) != core_digest(built.core)
