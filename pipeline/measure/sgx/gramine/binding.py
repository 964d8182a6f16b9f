r"""What a Gramine manifest leaves open: whether MRENCLAVE binds the application, and what it does not.

Trusted files are in the manifest by their SHA-256, and the manifest is measured: MRENCLAVE binds them. Each
option that lets the host choose what runs, or what it reads at start, is named; one is enough for a warning.

Source: Gramine, `Documentation/manifest-syntax.rst`.

Example:
    >>> from pipeline.measure.sgx.gramine.manifest import read_manifest
    >>> manifest = read_manifest(b'libos.entrypoint = "/app"\nsgx.allowed_files = ["file:plugins/"]')
    >>> binding_check(manifest).status
    'warning'
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipeline.measure.sgx.gramine.manifest import GramineManifest
from provenance.claims import Check

_INSECURE: Final = "insecure__"
_MAX_NAMED: Final = 8  # files of one option; the rest is counted
_MAX_TEXT: Final = 120
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


def binding_check(manifest: GramineManifest) -> Check:
    """Check that the manifest binds what runs in the enclave; a warning names what it leaves open."""
    trusted = trusted_files(manifest)
    open_ends = list(_open_ends(manifest, trusted))
    hashed = sum(1 for digest in trusted.values() if digest)
    expected = "everything that runs is named by its SHA-256 in the manifest, which is measured"
    if not open_ends:
        return Check(
            id="binds-application",
            status="passed",
            expected=expected,
            got=f"{hashed} trusted files, {_entrypoint(manifest) or 'no entrypoint'}",
            source="Gramine manifest syntax",
        )
    return Check(
        id="binds-application",
        status="warning",
        expected=expected,
        got="; ".join(open_ends),
        source="Gramine manifest syntax",
        hint="MRENCLAVE is equal whatever these are: bind them (sgx.trusted_files, loader.argv, loader.env), "
        "or let the verifier know that they are open",
    )


def trusted_files(manifest: GramineManifest) -> dict[str, str]:
    """Give the trusted files: normalised path to SHA-256; an empty one is not hashed (a signer does that)."""
    found: dict[str, str] = {}
    for entry in _entries(manifest.sgx.get("trusted_files")):
        uri, digest = (entry.get("uri"), entry.get("sha256")) if isinstance(entry, dict) else (entry, "")
        if isinstance(uri, str):
            good = isinstance(digest, str) and _SHA256.match(digest) is not None
            found[_path(uri)] = str(digest).lower() if good else ""
    return found


def _open_ends(manifest: GramineManifest, trusted: dict[str, str]) -> Iterator[str]:
    sgx = manifest.sgx
    if sgx.get("debug") is True:
        yield "sgx.debug: the host reads and changes the memory"
    if sgx.get("file_check_policy", "strict") != "strict":
        yield f"sgx.file_check_policy = {_shown(sgx['file_check_policy'])}: opens files that nobody hashed"
    allowed = [_shown(one) for one in sorted(_entries(sgx.get("allowed_files")), key=_reaches(trusted))]
    if allowed:
        yield f"sgx.allowed_files: {_listed(allowed)}"
    unhashed = [_shown(path) for path, digest in trusted.items() if not digest]
    if unhashed:
        yield f"sgx.trusted_files without a sha256: {_listed(unhashed)}"
    for table in ("loader", "libos", "sys", "fs", "sgx"):
        found = manifest.table.get(table)
        for key, value in found.items() if isinstance(found, dict) else ():
            if key.startswith(_INSECURE) and value not in (False, 0, "", [], {}):
                yield f"{table}.{_shown(key)}"
    yield from _loader(manifest, trusted)
    yield from _mounts(manifest)
    yield from _executable(manifest, trusted)


def _reaches(trusted: dict[str, str]) -> Callable[[object], bool]:
    """Sort folders that hold trusted files before the rest: there a file can be put beside them."""
    folders = {parent + "/" for path in trusted for parent in _parents(path)}
    return lambda uri: f"{_path(str(uri)).rstrip('/')}/" not in folders


def _parents(path: str) -> Iterator[str]:
    while "/" in path.strip("/"):
        path = posixpath.dirname(path.rstrip("/"))
        yield path


def _loader(manifest: GramineManifest, trusted: dict[str, str]) -> Iterator[str]:
    loader = manifest.table.get("loader")
    if not isinstance(loader, dict):
        return
    env = loader.get("env")
    passed = [
        _shown(name)
        for name, value in (env.items() if isinstance(env, dict) else ())
        if isinstance(value, dict) and value.get("passthrough") is True
    ]
    if passed:
        yield f"loader.env with passthrough: {_listed(passed)}"
    for key in ("argv_src_file", "env_src_file"):
        uri = loader.get(key)
        if isinstance(uri, str) and uri and _path(uri) not in trusted:
            yield f"loader.{key}: {_shown(uri)} is not a trusted file"
    # The LibOS: a table with its own hash since 1.8; before that a URI, or the first of loader.preload
    library = loader.get("entrypoint") or loader.get("preload")
    if isinstance(library, dict):
        digest = library.get("sha256")
        if not isinstance(digest, str) or not _SHA256.match(digest):
            yield "loader.entrypoint: the LibOS has no sha256"
    elif isinstance(library, str):
        for uri in library.split(","):
            if _path(uri) not in trusted:
                yield f"loader.entrypoint: {_shown(uri)} is not a trusted file"


def _mounts(manifest: GramineManifest) -> Iterator[str]:
    shared = [
        _shown(mount.get("path", "/"))
        for mount in _all_mounts(manifest)
        if mount.get("type") == "untrusted_shm"
    ]
    if shared:
        yield f"fs.mounts of type untrusted_shm: {_listed(shared)}"


def _executable(manifest: GramineManifest, trusted: dict[str, str]) -> Iterator[str]:
    """Follow libos.entrypoint through the mounts to the file on the host, which must be trusted."""
    entrypoint = _entrypoint(manifest)
    if not entrypoint:
        yield "libos.entrypoint is missing: the host names what runs"
        return
    kind, path = _on_host(manifest, entrypoint)
    if kind != "chroot":
        yield f"libos.entrypoint {_shown(entrypoint)} lies on a mount of type {_shown(kind)}"
    elif path not in trusted and not _in_trusted_folder(path, trusted):
        yield f"libos.entrypoint {_shown(entrypoint)} ({_shown(path)} on the host) is not a trusted file"


def _in_trusted_folder(path: str, trusted: dict[str, str]) -> bool:
    """Tell whether a folder above is trusted: that one is named already, for a folder has no hash."""
    return any(folder.endswith("/") and path.startswith(folder) for folder in trusted)


def _on_host(manifest: GramineManifest, entrypoint: str) -> tuple[str, str]:
    """Give the kind of the mount that a path lies on, and the path on the host."""
    if entrypoint.startswith("file:"):  # a URI, in the first releases
        return "chroot", _path(entrypoint)
    fs = manifest.table.get("fs")
    start = fs.get("start_dir", "/") if isinstance(fs, dict) else "/"
    path = posixpath.normpath(posixpath.join("/", str(start), entrypoint))
    root = fs.get("root") if isinstance(fs, dict) else None
    best: dict[str, Any] = root if isinstance(root, dict) else {}
    length = 0
    for mount in _all_mounts(manifest):
        at = mount.get("path")
        if not isinstance(at, str):
            continue
        at = posixpath.normpath(at)
        inside = at in {path, "/"} or path.startswith(at + "/")
        if inside and len(at) >= length:  # of equal ones the later is mounted over the earlier
            best, length = mount, len(at)
    kind = best.get("type", "chroot")
    uri = best.get("uri", "file:.")
    rest = path[length:].lstrip("/") if length > 1 else path.lstrip("/")
    host = _path(str(uri))
    return str(kind), posixpath.normpath(posixpath.join(host, rest)) if rest else host


def _all_mounts(manifest: GramineManifest) -> list[dict[str, Any]]:
    fs = manifest.table.get("fs")
    if not isinstance(fs, dict):
        return []
    found = [*_entries(fs.get("mount")), *_entries(fs.get("mounts"))]  # `fs.mount.NAME` until 1.2
    return [one for one in found if isinstance(one, dict)]


def _entrypoint(manifest: GramineManifest) -> str:
    libos = manifest.table.get("libos")
    value = libos.get("entrypoint") if isinstance(libos, dict) else None
    return value if isinstance(value, str) else ""


def _entries(value: object) -> list[Any]:
    """Give the entries of an array, or of a table of names as the first releases wrote it."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _path(uri: str) -> str:
    """Normalise a `file:` URI; a folder keeps its slash at the end."""
    path = uri.strip().removeprefix("file:")
    tail = "/" if path.endswith("/") else ""
    return posixpath.normpath(path).rstrip("/") + tail if path else ""


def _shown(value: object) -> str:
    text = "".join(letter if letter.isprintable() else "�" for letter in str(value)[: _MAX_TEXT + 1])
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
