"""The expected source: values count only for it.

Used twice: `rvp verify` asks it of what operators agreed on, `rvp rebuild` asks it of a bundle's recipe
before a single step runs, and again of a clone. Nothing here reaches a network.

The revision's signature is proven by the git objects themselves: the commit object hashes to the commit id
that was signed, the tag object names that commit; the bundle has both among its inputs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from provenance.bundle import Bundle, title_of, unpack_files
from provenance.claims import Check
from provenance.errors import EnvironmentFailure, PolicyFailure
from provenance.policy import FurtherSource, SourcePolicy, TrustPolicy, ref_matches
from provenance.predicates.core import Source
from provenance.predicates.shapes import Sha256Digest
from provenance.strict import convert, parse_json
from provenance.ustar import TooLarge
from verifier.verify.ssh_signature import (
    MAX_OBJECT_BYTES,
    object_id,
    read_commit,
    read_tag,
    read_tree,
    verify_ssh_signature,
)

ORIGIN: Final = "origin.json"
MAX_OBJECTS_BYTES: Final = 64 << 20


class SourceRefused(PolicyFailure):
    """The source is not the one that the policy expects: another repository, ref or signer.

    Cure: use a bundle of the expected source; where the policy is too narrow, its owner changes it.
    """

    code = "RVP-6430"


class GitFailed(EnvironmentFailure):
    """git is not there, or could not read the repository.

    Cure: install git; check that the folder is a clone that has the commit.
    """

    code = "RVP-6431"


GitObjects = Mapping[str, bytes]  # title, as in a bundle: git/SOURCE/commit, git/SOURCE/tag


def object_title(source: str, kind: str) -> str:
    """Name a git object among the inputs of a bundle."""
    return f"git/{source}/{kind}"


def git_objects_of(bundle: Bundle) -> dict[str, bytes]:
    """Collect the commits, tags and trees among a bundle's inputs.

    Raises:
        TooLarge: RVP-6206: more of them than the memory should hold.
    """
    found = [blob for blob in bundle.inputs if title_of(blob).startswith("git/")]
    total_bytes = sum(blob.size_bytes for blob in found)
    if total_bytes > MAX_OBJECTS_BYTES:
        raise TooLarge(f"{len(found)} git objects of {total_bytes} bytes, {MAX_OBJECTS_BYTES} are allowed")
    return {
        title_of(blob): blob.read(limit_bytes=MAX_OBJECT_BYTES)
        for blob in found
        if blob.size_bytes <= MAX_OBJECT_BYTES
    }


def read_git_objects(clone: Path, source: Source, *, folder: str = "") -> dict[str, bytes]:
    """Read the commit, the tag where it is an object, and the trees on the way to a folder out of a clone.

    Args:
        clone: a folder in a repository; the trees lead to it as well.
        source: its commit and ref.
        folder: the folder of the source, from the root of the repository.

    Raises:
        GitFailed: RVP-6431.
    """
    found = {object_title(source.name, "commit"): _git(clone, "cat-file", "commit", source.commit)}
    if source.ref.startswith("refs/tags/") and _git(clone, "cat-file", "-t", source.ref).strip() == b"tag":
        found[object_title(source.name, "tag")] = _git(clone, "cat-file", "tag", source.ref)
    for number, data in enumerate(_trees_to(clone, source.commit, folder)):
        found[object_title(source.name, f"tree/{number}")] = data
    return found


def _trees_to(clone: Path, commit: str, folder: str) -> list[bytes]:
    """Read the tree objects from the root to the clone's folder, and to the parent of another folder."""
    try:
        prefix = _git(clone, "rev-parse", "--show-prefix").decode().strip().rstrip("/")
        paths = dict.fromkeys((*_way_to(prefix), *_way_to(folder)[:-1]))
        return [_git(clone, "cat-file", "tree", f"{commit}:{path}") for path in paths]
    except GitFailed:
        return []  # the revision has no such folder; the verifier will say that nothing shows the spec


