"""Gramine enclaves: as Gramine's own signer lays them out, what leaves MRENCLAVE open, and what is refused."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measure import MeasureOptions, UnknownFormat, detect, measure_file
from pipeline.measure.measured import SIGNATURE_CHECKS
from pipeline.measure.sgx.elf import BadElf
from pipeline.measure.sgx.gramine.binding import binding_check
from pipeline.measure.sgx.gramine.enclave import NoLibpal, lay_out_gramine, lay_out_manifest
from pipeline.measure.sgx.gramine.generation import GENERATIONS, UnknownGramine, seen_generation
from pipeline.measure.sgx.gramine.layout import BadLibpal, GramineTooSmall
from pipeline.measure.sgx.gramine.manifest import BadGramineManifest, looks_like_manifest, read_manifest
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from tests.fakes.gramine_vectors import MANIFESTS, SIGNED
from tests.fakes.libpal import USUAL, Load, R, W, X, libpal, manifest
from tests.fakes.plain_gramine import gramine_mrenclave


@pytest.fixture
def enclave(tmp_path: Path) -> Path:
    """Write a signed manifest's folder: manifest and libpal.so."""
    (tmp_path / "libpal.so").write_bytes(libpal())
    path = tmp_path / "app.manifest.sgx"
    path.write_bytes(manifest())
    return path


def lay_out_text(text: bytes, *, generation: str = "", elf: bytes | None = None) -> bytes:
    data = libpal() if elf is None else elf
    return mrenclave(lay_out_manifest(text, memoryview(data), generation=generation).image)


@pytest.mark.parametrize(("name", "generation"), SIGNED)
def test_value_and_fields_are_those_of_gramines_own_signer(
    name: str, generation: str, tmp_path: Path
) -> None:
    (tmp_path / "libpal.so").write_bytes(libpal())
    path = tmp_path / "app.manifest.sgx"
    path.write_text(MANIFESTS[name])
    unsigned = lay_out_unsigned(path, MeasureOptions(generation=generation))
    tbs = to_be_signed(unsigned.fields)
    expected = SIGNED[name, generation]
    assert (unsigned.fields.mrenclave.hex(), hashlib.sha256(tbs[:20] + tbs[24:]).hexdigest()) == expected
    assert mrenclave(unsigned.enclave.image).hex() == expected[0]


