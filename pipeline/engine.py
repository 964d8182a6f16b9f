"""The Docker engine: how it is found, what is known of it, and what is said when it does not answer.

Order: the address that is given, `DOCKER_HOST`, the usual socket, the private engine of `rvp engine start`.
An engine is *local* when it sees this machine's files under the same paths, so that inputs can be mounted;
any other engine gets them as archives. Every call to the engine stands in `speaking`, which turns what the
SDK raises into our own errors.

Example:
    engine = connect()
    with engine.speaking("list containers"):
        engine.api.containers()
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from provenance.errors import EnvironmentFailure, Interrupted, MissingExtra

if TYPE_CHECKING:
    from docker import APIClient, DockerClient
    from requests import Response

DEFAULT_URL: Final = "unix:///var/run/docker.sock"
TIMEOUT_S: Final = 120
OLDEST_API: Final = (1, 40)


class EngineAbsent(EnvironmentFailure):
    """No Docker engine answers.

    Steps run in containers. Cure: start Docker, set DOCKER_HOST, or start a private engine with
    `rvp engine start`.
    """

    code = "RVP-2001"


class EngineForbidden(EnvironmentFailure):
    """The engine's socket is there, but this user may not use it.

    Cure: become a member of the socket's group (usually `docker`) and log in again, or run as root.
    """

    code = "RVP-2002"


class EngineGone(EnvironmentFailure):
    """The engine stopped answering in the middle of the work.

    Nothing half-made was kept. Cure: start the engine again and run the same command.
    """

    code = "RVP-2003"


class EngineRefused(EnvironmentFailure):
    """The engine refused a request.

    Cure: the message is the engine's own; `rvp doctor` checks what it needs.
    """

    code = "RVP-2004"


class EngineTooOld(EnvironmentFailure):
    """The engine is older than Docker 19.03.

    Cure: install a newer one, or use `rvp engine start`.
    """

    code = "RVP-2005"


class TooFewProcessors(EnvironmentFailure):
    """A step fixes more processors than the engine has.

    Their number is part of what a step sees, so it is not changed silently. Cure: lower `limits.cpus` of the
    step, or build on a larger machine.
    """

    code = "RVP-2006"


class Engine:
    """A Docker engine that answers.

    Attributes:
        url: its address.
        is_local: bind mounts of this machine's paths work.
        cpus, memory_bytes: of its host.
        version: its version.
        images: rootfs digest to image reference, of the bases that it is known to have.
    """

    def __init__(self, url: str, settings: dict[str, Any], info: dict[str, Any], *, is_local: bool) -> None:
        self.url = url
        self.is_local = is_local
        self.info = info
        self.cpus = int(info.get("NCPU") or 1)
        self.memory_bytes = int(info.get("MemTotal") or 0)
        self.version = str(info.get("ServerVersion") or "")
        self.images: dict[bytes, str] = {}
        self.image_environment: dict[bytes, tuple[str, ...]] = {}
        self.lock = threading.RLock()
        self.containers: set[str] = set()
        self.stopping = False
        self._settings = settings
        self._threads = threading.local()
        self._cpu_ids = _cpu_ids(self.cpus, is_local=is_local)
        self._cpu_load = dict.fromkeys(self._cpu_ids, 0)
        self._client: DockerClient | None = None

    @property
    def api(self) -> APIClient:
        """The SDK's low-level client; each thread has one of its own."""
        import docker

        if not hasattr(self._threads, "api"):
            self._threads.api = docker.APIClient(**self._settings)
        api: APIClient = self._threads.api
        return api

    @property
    def client(self) -> DockerClient:
        """The SDK's high-level client."""
        import docker

        if self._client is None:
            self._client = docker.DockerClient(**self._settings)
        return self._client

    @property
    def api_version(self) -> tuple[int, ...]:
        """The version of the API that is spoken."""
        return tuple(int(part) for part in str(self._settings["version"]).split("."))

    @contextlib.contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Turn what the SDK raises into our errors.

        Raises:
            EngineGone: RVP-2003. EngineRefused: RVP-2004. EngineForbidden: RVP-2002.
        """
        import docker.errors
        import requests
        import urllib3

        try:
            yield
        except docker.errors.APIError as error:
            raise EngineRefused(f"{what}: {error.explanation or error}", place=self.url) from error
        except PermissionError as error:
            raise _forbidden(self.url) from error
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            docker.errors.DockerException,
            ConnectionError,
            TimeoutError,
        ) as error:
            raise EngineGone(
                f"{what}: the engine does not answer any more",
                hint="start it again and run the same command; what was finished is kept",
                place=self.url,
            ) from error

    def get(self, path: str, parameters: dict[str, str]) -> Response:
        """Ask the engine for something that the SDK has no call for; the answer is a stream to close.

        Raises:
            requests.RequestException, docker.errors.DockerException: call it inside `speaking`.
        """
        import http

        answer = self.api.get(
            f"{self.api.base_url}/v{self.api.api_version}{path}",
            params=parameters,
            headers={"Accept-Encoding": "identity"},
            timeout=TIMEOUT_S,
            stream=True,
        )
        if answer.status_code != http.HTTPStatus.NOT_FOUND:
            self.api._raise_for_status(answer)  # type: ignore[attr-defined]  # noqa: SLF001  the SDK's own way
        return answer

    @contextlib.contextmanager
    def cpuset(self, count: int) -> Iterator[str]:
        """Lend processors for a step: the least used ones; at most as many as there are."""
        with self.lock:
            chosen = sorted(self._cpu_ids, key=lambda cpu: (self._cpu_load[cpu], cpu))[:count]
            for cpu in chosen:
                self._cpu_load[cpu] += 1
        try:
            yield ",".join(str(cpu) for cpu in sorted(chosen))
        finally:
            with self.lock:
                for cpu in chosen:
                    self._cpu_load[cpu] -= 1

    @property
    def usable_cpus(self) -> int:
        """How many processors a step can get at most."""
        return len(self._cpu_ids)

    def stop_own(self) -> None:
        """Remove every container of this process; steps that run end with Interrupted."""
        self.stopping = True
        for container in tuple(self.containers):
            self.remove(container)

    def check_not_stopping(self) -> None:
        """Raise when `stop_own` was called.

        Raises:
            Interrupted: RVP-1002.
        """
        if self.stopping:
            raise Interrupted("interrupted", hint="the same command goes on from what was finished")

    def remove(self, container: str) -> None:
        """Remove a container with its volumes, whatever it does; say nothing when it is gone."""
        import docker.errors
        import requests

        with contextlib.suppress(
            docker.errors.DockerException, requests.exceptions.RequestException, OSError
        ):
            self.api.remove_container(container, force=True, v=True)
        self.containers.discard(container)


def connect(url: str | None = None) -> Engine:
    """Find the engine and speak to it once.

    Raises:
        EngineAbsent: RVP-2001. EngineForbidden: RVP-2002. EngineTooOld: RVP-2005.
        MissingExtra: RVP-1001 without the package `docker`.
    """
    address = url or os.environ.get("DOCKER_HOST")
    if address:
        return _connect(address)
    try:
        return _connect(DEFAULT_URL)
    except (EngineAbsent, EngineForbidden):
        from pipeline import private_engine

        private = private_engine.running_url()
        if private is None:
            raise
        return _connect(private)


def _connect(url: str) -> Engine:
    try:
        import docker
        import docker.errors
        import requests
        from docker.utils import kwargs_from_env
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the package {error.name} is not installed",
            hint="pip install 'reference-value-pipeline[pipeline]'",
        ) from error
    path = Path(url.removeprefix("unix://")) if url.startswith("unix://") else None
    if path is not None:
        _check_socket(path, url)
    settings: dict[str, Any] = {"base_url": url, "timeout": TIMEOUT_S}
    if not url.startswith(("unix://", "ssh://")):
        settings = {**kwargs_from_env(), **settings}
    if url.startswith("ssh://"):
        settings["use_ssh_client"] = True
    try:
        first = docker.APIClient(**settings, version="auto")
        info = first.info()
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        OSError,
        ValueError,
    ) as error:
        raise _absent(url, str(error)) from error
    version = first.api_version
    if tuple(int(part) for part in version.split(".")) < OLDEST_API:
        raise EngineTooOld(
            f"the engine {info.get('ServerVersion')} speaks API {version}; "
            f"{'.'.join(map(str, OLDEST_API))} is the oldest that works",
            hint="install a newer engine, or: rvp engine start",
            place=url,
        )
    local = path is not None and _same_files(path, info)
    return Engine(url, {**settings, "version": version}, info, is_local=local)


def _check_socket(path: Path, url: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except PermissionError as error:
            raise _forbidden(url) from error
        except OSError as error:
            raise _absent(url, error.strerror or str(error)) from error


def _absent(url: str, why: str) -> EngineAbsent:
    return EngineAbsent(
        f"no Docker engine answers ({why})",
        hint="start Docker, set DOCKER_HOST, or start a private engine: rvp engine start",
        place=url,
    )


def _forbidden(url: str) -> EngineForbidden:
    group = ""
    with contextlib.suppress(OSError, KeyError):
        import grp

        group = grp.getgrgid(Path(url.removeprefix("unix://")).stat().st_gid).gr_name
    return EngineForbidden(
        "this user may not use the engine's socket",
        hint=f"usermod -aG {group or 'docker'} $USER and log in again, or run as root",
        place=url,
    )


def _same_files(path: Path, info: dict[str, Any]) -> bool:
    """Tell whether the process behind a socket has our view of the file system.

    The kernel names the process that listens (SO_PEERCRED); its mount namespace and root are compared with
    ours. Where that cannot be read: same host name, same kernel, and we are not in a container ourselves.
    """
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", raw)[0]
        if pid > 0:
            same_mounts = Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
            return same_mounts and Path(f"/proc/{pid}/root").samefile("/")
    except OSError:
        pass
    in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    system = os.uname()
    same_host = (info.get("Name"), info.get("KernelVersion")) == (system.nodename, system.release)
    return same_host and not in_container


def _cpu_ids(count: int, *, is_local: bool) -> tuple[int, ...]:
    usable = os.sched_getaffinity(0) if is_local else ()
    return tuple(sorted(usable)) or tuple(range(count))
