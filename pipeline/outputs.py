"""What leaves a container: the declared outputs, streamed into the store, and nothing else.

The engine sends each output as a tar; it is parsed while it arrives, so that memory stays flat whatever the
size. A member's size is known before its content: a 10 GiB hole over the limit is refused at its header.

Refused: device nodes, pipes, links that are absolute or lead out of {out}, an output that is not there.
"""

from __future__ import annotations

import contextlib
import http
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Final

import msgspec

from pipeline.engine import Engine
from pipeline.store import Store
from pipeline.tar_header import BoundedHeader
from pipeline.tree import BadEntry, BadPath, Tree, TreeEntry, check_path, make_tree
from provenance.digest import CHUNK_BYTES
from provenance.errors import StepFailure

_LISTED: Final = 20
_LISTED_BYTES: Final = 64 << 20  # read at most to name what is there
MOST_ENTRIES: Final = 1_000_000


class OutputMissing(StepFailure):
    """A step ended well, but a declared output is not there.

    Cure: have the command write it below {out}, or correct `outputs` in the spec.
    """

    code = "RVP-3010"


class OutputEscapes(StepFailure):
    """An output leads out of its folder: an absolute path, `..`, or a link to somewhere else.

    Cure: write files, or relative links that stay below {out}.
    """

    code = "RVP-3011"


class OutputKind(StepFailure):
    """An output is a device node, a pipe or something else that is neither file, folder nor link.

    Cure: have the step write a file.
    """

    code = "RVP-3012"


class OutputTooLarge(StepFailure):
    """The outputs of a step are larger than its limit; holes of sparse files count in full.

    Cure: raise `limits.output` of the step if the size is right.
    """

    code = "RVP-3013"


def check_outputs(node: str, outputs: tuple[str, ...]) -> None:
    """Refuse declared outputs that are not paths below {out}.

    Raises:
        OutputEscapes: RVP-3011. OutputMissing: RVP-3010 for none at all.
    """
    if not outputs:
        raise OutputMissing(f"{node} declares no output", hint="name at least one path below {out}")
    for path in outputs:
        try:
            check_path(path)
        except BadPath as error:
            raise OutputEscapes(
                f'{node}: the output "{path}" is not a relative, normalised path below {{out}}',
                hint="outputs are relative to {out}",
            ) from error


def collect_outputs(
    engine: Engine,
    container: str,
    folder: str,
    outputs: tuple[str, ...],
    store: Store,
    *,
    node: str,
    limit_bytes: int,
) -> Tree:
    """Stream the declared outputs of a stopped container into the store.

    Args:
        engine: where the container is.
        container: its id.
        folder: {out} inside.
        outputs: declared paths below it.
        store: receives the content.
        node: for messages.
        limit_bytes: of all outputs together.

    Raises:
        OutputMissing: RVP-3010. OutputEscapes: RVP-3011. OutputKind: RVP-3012. OutputTooLarge: RVP-3013.

    Cost: one pass over the content, constant memory.
    """
    check_outputs(node, outputs)
    collector = _Collector(store, node, outputs, limit_bytes)
    for top in sorted({path.split("/", 1)[0] for path in outputs}):
        with _archive(engine, container, f"{folder}/{top}") as stream:
            if stream is not None:
                collector.read(stream)
    missing = [path for path in outputs if path not in collector.seen]
    if missing:
        there = ", ".join(_names(engine, container, folder)) or "nothing"
        raise OutputMissing(
            f'{node} ended well but left no "{missing[0]}"',
            hint=f"{{out}} holds: {there}; correct `outputs`?",
        )
    try:
        return make_tree(collector.entries)
    except (BadEntry, BadPath) as error:
        raise OutputEscapes(
            f"{node}: {error.message}", hint=error.hint or "keep links below {out}"
        ) from error


@contextlib.contextmanager
def _archive(engine: Engine, container: str, path: str) -> Iterator[IO[bytes] | None]:
    """Open an archive; leaving early closes the connection, or the engine would go on sending."""
    with (
        engine.speaking("take the outputs"),
        engine.get(f"/containers/{container}/archive", {"path": path}) as answer,
    ):
        if answer.status_code == http.HTTPStatus.NOT_FOUND:
            yield None
        else:
            yield io.BufferedReader(_Reader(answer.iter_content(CHUNK_BYTES)), CHUNK_BYTES)


