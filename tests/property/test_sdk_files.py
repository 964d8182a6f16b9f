"""Enclave files of every metadata version, made at random: the product and a plain loader agree on MRENCLAVE."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, event, given, settings

from pipeline.measure.sgx.elf import Elf
from pipeline.measure.sgx.hashing import mrenclaves
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import read_metadata
from tests.fakes.plain_sdk_loader import plain_mrenclaves
from tests.fakes.sdk_files import PAGE, Entry, Record, Segment, sdk_file

VERSIONS = [
    *[(1, 3), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2), (2, 3), (2, 4), (3, 0), (3, 1), (3, 2), (3, 3)],
    *[(11, 4), (11, 5), (12, 4), (13, 0), (13, 3)],
]
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    found = []
    at = draw(st.integers(0, 2)) * PAGE
    for index in range(draw(st.integers(1, 4))):
        at += draw(st.sampled_from([0, 0, 8, 0x123, PAGE - 8]))
        content = bytes([index + 1]) * draw(st.sampled_from([0, 1, 8, 0x200, PAGE - 1, PAGE, PAGE + 1, 9000]))
        memory = len(content) + draw(st.sampled_from([0, 0, 1, 0x200, PAGE, 9999]))
        if memory:
            flags = draw(st.integers(1, 7))
            found.append(Segment(address=at, content=content, memory=memory, flags=flags))
        at = -(-(at + memory) // PAGE) * PAGE + draw(st.sampled_from([0, PAGE, 0x20000]))
    return tuple(found) or (Segment(address=0, content=b"x"),)


def end_of(parts: tuple[Segment, ...]) -> int:
    return -(-(parts[-1].address + max(parts[-1].memory, len(parts[-1].content))) // PAGE) * PAGE


@st.composite
def layouts(draw: st.DrawFn, start: int) -> tuple[tuple[Entry, ...], int]:
    rows: list[Entry] = []
    since = 0  # entries that a group may repeat, and where they begin
    at, begin = start, start
    for _ in range(draw(st.integers(0, 8))):
        if since and draw(st.booleans()) and draw(st.booleans()):
            times = draw(st.integers(0, 3))
            rows.append(Entry(ident=9, repeat=(since, times, at - begin)))
            at += (at - begin) * times
            since, begin = 0, at
            continue
        pages = draw(st.integers(1, 5))
        kind = draw(st.sampled_from(["heap", "stack", "guard", "tcs", "content", "later", "any"]))
        entry = Entry(ident=draw(st.integers(1, 23)), address=at, pages=pages)
        changes = {
            "heap": {"attributes": 1},
            "stack": {"fill": 0xCCCCCCCC},
            "guard": {"attributes": 0, "flags": 0},
            "tcs": {"flags": 0x100, "pages": 1, "content": bytes(range(72))},
            "content": {"content": b"thread data" * 400, "pages": 2},
            "later": {"attributes": 0x28},
            "any": {
                "attributes": draw(st.integers(0, 0x7F)),
                "flags": draw(st.sampled_from([0, 0x203, 0x207])),
            },
        }[kind]
        rows.append(Entry(**{name: getattr(entry, name) for name in entry.__struct_fields__} | changes))
        at += rows[-1].pages * PAGE
        since += 1
    return tuple(rows), at


@st.composite
def files(draw: st.DrawFn) -> bytes:
    parts = draw(segments())
    relocations = None
    if draw(st.booleans()):
        top = end_of(parts) - 8
        where = st.integers(0, top).map(lambda at: at | 0xFF8) | st.integers(0, top)
        offsets = draw(st.lists(where, max_size=6))
        relocations = tuple((min(at, top), draw(st.sampled_from([0, 1, 8]))) for at in offsets)
        tables = Segment(address=end_of(parts) + 3 * PAGE, flags=6)
        parts = (*parts, tables)
    module = b""
    base = end_of(parts) + 6 * PAGE
    start = base
    if draw(st.booleans()):
        inner = draw(segments())
        module = sdk_file(inner)
        start = base + end_of(inner) + PAGE
    plain = sdk_file(parts, relocations=relocations)
    # a patch over the metadata itself is refused: tests/unit says so
    before_the_note = plain.rindex(b"\0.note.sgxmeta\0") + 32 - 64
    records = []
    for version in draw(st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=3)):
        rows, end = draw(layouts(start))
        size = 1 << max(13, (end - 1).bit_length())
        elrange = None
        if version[0] > 10:
            length = size << draw(st.integers(0, 2))
            begin = length * draw(st.integers(0, 3))
            elrange = (begin + draw(st.integers(0, (length - size) // PAGE)) * PAGE, begin, length)
        patches = []
        for _ in range(draw(st.integers(0, 3))):
            to = draw(st.integers(0, before_the_note))
            patches.append((to, draw(st.binary(min_size=1, max_size=64))))
        with_module = module and version[0] % 10 != 2 and version[1] >= (5 if version[0] % 10 == 1 else 2)
        records.append(
            Record(
                version=version,
                size=size,
                ssa=draw(st.integers(1, 4)),
                layout=rows,
                patches=tuple(patches),
                elrange=elrange,
                module=base if with_module else None,
            )
        )
    for what in ("relocations", "module"):
        event(f"{what}: {bool(locals()[what])}")
    return sdk_file(parts, tuple(records), relocations=relocations, module=module)


@SLOW
@given(files())
def test_every_record_gives_what_a_plain_loader_gives(file: bytes) -> None:
    elf = Elf(memoryview(file))
    images = [enclave_image(elf, record) for record in read_metadata(elf)]
    assert [value.hex() for value in mrenclaves(images)] == plain_mrenclaves(file)
