"""Make and sign the statements of a build that was run here, or of an artifact that was built elsewhere.

Nothing is signed from memory: every artifact is hashed and measured again, and must be what the result of
the build says. What was signed is verified before it is given out.

    build    SLSA provenance and reference values, level *reproduced* (at least two equal runs)
    files    reference values, level *measured*: no recipe, no source, no word on where they come from
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.build_check import (
    ArtifactChanged,
    Measure,
    NotSignable,
    check_signable,
    hash_again,
    hash_artifact,
    layer_name,
    measure_again,
    measure_artifact,
    options_of,
    read_logs,
    read_recipe,
)
from pipeline.build_result import BuildResult, read_result
from pipeline.recipe import Recipe
from provenance.claims import Measurement, Tee
from provenance.digest import Digests
from provenance.dsse import SignsBytes
from provenance.measurement_log import MeasurementLog
from provenance.own_output import sign_and_check
from provenance.predicates import reference_values
from provenance.predicates.core import (
    Core,
    Layer,
    LayerName,
    MeasurementSet,
    Source,
    core_digest,
    sets_from_measurements,
)
from provenance.predicates.reference_values import (
    Builder,
    LogReference,
    Measurer,
    NotExercised,
    Rebuild,
    ReferenceValues,
    make_reference_values,
)
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject, Sha256Digest
from provenance.predicates.slsa_provenance import (
    BUILD_TYPE,
    BuildDefinition,
    BuilderIdentity,
    BuildMetadata,
    RunDetails,
    SlsaProvenance,
    git_source,
    invocation_id,
    make_provenance,
    package,
)
from provenance.sigstore_bundle import SUFFIX
from provenance.statement import ResourceDescriptor, Statement, artifact
from provenance.version import version

_SHORT: Final = 12  # hex digits of a digest in a file name


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """When the build began and ended, as RFC 3339; what the caller does not know is left out."""

    started_on: str = ""
    finished_on: str = ""


class Statements(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be signed.

    Attributes:
        core: what rebuilders agree on.
        level: measured or reproduced.
        statements: short name to statement, in the order of writing.
        warnings: of the measurements; no statement carries them.
    """

    core: Core
    level: reference_values.Level
    statements: dict[str, Statement]
    warnings: tuple[str, ...] = ()


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """One signed statement: the name of its file, the bytes of its Sigstore bundle."""

    file_name: str
    statement: Statement
    data: bytes


def state_build(
    folder: Path, *, builder_id: str, times: Times | None = None, measure: Measure = measure_again
) -> Statements:
    """Make the statements of a build.

    Args:
        folder: `.rvp/build`.
        builder_id: the URI by which policies know the builder.
        times: recorded beside the core.
        measure: measures an artifact again.

    Raises:
        NotReproduced: RVP-6132. NotSignable: RVP-6133. RecipeOther: RVP-6134.
        ArtifactChanged: RVP-6130. ValuesChanged: RVP-6131.
        NoBuild: RVP-4010, and what the readers of recipe, result and files raise.
    """
    from pipeline.measure.measured import warnings_of

    result = read_result(folder)
    check_signable(result, folder)
    recipe = read_recipe(folder, result)
    subjects = {one.name: hash_again(folder, one) for one in result.artifacts}
    sets: list[MeasurementSet] = []
    logs: list[tuple[str, MeasurementLog, bytes]] = []
    warnings: list[str] = []
    for node in result.measurements:
        layer = Layer(name=layer_name(node.layer), provider=result.project)
        options = options_of(folder, recipe, node.node, result.artifacts)
        measured = [
            measure_artifact(folder, one, result.artifacts, options=options, measure=measure)
            for one in node.measurements
        ]
        for one in sets_from_measurements(measured, layer=layer):
            if one not in sets:  # two enclaves of one image bring it along twice
                sets.append(one)
        logs += read_logs(folder, node)
        warnings += warnings_of(measured)
    core = Core(
        product=result.project,
        recipe_digest=Sha256Digest(sha256=result.recipe),
        sources=tuple(
            Source(
                name=one.name,
                repository=one.repository,
                ref=one.ref,
                commit=one.commit,
                tree_digest=Sha256Digest(sha256=one.tree),
                dirty=one.dirty,
            )
            for one in sorted(recipe.sources, key=lambda one: one.name)
        ),
        subjects=tuple(_subject(name, subjects[name]) for name in sorted(subjects)),
        sets=tuple(sorted(sets, key=lambda one: one.id)),
    )
    times = times or Times()
    rebuild = _rebuild(result)
    values = ReferenceValues(
        core=core,
        level="reproduced",
        builder=Builder(id=builder_id),
        measurer=Measurer(name="rvp", version=result.tool.version),
        rebuild=rebuild,
        logs=tuple(
            LogReference(
                name=name, tee=log.tee, register=log.register, digest=Sha256Digest(sha256=digest.hex())
            )
            for name, log, digest in sorted(logs, key=lambda one: one[0])
        ),
        started_on=times.started_on or None,
        finished_on=times.finished_on or None,
    )
    artifacts = [artifact(name, subjects[name]) for name in sorted(subjects)]
    byproducts = (*_step_logs(result), *(_log_descriptor(name, digest) for name, _, digest in logs))
    provenance = _provenance(result, recipe, core, rebuild, builder_id, times, byproducts)
    return Statements(
        core=core,
        level="reproduced",
        statements={
            "slsa-provenance": make_provenance(provenance, artifacts),
            "reference-values": make_reference_values(values),
        },
        warnings=tuple(dict.fromkeys(warnings)),
    )


