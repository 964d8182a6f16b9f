"""Measure a container image: manifest, configuration, diff ids; every digest in it is checked.

Nothing is unpacked. The diff ids are computed from the layers (uncompressed), and compared with those that
the configuration states.

Units: digests are SHA-256 of bytes as stored (manifest, config), of the uncompressed tar (diff ids).
Source: OCI image-spec v1.1.
Cost: one pass over every blob; constant memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.measure.image_layer import LayerReader
from pipeline.measure.image_manifest import ImageParts, images_of
from pipeline.measure.image_room import BadImage, open_room
from pipeline.measure.measured import Measured, MeasureOptions
from provenance.claims import Check, ClaimValue, Measurement, Subject
from provenance.digest import sha256_file


def measure_image(path: Path, options: MeasureOptions) -> Measured:
    """Measure every image of a layout or an archive.

    Raises:
        BadImage: RVP-5101. ImageDigestMismatch: RVP-5102, for a blob of another size.
    """
    name = options.name or path.name
    measurements = []
    with open_room(path) as room:
        images = images_of(room, str(path))
        for one in images:
            readers = [LayerReader(room, layer, str(path)) for layer in one.layers]
            for reader in readers:
                try:
                    for _ in reader.chunks():
                        pass
                except BadImage as error:
                    reader.refuse(error)
            diff_ids = [reader.diff_id for reader in readers]
            checks = one.check_layers([reader.stored for reader in readers], diff_ids)
            title = name if len(images) == 1 else f"{name} ({one.name})"
            measurements.append(image_measurement(one, path, title, diff_ids, checks))
    return Measured(measurements=tuple(measurements))


def image_measurement(
    image: ImageParts, path: Path, name: str, diff_ids: Sequence[str], checks: tuple[Check, ...]
) -> Measurement:
    """Write what was found of one image in the names of design section 5.

    Args:
        image: which one.
        path: where it lies; an archive is its own subject, of a folder it is the manifest.
        name: what to call it.
        diff_ids: as computed.
        checks: of its digests.
    """
    digest = image.manifest or image.config
    subject = Subject(
        name=name,
        digest={"sha256": digest.removeprefix("sha256:") if path.is_dir() else sha256_file(path).hex()},
    )
    claims: dict[str, ClaimValue] = {"config": image.config, "diff_ids": tuple(diff_ids)}
    if image.manifest:
        claims = {"manifest": image.manifest, **claims}
    return Measurement(tee="oci", subject=subject, claims=claims, checks=checks)
