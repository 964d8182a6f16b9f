"""Fuzz targets: what reads bytes of strangers. Each docstring is the property that must hold for all bytes.

By hand, with atheris installed: `python tests/fuzz/run.py TARGET [corpus …]`. A fixed number of seeded
mutations runs as an ordinary test (test_targets.py).
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from provenance.bundle import Bundle, lay_out, read_bundle, unpack_files
from provenance.canonical import canonical_json
from provenance.errors import InternalError, RvpError
from provenance.oci_reader import Limits
from provenance.policy import parse_policy
from provenance.policy_weakness import weaknesses
from provenance.predicates import read_predicate
from provenance.public_key import read_public_key
from provenance.signers.key_file import read_signer
from provenance.sigstore_bundle import read_bundle as read_sigstore
from provenance.sigstore_bundle import verify_envelope
from provenance.statement import read_statement
from tests.fuzz.sgx_targets import SGX_SEEDS, SGX_TARGETS
from tests.fuzz.snp_targets import SNP_SEEDS, SNP_TARGETS
from verifier.verify.ssh_signature import read_commit, read_tag, read_tree, verify_ssh_signature

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "conformance" / "verify"
KEYS = ROOT / "tests" / "conformance" / "keys"
KEY = read_public_key((KEYS / "acme.pub").read_bytes())
SIGNER = " ".join((KEYS / "maintainer.pub").read_text().split()[:2])
LIMITS = Limits(json_bytes=1 << 20, blob_bytes=1 << 22, total_bytes=1 << 23, blobs=200)

Target = Callable[[bytes], None]


@contextlib.contextmanager
def only_our_errors():
    """Let our errors pass; one of ours that blames ourselves, or any other, is a finding."""
    try:
        yield
    except InternalError:
        raise
    except RvpError:
        pass


def _on_disk(data: bytes, suffix: str, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(data)
        read(path)


def bundle(data: bytes) -> None:
    """Never anything but RvpError; what is read is laid out again as the same bytes."""

    def read(path: Path) -> None:
        found = read_bundle(path, LIMITS)
        assert lay_out(found).digest == found.digest
        if found.recipe:
            unpack_files(found.recipe)

    with only_our_errors():
        _on_disk(data, ".tar", read)


def verdict(data: bytes) -> None:
    """A bundle of strangers' bytes never passes, unless it is the good one itself; never anything but RvpError."""
    from provenance.policy import load_policy
    from verifier.verify.report import as_junit, as_text
    from verifier.verify.verify import verify

    trust = load_policy(CASES / "two-of-two" / "policy.toml")

    def read(path: Path) -> None:
        found = verify(read_bundle(path, LIMITS), trust, at=1772323200)
        good = read_bundle(CASES / "two-of-two" / "bundle.tar")
        assert found.verdict != "passed" or set(good.statements) <= set(read_bundle(path).statements)
        assert as_text(found, "x", "y").replace("\n", "").isprintable()
        as_junit(found)

    with only_our_errors():
        _on_disk(data, ".tar", read)


def statement_in_a_bundle(data: bytes) -> None:
    """A Sigstore bundle that was put into a sound bundle of ours never passes; never anything but RvpError."""
    from provenance.policy import load_policy
    from verifier.verify.verify import verify

    with only_our_errors():
        trust = load_policy(CASES / "two-of-two" / "policy.toml")
        assert verify(Bundle(statements=(data,)), trust, at=1772323200).verdict != "passed"


def dsse(data: bytes) -> None:
    """Never anything but RvpError; what one key verifies is what that key signed."""
    with only_our_errors():
        found = read_sigstore(data)
        verified = verify_envelope(found, [KEY])
        assert verified.key == KEY


def statement(data: bytes) -> None:
    """Never anything but RvpError; a predicate that is read has a canonical form."""
    with only_our_errors():
        found = read_predicate(read_statement(data))
        if found is not None and hasattr(found, "core"):
            canonical_json(found.core)


def policy(data: bytes) -> None:
    """Never anything but RvpError; a policy that is read asks for at least one operator, and can be examined."""
    with only_our_errors():
        found = parse_policy(data)
        assert 1 <= found.quorum.n <= len(found.operator)
        assert found.source.repository
        weaknesses(found, data.decode())


