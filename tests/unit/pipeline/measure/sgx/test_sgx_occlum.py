"""Occlum instances in images: every MAC from the enclave down is recomputed, and what it is worth is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.measure import CheckFailed, measure_file, require_passed
from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.in_image.protected_file import BadProtectedFile, parse_mac, read_protected_file
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from provenance.claims import Check
from provenance.errors import RvpError
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.images import file, layer, write_image
from tests.fakes.protected_file import forge, mac_of, protect, written

CONFIG = b'schema = "rvp/enclave/v1"\n'
INSTANCE = "root/occlum_instance"
LIBOS = f"{INSTANCE}/build/lib/libocclum-libos.signed.so"


@pytest.mark.parametrize(
    "size", [0, 1, 3071, 3072, 3073, 7168, 7169, 96 * 4096 + 3073, 33 * 96 * 4096 + 3073]
)
def test_a_protected_file_is_read_back(size: int) -> None:
    content = random.Random(size).randbytes(size)
    data = protect(content, "name")
    found = read_protected_file(data)
    assert (found.content, found.mac, found.name) == (content, mac_of(data), "name")


def test_a_protected_file_that_was_changed_is_refused() -> None:
    data = protect(bytes(range(256)) * 40)
    for at in [
        *range(77, 93),
        95,
        95 + 260,
        95 + 320,
        95 + 3391,
        4096,
        4096 + 16,
        2 * 4096,
        3 * 4096 - 1,
    ]:
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(BadProtectedFile):
            read_protected_file(bytes(damaged))


def test_a_protected_file_that_is_cut_or_no_such_file_is_refused() -> None:
    data = protect(bytes(20000))
    for one in (b"", data[:-1], data[:4096], data[:-4096], bytes(4096), b"\x7fELF" + bytes(4092)):
        with pytest.raises(BadProtectedFile):
            read_protected_file(one)


def test_the_mac_of_an_encrypted_file_is_stated_not_recomputed() -> None:
    data = bytearray(protect(b"x"))
    data[94] = 0
    found = read_protected_file(bytes(data))
    assert (found.mac, found.content) == (mac_of(bytes(data)), None)


def test_anybody_can_make_another_file_with_the_same_mac() -> None:
    honest = protect(b'{"entry_points": ["/bin"]}')
    forged = forge(b'{"entry_points": ["/evil"]}', mac_of(honest))
    found = read_protected_file(forged)
    assert found.mac == mac_of(honest)
    assert found.content == b'{"entry_points": ["/evil"]}'


@pytest.mark.parametrize(
    "text", ["", "00", "-".join(["0g"] * 16), "-".join(["00"] * 17), "-".join(["+1"] * 16)]
)
def test_what_is_no_mac_is_none(text: str) -> None:
    assert parse_mac(text) is None


def instance(folder: Path, *, hostfs: bool = False, mac: str | None = None, **changed: bytes | None) -> Path:
    """Write an image of an Occlum instance; `changed` replaces or (None) removes files after the build."""
    files: dict[str, bytes | None] = {
        "initfs": protect(b"initfs" * 2000, "metadata"),
        "mount": protect(b"root file system" * 9000, "metadata"),
    }

    def sefs(name: str) -> dict[str, Any]:
        layers: list[dict[str, Any]] = [
            {
                "type": "sefs",
                "target": "/",
                "source": f"./build/{name}/__ROOT",
                "options": {"MAC": written(mac_of(files[name] or b""))},
            },
            {"type": "sefs", "target": "/", "source": f"./run/{name}/__ROOT"},
        ]
        return {"type": "unionfs", "target": "/", "options": {"layers": layers}}

    mounts = [sefs("mount")]
    if hostfs:
        mounts.append({"type": "hostfs", "target": "/host", "source": "."})
    settings = {"app": [{"stage": "init", "mount": [sefs("initfs")]}, {"stage": "app", "mount": mounts}]}
    files["config"] = protect(json.dumps(settings).encode(), ".Occlum_sys.json.protected")
    builtin = (mac if mac is not None else written(mac_of(files["config"] or b""))).encode().ljust(48, b"\0")
    files |= changed
    (folder / "libos.so").write_bytes(enclave_elf(builtin=builtin))
    unsigned = lay_out_unsigned(folder / "libos.so", MeasureOptions(config=CONFIG))
    places = {
        "config": "build/.Occlum_sys.json.protected",
        "initfs": "build/initfs/__ROOT/metadata",
        "mount": "build/mount/__ROOT/metadata",
    }
    members = [file(f"{INSTANCE}/{places[name]}", data) for name, data in files.items() if data is not None]
    return write_image(folder / "i.tar", layer(file(LIBOS, unsigned.write(None)), *members))


def checks(path: Path) -> dict[str, Check]:
    found = measure_file(path, tee="sgx").measurements[0]
    assert found.subject.name == f"i.tar!/{LIBOS}"
    return {one.id: one for one in found.checks}


def test_a_chain_of_macs_that_agrees_is_recomputed_and_shown_with_a_warning(tmp_path: Path) -> None:
    path = instance(tmp_path)
    found = checks(path)
    assert found["occlum-config"].status == "passed"
    assert found["occlum-file-systems"].status == "passed"
    assert found["binds-application"].status == "warning"
    assert "a key of zeros that everybody knows" in found["binds-application"].got
    assert "./run/mount/__ROOT" in found["binds-application"].got
    require_passed(measure_file(path, tee="sgx").measurements)


def test_folders_of_the_host_are_named(tmp_path: Path) -> None:
    assert "folders of the host are mounted, nothing of them is bound: . at /host" in (
        checks(instance(tmp_path, hostfs=True))["binds-application"].got
    )


@pytest.mark.parametrize("name", ["initfs", "mount"])
def test_a_file_system_that_was_replaced_fails(tmp_path: Path, name: str) -> None:
    path = instance(tmp_path, **{name: protect(b"other", "metadata")})
    assert checks(path)["occlum-file-systems"].status == "failed"
    with pytest.raises(CheckFailed, match="occlum-file-systems") as error:
        require_passed(measure_file(path, tee="sgx").measurements)
    assert error.value.exit_code == 12


def test_a_configuration_that_was_replaced_or_damaged_fails(tmp_path: Path) -> None:
    other = protect(b'{"app": []}')
    for data in (other, other[:-1], bytes(4096)):
        found = checks(instance(tmp_path, config=data))
        assert found["occlum-config"].status == "failed"
        assert found["binds-application"].status == "warning"


def test_what_is_not_in_the_image_is_skipped_never_passed(tmp_path: Path) -> None:
    found = checks(instance(tmp_path, config=None))
    assert found["occlum-config"].status == "skipped"
    assert "not in the image" in found["binds-application"].got
    assert checks(instance(tmp_path, mount=None))["occlum-file-systems"].status == "skipped"


def test_an_encrypted_file_system_is_skipped_with_the_reason(tmp_path: Path) -> None:
    sealed = bytearray(protect(b"root file system" * 9000, "metadata"))
    sealed[94] = 0
    found = checks(instance(tmp_path, mount=bytes(sealed)))
    assert found["occlum-file-systems"].status == "skipped"
    assert "cannot be recomputed without the key" in found["occlum-file-systems"].got


@pytest.mark.parametrize("mac", ["", "not a mac"])
def test_the_generic_libos_is_named(tmp_path: Path, mac: str) -> None:
    found = checks(instance(tmp_path, mac=mac))
    assert found["binds-application"].status == "warning"
    assert "no configuration is bound" in found["binds-application"].got


def test_a_forged_configuration_passes_its_mac_and_is_warned_of(tmp_path: Path) -> None:
    path = instance(tmp_path)
    mac = parse_mac(checks(path)["occlum-config"].expected)
    assert mac
    forged = checks(instance(tmp_path, config=forge(b'{"app": []}', mac), mac=written(mac)))
    assert forged["occlum-config"].status == "passed"
    assert forged["binds-application"].status == "warning"


def test_a_configuration_that_is_no_json_is_refused_in_our_words(tmp_path: Path) -> None:
    data = protect(b"\xff\x00 no json")
    with pytest.raises(RvpError):
        measure_file(instance(tmp_path, config=data, mac=written(mac_of(data))), tee="sgx")
