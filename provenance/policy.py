"""The trust policy: what the Verifier Owner asks for. Nothing that is published can loosen it.

Names of operators and thresholds come from here, never from a statement. The file is TOML, read strictly;
keys are files beside it. A policy that cannot mean what it says (n of 0, one key under two names, a minority
that is not called one) is refused; one that is merely weak is what `rvp policy check` is for.

Example:
    >>> text = b'''
    ... schema = "rvp/policy/v1"
    ... [product]
    ... name = "keyservice"
    ... minimum_release = 7
    ... [source]
    ... repository = "https://example.org/keyservice.git"
    ... refs = ["refs/tags/v*"]
    ... [quorum]
    ... n = 1
    ... [[operator]]
    ... name = "ci"
    ... key = "ci.pub"
    ... '''
    >>> parse_policy(text).product.minimum_release
    7
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from provenance.digest import sha256
from provenance.errors import UsageError
from provenance.public_key import PublicKey, load_public_key
from provenance.strict import MAX_BYTES, line_in_toml, read_file, read_toml

SCHEMA: Final = "rvp/policy/v1"
LEVELS: Final = ("measured", "reproduced")  # from weak to strong
SSH_KEYS: Final = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Level = Literal["measured", "reproduced"]


class PolicyInvalid(UsageError):
    """A policy cannot mean what it says: a threshold that nobody can reach, one name or one key twice.

    Cure: the message has the place; docs/reference/policy.md has every key.
    """

    code = "RVP-6301"


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The pinned start of trust of a repository."""

    sha256: str


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is expected, and how fresh.

    Attributes:
        name: the product that statements must be about.
        series: the series of releases; empty accepts any.
        minimum_release: the lowest sequence number that is accepted.
        max_age: the greatest age of a trusted timestamp: a number and s, m, h, d or w.
    """

    name: str
    series: str = ""
    minimum_release: int | None = None
    max_age: str = ""


class FurtherSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another repository whose sources may go in; each has its own rule.

    Attributes:
        repository: the remote, as the recipe has it.
        refs: patterns of full ref names, as of the source.
        signed_by: files with SSH public keys, as of the source.
    """

    repository: str
    refs: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()


class SourcePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values count only for this source.

    Attributes:
        repository: the remote, as the recipe has it.
        refs: patterns of full ref names; `*` stands for anything but `/`, `**` for anything.
        signed_by: files with SSH public keys; one of them must have signed the tag or the commit.
        also: further repositories that may go in; sources of any other repository may not.
        recipes: digests of the accepted recipes (spec, lock, sources); empty accepts any.
    """

    repository: str
    refs: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    also: tuple[FurtherSource, ...] = ()
    recipes: tuple[str, ...] = ()


class QuorumPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many distinct operators must agree, byte for byte.

    Attributes:
        n: how many.
        minority_quorum: n may be half of the operators or fewer; every verdict then says so.
        level: the weakest level that counts: "reproduced" (rebuilt, no difference) or "measured".
    """

    n: int
    minority_quorum: bool = False
    level: Level = "reproduced"


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody who rebuilds: a key, or an identity that an issuer vouches for."""

    name: str
    key: str = ""
    issuer: str = ""
    identity: str = ""
    builder_id: str = ""


class ReleasePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who releases, and how many of them it takes."""

    signed_by: tuple[str, ...]
    threshold: int = 1


