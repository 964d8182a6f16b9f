"""`rvp rebuild`: rebuild somebody's bundle from nothing but its recipe."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pipeline.report.progress import MODES, progress
from provenance.strict import NotReadable, read_file
from verifier.cli.terminal import Settings, format_option, styled, write_file

if TYPE_CHECKING:
    from pipeline.agreement import Disagreement
    from pipeline.project import LoadedProject
    from pipeline.recipe import Recipe
    from pipeline.source_proof import SourceProof
    from pipeline.store import FolderStore
    from provenance.bundle import Bundle
    from provenance.events import Observer
    from provenance.policy import TrustPolicy


@click.command(
    epilog="""\b
Examples:
  rvp rebuild keyservice.bundle --policy policy.toml -o rebuilt
  rvp rebuild keyservice.tar --policy policy.toml --source file:///srv/keyservice.git
\b
Afterwards `rvp -C rebuilt sign` signs the result as your own.
"""
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policy_path",
    type=click.Path(path_type=Path),
    help="Check first that the source is the expected one.",
)
@click.option(
    "--source",
    "repository",
    metavar="REPO",
    help="Fetch the source from this mirror or clone, also when the bundle proves it.",
)
@click.option(
    "--fetch", "may_fetch", is_flag=True, help="Let the recipe's [fetch] commands reach the network."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("rebuilt"),
    show_default=True,
    help="A new folder to build in.",
)
@click.option("--times", type=click.IntRange(1), help="Runs in total; default: what the recipe says.")
@click.option(
    "--jobs", "-j", type=click.IntRange(1), help="Steps at once; default: the number of processors."
)
@click.option("--store", metavar="DIR", help="The store; default: $RVP_STORE, else .rvp/store in the folder.")
@click.option(
    "--progress", "mode", type=click.Choice(MODES), default="auto", show_default=True, help="How to show it."
)
@format_option()
@click.pass_obj
def rebuild(
    settings: Settings,
    bundle: Path,
    *,
    policy_path: Path | None,
    repository: str | None,
    may_fetch: bool,
    output: Path,
    times: int | None,
    jobs: int | None,
    store: str | None,
    mode: str,
    output_format: str,
) -> None:
    """Rebuild BUNDLE from its recipe, and compare with what it states.

    With --policy, the source must be the expected one before anything of the recipe runs. A bundle with
    inputs and a signed tag proves that by itself; else the repository is asked. Exit code 11: other
    artifacts; 12: the same artifacts, other values; 13: another source.
    """
    from pipeline.agreement import NothingStated, compare_with, raise_disagreement, stated_cores
    from pipeline.cli.build import build_project, make_executor, show_build
    from pipeline.cli.documents import Rebuilt
    from pipeline.leaves import store_of
    from provenance.bundle import read_bundle
    from provenance.policy import load_policy

    output = output.absolute()
    found = read_bundle(bundle)
    _begin(output, found)
    trust = load_policy(policy_path) if policy_path else None
    if trust is None:
        settings.warn(
            "without --policy the source is not checked: this builds what the bundle says; do not sign it"
        )
    opened = store_of(output, named=store)
    with progress(mode, quiet=settings.quiet, verbose=settings.verbose > 0) as observer:
        project, proofs = _load(found, trust, output, opened, repository, observer, may_fetch=may_fetch)
        executor = make_executor(output, jobs)
        built = build_project(project, opened, executor, observer=observer, times=times)
    cores = stated_cores(found, trust)
    differences = tuple(one for core in cores for one in compare_with(core, built.result))
    if output_format == "json":
        settings.out_json(
            Rebuilt(
                bundle=found.digest.hex(),
                source_checked=trust is not None,
                source_proofs=proofs,
                agrees=bool(cores) and not differences,
                differences=differences,
                build=built.result,
            )
        )
    else:
        show_build(settings, built, output_format)
        for proof in proofs:
            if not proof.unproven:
                settings.out(proof.words)
        settings.out(_verdict(len(cores), differences, judged=trust is not None))
    built.raise_divergence()
    raise_disagreement(differences)
    if not cores:
        by = " by an operator of the policy" if trust else ""
        raise NothingStated(f"the bundle states no values{by}", place=str(bundle))


def _begin(output: Path, found: Bundle) -> None:
    """Take a new folder, or one where a rebuild of the same bundle began: that goes on."""
    mark = output / ".rvp" / "rebuild-of"
    begun = mark.is_file() and read_file(mark, limit_bytes=1 << 10).decode("ascii", "replace").strip()
    if begun == found.digest.hex():
        return
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise NotReadable(
            "the folder to build in is not empty", place=str(output), hint="name a new one: -o DIR"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_file(mark, f"{found.digest.hex()}\n".encode())


def _verdict(cores: int, differences: tuple[Disagreement, ...], *, judged: bool) -> str:
    if not cores:
        by = " by an operator of the policy" if judged else ""
        return f"{styled('inconclusive')}: the bundle states no values{by}"
    if differences:
        return f"{styled('failed')}: it differs from what the bundle states"
    whom = "the policy's operators state" if judged else "the bundle states; no signature was verified"
    return f"{styled('passed')}: it agrees with what {whom}"


def _load(
    found: Bundle,
    trust: TrustPolicy | None,
    output: Path,
    store: FolderStore,
    repository: str | None,
    observer: Observer,
    *,
    may_fetch: bool,
) -> tuple[LoadedProject, tuple[SourceProof, ...]]:
    """Bring recipe and sources into the store, check the source, lay out the project's folder."""
    from pipeline.project import load_recipe
    from pipeline.recipe import read as read_recipe
    from provenance.bundle import extract_recipe

    with tempfile.TemporaryDirectory(prefix="rvp-rebuild-") as scratch:
        extract_recipe(found, Path(scratch) / "recipe")
        recipe = read_recipe(Path(scratch) / "recipe", store)
    cache = store.folder / "git"
    if trust is not None:
        _check_source(found, trust, recipe, repository, cache)
    for file in recipe.files:  # of a rebuild that was interrupted; a link would lead elsewhere
        if (output / file.path).is_file() and not (output / file.path).is_symlink():
            (output / file.path).unlink()
    for blob in {blob.digest: blob for blob in found.inputs}.values():
        store.put(blob.chunks())  # found again by their digests
    proofs = _prove(found, trust, recipe, store, observer) if trust and repository is None else ()
    project = load_recipe(
        _from(recipe, repository, trust),
        output,
        store=store,
        observer=observer,
        cache=cache,
        must_prove=trust is not None,
        may_fetch=may_fetch,
        proofs=proofs,
        spec_committed=bool(trust and trust.source_signers and not trust.policy.source.recipes),
    )
    return msgspec.structs.replace(project, recipe=_named_as(recipe, project.recipe)), proofs


