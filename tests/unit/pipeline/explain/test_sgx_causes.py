"""Each rule speaks where its cause is, and is silent where something else is the cause."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from pipeline.explain.model import Side
from pipeline.explain.sgx.causes import RULES, likely_causes
from pipeline.explain.sgx.evidence import Evidence, collect
from pipeline.explain.sgx.side import EnclaveSide
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import PAGE, Pages, Part
from pipeline.measure.sgx.hashing import mrenclave
from tests.fakes.symbol_elf import READ, READ_EXECUTE, READ_WRITE, enclave, segment, symbol_elf

CODE = random.Random(1).randbytes(3000)
TEXT = b"a program that says hello\0and one more line\0"


def side(made: Enclave) -> EnclaveSide:
    value = mrenclave(made.image).hex()
    return EnclaveSide(Side(name="x", kind="file", value=value, what=made.layout), enclave=made)


def evidence(left: Enclave, right: Enclave) -> Evidence:
    return collect(side(left), side(right))


def causes(left: Enclave, right: Enclave) -> list[str]:
    return [one.id for one in likely_causes(evidence(left, right))]


def tcs(number: int, address: int, *, flags: int = 0) -> Pages:
    page = struct.pack("<QQQ", 0, flags, address + PAGE).ljust(PAGE, b"\0")
    return Pages(address=address, count=1, flags=0x100, content=page, label=f"TCS {number}")


def made(
    *,
    code: bytes = CODE,
    text: bytes = TEXT,
    data: bytes = bytes(range(256)),
    rodata_flags: int = READ,
    heap: int = 16,
    stack: int = 4,
    threads: int = 1,
    reserved: int = 0,
    aex: int = 0,
    base: int = 0,
    symbols: tuple[tuple[str, int, int], ...] = (),
    note: bytes = b"",
    **more: object,
) -> Enclave:
    """An enclave with code at 0x1000, strings at 0x2000, data at 0x3000, then heap, stacks and threads."""
    sections = [(".text", 0x1000, code), (".rodata", 0x2000, text), (".data", 0x3000, data)]
    content = text
    if note:
        sections.append((".note.gnu.build-id", 0x2800, note))
        content = text.ljust(0x800, b"\0") + note
    parts: list[Part] = [
        segment(0, base + 0x1000, READ_EXECUTE, code),
        segment(1, base + 0x2000, rodata_flags, content),
        segment(2, base + 0x3000, READ_WRITE, data),
    ]
    at = base + 0x10000
    if heap:
        parts.append(Pages(address=at, count=heap, flags=READ_WRITE, label="heap"))
    at += heap * PAGE
    for number in range(threads):
        parts.append(
            Pages(address=at, count=stack, flags=READ_WRITE, content=b"\xcc" * PAGE, label=f"stack {number}")
        )
        at += stack * PAGE
        parts.append(tcs(number, at, flags=aex))
        at += PAGE
    if reserved:
        parts.append(Pages(address=at, count=reserved, flags=READ_WRITE, label="reserved memory"))
    return enclave(*parts, elf=symbol_elf(sections, symbols), base=base, **more)  # type: ignore[arg-type]


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


FUNCTIONS = (("first", 0x1000, 1000), ("second", 0x13E8, 1000), ("third", 0x17D0, 1000))
POINTERS = b"".join(struct.pack("<Q", 0x1000 + 64 * index) for index in range(20))
MOVED_POINTERS = b"".join(struct.pack("<Q", 0x1010 + 64 * index) for index in range(20))

CASES: dict[str, tuple[Enclave, Enclave]] = {
    "heap-size": (made(), made(heap=32)),
    "stack-size": (made(), made(stack=8)),
    "threads": (made(), made(threads=3)),
    "reserved-memory": (made(reserved=4), made(reserved=8)),
    "ssa-frame": (made(), made(ssa=3)),
    "enclave-size": (made(), made(size=1 << 25)),
    "sdk-generation": (
        made(layout="SDK metadata 3.1", metadata="3.1"),
        made(layout="SDK metadata 3.3", metadata="3.3", data=bytes(256)),
    ),
    "enclave-range": (made(), made(base=0x100000)),
    "aex-notify": (made(), made(aex=2)),
    "configuration-only": (
        made(symbols=(("g_global_data", 0x3000, 256),)),
        made(symbols=(("g_global_data", 0x3000, 256),), heap=32, data=with_byte(bytes(range(256)), 24, 9)),
    ),
    "page-flags": (made(), made(rodata_flags=READ_WRITE)),
    "timestamp": (made(text=b"built Nov 23 2026 08:00:01\0"), made(text=b"built Nov 24 2026 09:10:11\0")),
    "build-path": (made(text=b"/home/anna/enclave/main.c\0"), made(text=b"/home/bob/src/enclave/main.c\0")),
    "temporary-name": (made(text=b"/tmp/ccA8xQ1z.o\0"), made(text=b"/tmp/ccB77Qaa.o\0")),
    "random": (
        made(text=b"id 6ba7b810-9dad-11d1-80b4-00c04fd430c8\0"),
        made(text=b"id 7ba7b811-9dad-11d1-80b4-00c04fd430c9\0"),
    ),
    "epoch": (
        made(data=struct.pack("<QQ", 7, 1_795_420_800).ljust(64, b"\1")),
        made(data=struct.pack("<QQ", 7, 1_795_424_321).ljust(64, b"\1")),
    ),
    "build-id": (made(note=b"\x11" * 36), made(note=b"\x11" * 16 + b"\x22" * 20)),
    "compiler": (
        made(text=b"GCC: (Debian 12.2.0-14) 12.2.0\0"),
        made(text=b"GCC: (Debian 14.1.0-5) 14.1.0\0"),
    ),
    "symbol-order": (
        made(symbols=FUNCTIONS),
        made(
            code=CODE[1000:2000] + CODE[:1000] + CODE[2000:],
            symbols=(("second", 0x1000, 1000), ("first", 0x13E8, 1000), ("third", 0x17D0, 1000)),
        ),
    ),
    "moved": (
        made(symbols=FUNCTIONS),
        made(
            code=CODE[:1000] + b"\x90" * 16 + CODE[1000:],
            symbols=(("first", 0x1000, 1016), ("second", 0x13F8, 1000), ("third", 0x17E0, 1000)),
        ),
    ),
    "addresses": (made(data=POINTERS), made(data=MOVED_POINTERS)),
    "padding": (made(), None),  # type: ignore[dict-item]  made below
    "text": (made(), made(text=TEXT.replace(b"hello", b"howdy"))),
    "code": (made(symbols=FUNCTIONS), made(symbols=FUNCTIONS, code=with_byte(CODE, 1500, 0x11))),
    "page-order": (made(), None),  # type: ignore[dict-item]  made below
}


def _with_parts(one: Enclave, change: Callable[[list[Part]], list[Part]]) -> Enclave:
    import msgspec

    parts = change(list(one.image.parts))
    return msgspec.structs.replace(one, image=msgspec.structs.replace(one.image, parts=tuple(parts)))


def _dirty(parts: list[Part]) -> list[Part]:
    import msgspec

    page = bytearray(parts[2].content)
    page[0x800:0x808] = b"leftover"
    return [*parts[:2], msgspec.structs.replace(parts[2], content=bytes(page)), *parts[3:]]


CASES["padding"] = (made(), _with_parts(made(), _dirty))
CASES["page-order"] = (made(), _with_parts(made(), lambda parts: [parts[1], parts[0], *parts[2:]]))

# what may speak beside the rule that is meant: a consequence, or the same seen otherwise
ALSO: dict[str, set[str]] = {
    "heap-size": {"configuration-only"},
    "stack-size": {"configuration-only"},
    "threads": {"configuration-only"},
    "ssa-frame": set(),
    "sdk-generation": set(),
    "enclave-range": set(),
    "configuration-only": {"heap-size"},
    "padding": {"text"},
    "symbol-order": set(),
    "moved": set(),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_rule_speaks_where_its_cause_is_and_the_others_are_silent(name: str) -> None:
    found = causes(*CASES[name])
    assert name in found
    assert set(found) - ALSO.get(name, set()) == {name}


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_rule_speaks_of_equal_enclaves(name: str) -> None:
    left, _ = CASES[name]
    assert causes(left, left) == []


def test_every_rule_has_a_case() -> None:
    from pipeline.explain.sgx import causes as sgx_causes

    listed = set()
    for line in (sgx_causes.__doc__ or "").splitlines():
        cells = line.split("|")
        if len(cells) > 2 and "`" in cells[1]:
            listed |= {word.strip(" `") for word in cells[1].split(",")}
    assert listed == set(CASES)
    assert len(RULES) == len(CASES)


# ---- what looks like a cause and is none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("timestamp", made(text=b"version 1.2.3 of it\0"), made(text=b"version 1.2.4 of it\0")),
        ("build-path", made(text=b"/usr/lib/x.so one\0"), made(text=b"/usr/lib/x.so two\0")),
        ("temporary-name", made(text=b"/opt/enclave/a\0"), made(text=b"/opt/enclave/b\0")),
        ("random", made(text=b"id 6ba7b810-9dad\0"), made(text=b"id 7ba7b810-9dad\0")),
        ("compiler", made(text=b"GCC is a compiler\0"), made(text=b"GCC was a compiler\0")),
        # a word that is a time on one side only; a time inside code
        ("epoch", made(data=struct.pack("<Q", 1_795_420_800)), made(data=struct.pack("<Q", 3))),
        ("epoch", made(code=struct.pack("<Q", 1_795_420_800)), made(code=struct.pack("<Q", 1_795_420_801))),
        # two words of many have one distance: chance
        ("addresses", made(data=POINTERS), made(data=POINTERS[:64] + MOVED_POINTERS[64:80] + bytes(80))),
        # bytes of a section
        ("padding", made(), made(data=with_byte(bytes(range(256)), 9, 0))),
        # a function with other code is neither moved nor permuted
        ("moved", made(symbols=FUNCTIONS), made(symbols=FUNCTIONS, code=with_byte(CODE, 1500, 0x11))),
        ("moved", made(), made(code=with_byte(CODE, 1500, 0x11))),
        (
            "symbol-order",
            made(symbols=FUNCTIONS),
            made(symbols=FUNCTIONS[:2], code=with_byte(CODE, 1500, 0x11)),
        ),
        # code differs, so it is not the configuration alone
        ("configuration-only", made(), made(heap=32, code=with_byte(CODE, 1500, 0x11))),
        # the size follows from the heap
        ("enclave-size", made(), made(heap=32, size=1 << 25)),
        # the TCS differ because they moved
        ("aex-notify", made(), made(heap=32)),
        # another entry point is no other generation
        ("sdk-generation", made(), made(code=with_byte(CODE, 1500, 0x11))),
        ("page-flags", made(), made(text=TEXT + b"more of it\0")),
        ("page-order", made(), made(heap=32)),
        ("enclave-range", made(), made(heap=32)),
        ("build-id", made(note=b"\x11" * 36), made(note=b"\x11" * 36, text=b"other text\0")),
        ("code", made(symbols=FUNCTIONS), made(symbols=FUNCTIONS, data=bytes(256))),
    ],
)
def test_a_rule_is_silent_where_its_cause_is_not(name: str, left: Enclave, right: Enclave) -> None:
    assert name not in causes(left, right)


def test_stripped_code_that_moved_is_found_by_its_bytes() -> None:
    found = likely_causes(evidence(made(), made(code=CODE[:1000] + b"\x90" * 16 + CODE[1000:])))
    (moved,) = (one for one in found if one.id == "moved")
    assert "+0x10 bytes" in moved.evidence[0]


def test_version_strings_of_the_sdk_tell_its_generation() -> None:
    left, right = (made(text=f"SGX_TRTS_VERSION_{one}\0".encode()) for one in ("2.11.100.2", "2.17.100.3"))
    (found,) = (one for one in likely_causes(evidence(left, right)) if one.id == "sdk-generation")
    assert found.evidence == ("SGX_TRTS_VERSION_2.11.100.2 and SGX_TRTS_VERSION_2.17.100.3",)
    assert "sdk-generation" not in causes(left, made(text=b"another text\0"))


def test_a_string_with_another_byte_behind_it_is_no_other_string() -> None:
    assert "text" not in causes(made(text=b"PROVISIONSEALKEY\0"), made(text=b"PROVISIONSEALKEYT$\0"))


def test_what_grew_is_named_with_what_it_moved() -> None:
    (moved,) = likely_causes(evidence(*CASES["moved"]))
    assert moved.evidence == ("first: 1000 and 1016 bytes", "2 symbols behind first moved by +0x10 bytes")


def test_what_was_seen_is_said() -> None:
    (path,) = likely_causes(evidence(*CASES["build-path"]))
    assert path.evidence == ("'/home/anna/enclave/main.c' and '/home/bob/src/enclave/main.c'",)
    assert "-ffile-prefix-map" in path.remedy
