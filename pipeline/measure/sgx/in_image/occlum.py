"""What of an Occlum instance MRENCLAVE covers: the libOS, and in it the MAC of a configuration.

    MRENCLAVE ─ covers ─▶ section .builtin_config ─ MAC of ─▶ build/.Occlum_sys.json.protected
                                                                 │ MAC of each
                                                                 ▼
                              build/initfs/__ROOT/metadata, build/mount/__ROOT/metadata (SEFS)

Each MAC is recomputed from what lies in the image. They are no digests (`protected_file`): a chain that
agrees is shown with a warning, since it finds damage, not an adversary.

Source: occlum/occlum 690d5dbf, tools/occlum_build.mk, tools/gen_internal_conf, src/libos/src/config.rs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from pipeline.measure.image_files import FoundFile, ImageFiles
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.in_image.protected_file import (
    BadProtectedFile,
    ProtectedFile,
    parse_mac,
    read_protected_file,
)
from provenance.claims import Check
from provenance.errors import RvpError, UsageError
from provenance.strict import parse_json

SECTION: Final = ".builtin_config"
_MAX_SECTION: Final = 4096
_MAX_FILE: Final = 64 << 20
_CONFIGS: Final = (".Occlum_sys.json.protected", ".Occlum.json.protected", "Occlum.json.protected")
_SOURCE: Final = "occlum, tools/occlum_build.mk"
_FORGED: Final = (
    "the MACs are AES-GMAC under a key of zeros that everybody knows: who writes the image can make other "
    "content with the same MAC"
)


class _Mount(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    target: str
    source: str
    mac: bytes | None


def is_occlum(path: Path) -> bool:
    """Tell whether an enclave is Occlum's libOS."""
    data = map_file(path)
    try:
        return bytes(data[:4]) == b"\x7fELF" and Elf(data).section(SECTION) is not None
    except RvpError:
        return False


def occlum_checks(files: ImageFiles, file: FoundFile, path: Path) -> tuple[Check, ...]:
    """Check the chain from the enclave to the file systems of the instance that it belongs to.

    Args:
        files: of the image.
        file: the enclave in it.
        path: of its copy.
    """
    mac = _built_in(path)
    if mac is None:
        return (_unbound("this is Occlum's libOS as it is installed: no configuration is bound to it"),)
    instance = PurePosixPath(file.path).parent.parent.parent
    found, where = _configuration(files, instance, mac)
    if found is None:
        check = Check(
            id="occlum-config",
            status="skipped",
            expected=mac.hex("-"),
            got=f"the image has none of {', '.join(_CONFIGS)} below {instance / 'build'}",
            source=_SOURCE,
        )
        return (check, _unbound("the configuration that MRENCLAVE names is not in the image"))
    if isinstance(found, str) or found.mac != mac:
        got = found if isinstance(found, str) else f"{found.mac.hex('-')} of {where}"
        check = Check(
            id="occlum-config",
            status="failed",
            expected=mac.hex("-"),
            got=got,
            source=_SOURCE,
            hint="the instance will not start: the image was changed after `occlum build`",
            code=BadProtectedFile.code,
        )
        return (check, _unbound("the configuration in the image is not the one that MRENCLAVE names"))
    config = Check(
        id="occlum-config",
        status="passed",
        expected=mac.hex("-"),
        got=f"{mac.hex('-')}, recomputed from {where}",
    )
    if found.content is None:
        return (config, _unbound("the configuration is encrypted: what it binds cannot be seen"))
    mounts = list(_mounts(parse_json(found.content, name=where)))
    systems = _file_systems(files, instance, mounts)
    return (config, systems, _unbound(_open_ends(mounts)))


def _unbound(what: str) -> Check:
    return Check(
        id="binds-application",
        status="warning",
        expected="MRENCLAVE covers all that runs",
        got=what,
        source=_SOURCE,
        hint="verify the image digest as well",
    )


