"""What goes into a container: the inputs of a step, and the few files that rvp itself lays there.

Inputs are folders owned by root, 0644 and 0755, with SOURCE_DATE_EPOCH as the time of everything. A root
client mounts them read-only from checkouts that it keeps; any other client, and any client of a remote
engine, sends them as one archive.

A checkout is named after its content, made beside its place and renamed into it: two processes that make the
same one both succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.client_identity import PID, START_TIME, own_labels, start_time
from pipeline.rootfs import RootfsFacts
from pipeline.step_run import StepRun
from pipeline.store import FolderStore
from pipeline.tree import Tree, write_folder
from pipeline.variation import Environment
from provenance.digest import CHUNK_BYTES

_BLOCK: Final = 512  # of a tar
_ORDER_SOURCE: Final = "rvp-order"  # the source name of our tmpfs mounts, with pid and start time
_SEEN: Final[set[Path]] = set()  # checkouts that this process made or looked at
_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")


def checkout(tree: Tree, store: FolderStore, scratch: Path, *, epoch: int) -> Path:
    """Return a folder with the content of a tree; made once, then kept.

    One that somebody changed by hand (another size, mode or time of an entry, an entry more or less) is made
    again. It is no defence against somebody who may write there.

    Cost: one pass over the content the first time; a stat of each entry the first time in each process.
    """
    place = scratch / "checkouts" / f"{tree.digest.hex()}-{epoch}"
    if place in _SEEN and place.is_dir():
        return place
    if place.is_dir():
        if _is_untouched(place, tree, epoch):
            _SEEN.add(place)
            return place
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        write_folder(tree, store, temporary, epoch=epoch)
        with contextlib.suppress(OSError):  # somebody else was first: theirs is the same
            temporary.rename(place)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    _SEEN.add(place)
    return place


def _is_untouched(place: Path, tree: Tree, epoch: int) -> bool:
    """Tell whether a checkout has the entries of its tree, as `write_folder` left them."""
    folders = {place}
    for entry in tree.entries:
        path = place / entry.path
        folders.update(place / parent for parent in PurePosixPath(entry.path).parents)
        try:
            found = path.lstat()
            if entry.kind == "symlink":
                good = stat.S_ISLNK(found.st_mode) and os.readlink(path) == entry.target  # noqa: PTH115
            elif entry.kind == "dir":
                folders.add(path)
                good = stat.S_ISDIR(found.st_mode)
            else:
                mode = stat.S_IFREG | (0o755 if entry.executable else 0o644)
                good = (found.st_mode, found.st_size) == (mode, entry.size_bytes)
        except OSError:
            return False
        if not good or int(found.st_mtime) != epoch:
            return False
    # A folder's time changes with its entries, so that one more is seen without a list of all.
    return all(int(folder.lstat().st_mtime) == epoch for folder in folders)


def small_file(content: str, scratch: Path) -> Path:
    """Return a file with this content, for a bind mount; made once, then kept."""
    data = content.encode()
    place = scratch / "small" / hashlib.sha256(data).hexdigest()[:32]
    if not place.is_file() or place.read_bytes() != data:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        temporary.write_bytes(data)
        temporary.chmod(0o644)
        temporary.replace(place)
    return place


def passwd_of(facts: RootfsFacts, environment: Environment) -> tuple[str, str]:
    """Return /etc/passwd and /etc/group of the base, with the build user in them."""
    name, number = environment.user, environment.user_id
    users = [line for line in facts.passwd.splitlines() if not _is(line, name, number)]
    groups = [line for line in facts.group.splitlines() if not _is(line, name, number)]
    if not any(line.startswith("root:") for line in users):
        users.insert(0, "root:x:0:0:root:/root:/bin/sh")
    if not any(line.startswith("root:") for line in groups):
        groups.insert(0, "root:x:0:")
    users.append(f"{name}:x:{number}:{number}::{environment.home}:/bin/sh")
    groups.append(f"{name}:x:{number}:")
    return "\n".join(users) + "\n", "\n".join(groups) + "\n"


def _is(line: str, name: str, number: int) -> bool:
    fields = line.split(":")
    return len(fields) > 2 and (fields[0] == name or fields[2] == str(number))


def archive_of(
    run: StepRun, facts: RootfsFacts, environment: Environment, store: FolderStore, *, with_inputs: bool
) -> Iterator[bytes]:
    """Write the archive that is unpacked at / of a new container.

    It has the build root with {out} and {work}, the home, /tmp, the user tables; and the inputs, when they
    cannot be mounted.
    """
    epoch, user = run.epoch, environment.user_id
    root = environment.build_root.lstrip("/")
    passwd, group = passwd_of(facts, environment)
    yield from _parents(root, epoch)
    yield _folder(root, epoch)
    yield _folder(f"{root}/out", epoch, owner=user)
    yield _folder(f"{root}/work", epoch, owner=user)
    home = environment.home.lstrip("/")
    yield from _parents(home, epoch)
    yield _folder(home, epoch, owner=user)
    yield _folder("tmp", epoch, mode=0o1777)
    for path, text in (("etc/passwd", passwd), ("etc/group", group)):
        yield _header(path, epoch, size=len(text.encode()))
        yield from _padded(text.encode())
    if with_inputs:
        for one in run.inputs:
            yield from tree_archive(one.tree, f"{root}/{one.name}", store, epoch)
        if environment.tools:
            yield from tree_archive(run.rootfs.variation_tools, "rvp-variation", store, epoch)
    yield b"\0" * (2 * _BLOCK)


def tree_archive(tree: Tree, prefix: str, store: FolderStore, epoch: int) -> Iterator[bytes]:
    """Write the members of a tree below a prefix: root's, 0644 and 0755, one time."""
    folders = {prefix}
    yield _folder(prefix, epoch)
    for entry in tree.entries:
        for parent in reversed(PurePosixPath(entry.path).parents[:-1]):
            path = f"{prefix}/{parent}"
            if path not in folders:
                folders.add(path)
                yield _folder(path, epoch)
        path = f"{prefix}/{entry.path}"
        if entry.kind == "dir":
            folders.add(path)
            yield _folder(path, epoch)
        elif entry.kind == "symlink":
            yield _header(path, epoch, kind=tarfile.SYMTYPE, target=entry.target, mode=0o777)
        else:
            mode = 0o755 if entry.executable else 0o644
            yield _header(path, epoch, size=entry.size_bytes, mode=mode)
            with store.get(bytes.fromhex(entry.sha256)) as content:
                while chunk := content.read(CHUNK_BYTES):
                    yield chunk
            yield b"\0" * (-entry.size_bytes % _BLOCK)