def _way_to(folder: str) -> list[str]:
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _git(clone: Path, *arguments: str) -> bytes:
    command = ["git", "-c", "safe.directory=*", "-C", str(clone), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitFailed(f"git could not run: {error}", place=str(clone)) from error
    if done.returncode:
        raise GitFailed(
            f"git {' '.join(arguments)}: {done.stderr.decode('utf-8', 'replace').strip()}", place=str(clone)
        )
    return done.stdout


# ---- the checks ------------------------------------------------------------------------------------


def expected_sources(rule: SourcePolicy | FurtherSource, sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources that are in the repository of a rule: the expected one, or a further one."""
    return tuple(source for source in sources if source.repository == rule.repository)


def check_repository(policy: SourcePolicy, sources: tuple[Source, ...]) -> Check:
    """The expected repository goes in, and no other that the policy does not name."""
    allowed = {"", policy.repository, *(one.repository for one in policy.also)}
    foreign = sorted({source.repository for source in sources} - allowed)
    good = bool(expected_sources(policy, sources)) and not foreign
    return Check(
        id="source-repository",
        status="passed" if good else "failed",
        expected=policy.repository,
        got=", ".join(foreign) or (policy.repository if good else "no source that is in a repository"),
        source="policy [source] repository, [[source.also]]",
        hint="" if good else "these are values of somebody else's source",
    )


def check_ref(policy: SourcePolicy, sources: tuple[Source, ...]) -> Check:
    """Each source is at a ref that its repository's rule expects, and is what was committed there."""
    meant = expected_sources(policy, sources)
    dirty = [source for source in sources if source.dirty]
    expected, got = [" or ".join(policy.refs) or "any ref"], sorted({one.ref or "no ref" for one in meant})
    wrong = bool(dirty) or not _all_match(policy.refs, meant)
    for rule in policy.also:
        found = expected_sources(rule, sources)
        wrong = wrong or not _all_match(rule.refs, found)
        if found:
            expected.append(f"{' or '.join(rule.refs) or 'any ref'} of {rule.repository}")
            got += [f"{ref} of {rule.repository}" for ref in sorted({one.ref or "no ref" for one in found})]
    return Check(
        id="source-ref",
        status="failed" if wrong else "passed" if meant else "skipped",
        expected=", ".join(expected),
        got=", ".join(
            [f'source "{source.name}" has changes that are in no commit' for source in dirty] or got
        )
        or "no source of the expected repository",
        source="policy [source] refs, [[source.also]] refs",
        hint="only what was built from an expected ref counts" if wrong else "",
    )


def _all_match(refs: tuple[str, ...], sources: tuple[Source, ...]) -> bool:
    return not refs or all(any(ref_matches(source.ref, ref) for ref in refs) for source in sources)


def check_signature(trust: TrustPolicy, sources: tuple[Source, ...], objects: GitObjects) -> Check:
    """For each repository whose rule has signers, one of them signed the tag or the commit."""
    asked = [(rule, signers) for rule, signers in trust.source_rules if rule.signed_by]
    meant = [(source, signers) for rule, signers in asked for source in expected_sources(rule, sources)]
    if not meant:
        return Check(
            id="source-signature",
            status="skipped",
            got="no source of a repository that has signed_by" if asked else "the policy has no signed_by",
            source="policy [source]",
        )
    reasons = [reason for source, signers in meant if (reason := unsigned(source, signers, objects))]
    keys = ", ".join(f"one of {len(signers)} SSH keys for {rule.repository}" for rule, signers in asked)
    return Check(
        id="source-signature",
        status="failed" if reasons else "passed",
        expected=f"the tag or the commit is signed by {keys}",
        got="; ".join(reasons) or ", ".join(f"{source.ref} {source.commit}" for source, _ in meant),
        source="policy [source] signed_by, [[source.also]] signed_by",
        hint="git tag -s with an SSH key of a maintainer; rvp publish puts the objects into the bundle"
        if reasons
        else "",
    )


def unsigned(source: Source, signers: tuple[str, ...], objects: GitObjects) -> str:
    """Tell why a source's revision is not signed by a maintainer; empty when it is."""
    digits = len(source.commit)
    commit = objects.get(object_title(source.name, "commit"))
    tag = objects.get(object_title(source.name, "tag"))
    if not source.commit:
        return f'the source "{source.name}" is at no commit'
    reasons = []
    if tag is not None:
        parsed = read_tag(tag)
        if parsed.target != source.commit or f"refs/tags/{parsed.name}" != source.ref:
            reasons.append(
                f"the tag object is {parsed.name} of {parsed.target}, not {source.ref} of {source.commit}"
            )
        elif not (reason := verify_ssh_signature(parsed.payload, parsed.signature, signers)):
            return ""
        else:
            reasons.append(f"tag {parsed.name}: {reason}")
    if commit is not None:
        if object_id("commit", commit, digits=digits) != source.commit:
            reasons.append(f"the commit object is not {source.commit}")
        else:
            parsed = read_commit(commit)
            if not (reason := verify_ssh_signature(parsed.payload, parsed.signature, signers)):
                return ""
            reasons.append(f"commit {source.commit}: {reason}")
    return "; ".join(reasons) or "the bundle has neither the tag object nor the commit object"


def check_committed(
    policy: SourcePolicy, sources: tuple[Source, ...], files: Mapping[str, bytes], objects: GitObjects
) -> Check:
    """Spec and lock are the ones that were committed in the expected revision.

    Args:
        policy: `[source]`.
        sources: of the agreed core.
        files: of the recipe in the bundle; empty when it has none.
        objects: git objects among the inputs.
    """
    id_, told = "recipe-committed", "policy [source] signed_by"
    if policy.recipes:
        return Check(id=id_, status="skipped", got="the policy names the recipe itself", source=told)
    reasons = [uncommitted(source, files, objects) for source in expected_sources(policy, sources)]
    if "" in reasons:
        return Check(
            id=id_, status="passed", got="rvp.toml and rvp.lock are those of the commit", source=told
        )
    why = "; ".join(dict.fromkeys(reasons)) or "no source of the expected repository"
    if not policy.signed_by or not reasons:
        return Check(id=id_, status="skipped", got=why, source=told)
    return Check(
        id=id_,
        status="failed",
        expected="rvp.toml and rvp.lock of the revision that a maintainer signed",
        got=why,
        source=told,
        hint="commit both and publish from the clone; or accept this recipe: [source] recipes",
    )


def uncommitted(source: Source, files: Mapping[str, bytes], objects: GitObjects) -> str:
    """Tell why spec and lock are not shown to be in a source's commit; empty when they are."""
    digits = len(source.commit)
    commit = objects.get(object_title(source.name, "commit"), b"")
    if not files:
        return "the bundle has no recipe"
    if not digits or object_id("commit", commit, digits=digits) != source.commit:
        return f"the bundle does not have the commit object of {source.name}"
    wanted = {
        name: object_id("blob", files.get(name, b""), digits=digits) for name in ("rvp.toml", "rvp.lock")
    }
    start = object_title(source.name, "tree/")
    trees = {
        object_id("tree", data, digits=digits): data
        for title, data in objects.items()
        if title.startswith(start)
    }
    reachable = [commit.partition(b"\n")[0].removeprefix(b"tree ").decode("ascii", "replace")]
    seen: set[str] = set()
    while reachable:
        tree = reachable.pop()
        if tree in seen or tree not in trees:
            continue
        seen.add(tree)
        entries = read_tree(trees[tree], digits=digits)
        if all(entries.get(name) == blob for name, blob in wanted.items()):
            return ""
        reachable += entries.values()
    if not seen:
        return f"the bundle does not have the tree object of {source.name}'s commit"
    return f"the commit {source.commit} has another rvp.toml or rvp.lock"


# ---- before a rebuild --------------------------------------------------------------------------------


class _OriginSource(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tree: str
    repository: str = ""
    ref: str = ""
    commit: str = ""
    dirty: bool = False


class _Origin(msgspec.Struct, frozen=True, kw_only=True):
    sources: tuple[_OriginSource, ...]


def sources_of_recipe(bundle: Bundle) -> tuple[Source, ...]:
    """Read where a bundle's recipe says that its sources are; nobody has signed this.

    Raises:
        SourceRefused: RVP-6430: the bundle has no recipe, or its recipe no origin.
    """
    files = unpack_files(bundle.recipe) if bundle.recipe else {}
    if ORIGIN not in files:
        raise SourceRefused("the bundle has no recipe that says where its sources are", place=ORIGIN)
    origin = convert(parse_json(files[ORIGIN], name=ORIGIN), _Origin, name=ORIGIN)
    return tuple(
        Source(
            name=one.name,
            repository=one.repository,
            ref=one.ref,
            commit=one.commit,
            tree_digest=Sha256Digest(sha256=one.tree),
            dirty=one.dirty,
        )
        for one in origin.sources
    )


def check_before_rebuild(
    bundle: Bundle, trust: TrustPolicy, *, clone: Path | None = None
) -> tuple[Check, ...]:
    """Check that a bundle's recipe is about the expected source, before anything of it runs.

    Args:
        bundle: with a recipe.
        trust: the policy, with its keys.
        clone: a git repository that has the revision; its objects count beside those of the bundle.

    Returns:
        The checks; none of them failed.

    Raises:
        SourceRefused: RVP-6430: with expected and got. GitFailed: RVP-6431.
    """
    sources = sources_of_recipe(bundle)
    policy = trust.policy.source
    objects = git_objects_of(bundle)
    if clone is not None:
        for source in expected_sources(policy, sources):
            objects |= read_git_objects(clone, source)
    checks = (
        check_repository(policy, sources),
        check_ref(policy, sources),
        check_signature(trust, sources, objects),
        check_committed(policy, sources, unpack_files(bundle.recipe) if bundle.recipe else {}, objects),
    )
    for check in checks:
        if check.status == "failed":
            raise SourceRefused(
                f"{check.id}\n  expected {check.expected}\n       got {check.got}", hint=check.hint
            )
    return checks
