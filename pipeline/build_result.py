"""The result of a build: `.rvp/build/result.json`, read by `rvp sign`, printed by `rvp build --format json`.

Beside it lie `artifacts/`, `logs/` (of steps), `measurement-logs/` and `recipe/` (as `pipeline.recipe.write`
writes it; only when the whole graph was built). Paths in the result are relative to
its folder. The verdict of a step and of the build is `reproduced`, `diverged`, or `not rebuilt` when there
was one run only. Durations are the only numbers that differ between two builds of the same recipe.

Example:
    >>> json_schema()["title"]
    'BuildResult'
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pipeline.sandbox import NotExercised
from provenance.claims import Measurement, Tool
from provenance.errors import UsageError
from provenance.strict import read_file, read_json

RESULT_NAME: Final = "result.json"
RECIPE_FOLDER: Final = "recipe"
Verdict = Literal["reproduced", "diverged", "not rebuilt"]


class NoBuild(UsageError):
    """There is no build result here.

    Cure: run `rvp build`, or name the folder that has `result.json`.
    """

    code = "RVP-4010"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class RunResult(_Strict, frozen=True, kw_only=True):
    """One node in one run. Digests are hex.

    Attributes:
        run: 1 for the first build, 2, 3, … for rebuilds.
        status: whether it ran now or had a record.
        key: the node's key in this run.
        inputs: digest of what each link took, by its text.
        outputs: digest of the tree of outputs.
        log_sha256: of the full log; empty for packs and measures.
        duration_s: how long it ran, when it ran.
        exercised: variations that took effect.
        not_exercised: those that did not, and why.
    """

    run: int
    status: Literal["ran", "cached"]
    key: str
    inputs: dict[str, str]
    outputs: str
    log_sha256: str = ""
    duration_s: float = 0.0
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()


class NodeResult(_Strict, frozen=True, kw_only=True):
    """One step, pack or measure over all runs.

    Attributes:
        node: its name.
        verdict: whether all runs gave the same outputs.
        inputs_agree: whether all runs had the same inputs: a node that diverges although they do is at fault.
        differing: paths of outputs that differ between the first run and another.
        runs: each run.
    """

    node: str
    verdict: Verdict
    inputs_agree: bool
    differing: tuple[str, ...] = ()
    runs: tuple[RunResult, ...]


class Artifact(_Strict, frozen=True, kw_only=True):
    """A file that leaves the build.

    Attributes:
        name: its file name, with the node's name before it where two would be the same.
        path: relative to the result's folder.
        node: which node gave it.
        size_bytes: its size.
        digest: sha256 and sha384, hex.
    """

    name: str
    path: str
    node: str
    size_bytes: int
    digest: dict[str, str]


class MeasurementResult(_Strict, frozen=True, kw_only=True):
    """The values of one measure node.

    Attributes:
        node: `measure.enclave`.
        layer: the layer that the values belong to.
        measurements: one for each TEE and shape.
        logs: paths of the measurement logs, relative to the result's folder.
    """

    node: str
    layer: str
    measurements: tuple[Measurement, ...]
    logs: tuple[str, ...] = ()


class BuildResult(_Strict, frozen=True, kw_only=True):
    """What a build gave, and whether it could be repeated.

    Attributes:
        tool: who built.
        project: name of the project.
        version: its version.
        recipe: digest of the recipe: spec, lock, sources; empty when a part of the graph was built.
        epoch: SOURCE_DATE_EPOCH.
        times: runs in total.
        vary: variations asked for in the runs after the first.
        verdict: diverged when one node diverged.
        complete: whether the whole graph was built; only then it can be signed.
        nodes: in graph order.
        measurements: in graph order.
        artifacts: sorted by name.
    """

    schema: Literal["rvp/build/v1"] = "rvp/build/v1"
    tool: Tool
    project: str
    version: str
    recipe: str = ""
    epoch: int
    times: int
    vary: tuple[str, ...] = ()
    verdict: Verdict
    complete: bool = True
    nodes: tuple[NodeResult, ...]
    measurements: tuple[MeasurementResult, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


def read_result(folder: Path) -> BuildResult:
    """Read the result of a build.

    Args:
        folder: `.rvp/build`.

    Raises:
        NoBuild: RVP-4010. NotWellFormed: RVP-1011. UnknownKey: RVP-1013. WrongType: RVP-1014.
    """
    path = folder / RESULT_NAME
    if not path.exists():
        raise NoBuild("there is no build result", place=str(path), hint="run `rvp build`")
    return read_json(read_file(path), BuildResult, name=str(path))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the result."""
    schema = msgspec.json.schema(BuildResult)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "BuildResult", **schema}
