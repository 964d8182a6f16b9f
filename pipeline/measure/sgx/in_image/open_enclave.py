"""What an Open Enclave file or an EGo program is linked with, looked up in its image.

A shared object lies in the folder of the file that needs it. EGo's runtime lies beside the program or, in
images that are made of EGo's, in /opt/ego/share, where its loader takes it from. Never from where this
machine has EGo installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.measure.image_files import FoundFile, ImageFiles
from pipeline.measure.sgx.elf import BadElf, Elf, map_file
from pipeline.measure.sgx.open_enclave.ego import RUNTIME_NAME, is_ego_file
from pipeline.measure.sgx.open_enclave.image import LoadedImage
from pipeline.measure.sgx.open_enclave.link import needed_name
from pipeline.measure.sgx.open_enclave.properties import BadOpenEnclave
from pipeline.measure.sgx.open_enclave.sign import is_open_enclave

_RUNTIME: Final = f"/opt/ego/share/{RUNTIME_NAME}"
_OURS: Final = frozenset({"enclave", "enclave.sig", "enclave.manifest.sgx", "libpal.so", RUNTIME_NAME})


def runtime_of(
    files: ImageFiles, path: Path, inside: str, given: Path | None
) -> tuple[str, FoundFile] | None:
    """Find the runtime of an EGo program: beside it, else where EGo is installed in the image.

    Args:
        files: of the image.
        path: of the program's copy.
        inside: its path in the image.
        given: a runtime that the user named; then none is looked up.

    Returns:
        What to call the copy, and the file.
    """
    if given is not None or not is_ego_file(path):
        return None
    for place in (f"{_folder(inside)}/{RUNTIME_NAME}", _RUNTIME):
        if files.exists(place):
            return RUNTIME_NAME, files.find(place)
    return None


def module_of(files: ImageFiles, path: Path, inside: str, given: Path | None) -> tuple[str, FoundFile] | None:
    """Find the shared object that an enclave, or the runtime beside it, is linked with; as `runtime_of`."""
    folder = _folder(inside)
    if is_ego_file(path):
        runtime = path.with_name(RUNTIME_NAME)
        if given is not None or not runtime.is_file():
            return None
        beside = f"{folder}/{RUNTIME_NAME}"
        path, folder = runtime, folder if files.exists(beside) else _folder(_RUNTIME)
    if not is_open_enclave(path):
        return None
    try:
        name = needed_name(LoadedImage(Elf(map_file(path), name=inside)))
    except (BadElf, BadOpenEnclave):  # the enclave's reader says what is wrong
        return None
    if not name or name in _OURS or not files.exists(f"{folder}/{name}"):
        return None
    return name, files.find(f"{folder}/{name}")


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
