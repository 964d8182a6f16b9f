"""What a person types: init, lock, schema; exit codes, places and words for bad input."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.spec import VARIATION_NAMES, read_spec
from tests.conftest import ROOT

SPEC = """\
schema = "rvp/spec/v1"
[project]
name = "hello"
version = "1"
source_date_epoch = 1700000000
[source.app]
path = "src"
[source.data]
url = "file://{folder}/data.bin"
sha256 = "{sha256}"
"""
DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG RELEASE=bookworm
FROM debian:${RELEASE}-slim AS build
ENV CFLAGS="-O2 -g" MODE=release
RUN apt-get update && apt-get install -y --no-install-recommends gcc make=4.3-4.1 \\
    libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make all && strip 'a && b' || true
RUN curl -sSf https://example.org/x.sh | sh

FROM scratch
COPY --from=build /app/program /program
COPY --from=nginx:1 /etc/nginx /etc/nginx
EXPOSE 80
ENTRYPOINT ["/program", "--serve"]
"""
ENCLAVE = """\
<EnclaveConfiguration>
  <ProdID>1</ProdID><ISVSVN>2</ISVSVN><StackMaxSize>0x40000</StackMaxSize>
  <HeapMaxSize>0x100000</HeapMaxSize><TCSNum>4</TCSNum><TCSPolicy>1</TCSPolicy>
  <DisableDebug>1</DisableDebug><MiscSelect>0</MiscSelect><MiscMask>0xFFFFFFFF</MiscMask>
</EnclaveConfiguration>
"""


def rvp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment.pop("RVP_STORE", None)
    return subprocess.run(
        [sys.executable, "-m", "rvp", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.c").write_text("int main;")
    (tmp_path / "data.bin").write_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    (tmp_path / "rvp.toml").write_text(SPEC.format(folder=tmp_path, sha256=digest))
    return tmp_path


def edit(project: Path, old: str, new: str, name: str) -> None:
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))


def test_lock_then_check_then_nothing_changes(project: Path) -> None:
    first = rvp(project, "lock")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("+ source.data ")
    data = (project / "rvp.lock").read_bytes()
    assert rvp(project, "lock", "--check").returncode == 0
    again = rvp(project, "lock", "--upgrade")
    assert again.stdout == ""
    assert "nothing changed" in again.stderr
    assert (project / "rvp.lock").read_bytes() == data


def test_a_lock_has_no_place_of_this_machine(project: Path) -> None:
    assert rvp(project, "lock").returncode == 0
    text = (project / "rvp.lock").read_text()
    assert "://" not in text
    assert str(project) not in text


def test_lock_prints_one_document(project: Path) -> None:
    document = json.loads(rvp(project, "lock", "--format", "json").stdout)
    assert document["changes"][0]["part"] == "source.data"
    check = rvp(project, "lock", "--check", "--format", "json")
    assert json.loads(check.stdout) == {"schema": "rvp/lock-check/v1", "current": True, "stale": {}}


def test_a_missing_lock_is_exit_3_with_what_to_run(project: Path) -> None:
    done = rvp(project, "lock", "--check")
    assert done.returncode == 3
    assert "RVP-1201" in done.stderr
    assert "run `rvp lock`" in done.stderr


def test_a_stale_lock_is_exit_3_and_names_the_part(project: Path) -> None:
    assert rvp(project, "lock").returncode == 0
    with (project / "rvp.toml").open("a") as spec:
        spec.write('[base.toolchain]\nimage = "debian:12"\n')
    done = rvp(project, "lock", "--check")
    assert (done.returncode, done.stdout) == (3, "")
    assert "RVP-1204" in done.stderr
    assert "base.toolchain: it is new in the spec" in done.stderr


def test_a_lock_edited_by_hand_is_exit_3(project: Path) -> None:
    assert rvp(project, "lock").returncode == 0
    edit(project, "size = 4", "size = 5", "rvp.lock")
    done = rvp(project, "lock", "--check")
    assert done.returncode == 3
    assert "RVP-1203" in done.stderr


def test_a_source_with_another_sha256_is_exit_3_with_both(project: Path) -> None:
    (project / "data.bin").write_bytes(b"other")
    done = rvp(project, "lock")
    assert done.returncode == 3
    assert "RVP-1325" in done.stderr
    assert hashlib.sha256(b"data").hexdigest() in done.stderr
    assert hashlib.sha256(b"other").hexdigest() in done.stderr
    assert not (project / "rvp.lock").exists()


def test_upgrade_of_an_unknown_part_proposes(project: Path) -> None:
    done = rvp(project, "lock", "--upgrade", "dta")
    assert done.returncode == 2
    assert "source.data" in done.stderr


STEP = '[base.t]\nimage = "debian:12"\n[[step]]\nid = "a"\nbase = "t"\nrun = ["x"]\noutputs = ["a"]\n'


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (
            STEP + 'need = ["x"]\n',
            'rvp.toml:18: $.step[0].need: error[RVP-1103]: unknown key "need" (did you',
        ),
        (STEP.replace('["x"]', '"x"'), "rvp.toml:16: $.step[0].run: error[RVP-1104]: expected `array`"),
        (STEP + 'needs = ["step.a"]\n', "error[RVP-1114]: a cycle: step.a → step.a"),
        (
            STEP + 'needs = ["source.ap"]\n',
            'error[RVP-1113]: there is no "source.ap", did you mean "source.app"?',
        ),
        (STEP.replace('["a"]', "[]"), 'error[RVP-1115]: the step "a" has no outputs'),
        (
            STEP.replace('["a"]', '["/a"]'),
            'rvp.toml:17: $.step[0].outputs: error[RVP-1116]: "/a" is absolute',
        ),
        (STEP.replace('["a"]', '["../a"]'), 'error[RVP-1116]: "../a" leads out'),
        (STEP.replace('base = "t"', 'base = "u"'), 'error[RVP-1113]: there is no base "u"'),
        (
            STEP
            + '[[pack]]\nid = "p"\nkind = "sgx"\noutput = "e"\nimage = "step.a:a"\nconfig = "gone.toml"\n',
            'error[RVP-1205]: the spec names "gone.toml"',
        ),
        ('[fetch.f]\nbase = "x"\nrun = ["x"]\n', 'error[RVP-1113]: there is no base "x"'),
        ("= 3\n", "rvp.toml:11:1: error[RVP-1102]: not TOML"),
    ],
)
def test_a_bad_spec_is_exit_3_with_its_place(project: Path, addition: str, words: str) -> None:
    with (project / "rvp.toml").open("a") as spec:
        spec.write(addition)
    done = rvp(project, "lock")
    assert done.returncode == 3
    assert words in done.stderr, done.stderr
    assert done.stdout == ""
    assert not (project / "rvp.lock").exists()