def _prove(
    found: Bundle, trust: TrustPolicy, recipe: Recipe, store: FolderStore, observer: Observer
) -> tuple[SourceProof, ...]:
    """Say of each source whether the bundle proves it, before anything runs."""
    from pipeline.source_proof import prove_sources
    from provenance.events import Note
    from verifier.verify.source import git_objects_of

    proofs = prove_sources(recipe, trust, git_objects_of(found), store)
    for proof in proofs:
        observer(Note(text=proof.words))
    return proofs


def _named_as(recipe: Recipe, loaded: Recipe) -> Recipe:
    """Name the places that were proven as the recipe names them, not as this machine reached them."""
    named = {source.name: source for source in recipe.sources}
    sources = tuple(
        msgspec.structs.replace(one, repository=named[one.name].repository) if one.repository else one
        for one in loaded.sources
    )
    return msgspec.structs.replace(loaded, sources=sources)


def _check_source(
    found: Bundle, trust: TrustPolicy, recipe: Recipe, repository: str | None, cache: Path
) -> None:
    from pipeline.git_fetch import fetch_revision
    from verifier.verify.source import check_before_rebuild

    expected = trust.policy.source.repository
    clone: Path | None = None
    for source in recipe.sources:
        if repository and source.commit and source.repository == expected and trust.source_signers:
            clone, _ = fetch_revision(repository, source.ref or source.commit, cache, commit=source.commit)
    check_before_rebuild(found, trust, clone=clone)


def _from(recipe: Recipe, repository: str | None, trust: TrustPolicy | None) -> Recipe:
    """Fetch the sources of the recipe's, and of the expected, repository from another place."""
    if repository is None:
        return recipe
    meant = {recipe.repository, trust.policy.source.repository if trust else ""}
    sources = tuple(
        msgspec.structs.replace(source, repository=repository)
        if source.repository and source.repository in meant
        else source
        for source in recipe.sources
    )
    return msgspec.structs.replace(recipe, sources=sources)
