"""The version of this installation, as it stands in statements."""

from __future__ import annotations

import functools

FALLBACK = "0.1.0"


@functools.cache
def version() -> str:
    """Return the version of the installed distribution, or of the source tree when nothing is installed."""
    from importlib import metadata

    try:
        return metadata.version("reference-value-pipeline")
    except metadata.PackageNotFoundError:
        return FALLBACK
