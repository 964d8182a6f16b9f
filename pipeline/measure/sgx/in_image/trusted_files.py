"""The files that a Gramine manifest trusts, compared with those that lie in the image beside it.

MRENCLAVE covers the manifest, the manifest has the SHA-256 of each trusted file: Gramine refuses to open one
that differs. An image whose files differ from its manifest is not the one that was graminized.

Source: Gramine, manifest syntax, "Trusted files"; GSC, finalize_manifest.py.
Cost: one pass over the layers that hold trusted files; memory for their names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from pipeline.measure.image_files import FoundFile, ImageFiles
from pipeline.measure.measured import CheckFailed
from pipeline.measure.sgx.gramine.binding import trusted_files
from pipeline.measure.sgx.gramine.manifest import read_manifest
from provenance.claims import Check
from provenance.errors import UsageError

_MAX_FILES: Final = 200_000
_MAX_NAMED: Final = 8
_EMPTY: Final = hashlib.sha256(b"").hexdigest()


def trusted_files_check(files: ImageFiles, path: Path) -> Check:
    """Compare every trusted file with the manifest.

    Args:
        files: of the image.
        path: a copy of the manifest.

    Raises:
        BadGramineManifest: RVP-5041. ImageDigestMismatch: RVP-5102.
    """
    stated = trusted_files(read_manifest(path.read_bytes(), name=str(path)))
    hashed = {name: digest for name, digest in stated.items() if digest}
    wanted = {name: digest for name, digest in hashed.items() if name.startswith("/")}
    found: dict[str, FoundFile] = {}
    missing = []
    for name in sorted(wanted)[:_MAX_FILES]:
        try:
            found[name] = files.find(name)
        except UsageError:
            missing.append(name)
    digests = _hash(files, found)
    wrong = [name for name in sorted(found) if digests[name] != wanted[name]]
    unseen = [
        f"{count} {what}"
        for count, what in (
            (len(missing), f"not in the image ({_listed(missing)})"),
            (len(hashed) - len(wanted), "with relative paths, not looked up"),
            (len(stated) - len(hashed), "without a digest"),
            (max(len(wanted) - _MAX_FILES, 0), f"beyond the first {_MAX_FILES}, not looked up"),
        )
        if count
    ]
    if wrong:
        status, got = (
            "failed",
            f"{len(wanted) - len(missing) - len(wrong)} equal, {len(wrong)} differ: {_listed(wrong)}",
        )
    else:
        status, got = "warning" if unseen else "passed", f"{len(found)} equal"
    return Check(
        id="trusted-files",
        status=status,  # type: ignore[arg-type]  # one of the literals
        expected="every trusted file of the image has the digest that the manifest states",
        got="; ".join((got, *unseen)),
        source="sgx.trusted_files of the manifest",
        hint="Gramine refuses to open these: graminize and sign the image again" if wrong else "",
        code=CheckFailed.code if wrong else "",
    )


def _hash(files: ImageFiles, found: dict[str, FoundFile]) -> dict[str, str]:
    """Hash files; what several names share is hashed once."""
    places = {
        (file.entry.content_layer, file.entry.at): file for file in found.values() if file.entry.size_bytes
    }
    digests: dict[tuple[int, int], str] = {}
    current, running = (-1, -1), hashlib.sha256()

    def sink(file: FoundFile, piece: memoryview) -> None:
        nonlocal current, running
        place = (file.entry.content_layer, file.entry.at)
        if place != current:
            digests[current] = running.hexdigest()
            current, running = place, hashlib.sha256()
        running.update(piece)

    files.stream(places.values(), sink)
    digests[current] = running.hexdigest()
    return {
        name: digests[file.entry.content_layer, file.entry.at] if file.entry.size_bytes else _EMPTY
        for name, file in found.items()
    }


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