def _built_in(path: Path) -> bytes | None:
    """Read the MAC in the enclave; None when it is not there, or where MRENCLAVE does not cover it."""
    elf = Elf(map_file(path))
    section = elf.section(SECTION)
    if section is None or section.size > _MAX_SECTION:
        return None
    try:
        if elf.file_offset(section.address, section.size) != section.offset:
            return None
    except UsageError:  # not loaded, so not measured
        return None
    text = bytes(elf.bytes_at(section.offset, section.size, SECTION))
    return parse_mac(text.decode("latin-1"))


def _configuration(
    files: ImageFiles, instance: PurePosixPath, mac: bytes
) -> tuple[ProtectedFile | str | None, str]:
    """Find the configuration: the one with the MAC, else the first; a text says what is wrong with it."""
    first: tuple[ProtectedFile | str | None, str] = (None, "")
    for name in _CONFIGS:
        where = str(instance / "build" / name)
        if not files.exists(where):
            continue
        try:
            found: ProtectedFile | str = read_protected_file(
                files.read(files.find(where), limit_bytes=_MAX_FILE), name=where
            )
        except BadProtectedFile as error:
            found = f"{where}: {error.message}"
        if isinstance(found, ProtectedFile) and found.mac == mac:
            return found, where
        if first[0] is None:
            first = (found, where)
    return first


def _mounts(value: Any) -> Iterator[_Mount]:
    """Find every mount of the configuration, layers of a union included."""
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and isinstance(value.get("target"), str):
            options = value.get("options")
            text = options.get("MAC") if isinstance(options, dict) else None
            yield _Mount(
                kind=kind,
                target=value["target"],
                source=str(value.get("source", "")),
                mac=parse_mac(text) if isinstance(text, str) else None,
            )
        for inner in value.values():
            yield from _mounts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mounts(inner)


def _file_systems(files: ImageFiles, instance: PurePosixPath, mounts: list[_Mount]) -> Check:
    failed, passed, skipped = [], [], []
    for one in mounts:
        if one.kind != "sefs" or one.mac is None:
            continue
        where = str(instance / one.source / "metadata")
        if not files.exists(where):
            skipped.append(f"{where} is not in the image")
            continue
        try:
            found = read_protected_file(files.read(files.find(where), limit_bytes=_MAX_FILE), name=where)
        except UsageError as error:
            failed.append(f"{where}: {error.message}")
            continue
        if found.mac != one.mac:
            failed.append(f"{where} has {found.mac.hex('-')}, the configuration states {one.mac.hex('-')}")
        elif found.content is None:
            skipped.append(
                f"{where} is encrypted: its MAC is the one stated, and cannot be recomputed without the key"
            )
        else:
            passed.append(f"{where} {found.mac.hex('-')}")
    status = "failed" if failed else "skipped" if skipped or not passed else "passed"
    return Check(
        id="occlum-file-systems",
        status=status,  # type: ignore[arg-type]  # one of the literals
        expected="every file system has the MAC that the configuration states",
        got="; ".join((*failed, *skipped, *passed)) or "the configuration states no MAC",
        source=_SOURCE,
        hint="the instance will not start: the image was changed after `occlum build`" if failed else "",
        code=BadProtectedFile.code if failed else "",
    )


def _open_ends(mounts: list[_Mount]) -> str:
    """Say what the configuration leaves open, and what its MACs are worth."""
    told = [_FORGED, "of the file systems only the metadata was recomputed"]
    host = sorted({f"{one.source} at {one.target}" for one in mounts if one.kind == "hostfs"})
    if host:
        told.append(f"folders of the host are mounted, nothing of them is bound: {', '.join(host[:8])}")
    bare = sorted({one.source for one in mounts if one.kind == "sefs" and one.mac is None and one.source})
    if bare:
        told.append(f"file systems without a MAC (written while it runs): {', '.join(bare[:8])}")
    return "; ".join(told)
