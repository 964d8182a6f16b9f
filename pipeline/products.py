"""What rvp makes itself, without a container: packs and measures, as trees in the store.

A pack is one file, `output` of the spec. A measure is a tree of its own: `measurements.json` (the document of
`rvp measure --format json`) and `logs/NNN.json`, one measurement log a register. Both are pure functions of
their inputs, the spec's definition and the version of rvp.
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.graph import Leaves, Node
from pipeline.sandbox import Rootfs
from pipeline.spec import Measure, Pack, parse_reference
from pipeline.spec_machine import FROM_FIRMWARE, machine_of
from pipeline.store import FolderStore, Store
from pipeline.tree import Tree, TreeEntry, make_tree, write_folder
from provenance.canonical import canonical_json
from provenance.claims import Measurement, Measurements, Tool
from provenance.digest import chunks_of
from provenance.errors import RvpError, SpecError
from provenance.events import Observer
from provenance.version import version

if TYPE_CHECKING:
    from pipeline.graph import Graph

MEASUREMENTS_NAME: Final = "measurements.json"
Taken = Mapping[str, "Tree | Rootfs"]
_MAX_LINKS: Final = 16
_MAX_SMALL: Final = 1 << 20  # of a configuration or a SIGSTRUCT
# What a measurement takes beside the artifact: signing measures again, so it must be at hand then.
MEASURED_WITH: Final = ("sigstruct", "config", "libpal")
_MACHINE: Final = ("kernel", "initrd", "cmdline", "vcpus", "memory", "vmm", "vcpu_type", "guest_features")
_MACHINE_MORE: Final = ("host_data", "policy", "id_block", "id_auth")
# Files of a machine that no step gives are artifacts all the same: signing measures them again.
TAKEN: Final = "taken"
_TAKEN_KEYS: Final = ("firmware", "kernel", "initrd", "id_block", "id_auth")


class NotOneFile(SpecError):
    """A pack or a measure takes one file, but what the spec names is a folder, a link, or several files.

    Cure: name the file after a colon, as in `step.enclave:enclave.so`.
    """

    code = "RVP-2210"


class NotSupported(SpecError):
    """The spec asks for a pack or a measure that this version of rvp cannot make.

    Cure: take it out of the spec, or use a newer rvp.
    """

    code = "RVP-2211"


def check_supported(graph: Graph) -> None:
    """Refuse measures that this version cannot make, before anything runs for them.

    Raises:
        NotSupported: RVP-2211.
    """
    from pipeline.measure.formats import FORMATS

    known = {one.tee for one in FORMATS}
    for name in graph:
        measure = graph.nodes[name]["node"].item
        if not isinstance(measure, Measure):
            continue
        tees = (measure.tee,) if isinstance(measure.tee, str) else measure.tee
        if missing := [tee for tee in tees if tee not in known]:
            raise NotSupported(
                f"{name}: measuring {', '.join(missing)} is not known yet; known: {', '.join(sorted(known))}",
                place="rvp.toml",
            )
        for key in MEASURED_WITH:
            text = getattr(measure, key)
            if text and parse_reference(text).kind not in {"file", "step", "pack"}:
                raise NotSupported(
                    f"{name}: {key} is {text}, which signing could not look at again",
                    place="rvp.toml",
                    hint="put it beside rvp.toml, or let a step give it as an output",
                )
        _check_machine(name, measure, tees)


def _check_machine(name: str, measure: Measure, tees: Iterable[str]) -> None:
    others = [key for key in ("firmware", *_MACHINE, *_MACHINE_MORE) if getattr(measure, key)]
    if not measure.firmware:
        if others or not measure.image:
            what = f"{', '.join(tees)} from {', '.join(others) or 'nothing'}"
            raise NotSupported(
                f"{name}: measuring {what} is not known", place="rvp.toml", hint="give `image`, or `firmware`"
            )
        return
    if measure.image:
        raise NotSupported(f"{name}: image and firmware are two measures", place="rvp.toml")
    if missing := [tee for tee in tees if tee not in FROM_FIRMWARE]:
        raise NotSupported(
            f"{name}: measuring {', '.join(missing)} from firmware is not known yet",
            place="rvp.toml",
            hint=f"known: {', '.join(sorted(FROM_FIRMWARE))}",
        )
    if not measure.vcpus:
        raise NotSupported(
            f"{name}: values depend on the number of vCPUs", place="rvp.toml", hint="vcpus = [1, 2]"
        )


def make_product(node: Node, taken: Taken, leaves: Leaves, store: Store, observer: Observer) -> Tree:
    """Make what a pack or a measure gives.

    Args:
        node: the pack or measure.
        taken: what its references name, by their text.
        leaves: the epoch.
        store: content.
        observer: hears nothing yet; products are quick.

    Raises:
        NotOneFile: RVP-2210. NotSupported: RVP-2211, and what packing and measuring raise (RVP-5nnn).
    """
    del observer
    if not isinstance(store, FolderStore):
        raise TypeError("products are made over a store in a folder")
    (store.folder / "temporary").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rvp-") as name:
        scratch = Path(name)
        try:
            match node.item:
                case Pack() as pack if pack.kind == "sgx":
                    return _pack_sgx(pack, taken, store)
                case Pack() as pack:
                    return _pack_oci(pack, taken, leaves, store, scratch)
                case Measure() as measure:
                    return _measure(measure, taken, store, scratch)
                case _:
                    raise TypeError(f"{node.name} runs in a container")
        except RvpError as error:
            error.place = f"{node.name}: {error.place}" if error.place else node.name
            raise


def _pack_sgx(pack: Pack, taken: Taken, store: FolderStore) -> Tree:
    from pipeline.measure.measured import MeasureOptions
    from pipeline.measure.sgx.freestanding.pack import DEFAULT_CONFIG, is_freestanding
    from pipeline.measure.sgx.sigstruct import Sigstruct
    from pipeline.measure.sgx.unsigned import lay_out_unsigned

    image = _one_file(pack.image, taken, store)
    path = store.file_of(bytes.fromhex(image.sha256))
    config = _small(pack.config, taken, store) if pack.config else None
    if config is None and is_freestanding(path):
        config = DEFAULT_CONFIG
    options = MeasureOptions(
        config=config,
        config_name=pack.config,
        generation=pack.generation,
        companions=False,
    )
    signed = None
    if pack.sigstruct:
        signed = Sigstruct(_small(pack.sigstruct, taken, store), name=pack.sigstruct)
    unsigned = lay_out_unsigned(path, options)
    digest, size_bytes = store.put([unsigned.write(signed)])
    return make_tree(
        [
            TreeEntry(
                path=pack.output, kind="file", executable=True, sha256=digest.hex(), size_bytes=size_bytes
            )
        ]
    )


def _pack_oci(pack: Pack, taken: Taken, leaves: Leaves, store: FolderStore, scratch: Path) -> Tree:
    from pipeline.oci_writer import (
        BaseLayer,
        ImageConfig,
        ImageFile,
        file_of_store,
        files_of_tree,
        write_image,
    )

    files: list[ImageFile] = []
    for path, text in pack.files.items():
        value = taken[text]
        if isinstance(value, Rootfs) or (len(value.entries) == 1 and parse_reference(text).path):
            one = _one_file(text, taken, store)
            files.append(file_of_store(path, store, one.sha256, one.size_bytes, executable=one.executable))
        else:
            files += files_of_tree(value, store, path)
    base = None
    if pack.base:
        rootfs = taken[pack.base]
        if not isinstance(rootfs, Rootfs) or not rootfs.tar:
            raise NotSupported(f'"{pack.base}" cannot lie below an image: it has no root filesystem tar')
        tar = store.file_of(rootfs.tar)
        base = BaseLayer(sha256=rootfs.tar, size_bytes=tar.stat().st_size, open=lambda: tar.open("rb"))
    config = ImageConfig(
        architecture=pack.architecture,
        entrypoint=pack.entrypoint,
        environment=pack.environment,
        labels=pack.labels,
        user=pack.user,
    )
    output = scratch / "image.tar"
    write_image(output, files, config, epoch=leaves.epoch, base=base)
    with output.open("rb") as stream:
        digest, size_bytes = store.put(chunks_of(stream))
    return make_tree([TreeEntry(path=pack.output, kind="file", sha256=digest.hex(), size_bytes=size_bytes)])


def _measure(measure: Measure, taken: Taken, store: FolderStore, scratch: Path) -> Tree:
    from pipeline.measure import MeasureOptions, measure_file, require_computed

    with _path_of(measure.image or measure.firmware, taken, store, scratch) as (path, name):
        options = MeasureOptions(
            name=name,
            sigstruct=_small(measure.sigstruct, taken, store) if measure.sigstruct else None,
            sigstruct_name=measure.sigstruct,
            config=_small(measure.config, taken, store) if measure.config else None,
            config_name=measure.config,
            libpal=_path_of_one(measure.libpal, taken, store) if measure.libpal else None,
            generation=measure.generation,
            companions=False,
            inside=measure.path,
            machine=machine_of(measure, lambda text: _path_of_one(text, taken, store)),
        )
        tees = (measure.tee,) if isinstance(measure.tee, str) else measure.tee
        found = [measure_file(path, tee=tee, options=options) for tee in tees]
    for one in found:
        require_computed(one.measurements)
    document = Measurements(
        tool=Tool(name="rvp", version=version()),
        measurements=_each_once(measurement for one in found for measurement in one.measurements),
    )
    logs = [log for one in found for log in one.logs]
    entries = [_put(MEASUREMENTS_NAME, canonical_json(document), store)]
    entries += [
        _put(f"logs/{log.tee}-{log.register}-{number:03}.json", canonical_json(log), store)
        for number, log in enumerate(logs)
    ]
    entries += _taken_files(measure, taken, store)
    return make_tree(entries)


def _taken_files(measure: Measure, taken: Taken, store: FolderStore) -> Iterator[TreeEntry]:
    """Keep the files of a machine that come from elsewhere than a step: of a base, or beside the spec."""
    for key in _TAKEN_KEYS:
        text = getattr(measure, key) if measure.firmware else ""
        if text and parse_reference(text).kind not in {"step", "pack"}:
            entry = _one_file(text, taken, store)
            name = PurePosixPath(parse_reference(text).path).name
            yield msgspec.structs.replace(entry, path=f"{TAKEN}/{key}/{name}")


def _each_once(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Leave out what stands twice: an enclave in an image is measured with its image, for each TEE."""
    found: list[Measurement] = []
    for one in measurements:
        if all(msgspec.structs.replace(one, checks=other.checks) != other for other in found):
            found.append(one)
    return tuple(found)


