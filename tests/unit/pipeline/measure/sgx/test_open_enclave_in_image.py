"""What an EGo program or an Open Enclave file is linked with is taken from its own image."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.measure import MeasureOptions, measure_file
from pipeline.measure.sgx.enclave import lay_out
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.open_enclave.link import MissingModule
from tests.fakes.images import file, layer, write_image
from tests.fakes.libpal import libpal, manifest
from tests.fakes.open_enclave_elf import open_enclave_elf, properties
from tests.unit.pipeline.measure.sgx.test_ego import program, runtime, signed

OPT = "opt/ego/share/ego-enclave"
OTHER = runtime().replace(b"codecode", b"codeCODE")


@pytest.fixture
def hello(tmp_path: Path) -> bytes:
    return signed(tmp_path, main=runtime(), goes=program())


def statuses(path: Path, options: MeasureOptions | None = None) -> dict[str, str]:
    return {one.id: one.status for one in measure_file(path, options=options).measurements[0].checks}


@pytest.mark.parametrize(
    "members",
    [{OPT: runtime()}, {"app/ego-enclave": runtime()}, {"app/ego-enclave": runtime(), OPT: OTHER}],
    ids=["where EGo is installed", "beside the program", "beside it first"],
)
def test_the_runtime_of_a_program_is_that_of_its_image(
    tmp_path: Path, hello: bytes, members: dict[str, bytes]
) -> None:
    rest = [file(name, data) for name, data in members.items()]
    image = write_image(tmp_path / "i.tar", layer(file("app/hello", hello), *rest))
    found = statuses(Path(f"{image}!/app/hello"))
    assert found["mrenclave-equals-sigstruct"] == "passed"
    (enclave,) = lay_out(Path(f"{image}!/app/hello"))
    assert mrenclave(enclave.image) == mrenclave(lay_out(tmp_path / "hello")[0].image)


def test_a_runtime_that_is_given_goes_before_that_of_the_image(tmp_path: Path, hello: bytes) -> None:
    image = write_image(tmp_path / "i.tar", layer(file("app/hello", hello), file(OPT, OTHER)))
    path = Path(f"{image}!/app/hello")
    assert statuses(path)["mrenclave-equals-sigstruct"] == "failed"
    options = MeasureOptions(libpal=tmp_path / "ego-enclave")
    assert statuses(path, options)["mrenclave-equals-sigstruct"] == "passed"


def test_a_program_in_an_image_without_runtime_says_so(tmp_path: Path, hello: bytes) -> None:
    image = write_image(tmp_path / "i.tar", layer(file("app/hello", hello), file("etc/x", b"x")))
    with pytest.raises(MissingModule, match="ego-enclave") as refused:
        measure_file(Path(f"{image}!/app/hello"))
    assert refused.value.place == f"{image}!/app/hello"


def linked() -> tuple[bytes, bytes]:
    """Write an enclave that needs a shared object, and that one."""
    module = open_enclave_elf(None, symbols=(), module_info=0, defined={"helper": 0x321}, seed=b"mod!")
    return open_enclave_elf(properties(), needed="libhelper.so"), module


def test_the_module_of_an_enclave_is_that_of_its_folder_in_the_image(tmp_path: Path) -> None:
    main, module = linked()
    for name, data in (("e.so", main), ("libhelper.so", module)):
        (tmp_path / name).write_bytes(data)
    (alone,) = lay_out(tmp_path / "e.so")
    members = [file("opt/e.so", main), file("opt/libhelper.so", module), file("libhelper.so", main)]
    image = write_image(tmp_path / "i.tar", layer(*members))
    (enclave,) = lay_out(Path(f"{image}!/opt/e.so"))
    assert mrenclave(enclave.image) == mrenclave(alone.image)
    elsewhere = write_image(tmp_path / "j.tar", layer(file("opt/e.so", main), file("libhelper.so", module)))
    with pytest.raises(MissingModule, match=r"libhelper\.so"):
        lay_out(Path(f"{elsewhere}!/opt/e.so"))


def test_gramines_loader_is_that_of_the_image(tmp_path: Path) -> None:
    for name, data in (("app.manifest.sgx", manifest()), ("libpal.so", libpal())):
        (tmp_path / name).write_bytes(data)
    where = "usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so"
    members = [file("app/app.manifest.sgx", manifest()), file(where, libpal())]
    image = write_image(tmp_path / "i.tar", layer(*members))
    (enclave,) = lay_out(Path(f"{image}!/app/app.manifest.sgx"))
    assert mrenclave(enclave.image) == mrenclave(lay_out(tmp_path / "app.manifest.sgx")[0].image)


@pytest.mark.parametrize("name", ["enclave", "ego-enclave", "../../x", "y" * 300])
def test_a_module_with_a_hostile_name_takes_the_place_of_nothing(tmp_path: Path, name: str) -> None:
    main = open_enclave_elf(properties(), needed=name)
    image = write_image(tmp_path / "i.tar", layer(file("opt/e.so", main)))
    try:
        lay_out(Path(f"{image}!/opt/e.so"))
    except Exception as error:  # noqa: BLE001  whatever it is must be of our tree
        assert getattr(error, "exit_code", None) == 2, error  # noqa: PT017
