"""How a check answers."""

from __future__ import annotations

import msgspec

from provenance.claims import Check


def say(id_: str, status: str, got: str, *, expected: str = "", source: str = "", hint: str = "") -> Check:
    """Answer: the status, what was expected, what was found, and what to do."""
    return msgspec.convert(
        {"id": id_, "status": status, "expected": expected, "got": got, "source": source, "hint": hint}, Check
    )


def not_reached(id_: str, why: str = "nothing was agreed on") -> Check:
    """Answer that there was nothing to look at."""
    return say(id_, "skipped", why)
