"""Files of an image's final file system, found without unpacking the image.

Every layer is read once, from the base upwards, into an index on disk (SQLite, in a private folder): what
a layer adds, replaces, links and whites out is applied as an engine applies it. A layer whose digest is wrong
ends the reading before anything of it is believed. Content is fetched by a second pass over the layers that
hold it, whose digests are checked again.

Rules:
- `.wh.NAME` and `.wh..wh..opq` hide what lower layers have, never what their own layer has;
- of two members with one name the later counts; a file replaces a folder with all that is in it;
- links are followed inside the image's root, at most 40 of them;
- a member below a symlink of a lower layer is put in different places by different engines: what is looked up
  through such a link is refused, the rest of the image stays usable.

Units: bytes; paths in the index have no slash at either end.
Source: OCI image-spec v1.1, layer ("Whiteouts", "Applying Changesets").
Cost: two passes; memory does not grow with the image (about 200 bytes of disk a member).
"""

from __future__ import annotations

import difflib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.file_index import Entry, FileIndex
from pipeline.measure.image_layer import LayerReader
from pipeline.measure.image_manifest import ImageDigestMismatch, ImageParts, images_of, select_image
from pipeline.measure.image_room import BadImage, Room, open_room
from pipeline.measure.layer_tar import TarStream
from pipeline.measure.oci import image_measurement
from provenance.claims import Measurement
from provenance.errors import UsageError

MAX_FILE: Final = 4 << 30  # of a file that is taken out
_MAX_TAKEN: Final = 8 << 30  # of all files that are taken out together
_HEAD: Final = 8
_TAIL: Final = 32  # kept while searching for a name across chunks
# Names of sections: a file of an enclave has one of them in its table of names.
_ENCLAVE_SECTIONS: Final = (b".note.sgxmeta", b".oeinfo")