def signed(data: bytes) -> None:
    """What two operators and two releasers sign, whatever it is: never anything but RvpError, and no wrong PASSED."""
    from provenance.dsse import sign_payload
    from provenance.policy import load_policy
    from provenance.sigstore_bundle import SigstoreBundle
    from tests.conformance.generate import signer
    from verifier.verify.report import as_junit, as_text
    from verifier.verify.verify import verify

    trust = load_policy(CASES / "two-of-two" / "policy.toml")
    with only_our_errors():
        statements = [
            SigstoreBundle(envelope=sign_payload(data, key), hint=key.public_key.hint).to_json()
            for key in map(signer, ("acme", "auditor", "release-a", "release-b"))
        ]
        found = verify(Bundle(statements=tuple(statements)), trust, at=1772323200)
        assert found.verdict != "passed"  # there is no signed tag, and nobody says both values and release
        assert as_text(found, "x", "y").replace("\n", "").isprintable()
        as_junit(found)


def recipe_tar(data: bytes) -> None:
    """Never anything but RvpError; no name leads out of the folder."""
    from provenance.oci import blob_of

    with only_our_errors():
        for name in unpack_files(blob_of(data, "")):
            assert not name.startswith("/")
            assert ".." not in name.split("/")


def git_objects(data: bytes) -> None:
    """Never an error at all; nothing but the maintainer's own bytes verifies."""
    tag, commit = read_tag(data), read_commit(data)
    read_tree(data, digits=40)
    if not verify_ssh_signature(tag.payload, tag.signature, [SIGNER]):
        assert tag.payload == read_tag(SEEDS["git_objects"][0]).payload
    assert verify_ssh_signature(commit.payload, commit.signature, [SIGNER])


def shown(data: bytes) -> None:
    """Whatever `rvp show` is given: never anything but RvpError."""
    from verifier.cli.show import look

    with only_our_errors():
        _on_disk(data, "", lambda path: look(path, None))


def keys(data: bytes) -> None:
    """Never anything but RvpError, as a public and as a private key."""
    with only_our_errors():
        read_public_key(data)
    with only_our_errors():
        read_signer(data)


def spec(data: bytes) -> None:
    """Never anything but RvpError."""
    from pipeline.spec import parse_spec

    with only_our_errors():
        parse_spec(data)


def lock(data: bytes) -> None:
    """Never anything but RvpError."""
    from pipeline.lock import parse_lock

    with only_our_errors():
        parse_lock(data)


def _measured(data: bytes, suffix: str) -> None:
    from pipeline.measure import MeasureOptions, measure_file

    with only_our_errors():
        _on_disk(data, suffix, lambda path: measure_file(path, options=MeasureOptions(with_log=True)))


def enclave(data: bytes) -> None:
    """An ELF with SGX metadata: never anything but RvpError."""
    _measured(data, ".so")


def sgxs(data: bytes) -> None:
    """An SGXS stream: never anything but RvpError."""
    _measured(data, ".sgxs")


def sigstruct(data: bytes) -> None:
    """A SIGSTRUCT: never anything but RvpError."""
    _measured(data, ".sig")


def gramine_manifest(data: bytes) -> None:
    """A Gramine manifest: never anything but RvpError; what is laid out has its pages inside the enclave."""
    _gramine(data, _libpals()[0])


def gramine_libpal(data: bytes) -> None:
    """A libpal.so: never anything but RvpError; what is laid out has its pages inside the enclave."""
    _gramine(_manifests()[0], data)


def _gramine(manifest: bytes, libpal: bytes) -> None:
    from pipeline.measure.sgx.enclave_image import PAGE, Pages
    from pipeline.measure.sgx.gramine.enclave import lay_out_manifest

    with only_our_errors():
        image = lay_out_manifest(manifest, memoryview(libpal)).image
        for part in image.parts:
            assert isinstance(part, Pages)
            assert 0 <= part.address <= part.address + part.count * PAGE <= image.size_bytes


def page_list(data: bytes) -> None:
    """A page list: never anything but RvpError; its pages do not overlap."""
    from pipeline.measure.sgx.enclave_image import PAGE, Pages
    from pipeline.measure.sgx.page_list.reader import read_page_list

    with only_our_errors():
        parts = [part for part in read_page_list(data).image.parts if isinstance(part, Pages)]
        end = 0
        for part in sorted(parts, key=lambda one: one.address):
            assert part.address >= end
            end = part.address + part.count * PAGE


def image(data: bytes) -> None:
    """A container image in an archive: never anything but RvpError."""
    _measured(data, ".tar")


def image_layer(data: bytes) -> None:
    """A layer with the right digest: never anything but RvpError; files lie inside the layer, folders are there."""
    from pipeline.measure.image_files import open_image_files
    from tests.fakes.images import write_image

    with only_our_errors(), tempfile.TemporaryDirectory() as folder:
        below, path = layer_of_links(), Path(folder) / "x.tar"
        with open_image_files(write_image(path, below, data)) as files:
            entries = {one.path: one for one in files.entries()}
            for one in entries.values():
                parent = one.path.rpartition(b"/")[0]
                assert not parent or entries[parent].kind in {"folder", "unclear"}
                assert one.at + one.size_bytes <= len((below, data)[one.content_layer])
                assert b".." not in one.path.split(b"/")


