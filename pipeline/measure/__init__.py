"""Measuring: from a file to the values that a verifier will see, and the log that folds to them."""

from pipeline.measure.formats import UnknownFormat, detect, measure_file
from pipeline.measure.measured import CheckFailed, Measured, MeasureOptions, require_computed, require_passed

__all__ = [
    "CheckFailed",
    "MeasureOptions",
    "Measured",
    "UnknownFormat",
    "detect",
    "measure_file",
    "require_computed",
    "require_passed",
]