class _Reader(io.RawIOBase):
    """A file over chunks that arrive."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer works
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken


class _Collector:
    def __init__(self, store: Store, node: str, outputs: tuple[str, ...], limit_bytes: int) -> None:
        self.entries: list[TreeEntry] = []
        self.seen: set[str] = set()
        self._store = store
        self._node = node
        self._outputs = frozenset(outputs)
        self._limit_bytes = limit_bytes
        self._left_bytes = limit_bytes
        self._left_aside_bytes = limit_bytes  # what lies beside the outputs is sent, and thrown away
        self._left_entries = MOST_ENTRIES

    def read(self, stream: IO[bytes]) -> None:
        """Read the tar of one output."""
        contents: dict[str, TreeEntry] = {}
        try:
            with tarfile.open(
                fileobj=stream, mode="r|", bufsize=CHUNK_BYTES, tarinfo=BoundedHeader
            ) as archive:
                for member in archive:
                    self._take(archive, member, contents)
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        except tarfile.TarError as error:
            raise OutputKind(f"{self._node}: the engine sent a broken archive: {error}") from error

    def _take(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, contents: dict[str, TreeEntry]
    ) -> None:
        path = member.name.rstrip("/")
        above = (path, *map(str, PurePosixPath(path).parents))
        declared = [one for one in above if one in self._outputs]
        if member.issym() and any(output.startswith(f"{path}/") for output in self._outputs):
            raise OutputEscapes(
                f'{self._node}: "{path}" is a link to "{member.linkname}", and outputs are declared below it'
            )
        self._count(member.size, path, is_output=bool(declared))
        if not declared:
            return
        self.seen.update(declared)
        if member.isdir():
            self.entries.append(TreeEntry(path=path, kind="dir"))
        elif member.issym():
            self.entries.append(TreeEntry(path=path, kind="symlink", target=member.linkname))
        elif member.islnk():
            self._take_hard_link(path, member, contents)
        elif member.isreg():
            contents[path] = self._take_file(archive, member, path)
            self.entries.append(contents[path])
        else:
            kind = "device node" if member.isdev() and not member.isfifo() else "pipe"
            raise OutputKind(f'{self._node}: the output "{path}" is a {kind}', hint="write a file instead")

    def _take_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> TreeEntry:
        self._spend(path, member.size)
        content = archive.extractfile(member)
        if content is None:
            raise OutputKind(f'{self._node}: the output "{path}" has no content')
        digest, size_bytes = self._store.put(iter(lambda: content.read(CHUNK_BYTES), b""))
        return TreeEntry(
            path=path,
            kind="file",
            executable=bool(member.mode & 0o111),
            sha256=digest.hex(),
            size_bytes=size_bytes,
        )

    def _take_hard_link(self, path: str, member: tarfile.TarInfo, contents: dict[str, TreeEntry]) -> None:
        first = contents.get(member.linkname)
        if first is None:
            raise OutputEscapes(
                f'{self._node}: "{path}" is a hard link to "{member.linkname}", which is no output',
                hint="copy the file, or declare both as outputs in one folder",
            )
        self._spend(path, first.size_bytes)
        self.entries.append(msgspec.structs.replace(first, path=path))

    def _count(self, size_bytes: int, path: str, *, is_output: bool) -> None:
        self._left_entries -= 1
        if self._left_entries < 0:
            raise OutputTooLarge(f"{self._node}: its outputs lie among more than {MOST_ENTRIES} entries")
        if is_output:
            return
        self._left_aside_bytes -= size_bytes
        if self._left_aside_bytes < 0:
            raise OutputTooLarge(
                f"{self._node}: more than {self._limit_bytes} bytes lie beside the outputs in their folders; "
                f'"{path}" alone has {size_bytes}',
                hint="write what does not leave below {work}; holes count in full",
            )

    def _spend(self, path: str, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise OutputTooLarge(
                f"{self._node}: the outputs are larger than {self._limit_bytes} bytes; "
                f'"{path}" alone has {size_bytes}',
                hint="raise limits.output of the step if that is right; holes count in full",
            )


def _names(engine: Engine, container: str, folder: str) -> list[str]:
    """Name what lies directly in a folder of a container, the first ones only."""
    names: set[str] = set()
    left_bytes = _LISTED_BYTES
    with _archive(engine, container, folder) as stream:
        if stream is None:
            return []
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK_BYTES, tarinfo=BoundedHeader) as archive:
            for member in archive:
                parts = member.name.split("/")
                if len(parts) > 1 and parts[1]:
                    names.add(parts[1] + ("/" if len(parts) > 2 or member.isdir() else ""))
                left_bytes -= member.size
                if len(names) >= _LISTED or left_bytes < 0:
                    break
    return sorted(names)