class Require(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A further statement that must be there: review, VEX, SBOM, test result."""

    predicate_type: str
    signed_by: tuple[str, ...]
    threshold: int = 1


class EvidencePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What evidence of one TEE may look like; the appraisal of evidence applies it.

    Attributes:
        debug: debug mode is accepted.
        tcb_status: accepted statuses, in the vendor's spelling.
        minimum_evaluation: lowest TCB evaluation data number.
        allow_unpredicted: names of events that may be unknown at build time.
    """

    debug: bool = False
    tcb_status: tuple[str, ...] = ("UpToDate",)
    minimum_evaluation: int | None = None
    allow_unpredicted: tuple[str, ...] = ()


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    schema: Literal["rvp/policy/v1"]
    root: Root | None = None
    product: Product
    source: SourcePolicy
    quorum: QuorumPolicy
    operator: tuple[Operator, ...]
    release: ReleasePolicy | None = None
    require: tuple[Require, ...] = ()
    evidence: dict[str, EvidencePolicy] = {}


class TrustPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with its keys at hand: what a verdict is a function of.

    Attributes:
        policy: the file.
        digest: SHA-256 of the file.
        operator_keys: by operator name; a keyless operator has none.
        release_keys: of the release engineers.
        require_keys: for each `[[require]]`, in order.
        source_signers: SSH public keys, lines of the `signed_by` files.
        also_signers: those of each `[[source.also]]`, in order.
    """

    policy: Policy
    digest: bytes
    operator_keys: dict[str, PublicKey]
    release_keys: tuple[PublicKey, ...] = ()
    require_keys: tuple[tuple[PublicKey, ...], ...] = ()
    source_signers: tuple[str, ...] = ()
    also_signers: tuple[tuple[str, ...], ...] = ()

    @property
    def source_rules(self) -> tuple[tuple[SourcePolicy | FurtherSource, tuple[str, ...]], ...]:
        """The rule of every repository that may go in, the expected one first, with its signers' keys."""
        source = self.policy.source
        return ((source, self.source_signers), *zip(source.also, self.also_signers, strict=True))


def parse_policy(data: bytes, *, name: str = "") -> Policy:
    """Read a policy; its keys stay names of files.

    Raises:
        NotWellFormed: RVP-1011. UnknownKey: RVP-1013. WrongType: RVP-1014. PolicyInvalid: RVP-6301.
    """
    policy = read_toml(data, Policy, name=name)
    text = data.decode()

    def refuse(path: str, message: str, hint: str = "") -> PolicyInvalid:
        line = line_in_toml(text, path)
        return PolicyInvalid(message, hint=hint, place=f"{name or 'policy'}:{line or 1}")

    quorum, operators = policy.quorum, policy.operator
    names = [operator.name for operator in operators]
    for index, operator in enumerate(operators):
        place = f"$.operator[{index}]"
        if not operator.name or operator.name in names[:index]:
            raise refuse(f"{place}.name", f'the operator name "{operator.name}" is empty or stands twice')
        if bool(operator.key) == bool(operator.issuer or operator.identity):
            raise refuse(
                place,
                f'operator "{operator.name}" needs either key, or issuer and identity',
                "give one of the two",
            )
        if not operator.key and not (operator.issuer and operator.identity):
            raise refuse(place, f'operator "{operator.name}" needs issuer and identity both')
    if quorum.n < 1 or quorum.n > len(operators):
        raise refuse("$.quorum.n", f"n is {quorum.n}, there are {len(operators)} operators")
    if 2 * quorum.n <= len(operators) and not quorum.minority_quorum:
        raise refuse(
            "$.quorum.n",
            f"{quorum.n} of {len(operators)} is not more than half: two groups could both reach it",
            "raise n, or say minority_quorum = true, which every verdict will print",
        )
    if policy.release:
        _check_threshold(policy.release.signed_by, policy.release.threshold, "$.release", refuse)
    for index, require in enumerate(policy.require):
        _check_threshold(require.signed_by, require.threshold, f"$.require[{index}]", refuse)
    product = policy.product
    if not product.name:
        raise refuse("$.product.name", "the product has no name")
    if product.minimum_release is not None and product.minimum_release < 0:
        raise refuse("$.product.minimum_release", "minimum_release is negative")
    if product.max_age and duration_s(product.max_age) is None:
        raise refuse("$.product.max_age", f'"{product.max_age}" is not a duration', 'for example "30d"')
    named: set[str] = set()
    for path, source in source_paths(policy):
        if not source.repository:
            raise refuse(f"{path}.repository", "the repository is empty: a folder in none would be accepted")
        if source.repository in named:
            raise refuse(f"{path}.repository", f"the repository {source.repository} has two rules")
        named.add(source.repository)
        if "" in source.refs:
            raise refuse(f"{path}.refs", "refs has an empty entry, which is every source without one")
    for index, recipe in enumerate(policy.source.recipes):
        if not re.fullmatch(r"[0-9a-f]{64}", recipe):
            raise refuse(f"$.source.recipes[{index}]", f'"{recipe}" is not 64 hex digits')
    if policy.root and not re.fullmatch(r"[0-9a-f]{64}", policy.root.sha256):
        raise refuse("$.root.sha256", "sha256 is not 64 hex digits")
    for tee in policy.evidence:
        if tee not in {"sgx", "tdx", "snp", "tpm", "nitro"}:
            raise refuse(f"$.evidence.{tee}", f'there is no TEE "{tee}"', "known: sgx, tdx, snp, tpm, nitro")
    return policy


def source_paths(policy: Policy) -> tuple[tuple[str, SourcePolicy | FurtherSource], ...]:
    """List the rules of the repositories that may go in, each with its place in the file."""
    further = ((f"$.source.also[{index}]", one) for index, one in enumerate(policy.source.also))
    return (("$.source", policy.source), *further)


def _check_threshold(
    signed_by: tuple[str, ...], threshold: int, path: str, refuse: Callable[[str, str], PolicyInvalid]
) -> None:
    if not signed_by:
        raise refuse(f"{path}.signed_by", "signed_by is empty: an empty list accepts nothing")
    if not 1 <= threshold <= len(signed_by):
        raise refuse(f"{path}.threshold", f"threshold is {threshold}, there are {len(signed_by)} keys")


def load_policy(path: Path) -> TrustPolicy:
    """Read a policy and the keys it names; key files are found from the policy's folder.

    Raises:
        NotReadable: RVP-1010. KeyNotReadable: RVP-6001, and what `parse_policy` raises.
    """
    data = read_file(path, limit_bytes=MAX_BYTES >> 6)
    policy = parse_policy(data, name=str(path))
    folder = path.parent
    operator_keys: dict[str, PublicKey] = {}
    seen: dict[bytes, str] = {}
    for operator in policy.operator:
        if not operator.key:
            continue
        key = load_public_key(folder / operator.key)
        other = seen.setdefault(key.fingerprint, operator.name)
        if other != operator.name:
            raise PolicyInvalid(
                f'the operators "{other}" and "{operator.name}" have the same key {key.fingerprint.hex()}',
                place=str(path),
                hint="one key is one operator: independence is what a quorum counts",
            )
        operator_keys[operator.name] = key
    return TrustPolicy(
        policy=policy,
        digest=sha256(data),
        operator_keys=operator_keys,
        release_keys=_distinct(policy.release.signed_by, folder, path, "release") if policy.release else (),
        require_keys=tuple(_distinct(r.signed_by, folder, path, "require") for r in policy.require),
        source_signers=_source_signers(policy.source, folder),
        also_signers=tuple(_source_signers(one, folder) for one in policy.source.also),
    )


def _source_signers(source: SourcePolicy | FurtherSource, folder: Path) -> tuple[str, ...]:
    return tuple(
        line
        for name in source.signed_by
        for line in read_ssh_keys(read_file(folder / name, limit_bytes=1 << 20), str(folder / name))
    )


def _distinct(names: tuple[str, ...], folder: Path, path: Path, table: str) -> tuple[PublicKey, ...]:
    keys = tuple(load_public_key(folder / name) for name in names)
    if len({key.fingerprint for key in keys}) != len(keys):
        raise PolicyInvalid(f"[{table}] signed_by names one key twice", place=str(path), hint="remove one")
    return keys


def read_ssh_keys(data: bytes, name: str) -> list[str]:
    """Read the keys of a .pub or an allowed_signers file: type and base64; what restricts a key is refused.

    Raises:
        PolicyInvalid: RVP-6301.
    """
    keys = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        place = f"{name}:{number}"
        at = next((i for i, word in enumerate(words) if re.match(r"(sk-)?(ssh|ecdsa)-", word)), len(words))
        if at + 1 >= len(words):
            raise PolicyInvalid(
                "not an SSH public key", place=place, hint="a line is: ssh-ed25519 AAAA… comment"
            )
        refused = next((word for i, word in enumerate(words[:at]) if not _is_harmless(word, i)), "")
        if refused:
            raise PolicyInvalid(
                f"the option {refused} is not supported: the key would count for more than the line says",
                place=place,
                hint='list the key itself, without options other than namespaces="git"',
            )
        kind, key = words[at : at + 2]
        if kind not in SSH_KEYS or not _is_ssh_key(kind, key):
            raise PolicyInvalid(f"not a key of {', '.join(SSH_KEYS)}: {kind}", place=place)
        keys.append(f"{kind} {key}")
    if not keys:
        raise PolicyInvalid("no SSH public key in the file", place=name)
    return keys


def _is_harmless(word: str, index: int) -> bool:
    """Tell whether a word before a key takes nothing from it: principals, or the namespace that we use."""
    spaces = re.fullmatch(r'namespaces="([^"]*)"', word)
    if spaces:
        return "git" in spaces[1].split(",")
    option = r'.*["=]|cert-authority|restrict|verify-required|(no|agent|port|X11)-|pty|user-rc'
    return index == 0 and not re.match(option, word, flags=re.IGNORECASE)


def _is_ssh_key(kind: str, key: str) -> bool:
    try:
        data = base64.b64decode(key, validate=True)
    except ValueError:
        return False
    return data[4 : 4 + len(kind)] == kind.encode() and data[:4] == len(kind).to_bytes(4, "big")


def duration_s(text: str) -> int | None:
    """Turn "30d" into seconds; None when it is not a duration.

    Example:
        >>> duration_s("2h"), duration_s("two hours")
        (7200, None)
    """
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhdw])", text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def ref_matches(ref: str, pattern: str) -> bool:
    """Match a full ref name: `*` is anything but `/`, `**` is anything, all else stands for itself.

    Example:
        >>> ref_matches("refs/tags/v1.2", "refs/tags/v*"), ref_matches("refs/tags/v1/x", "refs/tags/v*")
        (True, False)
    """
    parts = re.split(r"(\*\*|\*)", pattern)
    expression = "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, ref, flags=re.DOTALL) is not None
