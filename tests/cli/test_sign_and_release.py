"""`rvp sign` and `rvp release`: from a build folder to a released core."""

import json
import os
import pty
import subprocess
import sys

import pytest

from provenance.public_key import load_public_key
from provenance.sigstore_bundle import read_bundle, verify_envelope
from tests.cli.test_key_command import ROOT, rvp
from tests.fakes.build_folder import ENCLAVE, sgxs_enclave, write_build

RELEASE = ("--series", "stable", "--sequence", "7", "--version", "1.2.0")
VALID = ("--at", "2026-01-01T00:00:00Z", "--not-after", "2027-01-01T00:00:00Z")


@pytest.fixture
def project(tmp_path):
    write_build(tmp_path / ".rvp" / "build")
    for name in ("ci", "auditor", "release"):
        assert rvp("key", "new", f"{name}.key", cwd=tmp_path).returncode == 0
    return tmp_path


def statements(project):
    return sorted((project / ".rvp" / "statements").glob("*.sigstore.json"))


def test_a_build_is_signed_and_the_files_verify(project):
    done = rvp("sign", "--key", "ci.key", "--format", "json", cwd=project)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    key = load_public_key(project / "ci.key.pub")
    assert [str(path.relative_to(project)) for path in statements(project)] == sorted(
        one["path"] for one in document["statements"]
    )
    assert len(document["statements"]) == 2
    for path in statements(project):
        verify_envelope(read_bundle(path.read_bytes()), [key])


def test_signing_again_changes_nothing(project):
    rvp("sign", "--key", "ci.key", cwd=project)
    before = {path: path.read_bytes() for path in statements(project)}
    rvp("sign", "--key", "ci.key", cwd=project)
    assert {path: path.read_bytes() for path in statements(project)} == before


def test_the_values_are_shown(project):
    done = rvp("sign", "--key", "ci.key", cwd=project)
    for word in ("keyservice", "reproduced", "mrenclave", "refs/tags/v1.2.0", "sha256:"):
        assert word in done.stdout


def test_dry_run_prints_the_exact_payloads_and_writes_nothing(project):
    dry = rvp("sign", "--key", "ci.key", "--dry-run", cwd=project)
    assert not statements(project)
    rvp("sign", "--key", "ci.key", cwd=project)
    payloads = {read_bundle(path.read_bytes()).envelope.payload.decode() for path in statements(project)}
    assert set(dry.stdout.splitlines()) == payloads


def test_dry_run_needs_no_key_when_the_builder_is_named(project):
    done = rvp("sign", "--dry-run", "--builder-id", "https://example.org/b", "--format", "json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["statements"]] == [
        "slsa-provenance",
        "reference-values",
    ]


def test_a_changed_artifact_is_exit_12_and_nothing_is_written(project):
    path = project / ".rvp" / "build" / "artifacts" / ENCLAVE
    path.write_bytes(sgxs_enclave(b"evil"))
    done = rvp("sign", "--key", "ci.key", cwd=project)
    assert (done.returncode, "RVP-6130" in done.stderr) == (12, True)
    assert not statements(project)


def test_a_diverged_build_is_exit_11(tmp_path):
    write_build(tmp_path / ".rvp" / "build", verdict="diverged")
    rvp("key", "new", "ci.key", cwd=tmp_path)
    done = rvp("sign", "--key", "ci.key", cwd=tmp_path)
    assert (done.returncode, "RVP-6132" in done.stderr) == (11, True)


def test_an_artifact_built_elsewhere_is_signed_as_measured(project):
    (project / "vendor.sgxs").write_bytes(sgxs_enclave())
    done = rvp("sign", "--measured", "vendor.sgxs", "--product", "vendor", "--key", "ci.key", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "level     measured" in done.stdout
    assert "recipe" not in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("--key", "ci.key", "--measured", "x"),
        ("--key", "ci.key", "--product", "x"),
        ("--key", "ci.key", "--tee", "sgx"),
        (),
        ("--dry-run",),
    ],
)
def test_options_that_do_not_fit_are_usage(project, args):
    assert rvp("sign", *args, cwd=project).returncode == 2


def test_a_builder_id_that_is_no_uri_is_not_signed(project):
    done = rvp("sign", "--key", "ci.key", "--builder-id", "me", cwd=project)
    assert done.returncode != 0
    assert not statements(project)


def release(project, *args, place=".rvp/statements"):
    return rvp("release", place, "--key", "release.key", *RELEASE, *VALID, *args, cwd=project)


