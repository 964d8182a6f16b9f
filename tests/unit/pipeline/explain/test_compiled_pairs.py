"""Pairs that a real compiler and linker made: one thing is changed in the source or in how it is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.explain.explain import Operand, explain
from pipeline.explain.model import Explained
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import pack_enclave

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc on this machine")

SOURCE = r"""
__attribute__((visibility("default"))) struct { char marker[8]; unsigned long rest[7]; } g_global_data = {{'r','v','p','e','n','c','l','1'}};
__asm__(".pushsection .note.sgxmeta,\"\",@note; .long 13, 0x3000, 1; .ascii \"sgx_metadata\\0\"; .zero 0x3000; .popsection");
#ifndef GREETING
#define GREETING "hello from the enclave"
#endif
static const char greeting[] = GREETING;
static const char *const names[] = {"alpha one", "beta two", "gamma three", "delta four", "epsilon five", "zeta six"};
unsigned long table[64] = {1, 2, 3};
unsigned first(unsigned x) { return x * 3 + EXTRA; }
#ifdef LONGER
unsigned second(unsigned x) { for (unsigned i = 0; i < 9; i++) x = x * 7 + table[i & 63] + i; return x; }
#else
unsigned second(unsigned x) { return x * 5 + 1; }
#endif
unsigned third(unsigned x) { return second(x) ^ first(x) ^ (unsigned)(unsigned long)names[x % 6][0]; }
const char *where(void) { return WHERE; }
const char *when(void) { return WHEN; }
__attribute__((visibility("default"))) void enclave_entry(void) {
    table[7] = third(table[1]) + greeting[table[2] & 7] + where()[0] + when()[0];
    for (;;) __asm__ volatile("ud2");
}
"""
SCRIPT = """
ENTRY(enclave_entry)
PHDRS { ro PT_LOAD FILEHDR PHDRS FLAGS(4); tx PT_LOAD FLAGS(5); rw PT_LOAD FLAGS(6); dyn PT_DYNAMIC FLAGS(6); }
SECTIONS {
  . = SIZEOF_HEADERS;
  .hash : { *(.hash) } :ro  .gnu.hash : { *(.gnu.hash) } :ro  .dynsym : { *(.dynsym) } :ro  .dynstr : { *(.dynstr) } :ro
  .rela.dyn : { *(.rela .rela.*) } :ro
  .note.gnu.build-id : { *(.note.gnu.build-id) } :ro
  .rodata : { *(.rodata .rodata.*) } :ro
  . = ALIGN(0x1000); .text : { *(.text .text.*) } :tx
  . = ALIGN(0x1000); .dynamic : { *(.dynamic) } :rw :dyn
  .data : { *(.data.rel.ro .data.rel.ro.*) *(.got .got.*) *(.data .data.*) } :rw
  .bss : { *(.bss .bss.*) } :rw
  .note.sgxmeta 0 : { KEEP(*(.note.sgxmeta)) } :NONE
  /DISCARD/ : { *(.eh_frame*) *(.comment) *(.note.gnu.property) *(.interp) }
}
"""


def build(
    folder: Path,
    *flags: str,
    when: str = '"x"',
    where: str = '"y"',
    extra: int = 1,
    epoch: int = 1_700_000_000,
    config: EnclaveConfig | None = None,
    build_id: str = "none",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.c").write_text(SOURCE)
    (folder / "enclave.ld").write_text(SCRIPT)
    subprocess.run(
        [
            "gcc", "-g", "-O2", "-ffreestanding", "-nostdlib", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector",
            "-fno-inline", "-fno-ipa-icf", "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-Wl,-Bsymbolic", "-Wl,-z,norelro",
            "-Wl,--no-warn-rwx-segments", f"-Wl,--build-id={build_id}", "-Wl,-T,enclave.ld", f"-DWHEN={when}", f"-DWHERE={where}", f"-DEXTRA={extra}",
            *flags, str(folder / "main.c"), "-o", "enclave.so",
        ],
        cwd=folder, check=True, capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C"},
    )  # fmt: skip
    signed = folder / "packed.so"
    signed.write_bytes(pack_enclave(folder / "enclave.so", config or EnclaveConfig(threads=2, heap="64KiB")))
    return signed


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The enclave that the others are compared with."""
    return build(tmp_path_factory.mktemp("first") / "a")


