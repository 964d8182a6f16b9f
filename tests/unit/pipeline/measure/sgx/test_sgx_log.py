"""The log of an enclave: small, labelled, the same for the same enclave, and it folds to MRENCLAVE."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from elftools.elf.elffile import ELFFile

from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import MappedElf, lay_out
from pipeline.measure.sgx.enclave_image import PAGE, Chunks, EnclaveImage, Pages, Part
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.labels import Labels
from pipeline.measure.sgx.log import MEASURED, REPEAT, LogDoesNotFold, content_of, fold_log, write_log
from pipeline.measure.sgx.sdk.layout import enclave_image
from pipeline.measure.sgx.sdk.metadata import LayoutEntry, Record
from pipeline.measure.sgx.sgxs import read_sgxs, write_sgxs
from provenance.measurement_log import MeasurementLog
from tests.fakes.enclave_elf import enclave_elf


def image_of(*parts: Part) -> EnclaveImage:
    return EnclaveImage(size_bytes=1 << 40, ssa_frame_size=1, parts=parts)


def log_of(image: EnclaveImage) -> MeasurementLog:
    return write_log(image, mrenclave(image))


def different_pages(count: int) -> bytes:
    return b"".join(index.to_bytes(4, "little") * (PAGE // 4) for index in range(1, count + 1))


def threads(count: int, at: int) -> list[Part]:
    parts: list[Part] = []
    for index in range(count):
        base = at + index * 0x40000
        tcs = base.to_bytes(8, "little").ljust(PAGE, b"\0")
        parts += [
            Pages(address=base, count=16, flags=0x203, content=b"\xcc" * PAGE, label=f"stack {index}"),
            Pages(address=base + 0x20000, count=1, flags=0x100, content=tcs, label=f"TCS {index}"),
            Pages(address=base + 0x21000, count=2, flags=0x203, content=bytes(PAGE), label=f"SSA {index}"),
        ]
    return parts


def test_each_page_of_a_small_enclave_is_an_event() -> None:
    image = image_of(Pages(address=0, count=100, flags=0x205, content=different_pages(100)))
    events = log_of(image).events[1:]
    assert [(one.address, one.count) for one in events] == [(index * PAGE, 1) for index in range(100)]
    first = events[7].content
    assert first == hashlib.sha256((8).to_bytes(4, "little") * (PAGE // 4)).hexdigest()


def test_equal_pages_are_one_event_however_they_are_given() -> None:
    zero, page = bytes(PAGE), b"\1" * PAGE
    one = image_of(
        Pages(address=0, count=3, flags=0x203, content=page + zero + zero),
        Pages(address=3 * PAGE, count=5, flags=0x203, content=zero),
    )
    other = image_of(Pages(address=0, count=8, flags=0x203, content=page + zero * 7))
    assert log_of(one) == log_of(other)
    assert [event.count for event in log_of(one).events[1:]] == [1, 7]


def test_a_large_enclave_has_a_log_of_about_4096_events_that_folds() -> None:
    image = image_of(
        Pages(address=0, count=20_000, flags=0x205, content=different_pages(20_000)),
        Pages(address=1 << 30, count=7_000_000, flags=0x203, label="heap"),
    )
    log = log_of(image)
    assert 2048 < len(log.events) < 4200
    assert {event.count for event in log.events[1:-2]} == {8}
    assert fold_log(log, content_of(image)) == mrenclave(image)


def test_thousands_of_threads_are_a_handful_of_events_that_fold() -> None:
    image = image_of(
        Pages(address=0, count=2, flags=0x205, content=different_pages(2)), *threads(3000, 1 << 30)
    )
    log = log_of(image)
    assert len(log.events) < 20
    assert log.events[-1].op == REPEAT
    assert log.events[-1].label == "2999 more threads: stack 1 to SSA 2999"
    assert fold_log(log, content_of(image)) == mrenclave(image)


def test_a_few_threads_are_written_one_by_one() -> None:
    log = log_of(image_of(*threads(8, 0)))
    assert [event.label for event in log.events[1:4]] == ["stack 0", "TCS 0", "SSA 0"]
    assert REPEAT not in {event.op for event in log.events}


@pytest.mark.parametrize("field", ["content", "flags", "address", "count", "op"])
def test_a_log_that_was_changed_does_not_fold(field: str) -> None:
    image = image_of(Pages(address=0, count=3, flags=0x205, content=different_pages(3)), *threads(2, 1 << 20))
    log = log_of(image)
    changed = {"content": "0" * 64, "flags": 0x207, "address": 8 * PAGE, "count": 2, "op": "EADD"}[field]
    events = (*log.events[:2], msgspec.structs.replace(log.events[2], **{field: changed}), *log.events[3:])
    with pytest.raises(LogDoesNotFold):
        fold_log(msgspec.structs.replace(log, events=events), content_of(image))


@pytest.mark.parametrize(
    "changed", [{"flags": 0}, {"flags": 9}, {"count": 2998}, {"length": PAGE}, {"content": "00"}]
)
def test_a_repeat_that_was_changed_does_not_fold(changed: dict[str, object]) -> None:
    image = image_of(*threads(3000, 0))
    log = log_of(image)
    last = msgspec.structs.replace(log.events[-1], **changed)
    with pytest.raises(LogDoesNotFold):
        fold_log(msgspec.structs.replace(log, events=(*log.events[:-1], last)), content_of(image))


@pytest.mark.parametrize(
    ("index", "changed", "said"),
    [
        (0, {"length": 1 << 64}, "ECREATE has"),
        (0, {"length": -1}, "ECREATE has"),
        (0, {"flags": 1 << 32}, "ECREATE has"),
        (1, {"address": -1}, "no enclave has that"),
        (1, {"address": (1 << 63) - 1}, "no enclave has that"),
        (1, {"flags": 1 << 64}, "no enclave has that"),
        (1, {"flags": -1}, "no enclave has that"),
        (1, {"count": 1 << 60}, "more than 0x400000000 bytes"),
        (2, {"count": 1 << 40}, "more than 0x400000000 bytes"),
        (2, {"count": -1}, "no enclave has that"),
    ],
)
def test_a_number_that_no_enclave_has_is_refused_before_it_is_hashed(
    index: int, changed: dict[str, int], said: str
) -> None:
    image = image_of(
        Pages(address=0, count=2, flags=0x203),
        Pages(address=2 * PAGE, count=1, flags=0x203, content=bytes(PAGE)),
    )
    log = log_of(image)
    events = list(log.events)
    events[index] = msgspec.structs.replace(events[index], **changed)
    with pytest.raises(LogDoesNotFold, match=said):
        fold_log(msgspec.structs.replace(log, events=tuple(events)), content_of(image))


def test_a_log_of_many_large_events_is_refused_before_it_is_hashed() -> None:
    image = image_of(Pages(address=0, count=1, flags=0x203))
    log = log_of(image)
    large = msgspec.structs.replace(log.events[1], count=1 << 27)
    with pytest.raises(LogDoesNotFold, match="more than 0x400000000 bytes"):
        fold_log(msgspec.structs.replace(log, events=(log.events[0], *[large] * 1000)), content_of(image))


def test_a_log_does_not_fold_over_another_enclave() -> None:
    one = image_of(Pages(address=0, count=3, flags=0x205, content=different_pages(3)))
    other = image_of(Pages(address=0, count=3, flags=0x205, content=different_pages(4)[PAGE:]))
    with pytest.raises(LogDoesNotFold, match="at 0x0"):
        fold_log(log_of(one), content_of(other))


def test_single_chunks_are_in_the_log_and_fold() -> None:
    image = image_of(
        Pages(address=0, count=1, flags=0x203),
        Chunks(address=0, content=b"\1" * 512),
        Chunks(address=0x400, content=b"\2" * 256),
    )
    log = log_of(image)
    assert [(event.op, event.count) for event in log.events[1:]] == [
        ("EADD", 1),
        ("EEXTEND", 2),
        ("EEXTEND", 1),
    ]
    assert fold_log(log, content_of(image)) == mrenclave(image)


# ---- labels, against another reader of ELF files ---------------------------------------------------------


@pytest.mark.vectors
@pytest.mark.parametrize(
    "name", ["mini/keysvc.signed.so", "oracle/c02_tcs10.signed.so", "oracle/t02_textrel.signed.so"]
)
def test_the_log_of_a_real_enclave_folds_and_its_pages_name_their_sections(vectors: Path, name: str) -> None:
    path = vectors / "sgx" / name
    enclave = lay_out(path)[0]
    value = mrenclave(enclave.image)
    log = write_log(enclave.image, value, elves=enclave.elves)
    assert fold_log(log, content_of(enclave.image)) == value
    with path.open("rb") as stream:
        sections = [
            (section.name, section["sh_addr"], section["sh_addr"] + section["sh_size"])
            for section in ELFFile(stream).iter_sections()
            if section["sh_flags"] & 2
            and section["sh_size"]
            and not (section["sh_type"] == "SHT_NOBITS" and section["sh_flags"] & 0x400)
        ]
    sections.sort(key=lambda one: one[1])
    pages = [event for event in log.events if event.op == MEASURED and event.label.startswith("segment")]
    assert pages
    for event in pages:
        start, end = event.address, event.address + event.count * PAGE
        expected = [name for name, first, last in sections if first < end and last > start]
        named = expected if len(expected) < 5 else [expected[0], "…", expected[-1]]
        assert ", ".join(named) in event.label


@pytest.mark.vectors
def test_addresses_name_the_symbols_that_another_reader_finds(vectors: Path) -> None:
    path = vectors / "sgx" / "mini" / "keysvc.signed.so"
    labels = Labels((MappedElf(elf=Elf(map_file(path)), base=0x10000),))
    with path.open("rb") as stream:
        found = [
            (symbol.name, symbol["st_value"], symbol["st_size"])
            for symbol in ELFFile(stream).get_section_by_name(".symtab").iter_symbols()
            if symbol["st_info"]["type"] in {"STT_FUNC", "STT_OBJECT"} and symbol["st_size"]
        ]
    assert len(found) > 50
    for _, value, size in found:
        for offset in {0, size - 1}:
            place = labels.place(value + offset + 0x10000)
            named = [one for one in found if one[1] <= value + offset < one[1] + one[2]]
            assert (place.symbol, value + offset - place.symbol_offset, place.symbol_size) in named


@pytest.mark.vectors
def test_the_same_enclave_has_the_same_events_in_both_formats(vectors: Path) -> None:
    one = lay_out(vectors / "sgx" / "mini" / "keysvc.signed.so")[0]
    other = lay_out(vectors / "sgx" / "mini" / "keysvc.sgxs")[0]
    plain = [
        [
            msgspec.structs.replace(event, label="")
            for event in write_log(each.image, b"", elves=one.elves).events
        ]
        for each in (one, other)
    ]
    assert plain[0] == plain[1]


@pytest.mark.vectors
def test_hostile_tables_cost_a_label_and_nothing_else(vectors: Path) -> None:
    data = bytearray((vectors / "sgx" / "mini" / "keysvc.signed.so").read_bytes())
    elf = Elf(memoryview(data))
    table = next(one for one in elf.sections if one.kind == 2)
    data[table.offset : table.offset + table.size] = b"\xff" * table.size
    labels = Labels((MappedElf(elf=Elf(memoryview(data)), base=0),))
    assert labels.place(0x1000).section == ".text"
    data[table.offset : table.offset + table.size] = b"\xf1\x7f\0\0\x12\0\1\0" * (table.size // 8)
    labels = Labels((MappedElf(elf=Elf(memoryview(data)), base=0),))
    labels.names(0, 1 << 40)


def test_an_sgxs_stream_of_a_log_is_read_twice() -> None:
    image = image_of(Pages(address=0, count=3, flags=0x205, content=different_pages(3)))
    stream = read_sgxs(memoryview(write_sgxs(msgspec.structs.replace(image, size_bytes=1 << 20))))
    assert len(log_of(stream).events) == 4


@pytest.mark.parametrize(("stack", "tcs"), [(5, 2), (8, 4)])
def test_both_generations_of_entry_numbers_are_named(stack: int, tcs: int) -> None:
    record = Record(
        major=1,
        minor=4,
        size_bytes=0,
        ssa_frame_size=1,
        desired_misc_select=0,
        enclave_size=1 << 24,
        attributes=b"",
        sigstruct=b"",
        patches=(),
        layout=(
            LayoutEntry(ident=1, attributes=1, page_count=4, address=0x10000, flags=0x203),
            LayoutEntry(ident=stack, attributes=3, page_count=4, address=0x20000, flags=0x203),
            LayoutEntry(
                ident=tcs, attributes=3, page_count=1, address=0x30000, flags=0x100, content=bytes(72)
            ),
        ),
    )
    image = enclave_image(Elf(memoryview(enclave_elf())), record)
    assert [part.label for part in image.parts][-3:] == ["heap", "stack 0", "TCS 0"]
