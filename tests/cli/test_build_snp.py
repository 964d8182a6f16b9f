"""A SEV-SNP guest from a spec to signed values: firmware of a base, kernel of a step, one set for each shape."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from pipeline.sandbox import Rootfs
from pipeline.store import FolderStore
from provenance.predicates.reference_values import read_reference_values
from provenance.public_key import load_public_key
from provenance.sigstore_bundle import read_bundle, verify_envelope
from rvp import cli
from tests.fakes.executor import ProcessExecutor
from tests.fakes.ovmf import make_ovmf
from tests.fakes.project import step, write_project
from verifier.cli import terminal

KERNEL = step("kernel", "echo kernel > {out}/kernel", "source.app")
MEASURE = """
[[measure]]
id = "vm"
tee = "snp"
layer = "image"
firmware = "FIRMWARE"
kernel = "step.kernel:kernel"
cmdline = "console=ttyS0"
vcpus = [1, 2]
vmm = ["qemu", "gce"]
vcpu_type = "EPYC-Milan"
"""


@pytest.fixture
def rvp(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RVP_STORE", raising=False)
    monkeypatch.delenv("RVP_PASSPHRASE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("pipeline.cli.build.make_executor", lambda _folder, jobs: ProcessExecutor(jobs or 2))

    def run(folder, *arguments, code=0):
        monkeypatch.chdir(folder)
        got = terminal.run(cli, list(arguments))
        found = capsys.readouterr()
        assert got == code, found.err
        return found.out if code == 0 else found.err

    return run


def _with_base(folder, firmware: bytes):
    """A project whose base has the firmware behind a link, as Debian's package has some."""
    folder.mkdir()
    store = FolderStore(folder / ".rvp" / "store")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("usr/share/ovmf/real.fd")
        member.size = len(firmware)
        archive.addfile(member, io.BytesIO(firmware))
        link = tarfile.TarInfo("usr/share/ovmf/OVMF.fd")
        link.type, link.linkname = tarfile.SYMTYPE, "real.fd"
        archive.addfile(link)
    digest, _ = store.put([tar.getvalue()])
    rootfs = Rootfs(digest=hashlib.sha256(tar.getvalue()).digest(), tar=digest)
    measure = MEASURE.replace("FIRMWARE", "base.t:/usr/share/ovmf/OVMF.fd")
    return write_project(folder, KERNEL, measure, store=store, rootfs=rootfs)


def _values(folder):
    (path,) = (folder / ".rvp" / "statements").glob("reference-values.*")
    key = load_public_key(folder / "ci.key.pub")
    return read_reference_values(verify_envelope(read_bundle(path.read_bytes()), [key]).statement)


@pytest.mark.parametrize("place", ["base", "file"])
def test_a_guest_is_built_measured_signed_and_measured_again(rvp, tmp_path, place):
    folder = tmp_path / "p"
    firmware = make_ovmf()
    if place == "base":
        _with_base(folder, firmware)
    else:
        folder.mkdir()
        (folder / "OVMF.fd").write_bytes(firmware)
        write_project(folder, KERNEL, MEASURE.replace("FIRMWARE", "OVMF.fd"))
    rvp(folder, "build")
    result = json.loads((folder / ".rvp" / "build" / "result.json").read_text())
    assert sorted(one["name"] for one in result["artifacts"]) == ["OVMF.fd", "kernel"]
    rvp(folder, "key", "new", "ci.key")
    rvp(folder, "sign", "--key", "ci.key", "--builder-id", "https://one.example/b")
    values = _values(folder)
    assert [one.selector for one in values.core.sets] == [
        {"guest_features": "0x1", "vcpu_type": "EPYC-Milan", "vcpus": 1, "vmm": "qemu"},
        {"guest_features": "0x1", "vcpu_type": "EPYC-Milan", "vcpus": 2, "vmm": "qemu"},
        {"guest_features": "0x1", "vcpus": 1, "vmm": "gce"},
        {"guest_features": "0x1", "vcpus": 2, "vmm": "gce"},
    ]
    assert {one.policy_inputs for one in values.core.sets} == {("host_data",)}
    assert [log.register for log in values.logs] == ["measurement"] * 4
    (folder / "k").write_text("kernel\n")
    (folder / "f").write_bytes(firmware)
    by_hand = json.loads(
        rvp(
            folder, "measure", "snp", "--firmware", "f", "--kernel", "k", "--cmdline", "console=ttyS0",
            "--vcpus", "1", "2", "--vmm", "qemu,gce", "--vcpu-type", "EPYC-Milan", "--format", "json",
        )
    )  # fmt: skip
    hand = {json.dumps(one["variant"], sort_keys=True): one["claims"] for one in by_hand["measurements"]}
    for one in values.core.sets:
        expected = hand[json.dumps(one.selector, sort_keys=True)]["measurement"]
        assert one.claims["measurement"].exact == expected


