"""The trust policy: strict reading, and what is weak."""

from pathlib import Path

import pytest

from provenance.errors import RvpError
from provenance.policy import PolicyInvalid, duration_s, load_policy, parse_policy, ref_matches
from provenance.policy_weakness import weaknesses
from provenance.signers.key_file import KeyType, make_key
from provenance.strict import NotReadable, UnknownKey, WrongType

STRONG = """schema = "rvp/policy/v1"
[root]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[product]
name = "keyservice"
series = "stable"
minimum_release = 7
max_age = "30d"
[source]
repository = "https://example.org/keyservice.git"
refs = ["refs/tags/v*"]
signed_by = ["maintainers.pub"]
[quorum]
n = 2
[[operator]]
name = "acme-ci"
issuer = "https://issuer.example"
identity = "https://example.org/keyservice/workflows/release"
builder_id = "https://example.org/builder"
[[operator]]
name = "auditor"
key = "auditor.pub"
[[operator]]
name = "third"
key = "third.pub"
[release]
signed_by = ["release-a.pub", "release-b.pub"]
threshold = 2
[[require]]
predicate_type = "https://in-toto.io/attestation/vulns/v0.1"
signed_by = ["auditor.pub"]
[evidence.tdx]
debug = false
tcb_status = ["UpToDate"]
minimum_evaluation = 18
allow_unpredicted = ["acpi-tables"]
"""


def changed(old: str, new: str) -> bytes:
    assert old in STRONG
    return STRONG.replace(old, new, 1).encode()


def test_the_policy_of_the_design_is_read_and_nothing_in_it_is_weak() -> None:
    policy = parse_policy(STRONG.encode())
    assert policy.quorum.n == 2
    assert policy.evidence["tdx"].allow_unpredicted == ("acpi-tables",)
    assert weaknesses(policy, STRONG) == ()


@pytest.mark.parametrize(
    ("old", "new", "kind", "line"),
    [
        ("n = 2", "n = 0", PolicyInvalid, 14),
        ("n = 2", "n = 4", PolicyInvalid, 14),
        ("n = 2", "n = 1", PolicyInvalid, 14),
        ("n = 2", "m = 2", UnknownKey, 14),
        ("n = 2", 'n = "2"', WrongType, 14),
        ('name = "auditor"', 'name = "acme-ci"', PolicyInvalid, 21),
        ('key = "auditor.pub"', 'key = "auditor.pub"\nissuer = "x"', PolicyInvalid, 20),
        ('issuer = "https://issuer.example"\n', "", PolicyInvalid, 15),
        ("threshold = 2", "threshold = 3", PolicyInvalid, 28),
        ("threshold = 2", "threshold = 0", PolicyInvalid, 28),
        ('signed_by = ["release-a.pub", "release-b.pub"]', "signed_by = []", PolicyInvalid, 27),
        ('max_age = "30d"', 'max_age = "a month"', PolicyInvalid, 8),
        ("minimum_release = 7", "minimum_release = -1", PolicyInvalid, 7),
        ("[evidence.tdx]", "[evidence.tdy]", PolicyInvalid, 32),
        ('sha256 = "0', 'sha256 = "x', PolicyInvalid, 3),
        ('schema = "rvp/policy/v1"', 'schema = "rvp/policy/v2"', WrongType, 1),
    ],
)
def test_a_policy_that_cannot_mean_what_it_says_is_refused_with_its_line(
    old: str, new: str, kind: type[RvpError], line: int
) -> None:
    with pytest.raises(kind) as caught:
        parse_policy(changed(old, new), name="p.toml")
    assert caught.value.place.startswith(f"p.toml:{line}"), caught.value.place


def test_a_minority_is_accepted_when_it_is_called_one() -> None:
    assert parse_policy(changed("n = 2", "n = 1\nminority_quorum = true")).quorum.minority_quorum


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("n = 2", "n = 1\nminority_quorum = true", "minority-quorum"),
        ("n = 2", "n = 1\nminority_quorum = true", "one-operator"),
        ("n = 2", "n = 3", "no-spare-operator"),
        ('minimum_release = 7\nmax_age = "30d"\n', "", "no-freshness"),
        ("minimum_release = 7\n", "", "no-minimum-release"),
        ('series = "stable"\n', "", "no-series"),
        (
            '[release]\nsigned_by = ["release-a.pub", "release-b.pub"]\nthreshold = 2\n',
            "",
            "no-release-signers",
        ),
        ("threshold = 2", "threshold = 1", "one-release-signer"),
        ('refs = ["refs/tags/v*"]\n', "", "any-ref"),
        ('refs = ["refs/tags/v*"]', 'refs = ["refs/**"]', "any-ref"),
        ('refs = ["refs/tags/v*"]', 'refs = ["refs/heads/main"]', "branch-ref"),
        ('signed_by = ["maintainers.pub"]\n', "", "unsigned-source"),
        ('"https://example.org/keyservice.git"', '"http://example.org/keyservice.git"', "plain-transport"),
        ("n = 2", 'n = 2\nlevel = "measured"', "level-measured"),
        ("debug = false", "debug = true", "debug-allowed"),
        ('tcb_status = ["UpToDate"]', 'tcb_status = ["Revoked"]', "weak-tcb"),
    ],
)
def test_each_weakness_is_found_with_a_cure(old: str, new: str, finding: str) -> None:
    data = changed(old, new)
    found = {item.id: item for item in weaknesses(parse_policy(data), data.decode())}
    assert finding in found
    assert found[finding].cure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("auditor", "third", "release-a", "release-b"):
        make_key(tmp_path / name, KeyType.P256)
    (tmp_path / "maintainers.pub").write_text(
        "# people\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA anna\n"
    )
    (tmp_path / "policy.toml").write_text(STRONG)
    return tmp_path