def explained(left: Path, right: Path) -> Explained:
    return explain(Operand(text=str(left)), Operand(text=str(right)), clock=time.monotonic)


def ids(found: Explained) -> list[str]:
    return [one.id for one in found.causes]


def test_a_build_in_another_folder_is_equal_where_no_path_goes_in(first: Path, tmp_path: Path) -> None:
    found = explained(first, build(tmp_path / "b"))
    assert found.equal
    assert ".debug" in " ".join(found.notes)


def test_the_time_of_building_is_told(tmp_path: Path) -> None:
    when = '__DATE__" "__TIME__'
    found = explained(build(tmp_path / "a", when=when), build(tmp_path / "b", when=when, epoch=1_700_086_461))
    assert ids(found) == ["timestamp"]
    assert "'Nov 14 2023 22:13:20' and 'Nov 15 2023 22:14:21'" in found.causes[0].evidence
    assert found.first is not None
    assert found.first.place.startswith((".rodata + 0x", ".L"))


def test_the_path_of_the_build_is_told(tmp_path: Path) -> None:
    found = explained(build(tmp_path / "aaaa", where="__FILE__"), build(tmp_path / "bbbb", where="__FILE__"))
    assert set(ids(found)) & {"build-path", "temporary-name"}
    assert str(tmp_path / "aaaa" / "main.c") in found.causes[0].evidence[0]


def test_another_constant_names_its_function(first: Path, tmp_path: Path) -> None:
    found = explained(first, build(tmp_path / "b", extra=2))
    assert ids(found) == ["code"]
    assert found.causes[0].evidence == ("first",)
    assert found.first is not None
    assert found.first.place.startswith("first + 0x")


def test_a_longer_function_and_what_it_moved_is_named(first: Path, tmp_path: Path) -> None:
    found = explained(first, build(tmp_path / "b", "-DLONGER"))
    (moved,) = (one for one in found.causes if one.id == "moved")
    assert moved.words.startswith("second has another size")
    assert "symbols behind second moved by +0x" in moved.evidence[-1]


def test_another_string_is_told(first: Path, tmp_path: Path) -> None:
    found = explained(first, build(tmp_path / "b", '-DGREETING="hallo from the enclave"'))
    assert ids(found) == ["text"]
    assert "'hallo from the enclave'" in " ".join(found.causes[0].evidence)


def test_another_heap_is_told(first: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "b", config=EnclaveConfig(threads=2, heap="1MiB"))
    found = explained(first, other)
    assert ids(found) == ["heap-size", "configuration-only"]
    assert found.first is not None
    assert found.first.place.startswith("g_global_data + 0x")


def test_a_build_id_is_told_beside_what_it_follows_from(tmp_path: Path) -> None:
    """The debug information has the path; the build id is a hash that covers it, and it is measured."""
    found = explained(build(tmp_path / "a", build_id="sha1"), build(tmp_path / "b", build_id="sha1"))
    assert ids(found) == ["build-id"]


def test_a_stripped_file_has_the_same_value(first: Path, tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("needs strip")
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "--strip-debug", "-o", stripped, first.with_name("enclave.so")], check=True)
    other = tmp_path / "b.so"
    other.write_bytes(pack_enclave(stripped, EnclaveConfig(threads=2, heap="64KiB")))
    assert explained(first, other).equal


def test_symbols_come_from_an_unstripped_companion(tmp_path: Path) -> None:
    paths = []
    for name, extra in (("a", 1), ("b", 2)):
        build(tmp_path / name, extra=extra)
        stripped = tmp_path / f"{name}.so"
        subprocess.run(["strip", "-s", "-o", stripped, tmp_path / name / "enclave.so"], check=True)
        packed = tmp_path / f"{name}.packed.so"
        packed.write_bytes(pack_enclave(stripped, EnclaveConfig(threads=2, heap="64KiB")))
        paths.append(packed)
    bare = explained(*paths)
    assert bare.first is not None
    assert "first" not in bare.first.place
    left, right = (
        Operand(text=str(path), symbols_from=tmp_path / name / "enclave.so")
        for path, name in zip(paths, "ab", strict=True)
    )
    named = explain(left, right, clock=time.monotonic)
    assert named.first is not None
    assert named.first.place.startswith("first + 0x")
