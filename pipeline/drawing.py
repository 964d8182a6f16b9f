"""Draw a plan's graph: text, Mermaid, Graphviz dot, SVG. Pure functions, deterministic.

The SVG has layers from left to right (a node stands right of everything that it needs); inside a layer, nodes
stand at the mean height of what they need.

Example:
    >>> from pipeline.plan import Plan, PlannedNode
    >>> nodes = (PlannedNode(node="source.a"), PlannedNode(node="step.b", needs=("source.a",)))
    >>> plan = Plan(times=1, nodes=nodes)
    >>> print(draw(plan, "mermaid"), end="")
    flowchart LR
      n0["source.a"]
      n1["step.b"]
      n0 --> n1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from xml.sax.saxutils import escape

from pipeline.plan import Plan, PlannedNode

_SHADES: Final = {"cached": "#e3f1e3", "run": "#fbe6c8", "depends": "#f4f0d8", "pinned": "#e8eaf0"}
_CHARACTER_WIDTH: Final = 7.3  # of 12 px monospace, rounded up
_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 28, 56, 14, 12


def draw(plan: Plan, form: str) -> str:
    """Draw a plan in one of the forms of `FORMS`."""
    return FORMS[form](plan)


def state_of(node: PlannedNode) -> str:
    """Say in one word what would happen to a node in any of its runs."""
    actions = {run.action for run in node.runs}
    return next((action for action in ("run", "depends", "cached") if action in actions), "pinned")


def draw_text(plan: Plan) -> str:
    """Draw each node with what it needs behind an arrow."""
    width = max((len(node.node) for node in plan.nodes), default=0)
    lines = []
    for node in plan.nodes:
        needs = f"← {', '.join(node.needs)}" if node.needs else ""
        lines.append(f"{node.node:<{width}}  {state_of(node):<7}  {needs}".rstrip() + "\n")
    return "".join(lines)


def draw_mermaid(plan: Plan) -> str:
    """Draw for Markdown pages that know Mermaid."""
    number = {node.node: index for index, node in enumerate(plan.nodes)}
    lines = ["flowchart LR"]
    lines += [f'  n{number[node.node]}["{node.node.replace(chr(34), "#quot;")}"]' for node in plan.nodes]
    lines += [f"  n{number[need]} --> n{number[node.node]}" for node in plan.nodes for need in node.needs]
    return "\n".join(lines) + "\n"


def draw_dot(plan: Plan) -> str:
    """Draw for Graphviz."""
    lines = ["digraph plan {", "  rankdir=LR;", '  node [shape=box, style=filled, fontname="monospace"];']
    lines += [f'  {_quoted(node.node)} [fillcolor="{_SHADES[state_of(node)]}"];' for node in plan.nodes]
    lines += [f"  {_quoted(need)} -> {_quoted(node.node)};" for node in plan.nodes for need in node.needs]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def draw_svg(plan: Plan) -> str:
    """Draw a self-contained picture."""
    places, width, height = _layout(plan)
    boxes, arrows = [], []
    for node in plan.nodes:
        x, y, w = places[node.node]
        state = state_of(node)
        boxes.append(
            f'<g><title>{escape(node.node)}: {state}</title><rect x="{x}" y="{y}" width="{w}" '
            f'height="{_HEIGHT}" rx="4" fill="{_SHADES[state]}" stroke="#555"/>'
            f'<text x="{x + 8}" y="{y + 18}">{escape(node.node)}</text></g>'
        )
        for need in node.needs:
            left, top, wide = places[need]
            x1, y1, x2, y2 = left + wide, top + _HEIGHT // 2, x, y + _HEIGHT // 2
            bend = (x1 + x2) // 2
            arrows.append(
                f'<path d="M{x1} {y1} C{bend} {y1} {bend} {y2} {x2 - 5} {y2}" marker-end="url(#tip)"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="12">\n'
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L6 3L0 6z" fill="#555"/></marker></defs>\n'
        '<g fill="none" stroke="#555">\n' + "\n".join(arrows) + "\n</g>\n" + "\n".join(boxes) + "\n</svg>\n"
    )


def _layout(plan: Plan) -> tuple[dict[str, tuple[int, int, int]], int, int]:
    """Place every node: x, y, width in pixels; and the size of the picture."""
    layer: dict[str, int] = {}
    for node in plan.nodes:  # in graph order: what it needs has its layer already
        layer[node.node] = max((layer[need] + 1 for need in node.needs), default=0)
    for node in plan.nodes:  # a leaf stands right before the first node that takes it, not behind others
        takers = [layer[one.node] for one in plan.nodes if node.node in one.needs]
        if not node.needs and takers:
            layer[node.node] = min(takers) - 1
    columns: list[list[PlannedNode]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for node in plan.nodes:
        columns[layer[node.node]].append(node)
    row: dict[str, float] = {}
    places: dict[str, tuple[int, int, int]] = {}
    x, height = _MARGIN, 0
    for column in columns:
        means = {
            node.node: sum(row[need] for need in node.needs) / len(node.needs)
            if node.needs
            else float(len(plan.nodes) + index)
            for index, node in enumerate(column)
        }
        column.sort(key=_by(means))
        wide = max((int(len(node.node) * _CHARACTER_WIDTH) + 16 for node in column), default=0)
        free = 0.0  # the first row that is not taken
        for node in column:
            row[node.node] = max(free, means[node.node] if node.needs else 0.0)
            free = row[node.node] + 1
            places[node.node] = (x, _MARGIN + int(row[node.node] * (_HEIGHT + _GAP_Y)), wide)
            height = max(height, int(free * (_HEIGHT + _GAP_Y)))
        x += wide + _GAP_X
    return places, x - _GAP_X + _MARGIN, height - _GAP_Y + 2 * _MARGIN


def _by(means: dict[str, float]) -> Callable[[PlannedNode], float]:
    return lambda node: means[node.node]


FORMS: Final[dict[str, Callable[[Plan], str]]] = {
    "text": draw_text,
    "mermaid": draw_mermaid,
    "dot": draw_dot,
    "svg": draw_svg,
}
