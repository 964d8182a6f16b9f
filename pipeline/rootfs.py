"""Root filesystems in an engine: imported from the store, checked by content, and what they can do.

An engine's image id depends on dates; the diff id of its single layer does not: it is the SHA-256 of the
uncompressed tar, which is the digest of the rootfs. It is compared before the first use of every process.

`facts_of` looks once for what the variations need inside (a shell, setarch, libfaketime, a locale) and for
the user table; the answer is a record of the store.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final

import msgspec

from pipeline.client_identity import own_labels
from pipeline.engine import Engine
from pipeline.step_run import Rootfs
from pipeline.store import FolderStore
from provenance.canonical import canonical_json
from provenance.digest import CHUNK_BYTES, sha256
from provenance.errors import EnvironmentFailure

LABEL: Final = "rvp.rootfs"
_FACTS_RECORD: Final = "rootfs-facts-v1"
_SMALL_BYTES: Final = 4 << 20

_SHELLS: Final = ("/bin/sh", "/usr/bin/sh")
_SETARCH: Final = ("/usr/bin/setarch", "/bin/setarch")
_FAKETIME: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)
_LOCALES: Final = ("fr_FR.utf8", "tr_TR.utf8", "de_DE.utf8", "fr_CH.utf8", "en_US.utf8", "en_GB.utf8")
_LOCALE_FOLDERS: Final = ("/usr/lib/locale", "/usr/share/locale")


class RootfsMismatch(EnvironmentFailure):
    """The engine's copy of a root filesystem is not the one that the lock pins.

    Cure: remove the image that the message names from the engine; the next run loads it again.
    """

    code = "RVP-2010"


class RootfsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a root filesystem holds that a step's environment depends on; empty text: it has none.

    Attributes:
        passwd, group: its user tables.
        shell, setarch, faketime: paths of a POSIX shell, of util-linux's setarch, of libfaketime.so.1.
        locale: name of an installed locale that is neither C nor POSIX.
        locale_path: the folder that it lies in, for LOCPATH.
    """

    passwd: str = ""
    group: str = ""
    shell: str = ""
    setarch: str = ""
    faketime: str = ""
    locale: str = ""
    locale_path: str = ""


def image_digest(diff_ids: Iterable[str]) -> bytes:
    """Return the digest of a container image's root filesystem.

    Args:
        diff_ids: `sha256:<hex>` of each uncompressed layer, lowest first.
    """
    return sha256(canonical_json(list(diff_ids)))


def load_rootfs(engine: Engine, rootfs: Rootfs, store: FolderStore) -> str:
    """Make sure that the engine has a root filesystem; return the reference of its image.

    Raises:
        RootfsMismatch: RVP-2010. EngineRefused: RVP-2004. EngineGone: RVP-2003.

    Cost: one request when the engine has it; otherwise one pass over the tar, streamed.
    """
    with engine.lock:
        if rootfs.digest in engine.images:
            return engine.images[rootfs.digest]
        with engine.speaking("load a root filesystem"):
            reference, image = _find(engine, rootfs)
            if image is None:
                _bring(engine, rootfs, reference, store)
                image = engine.api.inspect_image(reference)
        _check(image, rootfs, reference)
        variables = (image.get("Config") or {}).get("Env") or []
        engine.image_environment[rootfs.digest] = tuple(text.partition("=")[0] for text in variables)
        engine.images[rootfs.digest] = reference
        return reference


def _find(engine: Engine, rootfs: Rootfs) -> tuple[str, dict[str, Any] | None]:
    import docker.errors

    reference = rootfs.image or f"rvp-rootfs:{rootfs.digest.hex()}"
    try:
        return reference, engine.api.inspect_image(reference)
    except docker.errors.ImageNotFound:
        return reference, None


