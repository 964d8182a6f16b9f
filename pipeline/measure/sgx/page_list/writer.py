"""Write any enclave as a page list (`page_list`), with its contents in one file beside it.

Equal enclaves give equal bytes. Contents that are equal are kept once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import (
    CHUNK,
    PAGE,
    SECINFO_REG,
    SECINFO_TCS,
    Bytes,
    Chunks,
    Pages,
    Part,
)
from pipeline.measure.sgx.page_list.document import MAX_RUNS, PAGE_TYPES, SCHEMA, TCS_FIELDS, BadPageList, Tcs
from provenance.errors import EnvironmentFailure

_SHORT: Final = 64  # a pattern, or a content, of up to so many bytes stands in the list itself
_RWX: Final = 7


class PageListNotWritten(EnvironmentFailure):
    """A page list cannot be written: no room, or no permission.

    Cure: the message has the path and what the system said.
    """

    code = "RVP-5046"


def write_page_list(enclave: Enclave, path: Path) -> tuple[Path, ...]:
    """Write a list, its contents (`STEM.pages`) and, of a signed enclave, its SIGSTRUCT (`STEM.sig`).

    Args:
        enclave: what to write.
        path: of the list.

    Returns:
        What was written.

    Raises:
        BadPageList: RVP-5045, for an enclave that has no such list. PageListNotWritten: RVP-5046.

    Cost: one pass over the measured contents; they are copied to the disk, not into memory.
    """
    contents = path.with_suffix(".pages")
    signature = path.with_suffix(".sig")
    if path in {contents, signature}:
        raise BadPageList("a list has another suffix than .pages and .sig", place=str(path))
    written: list[Path] = []
    signed = enclave.sigstruct
    has_signature = signed is not None and not signed.is_empty
    try:
        with _replaced(contents) as stream:
            keeper = _Keeper(contents.name, stream.write)
            head = [f'schema = "{SCHEMA}"', f"size = {enclave.image.size_bytes:#x}"]
            head.append(f"ssa_frame_size = {enclave.image.ssa_frame_size}")
            if has_signature:
                head.append(f"sigstruct = {_quoted(signature.name)}")
            lines = [*head, *_run_lines(enclave.image.parts, keeper)]
        if keeper.size:
            written.append(contents)
        else:
            contents.unlink()
        if signed is not None and has_signature:
            with _replaced(signature) as stream:
                stream.write(signed.raw)
            written.append(signature)
        with _replaced(path) as stream:
            stream.write(("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise PageListNotWritten(f"cannot write the list: {error.strerror}", place=str(path)) from error
    return (path, *written)


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Keeper:
    """The file of contents: each distinct one once."""

    def __init__(self, name: str, sink: Callable[[Bytes], object]) -> None:
        self._name = name
        self._sink = sink
        self._known: dict[bytes, int] = {}
        self.size = 0

    def lines(self, content: Bytes) -> list[str]:
        """Keep a content, and say where it is."""
        digest = hashlib.sha256(content).digest()
        at = self._known.get(digest)
        if at is None:
            at = self._known[digest] = self.size
            self._sink(content)
            self.size += len(content)
        return [f"file = {_quoted(self._name)}", f"offset = {at:#x}", f'sha256 = "{digest.hex()}"']


def _run_lines(parts: Iterable[Part], keeper: _Keeper) -> Iterator[str]:
    for index, part in enumerate(_by_pages(parts)):
        if index == MAX_RUNS:
            raise BadPageList(f"more than {MAX_RUNS} runs")
        yield ""
        yield "[[run]]"
        yield f"address = {part.address:#x}"
        if isinstance(part, Chunks):
            yield f"chunks = {len(part.content) // CHUNK}"
            yield from _constant(part.content, CHUNK) or keeper.lines(part.content)
        else:
            yield f"pages = {part.count}"
            yield _access(part.flags)
            yield from _content(part, keeper)
        if part.label:
            yield f"label = {_quoted(part.label[:200])}"


def _by_pages(parts: Iterable[Part]) -> Iterator[Part]:
    """Cut chunks at the ends of their pages."""
    for part in parts:
        if not isinstance(part, Chunks):
            yield part
            continue
        at = 0
        while at < len(part.content):
            room = PAGE - (part.address + at) % PAGE
            yield Chunks(address=part.address + at, content=part.content[at : at + room], label=part.label)
            at += room


def _access(flags: int) -> str:
    if flags == SECINFO_TCS:
        return 'access = "tcs"'
    if flags & ~_RWX == SECINFO_REG:
        letters = "".join(letter if flags & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
        return f'access = "{letters}"'
    if flags & ~0xFF07 or flags >> 8 not in PAGE_TYPES:
        raise BadPageList(f"pages with SECINFO.FLAGS {flags:#x} have no place in a list")
    return f"flags = {flags:#x}"


def _content(part: Pages, keeper: _Keeper) -> list[str]:
    if not part.is_measured:
        return ["measured = false"]
    if part.flags == SECINFO_TCS and part.count == 1:
        tcs = _tcs(bytes(part.content))
        if tcs:
            return [tcs]
    if not part.is_filled:
        return keeper.lines(part.content)
    constant = _constant(part.content, PAGE)
    if constant:
        return constant
    lines = keeper.lines(part.content)
    return [*lines, "repeat = true"] if part.count > 1 else lines


def _constant(content: Bytes, unit: int) -> list[str]:
    """Write a content that is a short pattern, again and again."""
    data = bytes(content[:unit])
    size = 1
    while size <= _SHORT:
        if data[:size] * (len(content) // size) == bytes(content):
            return [f'fill = "{data[:size].hex()}"']
        size *= 2
    return []


def _tcs(page: bytes) -> str:
    """Write a TCS by its fields, when it has nothing else."""
    state, flags, ossa, cssa, nssa, entry, reserved, fs, gs, fs_limit, gs_limit = TCS_FIELDS.unpack_from(page)
    if state or reserved or max(flags, ossa, entry, fs, gs) > 1 << 52:
        return ""
    tcs = Tcs(
        ossa=ossa,
        nssa=nssa,
        entry=entry,
        flags=flags,
        cssa=cssa,
        fs_base=fs,
        gs_base=gs,
        fs_limit=fs_limit,
        gs_limit=gs_limit,
    )
    if tcs.page() != page:
        return ""
    required = {"ossa": ossa, "nssa": nssa, "entry": entry, "fs_limit": fs_limit, "gs_limit": gs_limit}
    others = {"flags": flags, "cssa": cssa, "fs_base": fs, "gs_base": gs}
    fields = required | {key: value for key, value in others.items() if value}
    return f"tcs = {{ {', '.join(f'{key} = {value:#x}' for key, value in fields.items())} }}"


def _quoted(text: str) -> str:
    """Write a basic string of TOML."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)
    return json.dumps(shown, ensure_ascii=False)
