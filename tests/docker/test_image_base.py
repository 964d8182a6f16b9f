"""A base from a registry: Debian's own registry, unpacked from its package, on a loopback port."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import build_rootfs, lock_base
from pipeline.base_image import ImageAbsent, diff_id_digest
from pipeline.sandbox import load_rootfs
from pipeline.spec import Base
from pipeline.store import FolderStore
from provenance.events import ignore

pytestmark = [pytest.mark.docker, pytest.mark.network]
CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    command = shutil.which("docker-registry")
    if command is None:
        subprocess.run(["apt-get", "download", "-qq", "docker-registry"], cwd=folder, check=True)
        package = next(folder.glob("docker-registry_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True)
        command = str(folder / "root/usr/bin/docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port))
    with subprocess.Popen(
        [command, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def push(engine: Any, name: str, text: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("etc/which")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    repository, _, tag = name.rpartition(":")
    engine.api.import_image_from_data(buffer.getvalue(), repository=repository, tag=tag)
    told = engine.client.images.push(repository, tag=tag)
    assert "error" not in told, told
    engine.client.images.remove(name, force=True)


def test_a_tag_is_locked_by_digest_and_stays_what_it_was_when_the_tag_moves(
    docker_engine: Any, registry: str, tmp_path: Path
) -> None:
    name = f"{registry}/team/base:1"
    base, store = Base(image=name), FolderStore(tmp_path)
    push(docker_engine, name, b"first")
    settings: Any = {"folder": tmp_path, "store": store, "observer": ignore, "engine": docker_engine}
    locked = lock_base("b", base, **settings)
    assert locked.image.startswith("team/base@sha256:")
    assert "127.0.0.1" not in repr(locked)
    docker_engine.client.images.remove(name, force=True)
    push(docker_engine, name, b"second")
    rootfs = build_rootfs(locked, base=base, **settings)
    try:
        assert rootfs.digest == diff_id_digest(locked.diff_ids)
        image = load_rootfs(docker_engine, rootfs, store)
        container = docker_engine.client.containers.create(image, ["/none"])
        try:
            data = b"".join(container.get_archive("/etc/which")[0])
        finally:
            container.remove()
        assert b"first" in data
        assert lock_base("b", base, **settings).image != locked.image
    finally:
        docker_engine.client.images.remove(rootfs.image, force=True)
        docker_engine.client.images.remove(name, force=True)


def test_an_image_that_the_registry_does_not_have_is_told(
    docker_engine: Any, registry: str, tmp_path: Path
) -> None:
    base = Base(image=f"{registry}/team/none:1")
    store = FolderStore(tmp_path)
    with pytest.raises(ImageAbsent, match="team/none"):
        lock_base("b", base, folder=tmp_path, store=store, observer=ignore, engine=docker_engine)