def _bring(engine: Engine, rootfs: Rootfs, reference: str, store: FolderStore) -> None:
    if rootfs.image:
        for line in engine.api.pull(rootfs.image, stream=True, decode=True):
            _refuse_error(line, f"pull {rootfs.image}", engine)
        return
    repository, _, tag = reference.partition(":")
    with store.get(rootfs.tar) as content:
        answer = engine.api.import_image_from_data(
            _Chunks(content),
            repository=repository,
            tag=tag,
            changes=[f"LABEL {LABEL}={rootfs.digest.hex()}"],
        )
    for line in str(answer).splitlines():
        if line.strip():
            _refuse_error(msgspec.json.decode(line), "import a root filesystem", engine)


class _Chunks:
    """An iterable body: requests sends it chunked, without reading it into memory."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._content.read(CHUNK_BYTES):
            yield chunk


def _refuse_error(line: Any, what: str, engine: Engine) -> None:
    if isinstance(line, dict) and line.get("error"):
        from pipeline.engine import EngineRefused

        raise EngineRefused(f"{what}: {line['error']}", place=engine.url)


def _check(image: dict[str, Any], rootfs: Rootfs, reference: str) -> None:
    layers = (image.get("RootFS") or {}).get("Layers") or []
    if rootfs.image:
        found, wanted = image_digest(layers).hex(), rootfs.digest.hex()
    else:
        found, wanted = ",".join(layers), f"sha256:{rootfs.digest.hex()}"
    if found != wanted:
        raise RootfsMismatch(
            f"the engine's image {reference} has {found or 'no layer'}, the lock pins {wanted}",
            hint=f"docker image rm {reference}",
        )


def facts_of(engine: Engine, rootfs: Rootfs, reference: str, store: FolderStore) -> RootfsFacts:
    """Find out what a root filesystem holds; once for each store.

    Cost: one record; the first time, a container that never starts and some twenty requests.
    """
    recorded = store.recorded(_FACTS_RECORD, rootfs.digest)
    if recorded is None:
        with engine.speaking("look into a root filesystem"):
            facts = _probe(engine, reference)
        recorded = store.record(_FACTS_RECORD, rootfs.digest, msgspec.json.encode(facts))
    return msgspec.json.decode(recorded, type=RootfsFacts)


def _probe(engine: Engine, reference: str) -> RootfsFacts:
    config = {
        "Image": reference,
        "Entrypoint": ["/rvp-never-started"],
        "Labels": own_labels("probe"),
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none"},
    }
    container = engine.api.create_container_from_config(config)["Id"]
    engine.containers.add(container)
    try:
        locale_path, locale = next(
            (
                (folder, name)
                for folder in _LOCALE_FOLDERS
                for name in _LOCALES
                if _read(engine, container, f"{folder}/{name}/LC_CTYPE") is not None
            ),
            ("", ""),
        )
        return RootfsFacts(
            passwd=(_read(engine, container, "/etc/passwd") or b"").decode("utf-8", "replace"),
            group=(_read(engine, container, "/etc/group") or b"").decode("utf-8", "replace"),
            shell=_first(engine, container, _SHELLS),
            setarch=_first(engine, container, _SETARCH),
            faketime=_first(engine, container, _FAKETIME),
            locale=locale,
            locale_path=locale_path,
        )
    finally:
        engine.remove(container)


def _first(engine: Engine, container: str, paths: tuple[str, ...]) -> str:
    return next((path for path in paths if _read(engine, container, path) is not None), "")


def _read(engine: Engine, container: str, path: str) -> bytes | None:
    """Read a small file out of a container; a link gives its target's name; None when it is not there."""
    import docker.errors

    try:
        stream, _ = engine.api.get_archive(container, path)
    except docker.errors.NotFound:
        return None
    data = bytearray()
    for chunk in stream:
        if len(data) < _SMALL_BYTES:
            data += chunk
    try:
        with tarfile.open(fileobj=io.BytesIO(bytes(data)), mode="r:") as archive:
            member = archive.next()
            if member is None:
                return None
            content = archive.extractfile(member) if member.isreg() else None
            return content.read() if content is not None else member.linkname.encode()
    except tarfile.TarError:
        return None
