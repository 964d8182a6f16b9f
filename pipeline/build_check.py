"""What must hold before a build is signed: it is the one that was built, measured again, and it repeats.

The result of a build is a file like any other: what can be recomputed from the artifacts is recomputed, and
every difference is an error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, get_args

import msgspec

from pipeline.build_result import RECIPE_FOLDER, Artifact, BuildResult, MeasurementResult
from pipeline.recipe import Recipe
from pipeline.recipe import read as read_recipe_folder
from pipeline.spec import parse_reference
from pipeline.spec_machine import machine_of
from pipeline.store import FolderStore
from provenance.claims import Measurement, Tee
from provenance.digest import Digests, hash_file, sha256
from provenance.errors import Divergence, MeasurementMismatch, UsageError
from provenance.measurement_log import MeasurementLog
from provenance.predicates.core import LayerName
from provenance.strict import NotReadable, read_file, read_json

if TYPE_CHECKING:
    from pipeline.measure.measured import MeasureOptions

# Measures a file again: path, TEE, name of the subject, detached SIGSTRUCT.
Measure = Callable[[Path, Tee, str, "MeasureOptions | None"], tuple[Measurement, ...]]

MAX_LOG_BYTES: Final = 64 << 20


class ArtifactChanged(MeasurementMismatch):
    """An artifact is not the file that the build gave.

    Cure: run `rvp build` again; nothing may touch `.rvp/build` between building and signing.
    """

    code = "RVP-6130"


class ValuesChanged(MeasurementMismatch):
    """Measuring an artifact again gives other values than the result of the build says.

    Cure: run `rvp build` again with this version of rvp; if it stays, report it.
    """

    code = "RVP-6131"


class NotReproduced(Divergence):
    """A build that diverged cannot be signed: its values are those of one run only.

    Cure: find the step that `rvp build` names and make it reproducible.
    """

    code = "RVP-6132"


class NotSignable(UsageError):
    """A build result is not enough to vouch for: built once only, in part only, or nothing measured.

    Cure: build the whole graph with `times = 2` or more and at least one `[[measure]]`. Values of an artifact
    that was built elsewhere are signed with `rvp sign --measured FILE`, at the lower level *measured*.
    """

    code = "RVP-6133"


class RecipeOther(MeasurementMismatch):
    """The recipe beside the result is not the one that was built.

    Cure: run `rvp build` again; nothing may touch `.rvp/build` between building and signing.
    """

    code = "RVP-6134"


def measure_again(
    path: Path, tee: Tee, name: str, options: MeasureOptions | None = None
) -> tuple[Measurement, ...]:
    """Measure a file with the measurer of its format; its own checks must pass.

    Raises:
        CheckFailed: RVP-5010, and what the measurers raise: RVP-50nn, RVP-51nn.
    """
    from pipeline.measure.formats import measure_file
    from pipeline.measure.measured import MeasureOptions, require_computed

    options = msgspec.structs.replace(
        options or MeasureOptions(), name=name, with_log=False, companions=False
    )
    found = measure_file(path, tee=tee, options=options).measurements
    require_computed(found)
    return found


def check_signable(result: BuildResult, folder: Path) -> None:
    """Check that a build ran whole, at least twice, always with the same outputs, and measured something.

    Raises:
        NotReproduced: RVP-6132. NotSignable: RVP-6133.
    """
    place = str(folder)
    if result.verdict == "diverged":
        nodes = [one.node for one in result.nodes if one.verdict == "diverged"]
        raise NotReproduced(
            f"the build diverged ({', '.join(nodes)}); it cannot be signed",
            place=place,
            hint="difference.txt says where the outputs differ; docs/how-to/reproducible.md how to cure it",
        )
    if not result.complete or not result.recipe:
        raise NotSignable("only a part of the graph was built", place=place, hint="run `rvp build`")
    if result.verdict != "reproduced":
        raise NotSignable(
            f"the build ran {result.times} time: nothing was reproduced", place=place, hint="run `rvp build`"
        )
    # The result is a file: its verdict is not believed where it can be recomputed.
    for node in result.nodes:
        if len(node.runs) != result.times or len({run.outputs for run in node.runs}) != 1:
            raise NotReproduced(f"the runs of {node.node} do not all have the same outputs", place=place)
    if result.times < 2:
        raise NotSignable(f"the build ran {result.times} time: nothing was reproduced", place=place)
    if not any(node.measurements for node in result.measurements) or not result.artifacts:
        raise NotSignable(
            "nothing was measured, so there are no values", place=place, hint="add a [[measure]] to rvp.toml"
        )


def read_recipe(folder: Path, result: BuildResult) -> Recipe:
    """Read the recipe beside a result and check that it is the one that was built.

    Raises:
        RecipeOther: RVP-6134. RecipeDamaged: RVP-1310.
    """
    with tempfile.TemporaryDirectory(prefix="rvp-sign-") as scratch:
        recipe = read_recipe_folder(folder / RECIPE_FOLDER, FolderStore(Path(scratch)))
    if recipe.digest.hex() != result.recipe:
        raise RecipeOther(
            f"the recipe is\n  {recipe.digest.hex()}\nthe result says\n  {result.recipe}",
            place=str(folder / RECIPE_FOLDER),
        )
    core = recipe.core
    said = [f"{result.project} {result.version} at {result.epoch}"]
    said += sorted(f"{one.node} ({one.layer})" for one in result.measurements)
    meant = [f"{core.project} {core.version} at {core.source_date_epoch}"]
    meant += sorted(f"measure.{one.id} ({one.layer})" for one in recipe.spec.measure)
    if said != meant:
        raise RecipeOther(
            f"the result is of\n  {', '.join(said)}\nthe recipe of\n  {', '.join(meant)}", place=str(folder)
        )
    return recipe


def options_of(folder: Path, recipe: Recipe, node: str, artifacts: Iterable[Artifact]) -> MeasureOptions:
    """Find what a measurement takes beside its artifact: pinned files of the recipe, or other artifacts.

    Raises:
        NotSignable: RVP-6133. NotReadable: RVP-1010.
    """
    from pipeline.measure.measured import MeasureOptions

    item = next((one for one in recipe.spec.measure if f"measure.{one.id}" == node), None)
    if item is None:
        return MeasureOptions()
    artifacts = tuple(artifacts)

    def path_of(text: str) -> Path:
        reference = parse_reference(text)
        if reference.kind == "file":
            return _inside(folder, f"{RECIPE_FOLDER}/files/{reference.path}")
        # What no step gives, the measure itself keeps: files of a base.
        giver = reference.node if reference.kind in {"step", "pack"} else node
        for one in artifacts:
            last = PurePosixPath(one.name).name
            if one.node == giver and last == PurePosixPath(reference.path).name:
                return _inside(folder, one.path)
        raise NotSignable(
            f"{text}, which {node} takes, is not beside the result", hint="put the file beside rvp.toml"
        )

    return MeasureOptions(
        sigstruct=read_file(path_of(item.sigstruct)) if item.sigstruct else None,
        sigstruct_name=item.sigstruct,
        config=read_file(path_of(item.config)) if item.config else None,
        config_name=item.config,
        libpal=path_of(item.libpal) if item.libpal else None,
        generation=item.generation,
        inside=item.path,
        machine=machine_of(item, path_of),
    )


def hash_artifact(path: Path) -> Digests:
    """Hash an artifact.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        return hash_file(path)[0]
    except OSError as error:
        raise NotReadable(f"cannot read the artifact: {error.strerror}", place=str(path)) from error


