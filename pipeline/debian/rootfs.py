"""One canonical tar of a root filesystem, unpacked from packages without running their scripts.

The tar is a pure function of the packages: entries sorted by path, numeric owners, the modification times
that the packages carry; of hard links the first path is the file. What maintainer scripts would have made
comes from `table.py`. The order of downloads, the mirror, the machine and the clock change nothing.

Units: sizes are bytes, times Unix seconds.
Cost: each package is decompressed once into one temporary file; memory holds the list of paths only.
"""

from __future__ import annotations

import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from pipeline.debian.deb import open_deb
from provenance.digest import CHUNK_BYTES
from provenance.errors import SpecError

# Merged /usr, and the two folders that moved to /run: packages may still use the old paths.
ALIASES: Final = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib32": "usr/lib32",
    "lib64": "usr/lib64",
    "libx32": "usr/libx32",
    "var/run": "run",
    "var/lock": "run/lock",
}
SCRIPTS: Final = frozenset({"preinst", "postinst", "prerm", "postrm", "config"})


class FilesOverlap(SpecError):
    """Two packages have different files of the same path, and neither says that it replaces the other.

    dpkg would have refused as well, or a script would have diverted one of them.
    Cure: leave one of the packages out.
    """

    code = "RVP-1431"


class NotUnpackable(SpecError):
    """A package has what a root filesystem of steps cannot hold: a device node, a path below a file.

    Cure: leave the package out.
    """

    code = "RVP-1432"