def _put(path: str, data: bytes, store: Store) -> TreeEntry:
    digest, size_bytes = store.put([data])
    return TreeEntry(path=path, kind="file", sha256=digest.hex(), size_bytes=size_bytes)


def _one_file(text: str, taken: Taken, store: FolderStore) -> TreeEntry:
    value = taken[text]
    if isinstance(value, Rootfs):
        return rootfs_file(value, parse_reference(text).path, store)
    if len(value.entries) == 1 and value.entries[0].kind == "file":
        return value.entries[0]
    raise NotOneFile(
        f'"{text}" is not one file: it has {len(value.entries)} entries',
        hint="name the file after a colon, as in step.enclave:enclave.so",
    )


def _small(text: str, taken: Taken, store: FolderStore) -> bytes:
    entry = _one_file(text, taken, store)
    if entry.size_bytes > _MAX_SMALL:
        raise NotOneFile(f'"{text}" has {entry.size_bytes} bytes, at most {_MAX_SMALL} are taken')
    with store.get(bytes.fromhex(entry.sha256)) as stream:
        return stream.read()


def _path_of_one(text: str, taken: Taken, store: FolderStore) -> Path:
    return store.file_of(bytes.fromhex(_one_file(text, taken, store).sha256))


@contextlib.contextmanager
def _path_of(text: str, taken: Taken, store: FolderStore, scratch: Path) -> Iterator[tuple[Path, str]]:
    """Give a path to read a file or a folder from, and what to call it."""
    value = taken[text]
    if isinstance(value, Rootfs) or (len(value.entries) == 1 and value.entries[0].kind == "file"):
        entry = _one_file(text, taken, store)
        yield store.file_of(bytes.fromhex(entry.sha256)), PurePosixPath(entry.path).name
    else:
        write_folder(value, store, scratch / "image")
        yield scratch / "image", parse_reference(text).node