def hash_again(folder: Path, one: Artifact) -> Digests:
    """Hash an artifact of a build again.

    Raises:
        ArtifactChanged: RVP-6130. NotReadable: RVP-1010.
    """
    path = _inside(folder, one.path)
    found = hash_artifact(path)
    for algorithm, value in found.as_hex().items():
        if one.digest.get(algorithm) != value:
            raise ArtifactChanged(
                f"{algorithm} is\n  {value}\nthe build gave\n  {one.digest.get(algorithm, 'nothing')}",
                place=str(path),
                hint="run `rvp build` again",
            )
    return found


def measure_artifact(
    folder: Path,
    one: Measurement,
    artifacts: Iterable[Artifact],
    *,
    options: MeasureOptions | None = None,
    measure: Measure = measure_again,
) -> Measurement:
    """Measure the artifact of a measurement again; return it under the artifact's name.

    Raises:
        ValuesChanged: RVP-6131. What the measurers raise: RVP-50nn.
    """
    subject = one.inside.image if one.inside else one.subject
    match = [each for each in artifacts if each.digest.get("sha256") == subject.digest.get("sha256")]
    same_name = [each for each in match if each.name == subject.name]
    if not match:
        raise ValuesChanged(f'what was measured as "{subject.name}" is not among the artifacts')
    found = (same_name or match)[0]
    path = _measured_path(_inside(folder, found.path), one)
    inside = one.inside.path if one.inside else ""
    if inside:
        from pipeline.measure.measured import MeasureOptions

        if options is not None and options.inside not in {"", inside}:
            raise ValuesChanged(
                f"the result is of {inside}, the recipe measures {options.inside}", place=str(path)
            )
        options = msgspec.structs.replace(options or MeasureOptions(), inside=inside)
    shape = [
        each
        for each in measure(path, one.tee, found.name, options)
        if (each.tee, each.variant) == (one.tee, one.variant)
        and (each.inside.path if each.inside else "") == inside
    ]
    if not shape:
        raise ValuesChanged(f"measuring again gives no {one.tee} values for {one.variant}", place=str(path))
    again = next((each for each in shape if each.claims == one.claims), shape[0])
    _compare(one, again, path)
    # What is compared with nothing is taken from what was measured now, not from the file.
    one = msgspec.structs.replace(one, checks=again.checks, layout=again.layout)
    if one.inside:
        return _renamed_inside(one, again, found.name, path)
    return msgspec.structs.replace(one, subject=msgspec.structs.replace(one.subject, name=found.name))


