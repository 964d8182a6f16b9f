"""What is generated is current, and every error has a code of its own, a title and a cure."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_generated_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "workflows" / "generate", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_error_has_a_title_and_a_cure() -> None:
    entries = json.loads((ROOT / "provenance" / "error_catalogue.json").read_text())["entries"]
    assert len(entries) > 50
    assert len({entry["code"] for entry in entries}) == len(entries)
    assert [e["code"] for e in entries if not e["title"].endswith(".") or not e["cure"]] == []


def test_the_exit_codes_of_the_page_are_those_of_the_families() -> None:
    import provenance.errors as families

    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text()
    told = {
        int(line.split("|")[1])
        for line in page.splitlines()
        if line.startswith("| ") and line.split("|")[1].strip().isdigit()
    }
    known = {
        kind.exit_code
        for kind in vars(families).values()
        if isinstance(kind, type) and issubclass(kind, families.RvpError)
    }
    assert told == known | {0}


def test_the_sample_policy_is_a_policy_without_errors() -> None:
    from provenance.policy import parse_policy
    from provenance.policy_weakness import weaknesses

    page = (ROOT / "docs" / "reference" / "policy.md").read_text()
    sample = page.partition("```toml\n")[2].partition("```")[0]
    found = weaknesses(parse_policy(sample.encode()), sample)
    assert [finding.id for finding in found if finding.severity == "error"] == []
    for id_ in (
        "minority-quorum",
        "one-operator",
        "no-freshness",
        "no-release-signers",
        "any-ref",
        "level-measured",
    ):
        assert id_ in page
