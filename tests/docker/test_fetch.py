"""Fetches on a real engine: the network through the proxy alone, output pinned, clients at work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.engine import Engine
from pipeline.fetch.fetching import FetchChanged, HostRefused, run_fetch
from pipeline.leaves import FetchMissing, trees_of
from pipeline.lock import Lock, write_lock
from pipeline.project import load_project
from pipeline.resolve import compare_locks, resolve_lock
from pipeline.sandbox import Rootfs
from pipeline.spec import Fetch, parse_spec
from pipeline.step_failure import StepFailed
from pipeline.store import FolderStore
from pipeline.tree import Tree
from provenance.events import ignore

pytestmark = pytest.mark.docker

NO_NETWORK = """
ls /sys/class/net > {out}/interfaces
if perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(PeerAddr => "192.0.2.1:80", Timeout => 3)'; then
    echo yes > {out}/reached
fi
"""
# A client of a few lines: asks the proxy for a host and prints the first line of the answer.
ASK = """
use IO::Socket::INET;
my ($host) = @ARGV;
my $proxy = IO::Socket::INET->new(PeerAddr => "127.0.0.1:3128") or die "no bridge: $!";
print $proxy "CONNECT $host:443 HTTP/1.1\\r\\n\\r\\n";
print scalar <$proxy>;
exit 1;
"""


@pytest.fixture
def fetch(docker_engine: Engine, base: Rootfs, shared_store: FolderStore, tmp_path: Path):
    def run(wanted: Fetch):
        return run_fetch(
            "deps",
            wanted,
            engine=docker_engine,
            rootfs=base,
            inputs=(),
            store=shared_store,
            observer=ignore,
            scratch=tmp_path / "scratch",
        )

    return run


def text(tree: Tree, path: str, store: FolderStore) -> str:
    entry = tree.find(path)
    assert entry is not None
    with store.get(bytes.fromhex(entry.sha256)) as stream:
        return stream.read().decode()


def test_the_container_of_a_fetch_has_no_network_of_its_own(fetch, shared_store: FolderStore) -> None:
    fetched = fetch(Fetch(base="t", run=("sh", "-c", NO_NETWORK)))
    assert text(fetched.tree, "interfaces", shared_store) == "lo\n"
    assert fetched.tree.find("reached") is None
    assert fetched.transcript.contacts == ()


def test_a_host_that_is_not_allowed_fails_the_fetch_and_is_named(fetch) -> None:
    with pytest.raises(HostRefused, match=r"forbidden\.invalid:443") as caught:
        fetch(Fetch(base="t", run=("perl", "-e", ASK, "forbidden.invalid"), hosts=("allowed.invalid",)))
    assert caught.value.exit_code == 5


def test_a_fetch_that_fails_says_so(fetch) -> None:
    with pytest.raises(StepFailed) as caught:
        fetch(Fetch(base="t", run=("sh", "-c", "echo words; exit 3")))
    assert caught.value.exit_status == 3
    assert "words" in "\n".join(caught.value.last_lines)


def test_configuration_is_read_only_and_never_in_the_output(
    fetch, shared_store: FolderStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = https://user:secret@index.invalid/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    script = 'grep -c secret "$PIP_CONFIG_FILE" > {out}/count; ! echo x 2>/dev/null >> "$PIP_CONFIG_FILE"'
    fetched = fetch(Fetch(base="t", run=("sh", "-c", script)))
    assert text(fetched.tree, "count", shared_store) == "1\n"
    assert [entry.path for entry in fetched.tree.entries] == ["count"]


SPEC = """\
schema = "rvp/spec/v1"
[project]
name = "hello"
version = "1"
source_date_epoch = 1700000000
[base.client]
debian = { suites = ["bookworm"], packages = [PACKAGES] }
[source.app]
path = "src"
[fetch.deps]
base = "client"
needs = ["source.app"]
run = [RUN]
"""


def lock_project(folder: Path, engine: Engine, previous: Lock | None = None) -> Lock:
    spec = parse_spec((folder / "rvp.toml").read_bytes())
    made = resolve_lock(
        spec,
        folder,
        store=FolderStore(folder / ".rvp" / "store"),
        previous=previous,
        observer=ignore,
        engine=lambda: engine,
    )
    write_lock(made, folder / "rvp.lock")
    return made


def check_pinned(folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Lock; lose the content: a build says `rvp lock`, which fetches it again and finds it equal."""
    monkeypatch.setattr("pipeline.engine.connect", lambda: engine)
    made = lock_project(folder, engine)
    store = FolderStore(folder / ".rvp" / "store")
    pinned = bytes.fromhex(made.fetch["deps"].tree)
    store.path_of(pinned).unlink()
    with pytest.raises(FetchMissing, match=r"fetch\.deps"):
        trees_of(load_project(folder, store=store, observer=ignore), store)
    assert not store.has(pinned)
    assert lock_project(folder, engine, made) == made
    assert store.has(pinned)
    assert "://" not in (folder / "rvp.lock").read_text()
    return made


