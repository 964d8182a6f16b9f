"""`rvp build`: rebuild hermetically, compare, measure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.report.progress import MODES, progress
from provenance.errors import StepFailure
from provenance.events import Observer, ignore
from verifier.cli.terminal import Settings, format_option, styled

if TYPE_CHECKING:
    from pipeline.build import Build
    from pipeline.engine import Engine
    from pipeline.executors.local import LocalExecutor
    from pipeline.project import LoadedProject
    from pipeline.store import FolderStore


@click.command(
    epilog="""\b
Examples:
  rvp build
  rvp build enclave --times 1 --debug-shell"""
)
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--times", type=click.IntRange(1), help="Runs in total; default: what the spec says.")
@click.option(
    "--jobs", "-j", type=click.IntRange(1), help="Steps at once; default: the number of processors."
)
@click.option("--keep-going", "-k", is_flag=True, help="After a failure, go on with what does not need it.")
@click.option("--again", is_flag=True, help="Run steps although the store knows what they give.")
@click.option("--debug-shell", is_flag=True, help="When a step fails, open a shell in its sandbox.")
@click.option("--store", metavar="DIR", help="The store; default: $RVP_STORE, else .rvp/store.")
@click.option(
    "--progress", "mode", type=click.Choice(MODES), default="auto", show_default=True, help="How to show it."
)
@format_option()
@click.pass_obj
def build(
    settings: Settings,
    steps: Sequence[str],
    times: int | None,
    jobs: int | None,
    *,
    keep_going: bool,
    again: bool,
    debug_shell: bool,
    store: str | None,
    mode: str,
    output_format: str,
) -> None:
    """Build, build again under variations, compare, and measure.

    The result lies in .rvp/build. Exit code 5: a step failed; 11: two runs gave different outputs.
    """
    from pipeline.leaves import store_of
    from pipeline.project import load_project

    folder = Path.cwd()
    opened = store_of(folder, named=store)
    executor = make_executor(folder, jobs)
    try:
        with progress(mode, quiet=settings.quiet, verbose=settings.verbose > 0) as observer:
            project = load_project(folder, store=opened, observer=observer)
            built = build_project(
                project,
                opened,
                executor,
                observer=observer,
                steps=steps,
                times=times,
                keep_going=keep_going,
                again=again,
            )
    except StepFailure:
        if debug_shell and executor.failed is not None:
            from pipeline.sandbox import debug_shell as open_shell

            failed = executor.failed
            settings.say(
                f"the command runs again in its sandbox, then a shell opens: {shlex.join(failed.argv)}"
            )
            open_shell(executor.engine, failed, opened, scratch=executor.scratch)
        raise
    show_build(settings, built, output_format)
    built.raise_divergence()


def make_executor(folder: Path, jobs: int | None) -> LocalExecutor:
    """Make the executor of this machine; the engine is looked for when a step runs."""
    from pipeline.executors.local import LocalExecutor
    from pipeline.leaves import WORKING_NAME

    return LocalExecutor(_connect, scratch=folder / WORKING_NAME / "scratch", slots=jobs)


def _connect() -> Engine:
    from pipeline.engine import connect

    return connect()


def build_project(
    project: LoadedProject,
    store: FolderStore,
    executor: LocalExecutor,
    *,
    observer: Observer = ignore,
    steps: Sequence[str] = (),
    times: int | None = None,
    keep_going: bool = False,
    again: bool = False,
) -> Build:
    """Build a loaded project into its `.rvp`."""
    from pipeline.build import build as run_build
    from pipeline.graph import build_graph, select
    from pipeline.leaves import WORKING_NAME, trees_of, with_bases
    from pipeline.products import check_supported

    graph = select(build_graph(project.spec), steps)
    check_supported(graph)
    bases = [name for name in graph if name.startswith("base.")]
    leaves = with_bases(trees_of(project, store), project, bases, store=store, observer=observer)
    return run_build(
        project.spec,
        graph,
        leaves,
        store=store,
        executor=executor,
        folder=project.folder / WORKING_NAME,
        recipe=project.recipe,
        complete=not steps,
        observer=observer,
        times=times,
        keep_going=keep_going,
        again=again,
    )


def show_build(settings: Settings, built: Build, output_format: str) -> None:
    """Print a build: one JSON document, or tables and the difference."""
    from pipeline.measure.measured import warnings_of
    from pipeline.report.build_table import render_build

    if output_format == "json":
        settings.out_json(built.result)
        return
    settings.out(render_build(built.result, style=styled))
    for text in warnings_of(one for node in built.result.measurements for one in node.measurements):
        settings.warn(text)
    if built.difference:
        settings.out(f"\n{built.difference}")
