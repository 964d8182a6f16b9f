"""A build measures an enclave in the image that it packs; what is signed ties the two together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.build_check import ValuesChanged, measure_artifact
from pipeline.build_result import Artifact
from pipeline.graph import Leaves, Node
from pipeline.measure import measure_file
from pipeline.measure.measured import MeasureOptions
from pipeline.products import make_product, read_measurements
from pipeline.sign import state_build, state_files
from pipeline.spec import Measure, Pack, read_spec
from pipeline.spec_errors import BadValue, PathOutside
from pipeline.store import FolderStore
from pipeline.tree import Tree, TreeEntry, make_tree
from provenance.canonical import canonical_json
from provenance.claims import Measurement
from provenance.digest import hash_file
from provenance.events import ignore
from provenance.predicates.core import Core, Layer, check_core, sets_from_measurements
from provenance.predicates.reference_values import read_reference_values
from provenance.predicates.shapes import ArtifactDigest, ArtifactSubject, PredicateRefused
from tests.fakes.build_folder import sgxs_enclave, write_build, write_result
from tests.fakes.images import file, layer, write_image
from verifier.cli.values import core_lines

PATH = "/opt/enclave.sgxs"
LAYER = Layer(name="workload", provider="keyservice")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def packed(store: FolderStore) -> Tree:
    """What `[[pack]] kind = "oci"` gives of an enclave and an application."""
    entries = []
    for name, data in (("enclave.sgxs", sgxs_enclave()), ("app", b"application")):
        digest, size = store.put([data])
        entries.append(TreeEntry(path=name, kind="file", sha256=digest.hex(), size_bytes=size))
    item = Pack(id="image", kind="oci", output="image.tar", files={"/opt": "step.enclave"})
    node = Node(name="pack.image", kind="pack", item=item)
    return make_product(node, {"step.enclave": make_tree(entries)}, Leaves(epoch=1), store, ignore)


def measured(packed: Tree, store: FolderStore, **fields: object) -> tuple[Measurement, ...]:
    item = Measure(id="e", image="pack.image:image.tar", **{"tee": "sgx", **fields})
    node = Node(name="measure.e", kind="measure", item=item)
    tree = make_product(node, {"pack.image:image.tar": packed}, Leaves(epoch=1), store, ignore)
    return read_measurements(tree, store).measurements


def artifact(packed: Tree, store: FolderStore, folder: Path) -> Artifact:
    (entry,) = packed.entries
    source = store.file_of(bytes.fromhex(entry.sha256))
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "release.tar").write_bytes(source.read_bytes())
    digests = hash_file(source)[0].as_hex()
    return Artifact(
        name="release.tar",
        path="artifacts/release.tar",
        node="pack.image",
        size_bytes=entry.size_bytes,
        digest=digests,
    )


def core_of(measurements: tuple[Measurement, ...], one: Artifact) -> Core:
    subject = ArtifactSubject(name=one.name, digest=ArtifactDigest(**one.digest))
    return Core(product="p", subjects=(subject,), sets=sets_from_measurements(measurements, layer=LAYER))


def test_a_path_is_measured_with_its_image(packed: Tree, store: FolderStore) -> None:
    enclave, oci = measured(packed, store, path=PATH)
    assert enclave.subject.name == f"image.tar!{PATH}"
    assert enclave.inside
    assert enclave.inside.manifest == oci.claims["manifest"]
    assert measured(packed, store) == (enclave, oci)
    assert measured(packed, store, path=PATH, tee=("sgx", "oci"))[:2] == (enclave, oci)


def test_measuring_again_measures_the_same_file_of_the_same_image(
    packed: Tree, store: FolderStore, tmp_path: Path
) -> None:
    enclave, oci = measured(packed, store, path=PATH)
    one = artifact(packed, store, tmp_path)
    again = measure_artifact(tmp_path, enclave, [one], options=MeasureOptions(inside=PATH))
    assert again.subject.name == f"release.tar!{PATH}"
    assert again.inside
    assert again.inside.image.name == "release.tar"
    assert measure_artifact(tmp_path, oci, [one]).subject.name == "release.tar"
    core = core_of((again, measure_artifact(tmp_path, oci, [one])), one)
    check_core(core)
    assert [made.id for made in core.sets] == ["oci/release.tar", f"sgx/release.tar!{PATH}"]
    assert {made.subject for made in core.sets} == {"release.tar"}


def test_a_result_that_names_another_file_of_the_image_is_refused(
    packed: Tree, store: FolderStore, tmp_path: Path
) -> None:
    enclave, _ = measured(packed, store, path=PATH)
    one = artifact(packed, store, tmp_path)
    assert enclave.inside
    other = msgspec.structs.replace(enclave.subject, digest={"sha256": "00" * 32})
    with pytest.raises(ValuesChanged, match="the build gave"):
        measure_artifact(tmp_path, msgspec.structs.replace(enclave, subject=other), [one])
    with pytest.raises(ValuesChanged, match=f"the result is of {PATH}, the recipe measures /opt/other"):
        measure_artifact(tmp_path, enclave, [one], options=MeasureOptions(inside="/opt/other"))
    tie = msgspec.structs.replace(enclave.inside, manifest="sha256:" + "00" * 32)
    with pytest.raises(ValuesChanged, match="the build gave"):
        measure_artifact(tmp_path, msgspec.structs.replace(enclave, inside=tie), [one])


def test_a_set_of_an_enclave_without_the_set_of_its_image_is_refused(
    packed: Tree, store: FolderStore, tmp_path: Path
) -> None:
    enclave, oci = measured(packed, store, path=PATH)
    one = artifact(packed, store, tmp_path)
    named = tuple(measure_artifact(tmp_path, each, [one]) for each in (enclave, oci))
    with pytest.raises(PredicateRefused, match="no set says that this image is"):
        check_core(core_of(named[:1], one))
    other = msgspec.structs.replace(named[1], claims={**oci.claims, "manifest": "sha256:" + "00" * 32})
    with pytest.raises(PredicateRefused, match="no set says that this image is"):
        check_core(core_of((named[0], other), one))


def test_a_build_with_an_enclave_in_an_image_is_stated(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    result = write_build(folder, more_spec=b'path = "/opt/enclave.sgxs"\n')
    image = write_image(
        folder / "artifacts" / "image.tar", layer(file(PATH[1:], sgxs_enclave()), file("app", b"x"))
    )
    found = measure_file(image, tee="sgx")
    node = msgspec.structs.replace(result.measurements[0], measurements=found.measurements)
    digest = hash_file(image)[0].as_hex()
    listed = msgspec.structs.replace(
        result.artifacts[0], name="image.tar", path="artifacts/image.tar", digest=digest
    )
    changed = msgspec.structs.replace(result, measurements=(node,), artifacts=(listed,))
    (folder / "result.json").write_bytes(msgspec.json.encode(changed))
    stated = state_build(folder, builder_id="https://example.org/builder")
    values = read_reference_values(stated.statements["reference-values"])
    oci, sgx = values.core.sets
    assert sgx.inside
    assert sgx.inside.path == PATH
    assert sgx.claims["mrenclave"].exact == found.measurements[0].claims["mrenclave"]
    assert oci.claims["manifest"].exact == sgx.inside.manifest
    (warning,) = stated.warnings
    assert warning.startswith("image.tar!/opt/enclave.sgxs: binds-application: MRENCLAVE covers only")
    silent = msgspec.structs.replace(found.measurements[0], checks=())
    node = msgspec.structs.replace(node, measurements=(silent, found.measurements[1]))
    write_result(folder, msgspec.structs.replace(changed, measurements=(node,)))
    assert state_build(folder, builder_id="https://example.org/builder").warnings == stated.warnings


def test_an_image_built_elsewhere_is_stated_with_its_enclaves(tmp_path: Path) -> None:
    image = write_image(
        tmp_path / "image.tar", layer(file("a", sgxs_enclave(b"a")), file("b", sgxs_enclave(b"b")))
    )
    core = state_files([image], product="p", builder_id="https://example.org/b", tees=("sgx",)).core
    assert [one.id for one in core.sets] == ["oci/image.tar", "sgx/image.tar!/a", "sgx/image.tar!/b"]
    assert b'"inside"' in canonical_json(core)
    shown = "\n".join(core_lines(core))
    assert f"in the image {core.sets[0].claims['manifest'].exact}" in shown
    assert "/b  sha256:" in shown


SPEC = """\
schema = "rvp/spec/v1"
[project]
name = "p"
version = "1"
[source.s]
path = "."
[[measure]]
id = "m"
tee = "TEE"
image = "source.s:image.tar"
path = "PATH"
"""


@pytest.mark.parametrize(
    ("tee", "path", "kind"),
    [("sgx", "opt/x", PathOutside), ("sgx", "/opt/../x", PathOutside), ("oci", "/opt/x", BadValue)],
)
def test_a_path_that_makes_no_sense_is_refused(
    tmp_path: Path, tee: str, path: str, kind: type[Exception]
) -> None:
    text = SPEC.replace("TEE", tee).replace("PATH", path)
    (tmp_path / "rvp.toml").write_text(text)
    with pytest.raises(kind):
        read_spec(tmp_path / "rvp.toml")
    (tmp_path / "rvp.toml").write_text(SPEC.replace("TEE", "sgx").replace("PATH", "/opt/x"))
    assert read_spec(tmp_path / "rvp.toml").measure[0].path == "/opt/x"
