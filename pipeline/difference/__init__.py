"""A look inside two things that differ, naming where.

Entry points, each in the room that has it: `compare.compare_files`, `compare.compare_trees`,
`render.render_text`, `model.to_json`.
"""

from pipeline.difference.compare import compare_bytes, compare_files, compare_trees
from pipeline.difference.model import Cause, Difference, Limits, Report, to_json
from pipeline.difference.render import headline, render_text

__all__ = [
    "Cause",
    "Difference",
    "Limits",
    "Report",
    "compare_bytes",
    "compare_files",
    "compare_trees",
    "headline",
    "render_text",
    "to_json",
]