def _parents(path: str, epoch: int) -> Iterator[bytes]:
    for parent in reversed(PurePosixPath(path).parents[:-1]):
        yield _folder(str(parent), epoch)


def _folder(path: str, epoch: int, *, owner: int = 0, mode: int = 0o755) -> bytes:
    return _header(path, epoch, kind=tarfile.DIRTYPE, owner=owner, mode=mode)


def _header(
    path: str,
    epoch: int,
    *,
    kind: bytes = tarfile.REGTYPE,
    size: int = 0,
    owner: int = 0,
    mode: int = 0o644,
    target: str = "",
) -> bytes:
    member = tarfile.TarInfo(path)
    member.type, member.size, member.mtime, member.mode = kind, size, epoch, mode
    member.uid = member.gid = owner
    member.linkname = target
    return member.tobuf(tarfile.PAX_FORMAT)


def _padded(data: bytes) -> Iterator[bytes]:
    yield data + b"\0" * (-len(data) % _BLOCK)


def why_no_file_order(*, is_mounted: bool, size_bytes: int) -> str:
    """Tell why inputs cannot be mounted in reversed order; empty when they can."""
    if not is_mounted:
        return "inputs are mounted by root with an engine on this machine only"
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
        if size_bytes > free // 4:
            return f"the inputs ({size_bytes} bytes) are too large to lie in memory"
    return ""


@contextlib.contextmanager
def reversed_copy(folder: Path, scratch: Path, *, epoch: int) -> Iterator[Path]:
    """Lend a copy of a checkout whose folders list their entries in the reversed order.

    It lies on a tmpfs: there, order is the order of creation, or its reverse, as the kernel likes (before 6.6
    the newest entry comes first). Only root can mount one. `unmount_orphans` removes those of killed clients.
    """
    place = scratch / "order" / f"{os.getpid()}-{secrets.token_hex(6)}"
    place.mkdir(parents=True)
    owner = own_labels()
    source = f"{_ORDER_SOURCE}:{owner[PID]}:{owner[START_TIME]}"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=0", source, str(place)],
        check=True,
        capture_output=True,
    )
    try:
        newest_first = _lists_newest_first(place)
        _copy_reversed(folder, place, newest_first=newest_first)
        os.utime(place, (epoch, epoch))
        yield place
    finally:
        _unmount(place)


def _lists_newest_first(place: Path) -> bool:
    probe = place / "probe"
    probe.mkdir()
    for name in ("a", "b", "c"):
        (probe / name).touch()
    first = next(probe.iterdir()).name
    shutil.rmtree(probe)
    return first != "a"


def _copy_reversed(source: Path, target: Path, *, newest_first: bool) -> None:
    children = list(source.iterdir())  # in the order that the file system gives
    for child in children if newest_first else reversed(children):
        copy = target / child.name
        if child.is_symlink():
            copy.symlink_to(child.readlink())
        elif child.is_dir():
            copy.mkdir()
            _copy_reversed(child, copy, newest_first=newest_first)
        else:
            shutil.copyfile(child, copy)
        shutil.copystat(child, copy, follow_symlinks=False)


def unmount_orphans() -> int:
    """Unmount the tmpfs of clients that are gone; return how many."""
    count = 0
    with contextlib.suppress(OSError):
        for line in _MOUNT_TABLE.read_text(encoding="utf-8", errors="replace").splitlines():
            front, _, back = line.partition(" - ")
            source = back.split()[1] if len(back.split()) > 1 else ""
            name, _, owner = source.partition(":")
            pid, _, started = owner.partition(":")
            if name == _ORDER_SOURCE and pid.isdigit() and start_time(int(pid)) != started:
                _unmount(Path(front.split()[4].encode().decode("unicode_escape")))
                count += 1
    return count


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
    with contextlib.suppress(OSError):
        place.rmdir()
