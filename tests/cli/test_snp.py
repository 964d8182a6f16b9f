"""`rvp measure snp` and `rvp snp`, as a user types them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from rvp import cli
from tests.conftest import ROOT
from tests.fakes.ovmf import make_ovmf
from verifier.cli import terminal


@pytest.fixture
def rvp(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OVMF.fd").write_bytes(make_ovmf())
    (tmp_path / "k").write_bytes(b"kernel")

    def run(*arguments, code=0):
        got = terminal.run(cli, list(arguments))
        found = capsys.readouterr()
        assert got == code, (got, found.err)
        return found.out, found.err

    return run


def _json(rvp, *arguments):
    return json.loads(rvp("measure", "snp", *arguments, "--format", "json")[0])


def test_lists_are_written_in_any_of_the_usual_ways(rvp):
    first = _json(rvp, "--firmware", "OVMF.fd", "--vcpus", "1", "2", "--vcpu-type", "EPYC-v4,EPYC-Milan")
    for same in (
        ("--vcpus", "1,2", "--vcpu-type", "EPYC-v4,EPYC-Milan", "--firmware", "OVMF.fd"),
        ("OVMF.fd", "--vcpus", "1", "--vcpus", "2", "--vcpu-type", "EPYC-v4", "--vcpu-type", "EPYC-Milan"),
        ("--vcpus=1,2", "--vcpu-type=EPYC-v4,EPYC-Milan", "--firmware=OVMF.fd", "--guest-features", "0x1"),
    ):
        assert _json(rvp, *same) == first
    assert first["schema"] == "rvp/measurements/v1"
    assert first["measurements"][0]["variant"] == {
        "vmm": "qemu", "vcpus": 1, "vcpu_type": "EPYC-v4", "guest_features": "0x1",
    }  # fmt: skip
    assert len({one["claims"]["measurement"] for one in first["measurements"]}) == 4
    assert first["measurements"][0]["policy_inputs"] == ["host_data"]


def test_what_the_host_binds_is_a_claim_when_it_is_told(rvp):
    arguments = ("OVMF.fd", "--vcpus", "1", "--host-data", "ab" * 32, "--policy", "0x30000")
    (one,) = _json(rvp, *arguments)["measurements"]
    assert one["claims"]["host_data"] == "ab" * 32
    assert one["claims"]["policy"] == "0x0000000000030000"
    assert one["policy_inputs"] == []


def test_the_log_of_each_shape_is_written(rvp, tmp_path):
    rvp("measure", "snp", "OVMF.fd", "--vcpus", "1", "3", "--kernel", "k", "--log", "l.json")
    logs = json.loads((tmp_path / "l.json").read_text())
    assert [log["register"] for log in logs] == ["measurement"] * 2
    assert "section KERNEL_HASHES" in {event["label"] for event in logs[0]["events"]}
    assert logs[1]["events"][-1]["label"] == "VMSAs of vCPUs 1 to 2"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("measure", "OVMF.fd"), 2, "rvp measure snp --firmware OVMF.fd --vcpus 2"),
        (("measure", "snp"), 2, "--firmware"),
        (("measure", "snp", "OVMF.fd", "--firmware", "OVMF.fd"), 2, "one firmware"),
        (("measure", "snp", "OVMF.fd"), 2, "RVP-5309"),
        (("measure", "snp", "k", "--vcpus", "1"), 2, "RVP-5301"),
        (("measure", "snp", "none.fd", "--vcpus", "1"), 2, "RVP-1010"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "0"), 2, "RVP-5306"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "x"), 2, "is no number"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--vmm", "xen"), 2, "RVP-5305"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--vcpu-type", "Opteron"), 2, "RVP-5304"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--cmdline", "x"), 2, "RVP-5306"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--svsm", "k"), 2, "--vars-size"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--host-data", "00"), 2, "expected 32"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--policy", "0x1"), 2, "bit 17"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--id-block", "k"), 2, "RVP-5310"),
        (("measure", "snp", "OVMF.fd", "--vcpus", "1", "--id-auth", "k"), 2, "RVP-5310"),
    ],
)
def test_what_cannot_be_measured_is_said_with_the_exit_code_of_usage(rvp, arguments, code, words):
    assert words in rvp(*arguments, code=code)[1]


def test_an_id_block_is_signed_shown_and_checked(rvp, tmp_path):
    rvp("key", "new", "id.pem", "--type", "p384")
    rvp("key", "new", "author.pem", "--type", "p384")
    found = _json(rvp, "OVMF.fd", "--vcpus", "1", "2")["measurements"]
    value = found[1]["claims"]["measurement"]
    sign = ("snp", "sign", "--measurement", value, "--id-key", "id.pem", "--guest-svn", "4")
    out, _ = rvp(*sign, "--author-key", "author.pem", "-o", "guest")
    block = (tmp_path / "guest.idblock").read_bytes()
    assert base64.b64encode(block).decode() in out
    assert block[:48].hex() == value
    shown, _ = rvp("snp", "show", "guest.idblock", "--id-auth", "guest.idauth")
    assert value in shown
    assert "id-key-signature   passed" in shown
    checked = ("measure", "snp", "OVMF.fd", "--vcpus", "1", "2", "--id-auth", "guest.idauth", "--id-block")
    text, _ = rvp(*checked, "guest.idblock")
    assert "author_key_digest" in text
    (tmp_path / "text").write_text(base64.b64encode(block).decode() + "\n")
    rvp(*checked, "text")
    (tmp_path / "bad").write_bytes(block[:84] + b"\5" + block[85:])  # another guest SVN
    assert "id-block-signature" in rvp(*checked, "bad", code=10)[1]
    rvp("snp", "show", "bad", "--id-auth", "guest.idauth", code=10)
    (tmp_path / "other").write_bytes(bytes(48) + block[48:])
    assert "check id-block" in rvp(*checked[:6], "--id-block", "other", code=12)[1]
    rvp("key", "new", "p256.pem")
    assert "P-384" in rvp(*sign[:4], "--id-key", "p256.pem", "-o", "x", code=2)[1]
    assert "bit 17" in rvp(*sign, "--policy", "0", "-o", "x", code=2)[1]


def test_measuring_loads_nothing_heavy():
    code = (
        "import sys, pipeline.cli.measure_snp; "
        "print(sorted({'docker', 'networkx', 'numpy', 'rich', 'cryptography.x509'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