def layer_of_links() -> bytes:
    """A lower layer with links for an upper one to run into."""
    from tests.fakes.images import TRICKY

    return TRICKY[0]


def tdvf(data: bytes) -> None:
    """Firmware with TDX metadata: never anything but RvpError; sections lie in the file and do not overlap."""
    from pipeline.measure.tdx.tdvf import SectionKind, read_tdvf

    with only_our_errors():
        end = 0
        for one in sorted(read_tdvf(data, "x").sections, key=lambda one: one.address):
            if one.kind is not SectionKind.TD_INFO and one.size:
                assert one.address >= end
                assert one.offset + one.raw_size <= len(data) or not one.raw_size
                end = one.address + one.size
    _measured(data, ".fd")


def runtime_events(data: bytes) -> None:
    """A list of runtime events: never anything but RvpError; every event has a digest of 48 bytes."""
    from pipeline.measure.tdx.runtime_events import read_runtime_events

    with only_our_errors():
        for one in read_runtime_events(data, "x"):
            assert one.digest is not None
            assert len(one.digest) == 48


def uki(data: bytes) -> None:
    """PE files: never anything but RvpError; what is hashed lies in the file, once, and so do all sections."""
    from pipeline.measure.boot.pe import Pe

    with only_our_errors():
        pe = Pe(data)
        ranges = [one for one in pe.hashed_ranges() if one[0] < one[1]]
        assert all(0 <= start < end <= len(data) for start, end in ranges)
        assert sum(end - start for start, end in ranges) <= 2 * len(data)
        assert all(len(pe.content(one)) <= one.raw_size for one in pe.sections)
    with only_our_errors():
        _measured(data, ".efi")


def kernel(data: bytes) -> None:
    """A kernel's header: never anything but RvpError; a patched kernel is as long, and starts as written."""
    from pipeline.measure.boot.bzimage import qemu_patched
    from pipeline.measure.boot.direct_boot import DirectBoot, direct_events

    with only_our_errors():
        start, rest = qemu_patched(data, cmdline=data[:64], initrd_size=5000, memory_bytes=1 << 30)
        assert len(start) + len(rest) == len(data)
    with only_our_errors():
        direct_events(DirectBoot(kernel=data, initrd=b"i", cmdline=b"quiet"))


def eif(data: bytes) -> None:
    """Nitro images: never anything but RvpError; a changed file has another CRC or is refused."""
    from pipeline.measure.eif import read_eif

    with only_our_errors():
        found = read_eif(data)
        assert all(len(one.content) <= len(data) for one in found.sections)
    _measured(data, ".eif")


def varstore(data: bytes) -> None:
    """Variables of a firmware: never anything but RvpError; what is read has names of its own."""
    from pipeline.measure.tdx.varstore import read_varstore

    with only_our_errors():
        found = read_varstore(data, "x").variables
        assert len({(one.vendor, one.name) for one in found}) == len(found)


def protected_file(data: bytes) -> None:
    """A protected file: never anything but RvpError; one that is read has its MAC in its header."""
    from pipeline.measure.sgx.in_image.protected_file import read_protected_file

    with only_our_errors():
        assert read_protected_file(data).mac == data[77:93]


def event_log(data: bytes) -> None:
    """An event log: never anything but RvpError; what is read is all of the file, and replays to its own values."""
    from verifier.cli.replay import replay_lines
    from verifier.evidence.event_log import read_event_log
    from verifier.evidence.register_values import Register, RegisterValues
    from verifier.evidence.replay import replay_log

    with only_our_errors():
        log = read_event_log(data)
        assert log.size_bytes + log.padding_bytes == len(data)
        first = replay_log(log)
        values = {
            Register(one.register, one.bank): bytes.fromhex(one.value) for one in first.registers if one.value
        }
        given = RegisterValues(kind="pcrs", source="", trust="", values=values)
        second = replay_log(log, given)
        assert {one.compared for one in second.registers} <= {"equal", "not compared"}
        assert replay_lines(second)
        assert all(one.words.isprintable() for one in second.events)


def event_log_json(data: bytes) -> None:
    """A log inside JSON: never anything but RvpError; what is read can be replayed and printed."""
    from verifier.cli.replay import replay_lines
    from verifier.evidence.event_log_json import read_json_log
    from verifier.evidence.replay import replay_log

    with only_our_errors():
        found = replay_log(read_json_log(data).log)
        assert replay_lines(found)
        assert all(one.words.isprintable() for one in found.events)