class Node(msgspec.Struct, kw_only=True):
    """One path of the root filesystem. `offset` and `size_bytes` say where its content lies in the spool."""

    path: str
    kind: Literal["file", "dir", "symlink", "link"]
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    offset: int = 0
    size_bytes: int = 0
    target: str = ""
    owner: str = ""


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What dpkg knows of an unpacked package.

    Attributes:
        name, architecture: of the package.
        paragraph: its control paragraph.
        files: the other files of its control member, without scripts.
        paths: what it installed, as the package names it, sorted.
    """

    name: str
    architecture: str
    paragraph: str
    files: dict[str, bytes]
    paths: tuple[str, ...]


class Image:
    """A root filesystem that is being put together: paths in memory, content in a spool."""

    def __init__(self, spool: BinaryIO, aliases: Mapping[str, str] = ALIASES) -> None:
        self.nodes: dict[str, Node] = {}
        self.controls: list[Control] = []
        self.newest = 0
        self._aliases = aliases
        self._spool = spool
        self._end = 0

    def content(self, path: str) -> bytes:
        """Read the content of a file, links followed."""
        node = self.find(path)
        if node is None or node.kind != "file":
            return b""
        self._spool.seek(node.offset)
        return self._spool.read(node.size_bytes)

    def head(self, path: str, size_bytes: int, offset: int = 0) -> bytes:
        """Read a part of a file that is no link."""
        node = self.nodes[path]
        self._spool.seek(node.offset + offset)
        return self._spool.read(max(0, min(size_bytes, node.size_bytes - offset)))

    def find(self, path: str) -> Node | None:
        """Find what a path leads to, links followed; None when it dangles."""
        for _ in range(40):
            node = self.nodes.get(self.resolve(path))
            if node is None:
                return None
            if node.kind == "link":
                path = node.target
            elif node.kind == "symlink":
                path = posixpath.join("/", posixpath.dirname(node.path), node.target)
            else:
                return node
        return None

    def resolve(self, path: str) -> str:
        """Follow the links of the folders of a path; the last part stays."""
        parts = [part for part in posixpath.normpath(path).strip("/").split("/") if part != "."]
        done: list[str] = []
        budget = 200
        while len(parts) > 1 and budget:
            budget -= 1
            part = parts.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, part])
            node = self.nodes.get(here)
            goal = node.target if node and node.kind == "symlink" else self._aliases.get(here)
            if goal is None:
                done.append(part)
            else:
                absolute = goal.startswith("/") or node is None
                done = [] if absolute else done
                parts = [piece for piece in goal.split("/") if piece not in {"", "."}] + parts
        return "/".join([*done, *parts])

    def put_folder(self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> None:
        """Add a folder that scripts would have made, and those above it; an existing one stays."""
        path = self.resolve(path.rstrip("/") + "/x").removesuffix("/x")
        parents = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        for parent in parents:
            self.nodes.setdefault(parent, Node(path=parent, kind="dir", mode=0o755, mtime=-1))
        self.nodes.setdefault(path, Node(path=path, kind="dir", mode=mode, uid=uid, gid=gid, mtime=-1))

    def put_file(self, path: str, data: bytes, mode: int = 0o644, *, gid: int = 0) -> None:
        """Add a file that scripts would have made; it takes the place of any other."""
        path = self.resolve(path)
        self.put_folder(posixpath.dirname(path))
        offset = self.keep([data])
        self.nodes[path] = Node(
            path=path, kind="file", mode=mode, gid=gid, mtime=-1, offset=offset, size_bytes=len(data)
        )

    def put_link(self, path: str, target: str) -> None:
        """Add a symbolic link that scripts would have made, unless a package has something there."""
        path = self.resolve(path)
        if "/" in path:
            self.put_folder(posixpath.dirname(path))
        self.nodes.setdefault(path, Node(path=path, kind="symlink", mode=0o777, mtime=-1, target=target))

    def add_package(self, stream: BinaryIO, *, place: str) -> None:
        """Unpack one package file.

        Raises:
            NotADeb: RVP-1430. FilesOverlap: RVP-1431. NotUnpackable: RVP-1432.
        """
        with open_deb(stream, place=place) as deb:
            files = deb.control()
            paragraph = files.pop("control", b"").decode("utf-8", "replace").strip("\n")
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
            name = fields.get("Package", place)
            replaced = {part.split()[0] for part in fields.get("Replaces", "").split(",") if part.strip()}
            paths: list[str] = []
            with deb.data() as data:
                for member in data:
                    path = posixpath.normpath(member.name).lstrip("/")
                    if path.startswith("../"):
                        raise NotUnpackable(f'"{member.name}" climbs out', place=place)
                    paths.append("/." if path == "." else f"/{path}")
                    if path != ".":
                        self._add_member(data, member, path, name, replaced)
        kept = {key: value for key, value in files.items() if key not in SCRIPTS}
        if fields.get("Multi-Arch") == "same":
            name = f"{name}:{fields.get('Architecture', '')}"
        self.controls.append(
            Control(
                name=name,
                architecture=fields.get("Architecture", ""),
                paragraph=paragraph,
                files=kept,
                paths=tuple(paths),
            )
        )

    def _add_member(
        self, data: tarfile.TarFile, member: tarfile.TarInfo, path: str, owner: str, replaced: set[str]
    ) -> None:
        if path in ALIASES and (member.isdir() or member.issym()):
            return  # the table makes it a link, and its content goes to the real folder
        path = _aliased(path)
        node = Node(
            path=path,
            kind="dir",
            mode=member.mode & 0o7777,
            uid=member.uid,
            gid=member.gid,
            mtime=int(member.mtime),
            owner=owner,
        )
        if member.isdir():
            self.nodes.setdefault(path, node)
            return
        if member.issym():
            node.kind, node.target, node.mode = "symlink", member.linkname, 0o777
        elif member.islnk():
            node.kind, node.target = "link", _aliased(posixpath.normpath(member.linkname).lstrip("/"))
        elif member.isreg():
            content = data.extractfile(member)
            node.kind, node.size_bytes = "file", member.size
            node.offset = self.keep(iter(lambda: content.read(CHUNK_BYTES), b"") if content else [])
        else:
            raise NotUnpackable(f'"/{path}" of {owner} is neither file, folder nor link')
        self.newest = max(self.newest, node.mtime)
        there = self.nodes.get(path)
        if there is None or there.owner in replaced:
            self.nodes[path] = node
        elif there.kind != "dir":
            self._settle(there, node)

    def _settle(self, there: Node, node: Node) -> None:
        """Decide between two files of one path."""
        replaces = next((c for c in self.controls if c.name.partition(":")[0] == there.owner), None)
        fields = replaces.paragraph if replaces else ""
        line = next((one for one in fields.splitlines() if one.startswith("Replaces: ")), "")
        if node.owner in {part.split()[0] for part in line.removeprefix("Replaces: ").split(",") if part}:
            return
        if (there.kind, there.target) == (node.kind, node.target) and self._same(there, node):
            return
        raise FilesOverlap(f'"/{node.path}" is in {there.owner} and in {node.owner}, and they differ')

    def _same(self, one: Node, other: Node) -> bool:
        contents = []
        for node in (one, other):
            self._spool.seek(node.offset)
            contents.append(self._spool.read(node.size_bytes))
        return contents[0] == contents[1]

    def keep(self, chunks: Iterable[bytes]) -> int:
        """Write content to the spool; return where it lies."""
        offset = self._end
        self._spool.seek(offset)
        for chunk in chunks:
            self._spool.write(chunk)
            self._end += len(chunk)
        return offset

    def tar(self) -> Iterator[bytes]:
        """Write the canonical tar.

        Raises:
            NotUnpackable: RVP-1432 for a path below something that is no folder.
        """
        self._settle_parents()
        first = self._canonical_links()
        for path in sorted(self.nodes):
            node = self.nodes[path]
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid = node.mode, node.uid, node.gid
            info.mtime = self.newest if node.mtime < 0 else node.mtime
            if node.kind == "dir":
                info.type = tarfile.DIRTYPE
            elif node.kind == "symlink":
                info.type, info.linkname = tarfile.SYMTYPE, node.target
            elif path in first and first[path] != path:
                info.type, info.linkname = tarfile.LNKTYPE, first[path]
            else:
                node = self.nodes[node.target] if node.kind == "link" else node
                info.size = node.size_bytes
            yield info.tobuf(tarfile.PAX_FORMAT)
            if info.size:
                yield from self._stream(node)
                yield bytes(-info.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _stream(self, node: Node) -> Iterator[bytes]:
        left, at = node.size_bytes, node.offset
        while left:
            self._spool.seek(at)
            chunk = self._spool.read(min(CHUNK_BYTES, left))
            yield chunk
            at, left = at + len(chunk), left - len(chunk)

    def _settle_parents(self) -> None:
        """Move what lies below a link to where the link leads; add folders that no package has."""
        for path in sorted(self.nodes):
            real = self.resolve(path)
            if real != path:
                node = self.nodes.pop(path)
                node.path = real
                self.nodes.setdefault(real, node)
        for path in sorted(self.nodes):
            parent = posixpath.dirname(path)
            while parent:
                there = self.nodes.setdefault(parent, Node(path=parent, kind="dir", mode=0o755, mtime=-1))
                if there.kind != "dir":
                    raise NotUnpackable(f'"/{path}" lies below "/{parent}", which is no folder')
                parent = posixpath.dirname(parent)

    def _canonical_links(self) -> dict[str, str]:
        """Of each group of hard links, name the path that comes first."""
        groups: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.kind == "link":
                target = node
                seen = 0
                while target.kind == "link" and seen < 40:
                    found = self.nodes.get(target.target)
                    if found is None:
                        raise NotUnpackable(f'"/{node.path}" is a hard link to "{target.target}", not there')
                    target, seen = found, seen + 1
                node.target = target.path
                groups.setdefault(target.path, [target.path]).append(node.path)
        return {path: min(group) for group in groups.values() for path in group}


def _aliased(path: str) -> str:
    for old, new in ALIASES.items():
        if path == old or path.startswith(old + "/"):
            return new + path[len(old) :]
    return path


def assemble(
    packages: Iterable[tuple[str, Callable[[], BinaryIO]]],
    finish: Callable[[Image], None],
    write: Callable[[Iterator[bytes]], None],
    *,
    scratch: Path | None = None,
) -> None:
    """Unpack packages, let the table supply the rest, and write the tar.

    Args:
        packages: name for errors and how to open the file; the order does not matter.
        finish: supplies what scripts would have made.
        write: takes the tar as a stream.
        scratch: where the temporary file lies.
    """
    ordered = sorted(packages, key=lambda one: (not one[0].startswith("base-files_"), one[0]))
    with tempfile.TemporaryFile(dir=scratch) as spool:
        image = Image(spool)
        for place, opened in ordered:
            with opened() as stream:
                image.add_package(stream, place=place)
        finish(image)
        write(image.tar())
