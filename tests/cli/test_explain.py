"""What a user of `rvp explain A B` sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pipeline.cli.schema import schema_of
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import measure_packed, pack_enclave
from rvp import cli
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.images import file, layer, write_image
from verifier.cli.terminal import run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    paths = []
    for name, heap in (("a.so", "64KiB"), ("b.so", "128KiB")):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(pack_enclave(enclave_elf(), EnclaveConfig(threads=2, stack="16KiB", heap=heap)))
    return paths[0], paths[1]


def test_two_enclaves_that_differ_exit_12_with_the_cause(
    pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["explain", *map(str, pair)]) == 12
    out = capfd.readouterr().out
    assert "first divergence: page 2: the content differs" in out
    assert "heap-size: the configurations give the heap different sizes" in out


def test_equal_enclaves_exit_0(pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["explain", str(pair[0]), str(pair[0])]) == 0
    assert capfd.readouterr().out.startswith("equal: mrenclave ")


def test_an_enclave_in_an_image_is_an_operand_on_either_side(
    tmp_path: Path, pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    operands = [
        f"{write_image(tmp_path / f'{path.stem}.tar', layer(file('opt/e.so', path.read_bytes())))}!/opt/e.so"
        for path in pair
    ]
    for left, right in (operands, (operands[0], str(pair[1])), (str(pair[0]), operands[1])):
        assert run(cli, ["explain", left, right]) == 12
        out = capfd.readouterr().out
        assert "heap-size: the configurations give the heap different sizes" in out
        assert left in out
        assert right in out
    assert run(cli, ["explain", operands[0], str(pair[0])]) == 0
    value = measure_packed(pair[1].read_bytes()).hex()
    capfd.readouterr()
    assert run(cli, ["explain", value, operands[0]]) == 12
    assert 'heap "131072B" instead of "65536B"' in capfd.readouterr().out


def test_json_is_one_document_of_its_schema(
    pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["explain", *map(str, pair), "--format", "json"]) == 12
    document = json.loads(capfd.readouterr().out)
    jsonschema.validate(document, schema_of("measurement-explanation"))
    assert document["schema"] == "rvp/measurement-explanation/v1"
    assert (document["equal"], document["first"]["number"]) == (False, 2)


def test_a_bare_value_is_tried_and_never_a_pass(
    pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    value = measure_packed(pair[1].read_bytes()).hex()
    assert run(cli, ["explain", str(pair[0]), value]) == 12
    out = capfd.readouterr().out
    assert out.startswith("different: ")
    assert "tried, one change at a time" in out
    assert "not in MRENCLAVE" in out


def test_codes_and_checks_are_explained_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["explain", "RVP-5009"]) == 0
    assert "does not give the value" in capfd.readouterr().out
    assert run(cli, ["explain", "agreement"]) == 0
    assert run(cli, ["explain", "RVP-5O09"]) == 2
    assert run(cli, ["explain", "--format", "json"]) == 0


@pytest.mark.parametrize("arguments", [["a", "b", "c"], ["no/such.so", "00" * 32], ["missing.so"]])
def test_what_cannot_be_explained_exits_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["explain", *arguments]) == 2
    assert "error" in capfd.readouterr().err


def test_a_code_is_explained_without_the_packages_of_the_pipeline() -> None:
    program = (
        "import sys; from rvp import cli; from verifier.cli.terminal import run; code = run(cli, ['explain', 'RVP-5009']); "
        "heavy = {'numpy', 'docker', 'networkx'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_picture_is_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    assert run(cli, ["explain", *map(str, pair), "--picture", str(picture)]) == 12
    assert picture.read_text().startswith("<svg ")