def test_keys_are_found_beside_the_policy(folder: Path) -> None:
    trust = load_policy(folder / "policy.toml")
    assert set(trust.operator_keys) == {"auditor", "third"}
    assert len(trust.release_keys) == 2
    assert trust.source_signers[0].startswith("ssh-ed25519 AAAA")
    assert " anna" not in trust.source_signers[0]


def test_one_key_cannot_be_two_operators(folder: Path) -> None:
    (folder / "third.pub").write_bytes((folder / "auditor.pub").read_bytes())
    with pytest.raises(PolicyInvalid, match="same key"):
        load_policy(folder / "policy.toml")


def test_one_key_cannot_be_two_release_signers(folder: Path) -> None:
    (folder / "release-b.pub").write_bytes((folder / "release-a.pub").read_bytes())
    with pytest.raises(PolicyInvalid, match="twice"):
        load_policy(folder / "policy.toml")


def test_a_missing_key_file_is_told(folder: Path) -> None:
    (folder / "auditor.pub").unlink()
    with pytest.raises(NotReadable):
        load_policy(folder / "policy.toml")


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\n"])
def test_a_file_without_ssh_keys_is_refused(folder: Path, text: str) -> None:
    (folder / "maintainers.pub").write_text(text)
    with pytest.raises(PolicyInvalid):
        load_policy(folder / "policy.toml")


@pytest.mark.parametrize(
    ("ref", "pattern", "expected"),
    [
        ("refs/tags/v1", "refs/tags/v*", True),
        ("refs/tags/w1", "refs/tags/v*", False),
        ("refs/tags/v1/evil", "refs/tags/v*", False),
        ("refs/tags/v1/x", "refs/tags/**", True),
        ("refs/tags/v1\nrefs/x", "refs/tags/v1", False),
        ("refs/tags/vx", "refs/tags/v.", False),
        ("prefix/refs/tags/v1", "refs/tags/v*", False),
    ],
)
def test_ref_patterns(ref: str, pattern: str, *, expected: bool) -> None:
    assert ref_matches(ref, pattern) is expected


def test_durations() -> None:
    assert [duration_s(t) for t in ("90s", "5m", "2h", "30d", "1w", "1y", "-1d", "")] == [
        90, 300, 7200, 2592000, 604800, None, None, None,
    ]  # fmt: skip


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    "line",
    [
        f"cert-authority {KEY}",
        f"* cert-authority {KEY}",
        f'a@example.org namespaces="file" {KEY}',
        f'a@example.org valid-before="20200101" {KEY}',
        f'namespaces="file",valid-after="20200101" {KEY}',
        f"restrict {KEY}",
        KEY.replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com"),
        KEY.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"),
        KEY.replace("ssh-ed25519", "ssh-rsa"),
        "ssh-ed25519",
        "ssh-ed25519 ????",
    ],
)
def test_an_ssh_key_that_counts_for_less_than_a_signer_is_refused(folder: Path, line: str) -> None:
    (folder / "maintainers.pub").write_text(f"{line}\n")
    with pytest.raises(PolicyInvalid):
        load_policy(folder / "policy.toml")


@pytest.mark.parametrize(
    "line", [KEY, f"{KEY} anna", f"anna@example.org {KEY}", f'* namespaces="file,git" {KEY}']
)
def test_pub_files_and_allowed_signers_are_read(folder: Path, line: str) -> None:
    (folder / "maintainers.pub").write_text(f"{line}\n")
    assert load_policy(folder / "policy.toml").source_signers == (KEY,)


def test_a_key_in_two_roles_is_weak(folder: Path) -> None:
    trust = load_policy(folder / "policy.toml")
    ids = {finding.id for finding in weaknesses(trust.policy, STRONG, trust)}
    assert "one-key-two-roles" in ids  # the auditor rebuilds and reviews
    (folder / "policy.toml").write_text(
        STRONG.replace('signed_by = ["auditor.pub"]', 'signed_by = ["reviewer.pub"]')
    )
    make_key(folder / "reviewer", KeyType.P256)
    trust = load_policy(folder / "policy.toml")
    assert weaknesses(trust.policy, STRONG, trust) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"https://example.org/keyservice.git"', '""'),
        ('["refs/tags/v*"]', '["refs/tags/v*", ""]'),
        ('["refs/tags/v*"]', '["refs/tags/v*"]\nalso = [{ repository = "" }]'),
    ],
)
def test_an_empty_source_would_accept_a_folder_in_no_repository(old: str, new: str) -> None:
    with pytest.raises(PolicyInvalid, match="empty"):
        parse_policy(changed(old, new))


def test_a_further_repository_is_judged_as_the_expected_one_is() -> None:
    text = STRONG.replace("[quorum]", '[[source.also]]\nrepository = "http://example.org/lib.git"\n[quorum]')
    found = {one.id: one for one in weaknesses(parse_policy(text.encode()), text)}
    assert set(found) == {"any-ref", "unsigned-source", "plain-transport"}
    assert {text.splitlines()[one.line - 1] for one in found.values()} == {
        'repository = "http://example.org/lib.git"'
    }
