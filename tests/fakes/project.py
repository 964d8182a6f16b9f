"""Small projects on disk, locked, whose base is already in the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.base import LockedBase
from pipeline.leaves import keep_base
from pipeline.lock import LOCK_NAME, Lock, hash_local_files, spec_parts, write_lock
from pipeline.sandbox import Rootfs
from pipeline.spec import read_spec
from pipeline.store import FolderStore

HEAD = """\
schema = "rvp/spec/v1"

[project]
name = "demo"
version = "1"
source_date_epoch = 1700000000

[base.t]
image = "demo:1"

[source.app]
path = "src"

[rebuild]
times = 2
vary = ["time"]
"""


def step(id_: str, script: str, *needs: str, more: str = "") -> str:
    listed = ", ".join(f'"{need}"' for need in needs)
    return (
        f'\n[[step]]\nid = "{id_}"\nbase = "t"\nneeds = [{listed}]\noutputs = ["{id_}"]\n'
        f"run = ['sh', '-c', '''{script}''']\n{more}"
    )


def write_project(
    folder: Path,
    *steps: str,
    head: str = HEAD,
    store: FolderStore | None = None,
    rootfs: Rootfs | None = None,
) -> Path:
    """Write rvp.toml, rvp.lock and a source; put the base into the store."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    if not list((folder / "src").iterdir()):
        (folder / "src" / "a").write_text("A\n")
    (folder / "rvp.toml").write_text(head + "".join(steps))
    spec = read_spec(folder / "rvp.toml")
    locked = LockedBase(image=f"demo@sha256:{'11' * 32}")
    lock = Lock(parts=spec_parts(spec), base={"t": locked}, files=hash_local_files(spec, folder))
    write_lock(lock, folder / LOCK_NAME)
    rootfs = rootfs or Rootfs(digest=hashlib.sha256(b"t").digest(), image=locked.image)
    keep_base(locked, rootfs, store or FolderStore(folder / ".rvp" / "store"))
    return folder
