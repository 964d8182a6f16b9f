"""The configuration that an enclave was laid out with: as given, as its file has it, or read back.

| the file | its configuration |
|---|---|
| not signed, with `--config` | that one |
| Gramine manifest | the manifest itself |
| signed Open Enclave file | an empty `.conf`: the file's own properties hold |
| signed SDK enclave | XML read back from the metadata; the note is emptied in a temporary copy |
| packed freestanding enclave | `enclave.toml` read back, in the same way |

What is read back is only used when it gives the file's own MRENCLAVE again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pipeline.explain.sgx.side import EnclaveSide
from pipeline.measure.formats import is_in_image
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.config_check import lay_out_anew
from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.enclave_image import PAGE, SECINFO_TCS, SECINFO_X, EnclaveImage
from pipeline.measure.sgx.sdk.metadata import (
    ENTRY,
    GROUP_BIT,
    LayoutEntry,
    Record,
    metadata_block,
    read_metadata,
)
from pipeline.measure.sgx.sigstruct import Sigstruct
from provenance.errors import UsageError
from provenance.strict import read_file

_MOST_COPIED: Final = 512 << 20
_EREMOVE: Final = 4
_POLICY_AT: Final = 20  # in a metadata record
_TCS_FLAGS_AT: Final = 8
_AEX_NOTIFY: Final = 2
_PKRU, _AMX = 0x200, 0x60000
_USER_REGIONS: Final = tuple(1 << power for power in range(12, 37))
_SDK_RELEASES: Final = (
    *(f"2.{minor}" for minor in range(26, -1, -1)),
    *(f"1.{minor}" for minor in (9, 8, 7, 6)),
)
_RELEASE: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")
_USER_REGION: Final = 23  # its pages are there when the enclave may change its memory: MiscSelect is 1
_OLD_HEAP, _OLD_TCS, _OLD_STACK = 1, 2, 5  # SDK 1.x


Layout = tuple[LayoutEntry, ...]


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """A file with a configuration, which can be laid out again with another one.

    Attributes:
        tool: whose layout it is.
        path: of the file that is not laid out yet.
        config: the configuration.
        options: everything else.
        generation: with which it was laid out; empty: as the file says.
        generations: which others there are.
        writes: where a changed configuration is a file of its own (a manifest): that file.
        is_read_back: the configuration was read back from a layout, which does not show everything.
    """

    tool: str
    path: Path
    config: bytes
    options: MeasureOptions
    generation: str = ""
    generations: tuple[str, ...] = ()
    writes: Path | None = None
    is_read_back: bool = False

    def candidates(self) -> Iterator[tuple[str, bytes]]:
        """Give generations and configurations with which the file may have been laid out.

        What a layout does not show is tried: the generation, a user region, the FIPS module.
        """
        yield self.generation, self.config
        if not self.is_read_back:
            return
        end = b"</EnclaveConfiguration>"
        for element in ("EnableIPPFIPS", *(f"UserRegionSize {size}" for size in _USER_REGIONS)):
            name, _, value = element.partition(" ")
            written = f"<{name}>{value or 1}</{name}>".encode()
            if end in self.config:
                yield self.generation, self.config.replace(end, written + end)
        for generation in self.generations:
            yield generation, self.config

    def lay_out(self, config: bytes, generation: str) -> EnclaveImage:
        """Lay the file out with a configuration.

        Raises:
            UsageError, SpecError: what the format's reader raises.
        """
        if self.writes is not None:
            self.writes.write_bytes(config)
            options = msgspec.structs.replace(self.options, generation=generation)
            return lay_out(self.writes, options)[0].image
        options = msgspec.structs.replace(self.options, config=config, generation=generation)
        return lay_out_anew(self.path, options).enclave.image


def configured(side: EnclaveSide, options: MeasureOptions, folder: Path) -> Configured | None:
    """Find the configuration of a side; None when there is none.

    Args:
        side: a file.
        options: with which it was laid out.
        folder: for temporary files.
    """
    if side.path is None or side.enclave is None:
        return None
    path, layout = side.path, side.enclave.layout
    if is_in_image(path):
        from pipeline.measure.sgx.in_image.enclave import take_out

        copies = folder / "image"
        copies.mkdir()
        path, options = take_out(path, options, copies)
    if layout.startswith("Gramine"):
        from pipeline.measure.sgx.gramine.enclave import LIBPAL
        from pipeline.measure.sgx.gramine.generation import GENERATIONS
        from pipeline.measure.sgx.gramine.manifest import MAX_BYTES

        libpal = options.libpal or path.with_name(LIBPAL)
        return Configured(
            tool="Gramine",
            path=path,
            config=read_file(path, limit_bytes=MAX_BYTES),
            options=msgspec.structs.replace(options, libpal=libpal, companions=False),
            generation=options.generation,
            generations=tuple(one.name for one in reversed(GENERATIONS)),
            writes=folder / path.name,
        )
    tool = "Open Enclave" if "Open Enclave" in layout else "the SDK"
    if options.config is not None:
        return Configured(
            tool=tool,
            path=path,
            config=options.config,
            options=options,
            generation=options.generation,
            generations=_SDK_RELEASES
            if tool == "the SDK" and options.config.lstrip().startswith(b"<")
            else (),
        )
    if tool == "Open Enclave":
        return Configured(
            tool=tool,
            path=path,
            config=b"",
            options=options,
            generation=options.generation,
            generations=tuple(_RELEASE.findall(layout)),
            is_read_back=True,
        )
    if layout.startswith("SDK metadata") and side.enclave.elves:
        return _read_back(side.enclave.elves[0].elf, options, folder)
    return None


def _read_back(elf: Elf, options: MeasureOptions, folder: Path) -> Configured | None:
    block = metadata_block(elf)
    if block is None or len(elf.data) > _MOST_COPIED:
        return None
    try:
        record = read_metadata(elf)[0]
    except UsageError:
        return None
    emptied = folder / "enclave.so"
    at, size = block
    emptied.write_bytes(b"".join((elf.data[:at], bytes(size), elf.data[at + size :])))
    freestanding = _is_freestanding(elf)
    policy = struct.unpack_from("<I", elf.data, at + _POLICY_AT)[0]
    config = toml_of(record) if freestanding else xml_of(record, policy=policy)
    return Configured(
        tool="this packer" if freestanding else "the SDK",
        path=emptied,
        config=config.encode(),
        options=options,
        generations=() if freestanding else _SDK_RELEASES,
        is_read_back=True,
    )


def _is_freestanding(elf: Elf) -> bool:
    found = elf.symbol("g_global_data")
    try:
        return (
            found is not None
            and bytes(elf.data[(at := elf.file_offset(found.value, 8)) : at + 8]) == b"rvpencl1"
        )
    except UsageError:
        return False


def toml_of(record: Record) -> str:
    """Read back the configuration of a freestanding enclave."""
    layout = record.layout
    heap, stack, threads = _pages(layout, 1), _pages(layout, 8), _threads(layout)
    return (
        f'schema = "rvp/enclave/v1"\nheap = "{heap * PAGE}B"\nstack = "{stack * PAGE}B"\n'
        f"threads = {len(threads)}\nmiscselect = {record.desired_misc_select}\n"
    )


def xml_of(record: Record, *, policy: int) -> str:
    """Read back the configuration of an SDK enclave, as far as its layout shows it."""
    layout = full_layout(record)
    values: dict[str, int] = {"TCSPolicy": policy}
    old = _threads(layout, ident=_OLD_TCS)
    if old:
        values |= {
            "HeapMaxSize": _pages(layout, _OLD_HEAP) * PAGE,
            "StackMaxSize": _pages(layout, _OLD_STACK) * PAGE,
            "TCSNum": len(old),
        }
        return _written(values)
    heap = [_pages(layout, ident) * PAGE for ident in (1, 2, 3)]
    values |= {"HeapMinSize": heap[0], "HeapInitSize": heap[0] + heap[1], "HeapMaxSize": sum(heap)}
    stack = _pages(layout, 8) * PAGE
    values |= {"StackMinSize": stack, "StackMaxSize": stack + _pages(layout, 7) * PAGE}
    threads = _threads(layout)
    pool = sum(not entry.attributes & _EREMOVE for entry in threads) - 1
    dynamic = _threads(layout, ident=14)
    values |= {"TCSNum": len(threads), "TCSMaxNum": pool + (len(dynamic) or 1)}
    if len(threads) > 1:
        values["TCSMinPool"] = pool
    reserved = [_pages(layout, ident) * PAGE for ident in (20, 21, 22)]
    if any(reserved):
        values |= {
            "ReservedMemMinSize": reserved[0],
            "ReservedMemInitSize": reserved[0] + reserved[1],
            "ReservedMemMaxSize": sum(reserved),
            "ReservedMemExecutable": int(
                any(one.ident in {20, 21} and one.flags & SECINFO_X for one in layout)
            ),
        }
    # what is the default of another element stays unwritten, so that a change of one key is one change
    for key, other in (
        ("HeapInitSize", "HeapMaxSize"),
        ("ReservedMemInitSize", "ReservedMemMaxSize"),
        ("TCSMaxNum", "TCSNum"),
    ):
        if key in values and values[key] == values[other]:
            del values[key]
    if values.get("TCSMinPool") == 1:
        del values["TCSMinPool"]
    content = next((one.content for one in record.layout if one.flags == SECINFO_TCS), None)
    if content and content[_TCS_FLAGS_AT] & _AEX_NOTIFY:
        values["EnableAEXNotify"] = 1
    misc = record.desired_misc_select | any(one.ident == _USER_REGION for one in layout)
    if misc:
        values["MiscSelect"] = misc
    values |= _features(Sigstruct(record.sigstruct))
    if record.elrange:
        image, start, size = record.elrange
        values |= {"EnclaveImageAddress": image, "ELRangeStartAddress": start, "ELRangeSize": size}
    return _written(values)


def _written(values: dict[str, int]) -> str:
    elements = "".join(f"<{key}>{value:#x}</{key}>" for key, value in values.items())
    return f"<EnclaveConfiguration>{elements}</EnclaveConfiguration>"


def _features(signed: Sigstruct) -> dict[str, int]:
    """Read PKRU and AMX from the signed XFRM: 0 forbidden, 1 required, 2 the loader's choice."""
    if signed.is_empty:
        return {}
    xfrm, mask = (struct.unpack_from("<Q", signed.raw, at)[0] for at in (936, 952))
    found = {}
    for key, bits in (("PKRU", _PKRU), ("AMX", _AMX)):
        value = 2 if not mask & bits else 1 if xfrm & bits else 0
        if value:
            found[key] = value
    return found