class NotInImage(UsageError):
    """An image has no such file: nothing stands there, or it is a folder, a device or a sparse file.

    Cure: paths inside an image begin with a slash, as in `image.tar!/opt/enclave.so`.
    """

    code = "RVP-5051"


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the image: where it was asked for, and where it lies after all links."""

    path: str
    entry: Entry


class ImageFiles:
    """The final file system of one image."""

    def __init__(self, room: Room, image: ImageParts, index: FileIndex, oci: Measurement, place: str) -> None:
        self.image = image
        self.oci = oci
        self._room, self._index, self._place = room, index, place

    def find(self, path: str) -> FoundFile:
        """Find a regular file.

        Raises:
            NotInImage: RVP-5051. BadImage: RVP-5101 for a loop of links.
        """
        entry = self._index.resolve(os.fsencode(path), self._place)
        if entry is None:
            near = [os.fsdecode(one) for one in self._index.names(os.fsencode(path))]
            close = difflib.get_close_matches(path.rpartition("/")[2], near, n=3)
            raise NotInImage(
                f'the image has no "{path}"',
                place=self._place,
                hint=f"there is {', '.join(close)}" if close else "check the path",
            )
        if entry.kind != "file":
            what = {"sparse": "a sparse file, which engines write differently"}.get(
                entry.kind, f"a {entry.kind}"
            )
            raise NotInImage(f'"{path}" is {what}, not a regular file', place=self._place)
        return FoundFile(path=path, entry=entry)

    def exists(self, path: str) -> bool:
        """Tell whether a regular file stands at a path."""
        try:
            self.find(path)
        except UsageError:
            return False
        return True

    def entries(self) -> Iterator[Entry]:
        """Give everything that is in the image, in the order of paths."""
        yield from self._index.all()

    def hinted(self) -> Iterator[FoundFile]:
        """Give every file that looks like a part of an enclave, in the order of paths."""
        for entry in self._index.hinted():
            yield FoundFile(path="/" + os.fsdecode(entry.path), entry=entry)

    def ending(self, name: str) -> Iterator[FoundFile]:
        """Give every regular file whose path ends like this, in the order of paths."""
        for entry in self._index.ending(os.fsencode(name)):
            yield FoundFile(path="/" + os.fsdecode(entry.path), entry=entry)

    def below(self, folder: str) -> Iterator[FoundFile]:
        """Give every regular file below a folder, in the order of paths."""
        for entry in self._index.below(os.fsencode(folder.strip("/"))):
            yield FoundFile(path="/" + os.fsdecode(entry.path), entry=entry)

    def count(self) -> tuple[int, int]:
        """Count the regular files and their bytes."""
        return self._index.count()

    def read(self, file: FoundFile, *, limit_bytes: int = 16 << 20) -> bytes:
        """Read a small file.

        Raises:
            NotInImage: RVP-5051 when it is not small. ImageDigestMismatch: RVP-5102.
        """
        if file.entry.size_bytes > limit_bytes:
            raise NotInImage(f'"{file.path}" has {file.entry.size_bytes} bytes', place=self._place)
        found = bytearray()
        self.stream([file], lambda _file, piece: found.extend(piece))
        return bytes(found)

    def take(self, wanted: Mapping[Path, FoundFile]) -> None:
        """Write files into private places, which do not exist yet.

        Raises:
            NotInImage: RVP-5051 for more than 4 GiB, or 8 GiB together. ImageDigestMismatch: RVP-5102.
        """
        for file in wanted.values():
            if file.entry.size_bytes > MAX_FILE:
                raise NotInImage(f'"{file.path}" has {file.entry.size_bytes} bytes', place=self._place)
        total = sum(file.entry.size_bytes for file in wanted.values())
        if total > _MAX_TAKEN:
            raise NotInImage(f"{len(wanted)} files have {total} bytes together", place=self._place)
        places: dict[str, list[Path]] = {}
        for path, file in wanted.items():
            path.touch(mode=0o600, exist_ok=False)
            places.setdefault(file.path, []).append(path)

        def write(file: FoundFile, piece: memoryview) -> None:
            for path in places[file.path]:
                with path.open("ab") as stream:
                    stream.write(piece)

        self.stream({file.path: file for file in wanted.values()}.values(), write)

    def stream(self, files: Iterable[FoundFile], sink: Callable[[FoundFile, memoryview], None]) -> None:
        """Stream the content of files, layer by layer.

        Nothing that was given to `sink` may be believed before this returns.

        Raises:
            ImageDigestMismatch: RVP-5102 when a layer is no longer the one that was indexed.
        """
        layers: dict[int, list[FoundFile]] = {}
        for file in files:
            layers.setdefault(file.entry.content_layer, []).append(file)
        for number, wanted in sorted(layers.items()):
            reader = LayerReader(self._room, self.image.layers[number], self._place)
            try:
                _cut(reader.chunks(), sorted(wanted, key=lambda one: one.entry.at), sink)
            except BadImage as error:
                reader.refuse(error)
            _check_layer(self.image, number, reader, self._place)


@contextmanager
def open_image_files(path: Path, *, image: str = "", name: str = "") -> Iterator[ImageFiles]:
    """Index an image.

    Args:
        path: layout folder or archive.
        image: which one, when there are several: name, platform or the beginning of a digest.
        name: what to call it.

    Raises:
        BadImage: RVP-5101. ImageDigestMismatch: RVP-5102. WhichImage: RVP-5050. NotReadable: RVP-1010.
    """
    place = str(path)
    with open_room(path) as room, tempfile.TemporaryDirectory(prefix="rvp-image-") as folder:
        images = images_of(room, place)
        chosen = select_image(images, image, place)
        for bad in chosen.mismatches:
            raise ImageDigestMismatch(f"a blob is {bad.got}, expected {bad.expected}", place=place)
        with FileIndex(Path(folder) / "index", place) as index:
            stored, diff_ids = [], []
            for number in range(len(chosen.layers)):
                reader = LayerReader(room, chosen.layers[number], place)
                try:
                    _add_layer(index, number, TarStream(reader.chunks(), place))
                except BadImage as error:
                    reader.refuse(error)
                _check_layer(chosen, number, reader, place)
                stored.append(reader.stored)
                diff_ids.append(reader.diff_id)
            checks = chosen.check_layers(stored, diff_ids)
            title = name or path.name
            if len(images) > 1:
                title = f"{title} ({chosen.name})"
            oci = image_measurement(chosen, path, title, diff_ids, checks)
            yield ImageFiles(room, chosen, index, oci, place)


def _check_layer(image: ImageParts, number: int, reader: LayerReader, place: str) -> None:
    stated = image.layers[number].digest
    if stated not in {"", reader.stored}:
        raise ImageDigestMismatch(f"layer {number} is {reader.stored}, expected {stated}", place=place)
    if len(image.diff_ids) != len(image.layers):
        raise ImageDigestMismatch(
            f"{len(image.layers)} layers, the configuration states {len(image.diff_ids)}", place=place
        )
    if image.diff_ids[number] != reader.diff_id:
        raise ImageDigestMismatch(
            f"layer {number} has the diff id {reader.diff_id}, expected {image.diff_ids[number]}", place=place
        )


def _add_layer(index: FileIndex, number: int, tar: TarStream) -> None:
    index.begin_layer(number)
    for member in tar.members():
        hint = _hint(member.path, tar.content()) if member.kind == "file" and member.size_bytes else ""
        index.add(member, hint)
    tar.drain()
    index.end_layer()


def _hint(path: bytes, content: Iterator[memoryview]) -> str:
    """Look at a file while it streams by: which part of an enclave may it be?"""
    if path.endswith(b".manifest.sgx"):
        return "manifest"
    start = b""
    for piece in content:
        start += bytes(piece)
        if len(start) >= _HEAD:
            break
    if start[:8] in {b"ECREATE\0", b"UNSIZED\0"}:
        return "sgxs"
    if not start.startswith(b"\x7fELF"):
        return ""
    tail = b""
    for data in itertools.chain((start,), (bytes(piece) for piece in content)):
        searched = tail + data
        if any(name in searched for name in _ENCLAVE_SECTIONS):
            return "elf"
        tail = searched[-_TAIL:]
    return ""


def _cut(
    chunks: Iterator[bytes], wanted: Sequence[FoundFile], sink: Callable[[FoundFile, memoryview], None]
) -> None:
    """Give the pieces of a stream that belong to files; several files may be the same piece (hard links)."""
    at, first = 0, 0
    for chunk in chunks:
        view, end = memoryview(chunk), at + len(chunk)
        number = first
        while number < len(wanted) and wanted[number].entry.at < end:
            entry = wanted[number].entry
            if entry.at + entry.size_bytes > at:
                sink(wanted[number], view[max(entry.at - at, 0) : entry.at + entry.size_bytes - at])
            number += 1
        while first < len(wanted) and wanted[first].entry.at + wanted[first].entry.size_bytes <= end:
            first += 1
        at = end
    if first < len(wanted):
        raise BadImage(f'the layer ends before "{wanted[first].path}"')