segments = st.lists(
    st.tuples(st.integers(0, 4095), st.binary(max_size=9000), st.integers(1, 9000), st.integers(0, 7)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    parts=segments,
    threads=st.integers(1, 3),
    size=st.sampled_from([4 << 20, 8 << 20]),
    edmm=st.booleans(),
    generation=st.sampled_from(["1.0", "1.4", "1.9"]),
    padding=st.integers(0, 9000),
)
def test_layout_equals_the_plain_one(
    parts: list[tuple[int, bytes, int, int]],
    threads: int,
    size: int,
    edmm: bool,  # noqa: FBT001  drawn
    generation: str,
    padding: int,
) -> None:
    loads, at = [], 0
    for number, (inside, content, more, flags) in enumerate(parts):
        address = at + (inside if number else 0)
        loads.append(Load(address, content, len(content) + more, flags))
        at = -(-(address + len(content) + more) // 4096) * 4096
    edmm = edmm and generation != "1.0"
    key = "thread_num" if generation == "1.0" else "max_threads"
    text = f'libos.entrypoint = "/a"\nsgx.enclave_size = "{size >> 20}M"\nsgx.{key} = {threads}\n'
    text += f"sgx.edmm_enable = {str(edmm).lower()}\n#" + "x" * padding
    data = libpal(tuple(loads), entry=7)
    assert lay_out_text(text.encode(), generation=generation, elf=data) == gramine_mrenclave(
        text.encode(),
        tuple(loads),
        data,
        7,
        size=size,
        threads=threads,
        edmm=edmm,
        based=generation in {"1.0", "1.4"},
    )


def test_every_byte_of_the_manifest_and_of_libpal_is_bound(enclave: Path) -> None:
    text, elf = enclave.read_bytes(), (enclave.parent / "libpal.so").read_bytes()
    values = {lay_out_text(text), lay_out_text(text + b"\n"), lay_out_text(text.replace(b"2222", b"2223", 1))}
    changed = bytearray(elf)
    changed[-1] ^= 1
    values.add(lay_out_text(text, elf=bytes(changed)))
    assert len(values) == 4


def test_manifest_beside_libpal_and_signature_is_measured_whole(enclave: Path) -> None:
    unsigned = lay_out_unsigned(enclave, MeasureOptions())
    key = read_private_key(new_key())
    fields = msgspec.structs.replace(unsigned.fields, date=(2026, 2, 4))
    signed = unsigned.write(sign(to_be_signed(fields), key))
    (enclave.parent / "app.sig").write_bytes(signed)
    measurement = measure_file(enclave).measurements[0]
    found = {check.id: check.status for check in measurement.checks}
    assert found == {
        **dict.fromkeys(SIGNATURE_CHECKS, "passed"),
        "mrenclave-equals-sigstruct": "passed",
        "binds-application": "passed",
    }
    assert measurement.claims["mrenclave"] == unsigned.fields.mrenclave.hex()
    enclave.write_bytes(enclave.read_bytes() + b"# changed\n")
    checks = {check.id: check.status for check in measure_file(enclave).measurements[0].checks}
    assert checks["mrenclave-equals-sigstruct"] == "failed"


def test_a_build_takes_nothing_that_lies_beside(enclave: Path) -> None:
    enclave.with_name("app.sig").write_bytes(b"of somebody")
    with pytest.raises(NoLibpal):
        lay_out_gramine(enclave, MeasureOptions(companions=False))
    options = MeasureOptions(companions=False, libpal=enclave.with_name("libpal.so"))
    assert lay_out_gramine(enclave, options)[0].sigstruct is None


def test_without_libpal_the_message_says_where_it_lies(enclave: Path) -> None:
    (enclave.parent / "libpal.so").unlink()
    with pytest.raises(NoLibpal) as caught:
        measure_file(enclave)
    assert "--libpal" in caught.value.hint
    assert "gramine/sgx/libpal.so" in caught.value.hint


def test_an_application_is_checked_against_its_manifest(enclave: Path) -> None:
    application = enclave.parent / "app"
    application.write_bytes(b"\x7fELF the application")
    options = MeasureOptions(manifest=enclave)
    check = lay_out_gramine(application, options)[0].checks[-1]
    assert (check.id, check.status) == ("file-is-trusted", "failed")
    digest = hashlib.sha256(application.read_bytes()).hexdigest().encode()
    enclave.write_bytes(enclave.read_bytes().replace(b"22" * 32, digest))
    measured = measure_file(application, options=options).measurements[0]
    assert {check.id: check.status for check in measured.checks}["file-is-trusted"] == "passed"
    assert measured.subject.name == "app"


@pytest.mark.parametrize(
    ("sgx", "expected"),
    [
        ("cpu_features.avx = 'required'", "1.9"),
        ("use_exinfo = false\nrequire_avx = true", "1.7"),
        ("require_exinfo = true\ncpu_features.avx = 'required'", "1.7"),
        ("edmm_enable = false\nrequire_exinfo = false\nrequire_avx = false\nmax_threads = 1", "1.5"),
        ("nonpie_binary = false\nrequire_exinfo = false\nthread_num = 1", "1.4"),
        ("nonpie_binary = false\nrequire_exinfo = false\nenable_stats = false\nedmm_enable = false", "1.5"),
        ("edmm_enable = true\nrequire_exinfo = false\nnonpie_binary = false\nenable_stats = false", "1.4"),
        ("nonpie_binary = false\nsupport_exinfo = false\nrequire_amx = false", "1.3"),
        ("nonpie_binary = false\nsupport_exinfo = false", "1.0"),
        ("thread_num = 4", "1.3"),
        ("", "1.9"),
    ],
)
def test_the_manifest_tells_its_release(sgx: str, expected: str) -> None:
    table = read_manifest(f"[sgx]\n{sgx}".encode()).sgx
    assert seen_generation(table) == expected


def test_an_unknown_release_is_refused_by_name() -> None:
    with pytest.raises(UnknownGramine, match=r'"1\.10"'):
        lay_out_text(manifest(), generation="1.10")
    assert lay_out_text(manifest(), generation="1.6.2") == lay_out_text(manifest(), generation="1.9")


OPEN = {
    "debug": ("sgx.debug", manifest(debug=True)),
    "any file": ("sgx.file_check_policy = allow_all_but_log", manifest(file_check_policy="allow_all_but_log")),
    "allowed files": ("sgx.allowed_files: file:plugins/", manifest(allowed_files=["file:plugins/"])),
    "allowed files, old": ("sgx.allowed_files: file:p", manifest(**{"allowed_files.one": "file:p"})),
    "arguments": ("loader.insecure__use_cmdline_argv", manifest(loader="insecure__use_cmdline_argv = true")),
    "exitless": ("sgx.insecure__rpc_thread_num", manifest(insecure__rpc_thread_num=2)),
    "variables": (
        "loader.env with passthrough: LD_PRELOAD",
        manifest().replace(b'LC_ALL = "C"', b"LD_PRELOAD = { passthrough = true }"),
    ),
    "arguments of a file": ("loader.argv_src_file: file:args", manifest(loader='argv_src_file = "file:args"')),
    "shared memory": (
        "untrusted_shm: /dev/shm",
        manifest() + b'[[fs.mounts]]\ntype = "untrusted_shm"\npath = "/dev/shm"\nuri = "dev:/dev/shm"\n',
    ),
    "an unhashed file": ("without a sha256: app", manifest().replace(b'sha256 = "' + b"22" * 32 + b'"', b"")),
    "the executable": ("libos.entrypoint /app (other on the host)", manifest().replace(b'"file:app"', b'"file:other"', 1)),
    "an encrypted executable": (
        "lies on a mount of type encrypted",
        manifest().replace(b'path = "/app"', b'type = "encrypted"\npath = "/app"'),
    ),
    "no executable": ("libos.entrypoint is missing", manifest().replace(b'entrypoint = "/app"', b"")),
    "the LibOS": ("the LibOS has no sha256", manifest().replace(b', sha256 = "' + b"11" * 32 + b'"', b"")),
}  # fmt: skip


@pytest.mark.parametrize("what", OPEN)
def test_what_the_manifest_leaves_open_is_named(what: str) -> None:
    named, text = OPEN[what]
    check = binding_check(read_manifest(text))
    assert check.status == "warning"
    assert named in check.got
    assert check.got.count(";") == 0, "one cause, one name"


def test_a_closed_manifest_binds_its_application() -> None:
    check = binding_check(read_manifest(manifest()))
    assert (check.status, check.got) == ("passed", "1 trusted files, /app")


BAD = {
    "a size that is a number": (manifest(enclave_size=8), "sgx.enclave_size"),
    "a size in words": (manifest(enclave_size="much"), "sgx.enclave_size"),
    "a size that is no power of two": (manifest(enclave_size="9M"), "sgx.enclave_size"),
    "a size beyond all memory": (manifest(enclave_size="9007199254740992K"), "sgx.enclave_size"),
    "no threads": (manifest(max_threads=0), "sgx.max_threads"),
    "threads without end": (manifest(max_threads=1 << 62), "sgx.max_threads"),
    "debug that is a number": (manifest(debug=1), "sgx.debug"),
    "an svn that does not fit": (manifest(isvsvn=65536), "sgx.isvsvn"),
    "a feature that is no word of it": (
        manifest().replace(b'mpx = "disabled"', b'mpx = "unspecified"'),
        "mpx",
    ),
    "a feature in the old and the new way": (manifest(require_avx=True), "require_avx"),
    "a number of 9000 digits": (b"sgx.x = " + b"9" * 9000, "not TOML"),
    "arrays in arrays": (b"sgx.x = " + b"[" * 90000, "not TOML"),
    "bytes": (b"sgx.x = 1\n\xff", "byte 10"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_manifest_that_gramine_would_not_take_is_refused_with_the_option(what: str) -> None:
    text, named = BAD[what]
    with pytest.raises(BadGramineManifest) as caught:
        lay_out_text(text, generation="1.7" if "old and the new" in what else "")
    assert named in str(caught.value)


def test_the_place_of_a_bad_option_is_its_line() -> None:
    with pytest.raises(BadGramineManifest) as caught:
        lay_out_manifest(manifest(isvsvn=-1), memoryview(libpal()), name="m.sgx")
    line = manifest(isvsvn=-1).decode().splitlines().index("isvsvn = -1") + 1
    assert caught.value.place == f"m.sgx:{line}"


@pytest.mark.parametrize(
    ("sgx", "named"),
    [
        ({"enclave_size": "512K"}, "threads do not fit"),
        ({"max_threads": 4096}, "4096 threads"),
        ({"enclave_size": "2048G"}, "free memory"),
    ],
)
def test_an_enclave_that_cannot_be_is_refused_before_it_is_made(sgx: dict[str, object], named: str) -> None:
    start = time.monotonic()
    with pytest.raises(GramineTooSmall, match=named):
        lay_out_text(manifest(**sgx))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("loads", "named"),
    [
        ((), "no loadable segments"),
        ((Load(0x1000, b"x", 8, R),), "begins at 0x1000"),
        ((Load(0, b"x", 8, R), Load(0x10, b"y", 8, W)), "share the page"),
        ((Load(0, b"x", 8, R), Load(1 << 40, b"y", 8, W)), "p_vaddr"),
        ((Load(0, b"x", 1 << 40, R),), "p_memsz"),
        ((Load(0, b"x", 0x2000, R | X), Load(0x3000, b"", 0, R)), "is empty"),
    ],
)
def test_a_libpal_that_no_loader_maps_is_refused(loads: tuple[Load, ...], named: str) -> None:
    with pytest.raises(BadLibpal, match=named):
        lay_out_text(manifest(), elf=libpal(loads, entry=0))


def test_file_and_memory_out_of_step_are_refused() -> None:
    data = bytearray(libpal())
    at = 64 + 56 + 8  # p_offset of the second segment
    data[at : at + 8] = (1).to_bytes(8, "little")
    with pytest.raises(BadLibpal, match="p_offset"):
        lay_out_text(manifest(), elf=bytes(data))


def test_other_toml_files_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    for text in (
        '[project]\nname = "sgx"\n',
        "[tool.sgx]\nx = 1\n[loader]\n",
        'note = """\nsgx\n"""\nloader = 1\n',
        "# [sgx]\n[libos]\n",
    ):
        path.write_text(text)
        assert not looks_like_manifest(path.read_bytes())
        with pytest.raises(UnknownFormat):
            detect(path)
    path.write_bytes(manifest() + "# größer\n".encode())
    assert detect(path).name == "gramine"


def test_signing_a_manifest_whose_files_are_not_hashed_is_refused(enclave: Path) -> None:
    enclave.write_bytes(enclave.read_bytes().replace(b'sha256 = "' + b"22" * 32 + b'"', b""))
    with pytest.raises(BadGramineManifest, match="app has no sha256"):
        lay_out_unsigned(enclave, MeasureOptions())


def test_cut_and_flipped_files_give_only_our_errors() -> None:
    text, elf = manifest(enclave_size="2M", max_threads=1), libpal(USUAL[:2])
    broken = [(text[:at], elf) for at in range(0, len(text), 7)]
    broken += [(text, elf[:at]) for at in (*range(0, 300, 3), *range(300, len(elf), 97))]
    for at in range(0, len(text), 5):
        broken.append((text[:at] + bytes([text[at] ^ 0x41]) + text[at + 1 :], elf))
    for at in range(64 + 56 * 2):
        for bit in (0x01, 0x80):
            broken.append((text, elf[:at] + bytes([elf[at] ^ bit]) + elf[at + 1 :]))
    refused = 0
    for one, other in broken:
        try:
            lay_out_manifest(one, memoryview(other))
        except (BadGramineManifest, BadLibpal, BadElf, GramineTooSmall):
            refused += 1
    assert refused > 100


def test_every_release_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[5] / "docs/reference/sgx-gramine.md").read_text()
    assert all(one.name in page for one in GENERATIONS)