def state_files(
    files: Sequence[Path],
    *,
    product: str,
    builder_id: str,
    layer: LayerName = "workload",
    tees: Sequence[Tee] = (),
    times: Times | None = None,
) -> Statements:
    """Make the statement about artifacts that were built elsewhere, at level *measured*.

    Args:
        files: the artifacts; their names must differ.
        product: what they are called in a policy.
        builder_id: the URI of who measured.
        layer: whose values they are; the provider is the product.
        tees: measure as these; empty: as what each file is seen to be.
        times: recorded beside the core.

    Raises:
        NotSignable: RVP-6133. What the measurers raise: RVP-50nn.
    """
    from pipeline.measure.formats import measure_file
    from pipeline.measure.measured import MeasureOptions, require_computed, warnings_of

    names = [path.name for path in files]
    if len(set(names)) != len(names):
        raise NotSignable(f"two artifacts have the same name: {', '.join(sorted(names))}", hint="rename one")
    measured: list[Measurement] = []
    subjects = []
    for path in files:
        subjects.append(_subject(path.name, hash_artifact(path)))
        for tee in tees or (None,):
            found = measure_file(path, tee=tee, options=MeasureOptions(name=path.name, with_log=False))
            require_computed(found.measurements)
            measured += found.measurements
        if _subject(path.name, hash_artifact(path)) != subjects[-1]:
            raise ArtifactChanged("the file changed while it was measured", place=str(path))
    core = Core(
        product=product,
        subjects=tuple(sorted(subjects, key=lambda one: one.name)),
        sets=sets_from_measurements(measured, layer=Layer(name=layer, provider=product)),
    )
    times = times or Times()
    values = ReferenceValues(
        core=core,
        level="measured",
        builder=Builder(id=builder_id),
        measurer=Measurer(name="rvp", version=version()),
        started_on=times.started_on or None,
        finished_on=times.finished_on or None,
    )
    # Named after the core, so that it never takes the place of what a build of one's own gave.
    name = f"measured-values.{core_digest(core).hex()[:_SHORT]}"
    return Statements(
        core=core,
        level="measured",
        statements={name: make_reference_values(values)},
        warnings=warnings_of(measured),
    )


def sign_statements(statements: Statements, signer: SignsBytes) -> tuple[Signed, ...]:
    """Sign statements, and verify what was signed as a stranger would.

    Raises:
        OwnOutputRefused: RVP-6135. What the signer raises: RVP-60nn.
    """
    signed = []
    for name, statement in statements.statements.items():
        data = sign_and_check(statement, signer)
        short = signer.public_key.fingerprint.hex()[:_SHORT]
        signed.append(Signed(file_name=f"{name}.{short}{SUFFIX}", statement=statement, data=data))
    return tuple(signed)


