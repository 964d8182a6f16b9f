"""Python bytecode: the 16 bytes of its header; the code behind them is compared as bytes and never loaded.

Source: PEP 552.
"""

from __future__ import annotations

from typing import Final

from pipeline.difference import binary
from pipeline.difference.content import Content, first_difference
from pipeline.difference.look import Found, Look
from pipeline.difference.members import compare_attributes, moment
from pipeline.difference.model import Difference

_HEADER: Final = 16


def detect(head: bytes, path: str) -> bool:
    """Tell bytecode by its name and the end of its magic."""
    return path.endswith((".pyc", ".pyo")) and head[2:4] == b"\r\n" and len(head) >= _HEADER


def compare(path: str, left: Content, right: Content, look: Look) -> Found:
    """Compare two bytecode files."""
    details = compare_attributes(path, _header(left), _header(right))
    bodies = left.part(_HEADER, left.size), right.part(_HEADER, right.size)
    if first_difference(*bodies, tick=look.tick) is not None:
        found = (
            binary.compare(path, left, right, look) if not details else binary.compare(path, *bodies, look)
        )
        details.append(
            Difference(
                path=f"{path}/(code)" if details else path,
                kind="binary",
                where=f"code, {found.where}",
                offset=found.offset,
                left=found.left,
                right=found.right,
                comments=found.comments,
            )
        )
    return Found(details=tuple(details))


def _header(content: Content) -> dict[str, str]:
    head = content.read(0, _HEADER)
    fields = {
        "interpreter": str(int.from_bytes(head[:2], "little")),
        "flags": str(int.from_bytes(head[4:8], "little")),
    }
    if head[4] & 1:
        return fields | {"source hash": head[8:16].hex()}
    return fields | {
        "mtime": moment(int.from_bytes(head[8:12], "little")),
        "source size": str(int.from_bytes(head[12:16], "little")),
    }