def register_values(data: bytes) -> None:
    """Values to compare a log with: never anything but RvpError; each has the size of its bank."""
    import hashlib

    from verifier.evidence.register_values import read_register_values

    with only_our_errors():
        for register, value in read_register_values(data).values.items():
            assert len(value) == (32 if register.bank == "sm3" else hashlib.new(register.bank).digest_size)


def _event_logs() -> list[bytes]:
    from tests.fakes.event_logs import BOOT, CCEL, agile_log, sha1_log

    return [
        agile_log(BOOT, ("sha1", "sha256")),
        sha1_log(BOOT),
        agile_log(CCEL, ("sha384",), first_index=1) + b"\xff" * 64,
    ]


def _json_logs() -> list[bytes]:
    runtime = b'{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"c0ffee"}'
    ccel = base64.b64encode(_event_logs()[2])
    return [
        b'{"quote":"00","event_log":[' + runtime + b"]}",
        b'{"quote":"AAAA","cc_eventlog":"' + ccel + b'"}',
    ]


def _register_values() -> list[bytes]:
    from tests.fakes.event_logs import tdx_quote

    quote = tdx_quote((b"a" * 48,) * 4)
    return [
        quote,
        tdx_quote((b"a" * 48,) * 4, version=5),
        b'{"pcrs":{"sha256":{"0":"' + b"ab" * 32 + b'"}}}',
        b"  sha256:\n    0 : 0x" + b"AB" * 32 + b"\nPCR-01: " + b"00 " * 20,
    ]


def _protected() -> list[bytes]:
    from tests.fakes.protected_file import protect

    return [protect(b"{}", "name"), protect(b"content" * 3000, "name")]


def _ukis() -> list[bytes]:
    from tests.fakes.pe_file import write_pe

    inner = write_pe((("k", b"kernel"),), directories=6)
    magic = b"#### LoaderInfo: systemd-stub 257.1 ####"
    sections = (
        (".sdmagic", magic),
        (".linux", inner),
        (".cmdline", b"quiet"),
        (".osrel", b"ID=x"),
        (".initrd", b"i"),
    )
    return [write_pe(sections), write_pe(sections, trailing=b"end", certificates=b"C" * 16)]


def _kernels() -> list[bytes]:
    from tests.fakes.pe_file import write_kernel

    return [write_kernel(), write_kernel(protocol=0x203, extended=0)]


def _eifs() -> list[bytes]:
    from tests.fakes.eif_file import plain, sign_eif, write_eif

    return [write_eif(plain(b"a" * 90, b"b")), write_eif(sign_eif(plain(b"a")))]


def _tdvfs() -> list[bytes]:
    from tests.fakes.tdvf import TD_SHIM, make_tdvf

    return [make_tdvf(), make_tdvf(TD_SHIM, form="td-shim")]


def _varstores() -> list[bytes]:
    from pipeline.measure.tdx.varstore import GLOBAL_VARIABLE, Variable
    from tests.fakes.tdvf import make_varstore

    names = ("PK", "KEK", "BootOrder")
    return [
        make_varstore([Variable(vendor=GLOBAL_VARIABLE, name=one, data=one.encode() * 3) for one in names])
    ]


def _layers() -> list[bytes]:
    from tests.fakes.images import TRICKY

    return list(TRICKY)


def _statements() -> list[bytes]:
    return list(read_bundle(CASES / "two-of-two" / "bundle.tar").statements)


def _logs() -> list[bytes]:
    return [b"".join(blob.chunks()) for blob in read_bundle(CASES / "log" / "bundle.tar").logs]


def _git() -> list[bytes]:
    inputs = {blob.annotations["org.opencontainers.image.title"]: b"".join(blob.chunks())
              for blob in read_bundle(CASES / "two-of-two" / "bundle.tar").inputs}  # fmt: skip
    return [inputs["git/app/tag"], inputs["git/app/commit"], inputs["git/app/tree/0"]]


def _payloads() -> list[bytes]:
    return [read_sigstore(data).envelope.payload for data in _statements()]


def _enclaves() -> list[bytes]:
    from pipeline.measure.sgx.freestanding.config import EnclaveConfig
    from pipeline.measure.sgx.freestanding.pack import pack_enclave
    from tests.fakes.enclave_elf import enclave_elf

    return [pack_enclave(enclave_elf(), EnclaveConfig(threads=2, stack="16KiB", heap="64KiB")), enclave_elf()]