def rootfs_file(rootfs: Rootfs, path: str, store: FolderStore) -> TreeEntry:
    """Take one file out of a root filesystem; links are followed inside it.

    Raises:
        NotOneFile: RVP-2210. NotSupported: RVP-2211 for a base that is a container image.
    """
    if not rootfs.tar:
        raise NotSupported("files of a base that is a container image cannot be taken yet")
    with store.get(rootfs.tar) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        members = {member.name.removeprefix("./").strip("/"): member for member in tar}
        wanted = path.strip("/")
        for _ in range(_MAX_LINKS):
            member = members.get(wanted)
            if member is None:
                wanted = _through_linked_folder(wanted, members)
                continue
            if member.islnk():
                wanted = member.linkname.removeprefix("./").strip("/")
            elif member.issym():
                wanted = _resolved(PurePosixPath(wanted).parent, member.linkname)
            elif member.isfile():
                content = tar.extractfile(member)
                if content is None:
                    break
                digest, size_bytes = store.put(chunks_of(content))  # type: ignore[arg-type]  # it reads bytes
                return TreeEntry(
                    path=PurePosixPath(path).name,
                    kind="file",
                    executable=bool(member.mode & 0o111),
                    sha256=digest.hex(),
                    size_bytes=size_bytes,
                )
            else:
                break
    raise NotOneFile(f'the base has no file "/{path}"')


def _through_linked_folder(wanted: str, members: Mapping[str, tarfile.TarInfo]) -> str:
    for parent in PurePosixPath(wanted).parents:
        member = members.get(str(parent))
        if member is not None and member.issym():
            rest = PurePosixPath(wanted).relative_to(parent)
            return str(PurePosixPath(_resolved(parent.parent, member.linkname)) / rest)
    raise NotOneFile(f'the base has no file "/{wanted}"')


def _resolved(folder: PurePosixPath, target: str) -> str:
    parts: list[str] = [] if target.startswith("/") else list(folder.parts)
    for part in PurePosixPath(target).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != "/":
            parts.append(part)
    return "/".join(parts)


def read_measurements(tree: Tree, store: Store) -> Measurements:
    """Read the measurements that a measure node gave."""
    entry = tree.find(MEASUREMENTS_NAME)
    if entry is None:
        raise NotOneFile(f"a measure gave no {MEASUREMENTS_NAME}")
    with store.get(bytes.fromhex(entry.sha256)) as stream:
        return msgspec.json.decode(stream.read(), type=Measurements)