def _subject(name: str, digests: Digests) -> ArtifactSubject:
    return ArtifactSubject(
        name=name, digest=ArtifactDigest(sha256=digests.sha256.hex(), sha384=digests.sha384.hex())
    )


def _rebuild(result: BuildResult) -> Rebuild:
    exercised: set[str] = set()
    missed: set[tuple[str, str, str]] = set()
    for node in result.nodes:
        for run in node.runs:
            exercised.update(run.exercised)
            missed.update((node.node, one.variation, one.reason) for one in run.not_exercised)
    return Rebuild(
        runs=result.times,
        exercised=tuple(sorted(exercised)),
        not_exercised=tuple(
            NotExercised(step=step, variation=variation, reason=reason)
            for step, variation, reason in sorted(missed)
        ),
    )


def _provenance(
    result: BuildResult,
    recipe: Recipe,
    core: Core,
    rebuild: Rebuild,
    builder_id: str,
    times: Times,
    byproducts: tuple[ResourceDescriptor, ...],
) -> SlsaProvenance:
    definition = BuildDefinition(
        build_type=BUILD_TYPE,
        external_parameters={
            "project": result.project,
            "version": result.version,
            "recipeDigest": {"sha256": result.recipe},
            "sources": msgspec.to_builtins(core.sources),
        },
        internal_parameters={
            "sourceDateEpoch": result.epoch,
            "vary": sorted(result.vary),
            **msgspec.to_builtins(rebuild),
        },
        resolved_dependencies=_dependencies(recipe),
    )
    return SlsaProvenance(
        build_definition=definition,
        run_details=RunDetails(
            builder=BuilderIdentity(id=builder_id, version={result.tool.name: result.tool.version}),
            metadata=BuildMetadata(
                invocation_id=invocation_id(definition, builder_id),
                started_on=times.started_on,
                finished_on=times.finished_on,
            ),
            byproducts=byproducts,
        ),
    )


def _dependencies(recipe: Recipe) -> tuple[ResourceDescriptor, ...]:
    """List everything that the lock pins, each thing once, in one order."""
    found: dict[Any, ResourceDescriptor] = {}
    for source in recipe.sources:
        found["0", source.name] = git_source(
            source.name, source.repository, source.ref, source.commit, source.tree
        )
    for file in recipe.files:
        found["1", file.path] = ResourceDescriptor(name=file.path, digest={"sha256": file.sha256})
    for name, base in recipe.lock.base.items():
        if base.tar:
            found["2", name] = ResourceDescriptor(name=f"base.{name}", digest={"sha256": base.tar})
        if base.image:
            digest = base.image.rpartition("@sha256:")[2]
            found["2", name] = ResourceDescriptor(
                name=f"base.{name}", uri=f"pkg:docker/{base.image}", digest={"sha256": digest}
            )
        for archive in base.archives:
            title = f"Release {archive.name or 'debian'} {archive.suite}"
            found["3", title, archive.release] = ResourceDescriptor(
                name=title, digest={"sha256": archive.release}
            )
        for one in (*base.packages, *base.tools):
            vendor = f"deb/{one.archive or 'debian'}"
            found["4", one.name, one.version, one.architecture, one.sha256] = package(
                vendor, one.name, one.version, one.sha256, architecture=one.architecture
            )
    for name, fetch in recipe.lock.fetch.items():
        found["5", name] = ResourceDescriptor(name=f"fetch.{name}", digest={"sha256": fetch.tree})
    return tuple(found[key] for key in sorted(found))


def _step_logs(result: BuildResult) -> tuple[ResourceDescriptor, ...]:
    return tuple(
        ResourceDescriptor(
            name=f"log of {node.node}, run {run.run}",
            digest={"sha256": run.log_sha256},
            media_type="text/plain",
        )
        for node in result.nodes
        for run in node.runs
        if run.log_sha256
    )


def _log_descriptor(name: str, digest: bytes) -> ResourceDescriptor:
    return ResourceDescriptor(
        name=name, digest={"sha256": digest.hex()}, media_type="application/vnd.rvp.measurement-log.v1+json"
    )