def _streams() -> list[bytes]:
    from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
    from pipeline.measure.sgx.sgxs import write_sgxs

    parts = [Pages(address=0, count=2, flags=0x205, content=b"\x90" * PAGE * 2, label="code"),
             Pages(address=2 * PAGE, count=1, flags=0x203, content=b"", label="bare")]  # fmt: skip
    return [bytes(write_sgxs(EnclaveImage(size_bytes=4 * PAGE, ssa_frame_size=1, parts=parts)))]


def _manifests() -> list[bytes]:
    from tests.fakes.libpal import manifest

    return [manifest(enclave_size="2M", max_threads=1), manifest(loader="insecure__x = true", debug=True)]


def _libpals() -> list[bytes]:
    from tests.fakes.libpal import USUAL, libpal

    return [libpal(USUAL[:2]), libpal()]


def _page_lists() -> list[bytes]:
    head = b'schema = "rvp/enclave-pages/v1"\nsize = 0x20000\nssa_frame_size = 1\n'
    tcs = b"tcs = { ossa = 0x4000, nssa = 2, entry = 16, fs_limit = 0xfff, gs_limit = 0xfff }\n"
    return [
        head
        + b'[[run]]\naddress = 0x1000\npages = 2\naccess = "r-x"\nfill = "cc"\nlabel = "code"\n'
        + b'[[run]]\naddress = 0x3000\npages = 1\naccess = "tcs"\n' + tcs
        + b'[[run]]\naddress = 0x5000\npages = 3\naccess = "rw-"\nmeasured = false\n'
        + b'[[run]]\naddress = 0x5100\nchunks = 2\nhex = "c0ffee"\n'
    ]  # fmt: skip


def _images() -> list[bytes]:
    from provenance.oci import blob_of
    from provenance.ustar import tar_chunks

    empty = blob_of(b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}', "")
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": empty.size_bytes,
                   "digest": f"sha256:{empty.digest.hex()}"},
    })  # fmt: skip
    blob = blob_of(manifest, "")
    index = canonical_json({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": blob.size_bytes,
        "digest": f"sha256:{blob.digest.hex()}"}]})  # fmt: skip
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index,
             f"blobs/sha256/{empty.digest.hex()}": empty.data or b"",
             f"blobs/sha256/{blob.digest.hex()}": manifest}  # fmt: skip
    return [b"".join(tar_chunks((name, len(data), (data,)) for name, data in sorted(files.items())))]


def _bundles() -> list[bytes]:
    return [(CASES / name / "bundle.tar").read_bytes() for name in ("two-of-two", "log", "dissent")]


EXAMPLE = ROOT / "examples" / "keyservice"
SEEDS: dict[str, list[bytes]] = {
    "bundle": _bundles(),
    "verdict": _bundles()[:1],
    "statement_in_a_bundle": _statements(),
    "dsse": _statements(),
    "statement": _payloads(),
    "signed": _payloads(),
    "recipe_tar": [b"".join(read_bundle(CASES / "two-of-two" / "bundle.tar").recipe.chunks())],
    "policy": [
        (CASES / name / "policy.toml").read_bytes()
        for name in ("two-of-two", "unpredicted-allowed", "required")
    ],
    "git_objects": _git(),
    "keys": [(KEYS / "acme.pub").read_bytes(), base64.b64encode(b"x" * 100)],
    "shown": [*_statements(), *_bundles()[1:2], *_logs(), (KEYS / "maintainer.pub").read_bytes()],
    "spec": [(EXAMPLE / "rvp.toml").read_bytes()],
    "lock": [(EXAMPLE / "rvp.lock").read_bytes()],
    "enclave": _enclaves(),
    "sgxs": _streams(),
    "gramine_manifest": _manifests(),
    "gramine_libpal": _libpals(),
    "page_list": _page_lists(),
    "sigstruct": [(EXAMPLE / "keyservice.sig").read_bytes()],
    "image": _images(),
    "image_layer": _layers(),
    "protected_file": _protected(),
    "tdvf": _tdvfs(),
    "event_log": _event_logs(),
    "event_log_json": _json_logs(),
    "register_values": _register_values(),
    "varstore": _varstores(),
    "runtime_events": [
        (
            b'[[event]]\nconvention = "dstack"\nevent = "app-id"\npayload = "3763"\n'
            b'[[event]]\nconvention = "digest"\ndigest = "abcd"\nlabel = "rootfs"\n'
        )
    ],
    "uki": _ukis(),
    "kernel": _kernels(),
    "eif": _eifs(),
}
TARGETS: dict[str, Target] = {name: globals()[name] for name in SEEDS} | SGX_TARGETS | SNP_TARGETS
SEEDS |= SGX_SEEDS | SNP_SEEDS
