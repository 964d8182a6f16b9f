"""What one run of a node gave, and the record of it that the store keeps under the node's key."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pipeline.step_run import NotExercised
from pipeline.store import ObjectDamaged, Store
from pipeline.tree import Tree

RECORD: Final = "outcome"  # the kind of the record
PARTS: Final = "parts"  # the kind of the record that says what a key was made of


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one task gave.

    Attributes:
        node: the node's name.
        run: 1 for the first build.
        status: whether it ran now.
        key: its key.
        inputs: digest of what each link took, by the link's text.
        outputs: the tree.
        log: the store object with its log; empty for packs and measures.
        log_file: the log on this machine, when it ran now.
        duration_s: how long it ran (when it ran).
        exercised: variations that took effect.
        not_exercised: those that did not.
    """

    node: str
    run: int
    status: Literal["ran", "cached"]
    key: bytes
    inputs: dict[str, bytes]
    outputs: Tree
    log: bytes = b""
    log_file: str = ""
    duration_s: float = 0.0
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the store keeps under a key."""

    outputs: str
    log: str = ""
    duration_s: float = 0.0
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()


def recorded(store: Store, key: bytes) -> tuple[Record, Tree] | None:
    """Return what a key gave, when all of it is still in the store."""
    value = store.recorded(RECORD, key)
    if value is None:
        return None
    try:
        record = msgspec.json.decode(value, type=Record)
        digest = bytes.fromhex(record.outputs)
        if not store.has(digest):
            return None
        with store.get(digest) as stream:
            tree = msgspec.json.decode(stream.read(), type=Tree)
        vars(tree)["digest"] = digest  # the store checked it
    except (msgspec.DecodeError, ValueError, ObjectDamaged):
        return None
    if all(store.has(bytes.fromhex(entry.sha256)) for entry in tree.entries if entry.kind == "file"):
        return record, tree
    return None


def recorded_parts(store: Store, key: bytes) -> dict[str, object] | None:
    """Return the parts of a key that was run."""
    value = store.recorded(PARTS, key)
    return None if value is None else msgspec.json.decode(value, type=dict[str, object])
