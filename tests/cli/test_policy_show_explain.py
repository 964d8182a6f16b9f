"""rvp policy, show, explain, publish --add, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "conformance" / "verify"
KEYS = ROOT / "tests" / "conformance" / "keys"


def rvp(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "rvp", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_policy_that_init_wrote_verifies_the_bundle_it_was_made_for(tmp_path: Path) -> None:
    bundle = CASES / "two-of-two" / "bundle.tar"
    made = rvp(
        "policy", "init", bundle, "--out", tmp_path / "p.toml",
        "--operator", f"acme={KEYS}/acme.pub", "--operator", f"auditor={KEYS}/auditor.pub",
        "--release-signer", KEYS / "release-a.pub", "--release-signer", KEYS / "release-b.pub",
        "--source-signer", KEYS / "maintainer.pub",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "unverified" in made.stderr
    checked = rvp("policy", "check", tmp_path / "p.toml")
    assert (checked.returncode, "0 errors" in checked.stdout) == (0, True)
    done = rvp("verify", bundle, "--policy", tmp_path / "p.toml", "--at", "2026-03-01T00:00:00Z")
    assert done.returncode == 0, done.stdout
    again = rvp("policy", "init", "--operator", f"a={KEYS}/acme.pub", "--out", tmp_path / "p.toml")
    assert (again.returncode, "RVP-6302" in again.stderr) == (2, True)


def test_a_policy_with_an_error_exits_13(tmp_path: Path) -> None:
    rvp("policy", "init", "--operator", f"a={KEYS}/acme.pub", "--out", tmp_path / "p.toml")
    done = rvp("policy", "check", tmp_path / "p.toml", "--format", "json")
    found = {finding["id"] for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 13
    assert {"one-operator", "no-release-signers", "unsigned-source"} <= found


@pytest.mark.parametrize("view", ["statement", "predicate", "values", "recipe", "log"])
def test_show_has_each_view_and_says_that_nothing_was_verified(view: str) -> None:
    done = rvp("show", CASES / "two-of-two" / "bundle.tar", "--as", view)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("unverified")


def test_show_prints_the_whole_bundle_with_full_digests() -> None:
    done = rvp("show", CASES / "folder" / "bundle")
    assert "mrenclave  " + "11" * 32 in done.stdout
    assert "git/app/tag" in done.stdout
    assert (
        json.loads(rvp("show", CASES / "folder" / "bundle", "--format", "json").stdout)["verified"] is False
    )


def test_show_reads_policies_and_keys_and_keeps_private_keys_private(tmp_path: Path) -> None:
    assert "2 of 2" in rvp("show", CASES / "two-of-two" / "policy.toml").stdout
    assert "sha256:" in rvp("show", KEYS / "acme.pub").stdout
    rvp("key", "new", tmp_path / "k")
    secret = (tmp_path / "k").read_text().splitlines()[1]
    shown = rvp("show", tmp_path / "k")
    assert shown.returncode == 0
    assert secret not in shown.stdout


def test_show_refuses_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x7fELF" + bytes(100))
    done = rvp("show", tmp_path / "x")
    assert (done.returncode, "RVP-6441" in done.stderr) == (2, True)


def test_terminal_escapes_in_a_bundle_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"schema": "rvp/\\u001b[31mred"}')
    done = rvp("show", tmp_path / "x.json")
    assert "\x1b" not in done.stdout


def test_explain_knows_codes_numbers_and_checks() -> None:
    for asked in ("RVP-6409", "6409", "agreement"):
        assert "Cure:" in rvp("explain", asked).stdout
    done = rvp("explain", "agreemnt")
    assert (done.returncode, "did you mean" in done.stderr) == (2, True)
    assert len(rvp("explain", "--list").stdout.splitlines()) > 50


def test_publish_add_joins_the_statements_of_a_second_operator(tmp_path: Path) -> None:
    from provenance.bundle import Bundle, read_bundle, write_bundle

    whole = read_bundle(CASES / "two-of-two" / "bundle.tar")
    half = Bundle(statements=whole.statements[:2], recipe=whole.recipe, inputs=whole.inputs)
    write_bundle(tmp_path / "b.tar", half)
    (tmp_path / "said").mkdir()
    for number, data in enumerate(whole.statements[2:]):
        (tmp_path / "said" / f"{number}.sigstore.json").write_bytes(data)
    done = rvp("publish", tmp_path / "b.tar", "--add", "--statements", tmp_path / "said", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"]["sha256"] == whole.digest.hex()
    assert (tmp_path / "b.tar").read_bytes() == (CASES / "two-of-two" / "bundle.tar").read_bytes()


@pytest.mark.parametrize("form", ["sarif", "junit"])
def test_verify_writes_what_ci_reads(form: str) -> None:
    folder = CASES / "one-signer_fail"
    done = rvp(
        "verify", "bundle.tar", "--policy", "policy.toml", "--at", "2026-03-01T00:00:00Z", "--format", form,
        folder=folder,
    )  # fmt: skip
    assert done.returncode == 13
    if form == "sarif":
        (result,) = json.loads(done.stdout)["runs"][0]["results"]
        assert (result["ruleId"], result["level"]) == ("agreement", "error")
    else:
        import xml.etree.ElementTree as ET

        suite = ET.fromstring(done.stdout)
        assert suite.get("failures") == "1"
        assert suite.find("testcase[@name='agreement']/failure").get("type") == "RVP-6409"


@pytest.mark.parametrize("case", ["two-of-two", "conflict_fail", "no-policy"])
def test_the_json_of_a_verdict_is_what_its_schema_says(case: str) -> None:
    import jsonschema

    options = ["--policy", "policy.toml"] if (CASES / case / "policy.toml").exists() else []
    done = rvp(
        "verify", "bundle.tar", *options, "--at", "1772323200", "--format", "json", folder=CASES / case
    )
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(rvp("schema", "verification").stdout))
    assert document["at"] == "2026-03-01T00:00:00Z"


def lines_of(*arguments: object) -> list[str]:
    done = rvp(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_show_prints_what_operators_agree_on_once() -> None:
    lines = lines_of("show", CASES / "two-of-two" / "bundle.tar")
    assert sum("mrenclave" in line for line in lines) == 1
    assert sum(line.strip().startswith("by ") for line in lines) == 2
    assert "           said by 2, unverified:" in lines
    assert sum("mrenclave" in line for line in lines_of("show", CASES / "dissent" / "bundle.tar")) == 2


def test_show_counts_inputs_and_lists_them_on_demand(tmp_path: Path) -> None:
    from provenance.bundle import Bundle, write_bundle
    from provenance.oci import blob_of

    blobs = [blob_of(bytes([number]) * 1024, "", title=f"object/{number:064x}") for number in range(130)]
    write_bundle(tmp_path / "b.tar", Bundle(inputs=(*blobs, blob_of(b"c", "", title="git/app/commit"))))
    lines = lines_of("show", tmp_path / "b.tar")
    assert [line for line in lines if line.startswith("input")] == [
        "input      git/app/commit  1 byte",
        "inputs     130 files of sources and packages, 130.0 KiB (rvp -v show lists them)",
    ]
    assert sum(line.startswith("input ") for line in lines_of("-v", "show", tmp_path / "b.tar")) == 131


EXAMPLE = ROOT / "examples" / "keyservice"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (EXAMPLE / "keyservice.sig", "mrsigner"),
        (EXAMPLE / "keyservice.pub", "mrsigner"),
        (EXAMPLE / "rvp.toml", "keyservice"),
        (EXAMPLE / "rvp.lock", "rvp/lock/v1"),
        (EXAMPLE / "enclave.toml", "isvsvn"),
        (CASES / "two-of-two" / "policy.toml", "quorum     2 of 2"),
        (KEYS / "acme.pub", "p256"),
        (KEYS / "maintainer.pub", "SHA256:"),
        (CASES / "two-of-two" / "bundle.tar", "unverified"),
        (CASES / "folder" / "bundle", "unverified"),
    ],
)
def test_each_of_our_files_is_shown_and_is_one_json_document(path: Path, words: str) -> None:
    assert words in "\n".join(lines_of("show", path))
    done = rvp("show", path, "--format", "json")
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)


def test_statements_and_logs_and_results_are_shown(tmp_path: Path) -> None:
    from provenance.bundle import read_bundle

    (tmp_path / "s.sigstore.json").write_bytes(read_bundle(CASES / "two-of-two" / "bundle.tar").statements[0])
    (tmp_path / "log.json").write_bytes(
        next(b"".join(blob.chunks()) for blob in read_bundle(CASES / "log" / "bundle.tar").logs)
    )
    (tmp_path / "result.json").write_text('{"schema": "rvp/build/v1", "project": "x"}')
    for name, words in (
        ("s.sigstore.json", "unverified"),
        ("log.json", "ECREATE"),
        ("result.json", "project"),
    ):
        assert words in "\n".join(lines_of("show", tmp_path / name))
        assert json.loads(rvp("show", tmp_path / name, "--format", "json").stdout)


def test_what_is_not_ours_is_told() -> None:
    done = rvp("show", ROOT / "LICENSE")
    assert (done.returncode, "RVP-6441" in done.stderr) == (2, True)


def test_what_was_not_checked_is_told_once() -> None:
    case = CASES / "log"
    done = rvp(
        "verify", case / "bundle.tar", "--policy", case / "policy.toml", "--at", "2026-03-01T00:00:00Z"
    )
    assert done.returncode == 0
    told = done.stdout.partition("not checked:\n")[2].splitlines()
    assert [line.partition(":")[0].strip() for line in told if line.startswith("  ")] == [
        "folding",
        "independence",
    ]
    assert "1 measurement log was not folded" in done.stdout
    assert done.stdout.count("no file was given") == 1


def test_the_header_of_a_verdict_has_the_keys_of_operators_and_release_signers() -> None:
    case = CASES / "two-of-two"
    asked = ("verify", case / "bundle.tar", "--policy", case / "policy.toml", "--at", "2026-03-01T00:00:00Z")
    keys = {
        name: json.loads(rvp("key", "show", KEYS / f"{name}.pub", "--format", "json").stdout)["fingerprint"][
            "sha256"
        ]
        for name in ("acme", "auditor", "release-a", "release-b")
    }
    lines = rvp(*asked).stdout.splitlines()
    quorum = next(line for line in lines if line.startswith("         quorum "))
    assert f"(acme {keys['acme'][:12]}, auditor {keys['auditor'][:12]})" in quorum
    release = next(line for line in lines if line.startswith("         release "))
    assert f"(release-a.pub {keys['release-a'][:12]}, release-b.pub {keys['release-b'][:12]})" in release
    view = json.loads(rvp(*asked, "--format", "json").stdout)["policy"]
    assert view["operator_keys"] == {name: keys[name] for name in ("acme", "auditor")}
    assert list(view["release_keys"].values()) == [keys["release-a"], keys["release-b"]]


def test_a_policy_that_init_wrote_has_a_rule_for_each_repository_of_the_bundle(tmp_path: Path) -> None:
    bundle = CASES / "further-source" / "bundle.tar"
    made = rvp(
        "policy", "init", bundle, "--out", tmp_path / "p.toml",
        "--operator", f"acme={KEYS}/acme.pub", "--operator", f"auditor={KEYS}/auditor.pub",
        "--release-signer", KEYS / "release-a.pub",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = rvp("verify", bundle, "--policy", tmp_path / "p.toml", "--at", "2026-03-01T00:00:00Z")
    assert done.returncode == 0, done.stdout
    assert "and        https://example.org/library.git refs/tags/v*, unsigned" in done.stdout
    assert "source     https://example.org/library.git" in rvp("show", tmp_path / "p.toml").stdout
    checked = json.loads(rvp("policy", "check", tmp_path / "p.toml", "--format", "json").stdout)
    assert [one["id"] for one in checked["findings"]].count("unsigned-source") == 2
