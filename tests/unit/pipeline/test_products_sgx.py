"""A build measures enclaves with what the spec names beside them, and with nothing that happens to lie there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.build_check import measure_again
from pipeline.graph import Leaves, Node, build_graph
from pipeline.measure.measured import MeasureOptions, OnlyStated, require_computed, require_passed
from pipeline.measure.sgx.freestanding.config import EnclaveConfig
from pipeline.measure.sgx.freestanding.pack import measure_packed, pack_enclave
from pipeline.measure.sgx.hashing import write_stream
from pipeline.measure.sgx.owner_key import new_key, read_private_key
from pipeline.measure.sgx.sigstruct import SigstructNotVerified, sign, to_be_signed
from pipeline.measure.sgx.unsigned import lay_out_unsigned
from pipeline.products import MEASUREMENTS_NAME, NotOneFile, NotSupported, check_supported, make_product
from pipeline.sign import state_files
from pipeline.spec import Measure, Pack, Project, Spec
from pipeline.store import FolderStore
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.claims import Measurements
from provenance.events import ignore
from tests.fakes.enclave_elf import enclave_elf
from tests.fakes.sdk_elf import sdk_elf

CONFIG = b'schema = "rvp/enclave/v1"\nisvprodid = 7\nheap = "64KiB"\nstack = "16KiB"\n'
READ = EnclaveConfig(isvprodid=7, heap="64KiB", stack="16KiB")


def one(store: FolderStore, name: str, data: bytes) -> Tree:
    digest, size = store.put([data])
    return make_tree([TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size)])


def stream_and_signature(folder: Path) -> tuple[bytes, bytes]:
    """Give one enclave as an SGXS stream, and its SIGSTRUCT."""
    (folder / "enclave.so").write_bytes(enclave_elf())
    unsigned = lay_out_unsigned(folder / "enclave.so", MeasureOptions(config=CONFIG))
    stream = bytearray()
    write_stream(unsigned.enclave.image, lambda data: stream.extend(memoryview(data)))
    return bytes(stream), sign(to_be_signed(unsigned.fields), read_private_key(new_key())).raw


def test_a_pack_is_laid_out_by_the_configuration_in_the_spec(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    item = Pack(id="e", kind="sgx", image="step.e:e.so", config="enclave.toml", output="e.signed.so")
    taken = {"step.e:e.so": one(store, "e.so", enclave_elf()), "enclave.toml": one(store, "c", CONFIG)}
    tree = make_product(Node(name="pack.e", kind="pack", item=item), taken, Leaves(epoch=0), store, ignore)
    (entry,) = tree.entries
    packed = store.path_of(bytes.fromhex(entry.sha256)).read_bytes()
    assert packed == pack_enclave(enclave_elf(), READ)


def test_a_pack_of_an_sdk_enclave_is_laid_out_by_its_xml(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    xml = b"<EnclaveConfiguration><TCSNum>3</TCSNum></EnclaveConfiguration>"
    item = Pack(id="e", kind="sgx", image="step.e:e.so", config="Enclave.config.xml", output="e.signed.so")
    taken = {"step.e:e.so": one(store, "e.so", sdk_elf()), "Enclave.config.xml": one(store, "c", xml)}
    tree = make_product(Node(name="pack.e", kind="pack", item=item), taken, Leaves(epoch=0), store, ignore)
    packed = store.path_of(bytes.fromhex(tree.entries[0].sha256))
    (tmp_path / "e.so").write_bytes(sdk_elf())
    unsigned = lay_out_unsigned(tmp_path / "e.so", MeasureOptions(config=xml))
    assert packed.read_bytes() == unsigned.write(None)
    (measurement,) = measure_again(packed, "sgx", "e.signed.so")
    assert measurement.claims["mrenclave"] == unsigned.fields.mrenclave.hex()


def test_a_pack_without_a_configuration_has_the_defaults(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    item = Pack(id="e", kind="sgx", image="step.e:e.so", output="e.signed.so")
    taken = {"step.e:e.so": one(store, "e.so", enclave_elf())}
    tree = make_product(Node(name="pack.e", kind="pack", item=item), taken, Leaves(epoch=0), store, ignore)
    packed = store.path_of(bytes.fromhex(tree.entries[0].sha256)).read_bytes()
    assert packed == pack_enclave(enclave_elf(), EnclaveConfig())


def test_a_measurement_takes_the_signature_that_the_spec_names(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    stream, signature = stream_and_signature(tmp_path)
    item = Measure(id="e", tee="sgx", image="step.e:e.sgxs", sigstruct="owner.sig")
    taken = {"step.e:e.sgxs": one(store, "e.sgxs", stream), "owner.sig": one(store, "s", signature)}
    node = Node(name="measure.e", kind="measure", item=item)
    tree = make_product(node, taken, Leaves(epoch=0), store, ignore)
    (entry,) = [each for each in tree.entries if each.path == MEASUREMENTS_NAME]
    document = store.path_of(bytes.fromhex(entry.sha256)).read_bytes()
    (measurement,) = msgspec.json.decode(document, type=Measurements).measurements
    assert measurement.claims["isvprodid"] == 7
    assert measurement.claims["mrenclave"] == measure_packed(pack_enclave(enclave_elf(), READ)).hex()


def test_measuring_again_for_a_signature_looks_at_nothing_that_lies_beside(tmp_path: Path) -> None:
    stream, signature = stream_and_signature(tmp_path)
    (tmp_path / "e.sgxs").write_bytes(stream)
    (tmp_path / "e.sig").write_bytes(signature)
    (measurement,) = measure_again(tmp_path / "e.sgxs", "sgx", "e.sgxs")
    assert "mrsigner" not in measurement.claims
    (measurement,) = measure_again(
        tmp_path / "e.sgxs", "sgx", "e.sgxs", MeasureOptions(sigstruct=signature, sigstruct_name="e.sig")
    )
    assert "mrsigner" in measurement.claims


def test_an_mrenclave_that_is_only_stated_is_neither_built_nor_signed(tmp_path: Path) -> None:
    _, signature = stream_and_signature(tmp_path)
    (tmp_path / "owner.sig").write_bytes(signature)
    with pytest.raises(OnlyStated):
        state_files([tmp_path / "owner.sig"], product="p", builder_id="https://example.org/b")
    with pytest.raises(OnlyStated):
        measure_again(tmp_path / "owner.sig", "sgx", "owner.sig")
    store = FolderStore(tmp_path / "store")
    item = Measure(id="e", tee="sgx", image="step.e:owner.sig")
    taken = {"step.e:owner.sig": one(store, "owner.sig", signature)}
    with pytest.raises(OnlyStated):
        make_product(Node(name="measure.e", kind="measure", item=item), taken, Leaves(epoch=0), store, ignore)


def test_nothing_measured_and_an_empty_signature_are_no_success(tmp_path: Path) -> None:
    for require in (require_passed, require_computed):
        with pytest.raises(OnlyStated, match="nothing was measured"):
            require(())
    (tmp_path / "e.sgxs").write_bytes(stream_and_signature(tmp_path)[0])
    with pytest.raises(SigstructNotVerified, match="is empty"):
        measure_again(tmp_path / "e.sgxs", "sgx", "e", MeasureOptions(sigstruct=bytes(1808)))


def test_a_configuration_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    item = Pack(id="e", kind="sgx", image="step.e:e.so", config="enclave.toml", output="e.signed.so")
    long = CONFIG + b"#" * (1 << 20) + b"\nisvsvn = 9\n"
    taken = {"step.e:e.so": one(store, "e.so", enclave_elf()), "enclave.toml": one(store, "c", long)}
    with pytest.raises(NotOneFile, match="at most 1048576 are taken"):
        make_product(Node(name="pack.e", kind="pack", item=item), taken, Leaves(epoch=0), store, ignore)


@pytest.mark.parametrize("key", ["sigstruct", "config", "libpal"])
def test_what_signing_could_not_look_at_again_is_refused_before_anything_runs(key: str) -> None:
    spec = Spec(
        schema="rvp/spec/v1",
        project=Project(name="p", version="1", source_date_epoch=0),
        measure=(Measure(id="e", tee="sgx", image="step.e:e.so", **{key: "base.tools:/usr/lib/x"}),),
    )
    with pytest.raises(NotSupported, match=f"{key} is base.tools:/usr/lib/x") as error:
        check_supported(build_graph(spec))
    assert "let a step give it" in error.value.hint
