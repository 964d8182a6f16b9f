"""A real engine, and a small base made of Debian packages, for the tests that need them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline import private_engine
from pipeline.engine import Engine, EngineAbsent, connect
from pipeline.sandbox import Rootfs, StepResult, StepRun, run_step
from pipeline.store import FolderStore
from pipeline.tree import Tree, read_folder
from provenance.digest import chunks_of
from provenance.errors import RvpError
from provenance.events import Event, StepOutput
from tests.docker.steps import EPOCH

CACHE = Path(os.environ.get("RVP_TEST_CACHE") or Path("/var/tmp") / f"rvp-tests-{os.getuid()}")
PACKAGES = [
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "hostname",
    "libacl1",
    "libattr1",
    "libblkid1",
    "libc6",
    "libc-bin",
    "libcap-ng0",
    "libcrypt1",
    "libfaketime",
    "libgcc-s1",
    "libgmp10",
    "liblzma5",
    "libmd0",
    "libmount1",
    "libpcre2-8-0",
    "libselinux1",
    "libsmartcols1",
    "libsystemd0",
    "libtinfo6",
    "libudev1",
    "libuuid1",
    "libc-l10n",
    "locales",
    "mawk",
    "perl-base",
    "sed",
    "tar",
    "util-linux",
    "zlib1g",
]


@pytest.fixture(scope="session")
def docker_engine():
    """An engine that answers; started privately when there is none."""
    started = False
    try:
        try:
            engine = connect()
        except EngineAbsent:
            # Workers of one run would stop each other's engine: workflows/test starts one for them all.
            if os.environ.get("DOCKER_HOST") or os.environ.get("PYTEST_XDIST_WORKER"):
                raise
            engine = connect(private_engine.start(CACHE / "engine").url)
            started = True
    except RvpError as error:
        if os.environ.get("RVP_REQUIRE_DOCKER") != "1":
            pytest.skip(f"no Docker engine: {error}")
        raise
    yield engine
    for container in tuple(engine.containers):
        engine.remove(container)
    if started:
        private_engine.stop(CACHE / "engine")


@pytest.fixture(scope="session")
def shared_store() -> FolderStore:
    """One store for all Docker tests, kept between runs."""
    return FolderStore(CACHE / "store")


@pytest.fixture(scope="session")
def base(shared_store: FolderStore) -> Rootfs:
    """A Debian root filesystem with a shell, coreutils, setarch, libfaketime and a Turkish locale."""
    folder = CACHE / "base-1"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "base.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers, one base
        if not (folder / "base.tar").exists():
            _make_base(folder)
    with (folder / "base.tar").open("rb") as stream:
        digest, _ = shared_store.put(chunks_of(stream))
    tools: Tree = read_folder(folder / "tools", shared_store)
    return Rootfs(digest=digest, tar=digest, variation_tools=tools)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


class Ran:
    """What a step gave, easy to look at."""

    def __init__(self, result: StepResult, store: FolderStore, lines: list[str]) -> None:
        self.result, self.lines, self._store = result, lines, store

    @property
    def log(self) -> bytes:
        with self._store.get(self.result.log) as stream:
            return stream.read()

    def tree_text(self, path: str) -> str:
        entry = self.result.outputs.find(path)
        assert entry is not None
        with self._store.get(bytes.fromhex(entry.sha256)) as stream:
            return stream.read().decode()


@pytest.fixture
def step(docker_engine: Engine, shared_store: FolderStore, tmp_path: Path):
    """Run a step in the engine."""

    def run(wanted: StepRun, **more) -> Ran:
        lines: list[str] = []

        def observe(event: Event) -> None:
            if isinstance(event, StepOutput):
                lines.append(event.line)

        result = run_step(docker_engine, wanted, shared_store, observe, scratch=tmp_path / "scratch", **more)
        return Ran(result, shared_store, lines)

    return run


def _make_base(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    debs, root = folder / "debs", folder / "root"
    debs.mkdir(parents=True)
    debs.chmod(0o777)
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, check=True, stdout=subprocess.DEVNULL)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in sorted(debs.iterdir()):
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", root], input=data, check=True)
    (root / "usr/bin/awk").symlink_to("mawk")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    tools = folder / "tools"
    (tools / "locale").mkdir(parents=True)
    shutil.copy(next(root.glob("usr/lib/*/faketime/libfaketime.so.1")), tools / "libfaketime.so.1")
    subprocess.run(
        ["localedef", "-i", "tr_TR", "-f", "UTF-8", "--no-archive", str(tools / "locale/tr_TR.UTF-8")],
        check=True,
        env={"PATH": os.environ["PATH"], "I18NPATH": str(root / "usr/share/i18n")},
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(root / "usr/share/i18n")
    shutil.rmtree(root / "usr/share/locale")
    shutil.rmtree(root / "usr/share/doc")
    for library in root.glob("usr/lib/*/faketime"):
        shutil.rmtree(library)
    partial = folder / "base.tar.tmp"
    with tarfile.open(partial, "w") as archive:
        archive.add(root, arcname=".", filter=_plain)
    partial.rename(folder / "base.tar")
    shutil.rmtree(root)
    shutil.rmtree(debs)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = EPOCH
    return member
