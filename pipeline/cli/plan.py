"""`rvp plan`: what would run, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from verifier.cli.terminal import Settings, format_option

if TYPE_CHECKING:
    from pipeline.plan import Plan, PlannedNode


@click.command(
    epilog="""\b
Examples:
  rvp plan
  rvp plan enclave --graph svg > graph.svg"""
)
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--graph", "form", type=click.Choice(("text", "mermaid", "dot", "svg")), help="Draw the graph.")
@click.option("--times", type=click.IntRange(1), help="Runs in total; default: what the spec says.")
@click.option("--store", metavar="DIR", help="The store; default: $RVP_STORE, else .rvp/store.")
@format_option()
@click.pass_obj
def plan(
    settings: Settings,
    steps: Sequence[str],
    form: str | None,
    times: int | None,
    store: str | None,
    output_format: str,
) -> None:
    """Show what would run, and which part of its key is new.

    Nothing is run. A step is cached when everything that can change its output is the same as in an
    earlier build; what needs a step that runs depends on what that step gives.
    """
    from pipeline.graph import build_graph, select
    from pipeline.history import read_history
    from pipeline.leaves import WORKING_NAME, store_of, trees_of, with_known_bases
    from pipeline.plan import make_plan
    from pipeline.products import check_supported
    from pipeline.project import load_project
    from provenance.events import ignore

    if form and output_format == "json":
        raise click.UsageError("--graph and --format json exclude each other", click.get_current_context())
    folder = Path.cwd()
    opened = store_of(folder, named=store)
    project = load_project(folder, store=opened, observer=ignore)
    graph = select(build_graph(project.spec), steps)
    check_supported(graph)
    bases = [name for name in graph if name.startswith("base.")]
    leaves = with_known_bases(trees_of(project, opened), project, bases, store=opened)
    for tree in leaves.trees.values():
        opened.put([tree.to_json()])  # so that a reason can say which files changed
    rebuild = project.spec.rebuild
    made = make_plan(
        graph,
        leaves,
        store=opened,
        history=read_history(folder / WORKING_NAME),
        times=times or rebuild.times,
        vary=rebuild.vary,
    )
    if form:
        from pipeline.drawing import draw

        settings.out(draw(made, form).rstrip("\n"))
    elif output_format == "json":
        settings.out_json(made)
    else:
        settings.out(_render(made))


def _render(plan: Plan) -> str:
    from pipeline.report.build_table import columns

    rows: list[tuple[str, ...]] = []
    for node in plan.nodes:
        rows += [(node.node, *row) for row in _rows(node)]
    counts = (
        f"{plan.count('run')} to run, {plan.count('depends')} depend on what others give, "
        f"{plan.count('cached')} cached"
    )
    return (columns(rows) + "\n\n" if rows else "") + counts


def _rows(node: PlannedNode) -> list[tuple[str, ...]]:
    if not node.runs:
        return [("", "pinned", node.pinned[:16])] if node.pinned else [("", "to be brought", "")]
    told = {(run.action, run.reasons) for run in node.runs}
    if len(told) == 1:
        runs = "" if len(node.runs) == 1 else f"runs 1-{len(node.runs)}"
        return [(runs, node.runs[0].action, "; ".join(node.runs[0].reasons))]
    return [(f"run {run.run}", run.action, "; ".join(run.reasons)) for run in node.runs]