def full_layout(record: Record) -> Layout:
    """Return the layout that g_global_data has: a record for older loaders shows less."""
    first = record.layout[0] if record.layout else LayoutEntry(ident=0)
    start = struct.pack("<HHIQ", first.ident, first.attributes, first.page_count, first.address)
    for patch in record.patches:
        at = patch.content.find(start)
        if at < 8 or at % 8:
            continue
        count = struct.unpack_from("<I", patch.content, at - 8)[0]
        table = patch.content[at : at + count * ENTRY.size]
        if len(record.layout) <= count == len(table) // ENTRY.size:
            return tuple(map(_entry, ENTRY.iter_unpack(table)))
    return record.layout


def _entry(raw: tuple[int, ...]) -> LayoutEntry:
    ident, attributes, page_count, address, _, _, flags = raw
    if ident & GROUP_BIT:
        return LayoutEntry(ident=ident, repeat=(attributes, page_count, address))
    return LayoutEntry(
        ident=ident, attributes=attributes, page_count=page_count, address=address, flags=flags
    )


def _pages(layout: Layout, ident: int) -> int:
    """Return the pages of the first entry of a kind."""
    return next((one.page_count for one in layout if one.ident == ident), 0)


def _threads(layout: Layout, *, ident: int = 4) -> list[LayoutEntry]:
    """List the TCS entries, repeated as their groups say."""
    found: list[LayoutEntry] = []
    for index, entry in enumerate(layout):
        if entry.repeat is not None:
            count, times, _ = entry.repeat
            block = [
                one
                for one in layout[max(index - count, 0) : index]
                if one.ident == ident and one.flags == SECINFO_TCS
            ]
            found += block * min(times, 1 << 12)
        elif entry.ident == ident and entry.flags == SECINFO_TCS:
            found.append(entry)
    return found