def test_a_release_names_the_core_that_was_signed(project):
    signed = json.loads(rvp("sign", "--key", "ci.key", "--format", "json", cwd=project).stdout)
    done = release(project, "--signed-by", "ci.key.pub", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["release"]["coreDigest"] == signed["coreDigest"]
    assert document["release"]["validity"] == {
        "notBefore": "2026-01-01T00:00:00Z",
        "notAfter": "2027-01-01T00:00:00Z",
    }
    path = project / document["path"]
    verify_envelope(read_bundle(path.read_bytes()), [load_public_key(project / "release.key.pub")])


def test_a_release_shows_what_is_signed(project):
    rvp("sign", "--key", "ci.key", cwd=project)
    done = release(project, "--signed-by", "ci.key.pub")
    for words in (
        "series    stable, sequence 7",
        "mrenclave",
        "reproduced",
        "valid     2026-01-01T00:00:00Z",
    ):
        assert words in done.stdout
    assert "not checked" not in done.stdout + done.stderr
    assert "signature not checked" in release(project).stdout


def test_values_of_a_key_that_is_not_given_are_not_released(project):
    rvp("sign", "--key", "ci.key", cwd=project)
    done = release(project, "--signed-by", "auditor.key.pub")
    assert (done.returncode, "RVP-6501" in done.stderr) == (2, True)


def test_a_single_statement_can_be_released(project):
    rvp("sign", "--key", "ci.key", cwd=project)
    values = next(path for path in statements(project) if path.name.startswith("reference-values"))
    assert release(project, place=values).returncode == 0


def test_two_cores_are_exit_13_until_one_is_chosen(project):
    one = json.loads(rvp("sign", "--key", "ci.key", "--format", "json", cwd=project).stdout)
    write_build(project / "other", content=b"other")
    rvp("sign", "--build", "other", "--key", "auditor.key", cwd=project)
    done = release(project)
    assert (done.returncode, "RVP-6502" in done.stderr) == (13, True)
    core = one["coreDigest"]["sha256"]
    assert release(project, "--core", core).returncode == 0
    assert release(project, "--core", "0" * 64).returncode == 2


def test_files_in_no_commit_are_not_released(tmp_path):
    write_build(tmp_path / ".rvp" / "build", dirty=True)
    for name in ("ci", "release"):
        rvp("key", "new", f"{name}.key", cwd=tmp_path)
    assert rvp("sign", "--key", "ci.key", cwd=tmp_path).returncode == 0
    done = release(tmp_path)
    assert done.returncode == 10
    assert "no commit" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("--not-after", "2025-01-01T00:00:00Z"),
        ("--not-after", "soon"),
        ("--series", "No Such"),
        ("--sequence", "-1"),
        ("--supersedes", "xyz"),
        ("--not-before", "2028-01-01T00:00:00Z"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(project, args):
    rvp("sign", "--key", "ci.key", cwd=project)
    assert release(project, *args).returncode in {2, 10}
    assert not [path for path in statements(project) if path.name.startswith("release")]


def test_nothing_to_release_is_told(project):
    (project / "empty").mkdir()
    assert "RVP-6501" in release(project, place="empty").stderr
    assert "RVP-1010" in release(project, place="nowhere").stderr


def test_a_published_bundle_can_be_released(project):
    from provenance.bundle import Bundle, write_bundle

    rvp("sign", "--key", "ci.key", cwd=project)
    data = tuple(path.read_bytes() for path in statements(project))
    write_bundle(project / "bundle.tar", Bundle(statements=data))
    done = release(project, "--signed-by", "ci.key.pub", place="bundle.tar")
    assert done.returncode == 0, done.stderr


def test_a_person_is_asked_before_a_release_is_signed(project):
    rvp("sign", "--key", "ci.key", cwd=project)
    for answer, code in (("n\n", 130), ("y\n", 0)):
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rvp",
                "release",
                ".rvp/statements",
                "--key",
                "release.key",
                *RELEASE,
                *VALID,
            ],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
            stdin=terminal,
            stderr=terminal,
            stdout=subprocess.PIPE,
        )
        os.close(terminal)
        shown = b""
        while b"Sign this release?" not in shown:
            shown += os.read(controller, 4096)
        os.write(controller, answer.encode())
        process.communicate(timeout=60)
        os.close(controller)
        assert b"mrenclave" in shown
        assert process.returncode == code
        assert bool([path for path in statements(project) if path.name.startswith("release")]) is (code == 0)
