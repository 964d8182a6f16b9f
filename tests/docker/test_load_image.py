"""A real Docker engine loads what the image writer wrote, and sees the same digests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.measure import measure_file, require_passed
from pipeline.oci_writer import ImageConfig, ImageFile, write_image

pytestmark = pytest.mark.docker


def test_docker_load_takes_the_archive(docker_engine: Engine, tmp_path: Path) -> None:
    def held(path: str, data: bytes) -> ImageFile:
        return ImageFile(path=path, size_bytes=len(data), open=lambda: io.BytesIO(data), executable=True)

    config = ImageConfig(
        entrypoint=("/bin/tool",), labels={"rvp.test": "load"}, reference="rvp-test/load-image:1"
    )
    written = write_image(tmp_path / "i.tar", (held("/bin/tool", b"tool"),), config, epoch=1700000000)
    with (tmp_path / "i.tar").open("rb") as stream:
        (image,) = docker_engine.client.images.load(stream)
    try:
        assert image.id == f"sha256:{written.config.hex()}"
        assert image.tags == ["rvp-test/load-image:1"]
        assert image.attrs["RootFS"]["Layers"] == [f"sha256:{one.hex()}" for one in written.diff_ids]
        saved = tmp_path / "saved.tar"
        with saved.open("wb") as out:
            for chunk in image.save(named=True):
                out.write(chunk)
        (measurement,) = measure_file(saved).measurements
        require_passed((measurement,))
        assert measurement.claims["config"] == f"sha256:{written.config.hex()}"
        container = docker_engine.client.containers.create(image.id)
        try:
            chunks, _ = container.get_archive("/bin/tool")
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                member = archive.getmembers()[0]
        finally:
            container.remove()
        assert (member.size, member.mode & 0o777, int(member.mtime)) == (4, 0o755, 1700000000)
    finally:
        docker_engine.client.images.remove(image.id, force=True)