def test_no_spec_is_exit_3_and_names_init(tmp_path: Path) -> None:
    done = rvp(tmp_path, "lock")
    assert done.returncode == 3
    assert "rvp init" in done.stderr


@pytest.mark.parametrize("tee", ["sgx", "tdx", "snp"])
def test_init_from_nothing_writes_a_spec_that_reads(tmp_path: Path, tee: str) -> None:
    done = rvp(tmp_path, "init", "--tee", tee)
    assert done.returncode == 0, done.stderr
    spec = read_spec(tmp_path / "rvp.toml")
    assert spec.measure[0].tee == tee
    assert spec.rebuild.vary == VARIATION_NAMES


def test_init_never_overwrites_without_force(tmp_path: Path) -> None:
    (tmp_path / "rvp.toml").write_text("mine")
    done = rvp(tmp_path, "init")
    assert (done.returncode, (tmp_path / "rvp.toml").read_text()) == (2, "mine")
    assert "--force" in done.stderr
    assert rvp(tmp_path, "init", "--force").returncode == 0
    read_spec(tmp_path / "rvp.toml")


def test_init_from_a_dockerfile_translates_and_says_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    done = rvp(tmp_path, "init", "--from", "Dockerfile")
    assert done.returncode == 0, done.stderr
    assert "3 lines were not translated" in done.stderr
    spec = read_spec(tmp_path / "rvp.toml")
    debian = spec.base["build"].debian
    assert debian is not None
    assert debian.suites == ("bookworm",)
    assert debian.packages == ("coreutils", "dash", "gcc", "libc6-dev", "make")
    build, final = spec.step
    assert build.environment == {"CFLAGS": "-O2 -g", "MODE": "release"}
    assert build.needs == ("source.context",)
    assert "make all" in build.run[2]
    assert "strip 'a && b'" in build.run[2]
    assert "curl" not in build.run[2]
    assert final.needs == ("step.build",)
    left = (tmp_path / "rvp.toml").read_text().partition("# Not translated:")[2]
    assert "reaches the network" in left
    assert "nginx" in left
    assert "EXPOSE 80" in left


def test_a_translated_script_does_what_the_dockerfile_says(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "a.txt").write_text("a")
    (tmp_path / "Dockerfile").write_text(
        "FROM debian:12\nWORKDIR /app\nCOPY a.txt /data/\nCOPY a.txt b.txt\n"
        'RUN cat ../data/a.txt b.txt > "c c"\n'
    )
    assert rvp(tmp_path, "init", "--from", "Dockerfile").returncode == 0
    (step,) = read_spec(tmp_path / "rvp.toml").step
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    names = {"{out}": str(out), "{work}": str(work), "{source.context}": str(tmp_path / "context")}
    argv = list(step.run)
    for name, value in names.items():
        argv = [word.replace(name, value) for word in argv]
    subprocess.run(argv, cwd=work, check=True)
    assert (out / "root" / "app" / "c c").read_text() == "aa"


def test_a_file_that_is_no_dockerfile_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello world\n")
    done = rvp(tmp_path, "init", "--from", "x")
    assert done.returncode == 2
    assert "RVP-1121" in done.stderr
    assert not (tmp_path / "rvp.toml").exists()


def test_init_from_an_enclave_configuration_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "Enclave").mkdir()
    (tmp_path / "Enclave" / "Enclave.config.xml").write_text(ENCLAVE)
    done = rvp(tmp_path, "init", "--from", "enclave-config")
    assert done.returncode == 0, done.stderr
    spec = read_spec(tmp_path / "rvp.toml")
    assert spec.pack[0].config == "Enclave/Enclave.config.xml"
    assert spec.measure[0].image == "pack.signed:enclave.signed.so"
    assert (tmp_path / "Enclave" / "Enclave.config.xml").read_text() == ENCLAVE


def test_schema_lists_and_prints_and_the_committed_one_is_current(tmp_path: Path) -> None:
    assert "spec" in rvp(tmp_path, "schema").stdout
    document = json.loads(rvp(tmp_path, "schema", "spec").stdout)
    for committed in (
        ROOT / "docs" / "reference" / "spec.schema.json",
        ROOT / "pipeline" / "spec.schema.json",
    ):
        assert json.loads(committed.read_text()) == document, f"run: rvp schema spec > {committed.name}"


@pytest.mark.parametrize("name", ["lock", "recipe", "measurements", "policy"])
def test_every_schema_is_a_schema(tmp_path: Path, name: str) -> None:
    import jsonschema

    done = rvp(tmp_path, "schema", name)
    assert done.returncode == 0, done.stderr
    jsonschema.Draft202012Validator.check_schema(json.loads(done.stdout))
