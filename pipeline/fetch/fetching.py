"""Run a fetch, pin what it gave, find it again, and refuse another tree under the same pin."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.base import LockedBase
from pipeline.fetch.bridge import FOLDER, write_bridge
from pipeline.fetch.client import client_settings
from pipeline.fetch.proxy import RecordingProxy
from pipeline.fetch.transcript import Transcript
from pipeline.lock import Lock, LockedFetch
from pipeline.sandbox import Rootfs, SandboxLimits, StepInput, StepRun
from pipeline.sources import load_tree
from pipeline.spec import Fetch, Spec
from pipeline.store import FolderStore
from pipeline.tree import Tree
from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.errors import SpecError, StepFailure
from provenance.events import Note, Observer

if TYPE_CHECKING:
    from pipeline.engine import Engine

# What a fetch's key means; it grows when the container of a fetch changes.
KEY_VERSION: Final = 1
EPOCH: Final = 315532800  # 1980-01-01: the oldest time that a zip can hold; no part of a project's own epoch
_TREE: Final = "tree"
_LIMITS: Final = SandboxLimits(memory_bytes=4 << 30, output_bytes=8 << 30, disk_bytes=16 << 30)


class FetchChanged(SpecError):
    """A fetch gave another tree than the one that the lock pins.

    What the network serves has changed, or the command is not deterministic (it resolves versions anew, or
    writes times into files). Cure: pin exact versions with hashes in what the command reads
    (`--require-hashes`, a lock file); `rvp lock --upgrade fetch.NAME` pins what is there now.
    """

    code = "RVP-1502"


class HostRefused(StepFailure):
    """A fetch failed after it asked for a host that its `hosts` does not allow.

    Cure: add the host to `hosts` if it belongs there.
    """

    code = "RVP-1503"


class FetchEmpty(StepFailure):
    """A fetch wrote nothing to {out}.

    Cure: have its command write below {out}.
    """

    code = "RVP-1504"


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch gave: its tree, with the content in the store, and whom it talked to."""

    tree: Tree
    transcript: Transcript


def fetch_key(fetch: Fetch, base: LockedBase, inputs: Mapping[str, str]) -> str:
    """Digest everything that a fetch is made from, but for the network: hex.

    Args:
        fetch: what the spec says.
        base: what the lock pins of its base.
        inputs: needed source or fetch to the digest of its tree, hex.
    """
    parts = {
        "version": KEY_VERSION,
        "fetch": msgspec.to_builtins(fetch),
        "base": msgspec.to_builtins(base),
        "inputs": dict(inputs),
    }
    return sha256(canonical_json(parts)).hex()


def stale_fetches(spec: Spec, lock: Lock, trees: Mapping[str, str]) -> dict[str, str]:
    """Tell which fetches were made from other inputs than those of now, and why.

    Args:
        spec: the spec.
        lock: a lock that answers it as far as `check_lock` sees.
        trees: source node to the digest of its tree, hex.
    """
    found: dict[str, str] = {}
    known = {**trees, **{f"fetch.{name}": locked.tree for name, locked in lock.fetch.items()}}
    for name, fetch in spec.fetch.items():
        if name not in lock.fetch or fetch.base not in lock.base:
            continue
        inputs = {need: known[need] for need in fetch.needs if need in known}
        if fetch_key(fetch, lock.base[fetch.base], inputs) != lock.fetch[name].key:
            needs = " or ".join((f"base.{fetch.base}", *fetch.needs))
            found[f"fetch.{name}"] = f"{needs} changed since it was fetched"
    return found


def run_fetch(
    name: str,
    fetch: Fetch,
    *,
    engine: Engine,
    rootfs: Rootfs,
    inputs: tuple[StepInput, ...],
    store: FolderStore,
    observer: Observer,
    scratch: Path,
) -> Fetched:
    """Run a fetch once.

    Args:
        name: its name in the spec.
        fetch: what the spec says.
        engine: a local one: sockets cannot be mounted from afar.
        rootfs: of its base.
        inputs: the trees that it needs.
        store: has the inputs, receives the tree and the transcript.
        observer: hears what the command prints.
        scratch: a folder for checkouts and logs.

    Raises:
        StepFailure: the command failed. HostRefused: RVP-1503. FetchEmpty: RVP-1504. ProxyFailed: RVP-1501.
    """
    from pipeline.sandbox import run_step

    with tempfile.TemporaryDirectory(prefix="rvp-") as closed:  # 0700: tokens lie below
        shared = Path(closed) / "f"
        shared.mkdir(mode=0o755)
        settings = client_settings(os.environ, Path.home())
        for file, content in settings.files.items():
            (shared / file).write_bytes(content)
            (shared / file).chmod(0o644)
        write_bridge(shared)
        run = StepRun(
            node=f"fetch.{name}",
            rootfs=rootfs,
            argv=("/bin/sh", f"{FOLDER}/start", f"{{out}}/{_TREE}", *map(_inside_tree, fetch.run)),
            inputs=inputs,
            outputs=(_TREE,),
            environment={key: _inside_tree(value) for key, value in fetch.environment.items()},
            epoch=EPOCH,
            limits=_LIMITS,
        )
        mounts = [(str(shared), FOLDER, True), *((folder, folder, True) for folder in settings.folders)]
        with RecordingProxy(shared / "proxy.sock", allowed=fetch.hosts) as proxy:
            try:
                result = run_step(
                    engine,
                    run,
                    store,
                    observer,
                    scratch=scratch,
                    extra_mounts=tuple(mounts),
                    extra_environment=settings.environment,
                )
            except StepFailure as error:
                if proxy.transcript.refused:
                    refused = ", ".join(proxy.transcript.refused)
                    message = (
                        f"fetch.{name} asked for {refused}, which its hosts do not allow; then it failed"
                    )
                    raise HostRefused(message, hint="add it to hosts if it belongs there") from error
                raise
        transcript = proxy.transcript
    tree = result.outputs.under(_TREE)
    if not tree.entries:
        raise FetchEmpty(f"fetch.{name} wrote nothing to {{out}}")
    store.put([tree.to_json()])
    store.put([transcript.to_json()])
    return Fetched(tree=tree, transcript=transcript)


def _inside_tree(text: str) -> str:
    return text.replace("{out}", f"{{out}}/{_TREE}")


def lock_fetch(fetched: Fetched, key: str) -> LockedFetch:
    """Pin what a fetch gave."""
    return LockedFetch(
        key=key,
        tree=fetched.tree.digest.hex(),
        size=fetched.tree.size_bytes,
        transcript=sha256(fetched.transcript.to_json()).hex(),
    )


def load_fetch(
    name: str,
    locked: LockedFetch,
    *,
    store: FolderStore,
    observer: Observer,
    again: Callable[[], Fetched],
) -> Tree:
    """Find the tree that the lock pins; fetch it again when the store does not have it.

    Args:
        name: the fetch's name.
        locked: what the lock pins.
        store: is asked first.
        observer: hears that it is fetched again.
        again: runs the fetch.

    Raises:
        FetchChanged: RVP-1502. And as `run_fetch`.
    """
    tree = load_tree(locked.tree, store)
    if tree is not None:
        return tree
    observer(Note(text=f"fetch.{name} is not in this store: fetching it again"))
    fetched = again()
    if fetched.tree.digest.hex() != locked.tree:
        raise FetchChanged(
            f"fetch.{name} gave another tree than the one that the lock pins\n"
            f"  expected {locked.tree}\n  got      {fetched.tree.digest.hex()}",
            hint=f"pin exact versions in what it reads, or take the new one: rvp lock --upgrade fetch.{name}",
        )
    return fetched.tree
