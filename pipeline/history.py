"""The history of a project's builds: which key each node had last, so that a plan can say what is new.

A small file under `.rvp`; losing it loses reasons, never results. The parts of every key lie in the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from verifier.cli.terminal import write_file

_NAME: Final = "history.json"


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The last key of each node and run, hex: `{"step.enclave": {"1": "…", "2": "…"}}`."""

    schema: str = "rvp/history/v1"
    keys: dict[str, dict[str, str]] = {}

    def key(self, node: str, run: int) -> bytes | None:
        """Return the last key of a node in a run."""
        text = self.keys.get(node, {}).get(str(run))
        return bytes.fromhex(text) if text else None


def read_history(folder: Path) -> History:
    """Read the history; one that is missing or damaged is empty."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=History)
    except (OSError, msgspec.DecodeError):
        return History()


def add_history(folder: Path, keys: dict[tuple[str, int], bytes]) -> None:
    """Write the keys of a build into the history, beside those of nodes that it did not touch."""
    merged = {node: dict(runs) for node, runs in read_history(folder).keys.items()}
    for (node, run), key in keys.items():
        merged.setdefault(node, {})[str(run)] = key.hex()
    history = History(keys={node: dict(sorted(merged[node].items())) for node in sorted(merged)})
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / _NAME, msgspec.json.encode(history))
