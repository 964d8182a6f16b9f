"""What our look into an image sees is what an engine makes of it: every file, link and folder."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.measure.image_files import FoundFile, ImageFiles, open_image_files
from tests.fakes.images import (
    EXPECTED,
    TRICKY,
    Member,
    file,
    folder,
    hard_link,
    layer,
    saved_files,
    symlink,
    write_archive,
)

pytestmark = pytest.mark.docker
# What an engine puts into every container.
OF_THE_ENGINE = {
    ".dockerenv",
    "dev",
    "proc",
    "sys",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/mtab",
}
Seen = dict[str, tuple[str, bytes]]


def seen_by_engine(engine: Engine, path: Path) -> Seen:
    """Load the image, make a container of it, export that; nothing runs."""
    with path.open("rb") as stream:
        (image,) = engine.client.images.load(stream)
    try:
        container = engine.client.containers.create(image.id, command=["/nothing"], labels={"rvp": "test"})
        try:
            data = b"".join(container.export())
        finally:
            container.remove(force=True)
    finally:
        engine.client.images.remove(image.id, force=True)
    found: Seen = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = member.name.strip("/")
            if member.issym():
                found[name] = ("symlink", os.fsencode(member.linkname))
            elif member.isdir():
                found[name] = ("folder", b"")
            elif member.isfile() or member.islnk():
                content = tar.extractfile(member)
                found[name] = ("file", content.read() if content else b"")
    return without_the_engines(found)


def without_the_engines(found: Seen) -> Seen:
    return {
        name: value
        for name, value in found.items()
        if name not in {"", "."} | OF_THE_ENGINE | {"etc"} and name.partition("/")[0] not in OF_THE_ENGINE
    }


def seen_by_us(files: ImageFiles) -> Seen:
    found: Seen = {}
    for entry in files.entries():
        name = os.fsdecode(entry.path)
        if entry.kind == "file":
            found[name] = ("file", files.read(FoundFile(path=name, entry=entry)))
        else:
            found[name] = (entry.kind, entry.target)
    return without_the_engines(found)


def each_once(data: bytes) -> bytes:
    """Leave out what a later member of the layer replaces: this engine refuses names that stand twice."""
    members: dict[str, Member] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for one in tar:
            content = tar.extractfile(one) if one.isreg() else None
            members[one.name] = (one, content.read() if content else b"")
    return layer(*members.values())


def test_the_engine_sees_the_files_of_a_tricky_image(docker_engine: Engine, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "i.tar", saved_files([*map(each_once, TRICKY)]))
    theirs = seen_by_engine(docker_engine, path)
    with open_image_files(path) as files:
        assert seen_by_us(files) == theirs
    regular = {f"/{name}" for name, (kind, _) in theirs.items() if kind == "file"}
    assert regular == {name for name, data in EXPECTED.items() if data is not None and name in regular}


def random_layer(chance: random.Random, number: int) -> bytes:
    """Write a layer that adds, replaces, links and hides, and in which nothing contradicts itself."""
    members: list[Member] = []
    kinds: dict[str, str] = {}
    hidden: set[str] = set()
    for _ in range(chance.randrange(3, 16)):
        name = "/".join(chance.choices("abc", k=chance.randrange(1, 4)))
        what = chance.choice(["file", "file", "file", "folder", "symlink", "link", "hide", "opaque"])
        if what == "symlink":
            name += "-link"
        parents = ["/".join(name.split("/")[:at]) for at in range(1, name.count("/") + 1)]
        below = [one for one in (*kinds, *hidden) if one.startswith(f"{name}/")]
        if name in kinds or hidden & {name, *parents} or below:
            continue
        if any(kinds.get(one, "folder") != "folder" for one in parents):
            continue
        regular = [one for one, kind in kinds.items() if kind == "file"]
        if what == "hide":
            members.append(file("/".join((*name.split("/")[:-1], f".wh.{name.split('/')[-1]}"))))
            hidden.add(name)
            continue
        if what == "link" and regular:
            members.append(hard_link(name, chance.choice(regular)))
        elif what == "symlink":
            members.append(symlink(name, chance.choice(["a", "../b", "/c/a", "nowhere"])))
        elif what in {"folder", "opaque"}:
            members += [folder(name), *([file(f"{name}/.wh..wh..opq")] if what == "opaque" else [])]
        else:
            what = "file"
            members.append(file(name, f"{number} {name}".encode()))
        kinds[name] = "folder" if what == "opaque" else what
    return layer(*members)


@pytest.mark.parametrize("part", range(4))
def test_the_engine_sees_the_files_of_random_images(docker_engine: Engine, tmp_path: Path, part: int) -> None:
    for seed in range(part * 10, part * 10 + 10):
        chance = random.Random(seed)
        layers = [layer(folder("a"), file("a/a", b"base")), *(random_layer(chance, n) for n in range(3))]
        path = write_archive(tmp_path / f"{seed}.tar", saved_files(layers))
        with open_image_files(path) as files:
            assert seen_by_us(files) == seen_by_engine(docker_engine, path), f"seed {seed}"
