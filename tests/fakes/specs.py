"""Small specs for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.graph import Leaves
from pipeline.sandbox import Rootfs
from pipeline.spec import Base, Project, Rebuild, Source, Spec, Step
from pipeline.store import FolderStore
from pipeline.tree import read_folder


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def make_spec(*steps: Step, measure=(), pack=(), times=2, vary=("time",)) -> Spec:
    return Spec(
        schema="rvp/spec/v1",
        project=Project(name="demo", version="1", source_date_epoch=1700000000),
        base={"t": Base(image="debian:12")},
        source={"app": Source(path="src")},
        step=steps,
        pack=pack,
        measure=measure,
        rebuild=Rebuild(times=times, vary=vary),
    )


def copy_step(id_: str, *needs: str, script: str = "", **more) -> Step:
    reads = " ".join("{" + need + "}/*" for need in needs)
    return Step(
        id=id_,
        base="t",
        needs=needs,
        run=shell(script or f"cat {reads} > {{out}}/{id_}"),
        outputs=(id_,),
        **more,
    )


def make_leaves(store: FolderStore, folder: Path, **files: str) -> Leaves:
    folder.mkdir(exist_ok=True)
    for name, text in (files or {"a": "A"}).items():
        (folder / name).write_text(text)
    return Leaves(
        rootfs={"base.t": Rootfs(digest=hashlib.sha256(b"t").digest())},
        trees={"source.app": read_folder(folder, store)},
        epoch=1700000000,
    )