def _renamed_inside(said: Measurement, again: Measurement, name: str, path: Path) -> Measurement:
    """Name the image of an enclave as its artifact; the file and the image must be those that were built."""
    if not said.inside or not again.inside:
        return said
    if said.subject.digest != again.subject.digest or said.inside.manifest != again.inside.manifest:
        raise ValuesChanged(
            f"{again.inside.path} of {again.inside.manifest} has the digest\n  {again.subject.digest}\n"
            f"the build gave {said.inside.manifest}\n  {said.subject.digest}",
            place=str(path),
        )
    image = msgspec.structs.replace(said.inside.image, name=name)
    return msgspec.structs.replace(
        said,
        subject=msgspec.structs.replace(said.subject, name=f"{name}!{said.inside.path}"),
        inside=msgspec.structs.replace(said.inside, image=image),
    )


def _measured_path(path: Path, one: Measurement) -> Path:
    """Return what is measured: of an image layout that is a folder, the folder around its manifest."""
    parts = path.parts
    if (
        (one.tee == "oci" or one.inside)
        and parts[-3:-1] == ("blobs", "sha256")
        and (path.parents[2] / "oci-layout").exists()
    ):
        return path.parents[2]
    return path


def _compare(said: Measurement, again: Measurement, path: Path) -> None:
    for name in sorted(said.claims.keys() | again.claims.keys()):
        left, right = said.claims.get(name), again.claims.get(name)
        if left != right:
            raise ValuesChanged(f"{said.tee} {name} is\n  {right}\nthe build gave\n  {left}", place=str(path))
    if said.unpredicted != again.unpredicted or said.policy_inputs != again.policy_inputs:
        raise ValuesChanged("measuring again leaves other events open than the build did", place=str(path))


def read_logs(folder: Path, node: MeasurementResult) -> list[tuple[str, MeasurementLog, bytes]]:
    """Read the measurement logs of a node: name, log, SHA-256; each folds to a value that was measured.

    Raises:
        ValuesChanged: RVP-6131. NotReadable: RVP-1010. NotWellFormed: RVP-1011. WrongType: RVP-1014.
    """
    logs = []
    for name in node.logs:
        path = _inside(folder, name)
        data = read_file(path, limit_bytes=MAX_LOG_BYTES)
        log = read_json(data, MeasurementLog, name=str(path), limit_bytes=MAX_LOG_BYTES)
        values = [one.claims.get(log.register) for one in node.measurements if one.tee == log.tee]
        if log.value not in values:
            raise ValuesChanged(
                f"the log folds to {log.tee} {log.register} {log.value}, which was not measured",
                place=str(path),
            )
        logs.append((name.removeprefix("measurement-logs/"), log, sha256(data)))
    return logs


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise NotSignable(f'"{name}" leads out of the build\'s folder', place=str(folder))
    return path


def layer_name(text: str) -> LayerName:
    """Read the name of a layer.

    Raises:
        NotSignable: RVP-6133.
    """
    known: tuple[LayerName, ...] = get_args(LayerName)
    for name in known:
        if name == text:
            return name
    raise NotSignable(f'there is no layer "{text}"', hint=f"known: {', '.join(known)}")