def test_a_kernel_that_is_changed_after_the_build_is_not_signed(rvp, tmp_path):
    folder = tmp_path / "p"
    _with_base(folder, make_ovmf())
    rvp(folder, "build")
    rvp(folder, "key", "new", "ci.key")
    (folder / ".rvp" / "build" / "artifacts" / "kernel").write_text("other\n")
    assert "kernel" in rvp(
        folder, "sign", "--key", "ci.key", "--builder-id", "https://one.example/b", code=12
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('tee = "snp"', 'tee = ["tdx", "snp"]'), "measuring tdx from firmware"),
        (("vcpus = [1, 2]", ""), "number of vCPUs"),
        (('firmware = "OVMF.fd"', ""), "measuring snp from kernel, cmdline, vcpus, vmm, vcpu_type"),
        (("vcpus", 'guest_features = "1"\nvcpus'), "guest features"),
    ],
)
def test_a_guest_that_is_not_fully_described_is_refused_before_anything_runs(rvp, tmp_path, change, words):
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "OVMF.fd").write_bytes(make_ovmf())
    measure = MEASURE.replace("FIRMWARE", "OVMF.fd").replace(*change)
    if words == "guest features":
        from pipeline.spec_errors import BadValue

        with pytest.raises(BadValue, match=words):
            write_project(folder, KERNEL, measure)
        return
    write_project(folder, KERNEL, measure)
    assert words in rvp(folder, "build", code=3)


def test_an_id_block_beside_the_spec_is_checked_when_building_and_when_signing(rvp, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "OVMF.fd").write_bytes(make_ovmf())
    (folder / "k").write_text("kernel\n")
    measured = ("--vcpus", "2", "--kernel", "k", "--cmdline", "console=ttyS0", "--vcpu-type", "EPYC-Milan")
    found = rvp(folder, "measure", "snp", "OVMF.fd", *measured, "--format", "json")
    value = json.loads(found)["measurements"][0]["claims"]["measurement"]
    rvp(folder, "key", "new", "id.pem", "--type", "p384")
    rvp(
        folder,
        "snp",
        "sign",
        "--measurement",
        value,
        "--id-key",
        "id.pem",
        "--guest-svn",
        "70000",
        "-o",
        "guest",
    )
    more = f'id_block = "guest.idblock"\nid_auth = "guest.idauth"\nhost_data = "{"ab" * 32}"\n'
    write_project(folder, KERNEL, MEASURE.replace("FIRMWARE", "OVMF.fd") + more)
    rvp(folder, "build")
    rvp(folder, "key", "new", "ci.key")
    rvp(folder, "sign", "--key", "ci.key", "--builder-id", "https://one.example/b")
    (one,) = [one for one in _values(folder).core.sets if "guest_svn" in one.claims]
    assert one.selector["vcpus"] == 2
    assert one.claims["guest_svn"].exact == 70000
    assert one.claims["measurement"].exact == value
    assert one.claims["host_data"].exact == "ab" * 32
    assert one.policy_inputs == ()
    block = bytearray((folder / "guest.idblock").read_bytes())
    block[84] ^= 1
    (folder / "guest.idblock").write_bytes(block)
    write_project(folder, KERNEL, MEASURE.replace("FIRMWARE", "OVMF.fd") + more)
    assert "id-block-signature" in rvp(folder, "build", code=10)