@pytest.mark.network
def test_pip_fetches_through_the_proxy_and_the_tree_is_pinned(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "requirements.txt").write_text(
        "six==1.16.0 --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n"
    )
    run = '"python3", "-m", "pip", "install", "--no-deps", "--require-hashes", "--target", "{out}", "-r", "{source.app}/requirements.txt"'
    packages = '"python3", "python3-pip"'
    (tmp_path / "rvp.toml").write_text(SPEC.replace("PACKAGES", packages).replace("RUN", run))
    made = check_pinned(tmp_path, docker_engine, monkeypatch)
    store = FolderStore(tmp_path / ".rvp" / "store")
    project = load_project(tmp_path, store=store, observer=ignore)
    with store.get(bytes.fromhex(project.lock.fetch["deps"].tree)) as stream:
        paths = {entry["path"] for entry in json.load(stream)["entries"]}
    assert "six.py" in paths
    assert not any(path.endswith(".pyc") for path in paths)
    with store.get(bytes.fromhex(made.fetch["deps"].transcript)) as stream:
        contacts = json.load(stream)["contacts"]
    local_only = os.environ.get("PIP_NO_INDEX") or os.environ.get("PIP_INDEX_URL", "").startswith("file:")
    assert local_only or all(contact["received_bytes"] > 0 for contact in contacts)
    assert local_only or contacts

    (tmp_path / "src" / "requirements.txt").write_text(
        "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
    )
    changed = lock_project(tmp_path, docker_engine, made)
    assert [change.part for change in compare_locks(made, changed)] == ["fetch.deps"]


@pytest.mark.network
def test_another_tree_than_the_pinned_one_is_an_error(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.connect", lambda: docker_engine)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "x").write_text("x")
    run = '"sh", "-c", "cat /proc/sys/kernel/random/uuid > {out}/random"'
    text_ = SPEC.replace("PACKAGES", '"coreutils", "dash"').replace("RUN", run)
    (tmp_path / "rvp.toml").write_text(text_)
    made = lock_project(tmp_path, docker_engine)
    store = FolderStore(tmp_path / ".rvp" / "store")
    store.path_of(bytes.fromhex(made.fetch["deps"].tree)).unlink()
    with pytest.raises(FetchChanged, match=made.fetch["deps"].tree) as caught:
        lock_project(tmp_path, docker_engine, made)
    assert caught.value.exit_code == 3


PACKAGE_LOCK = {
    "name": "hello",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {
        "": {"name": "hello", "version": "1.0.0", "dependencies": {"isarray": "2.0.5"}},
        "node_modules/isarray": {
            "version": "2.0.5",
            "integrity": "sha512-xHjhDr3cNBK0BzdUJSPXZntQUx/mwMS5Rw4A7lPJ90XGAO6ISP/ePDNuo0vhqOZU+UD5JoodwCAAoZQd3FeAKw==",
        },
    },
}


@pytest.mark.network
@pytest.mark.full
def test_npm_fetches_through_the_proxy_and_the_tree_is_pinned(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    manifest = {"name": "hello", "version": "1.0.0", "dependencies": {"isarray": "2.0.5"}}
    (tmp_path / "src" / "package.json").write_text(json.dumps(manifest))
    (tmp_path / "src" / "package-lock.json").write_text(json.dumps(PACKAGE_LOCK))
    run = '"sh", "-euc", "cp {source.app}/package*.json {out}/ && npm ci --prefix {out} --ignore-scripts"'
    (tmp_path / "rvp.toml").write_text(SPEC.replace("PACKAGES", '"npm"').replace("RUN", run))
    made = check_pinned(tmp_path, docker_engine, monkeypatch)
    store = FolderStore(tmp_path / ".rvp" / "store")
    with store.get(bytes.fromhex(made.fetch["deps"].tree)) as stream:
        paths = {entry["path"] for entry in json.load(stream)["entries"]}
    assert "node_modules/isarray/index.js" in paths
