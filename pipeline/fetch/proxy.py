"""The recording proxy: HTTP's CONNECT, and GET and HEAD of http:// addresses, over a unix socket.

It runs in a thread of its own while one fetch runs. It opens no connection to this machine itself or to a
link-local address (a cloud's metadata service) unless `hosts` names it. When the machine has to use a
proxy (https_proxy, http_proxy, no_proxy), so does it.

Example:
    with RecordingProxy(folder / "proxy.sock", allowed=("*.example.org",)) as proxy:
        ...
    proxy.transcript.contacts
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from pipeline.fetch.transcript import Contact, Transcript
from provenance.errors import EnvironmentFailure

_HEAD_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 64 << 10
_CONNECT_S: Final = 60.0
_SOCKET_BYTES: Final = 107  # sun_path of unix(7), without its last zero


class ProxyFailed(EnvironmentFailure):
    """The recording proxy could not start.

    Cure: set TMPDIR to a short path that can be written; a socket's path has at most 107 bytes.
    """

    code = "RVP-1501"


class _Counted:
    def __init__(self) -> None:
        self.connections = self.refused = self.received_bytes = self.sent_bytes = 0


class RecordingProxy:
    """A proxy that lives as long as its `with` block.

    Args:
        socket: where to listen.
        allowed: hosts, `host` or `*.domain`, optionally with `:port`; empty: any.
    """

    def __init__(self, socket: Path, *, allowed: tuple[str, ...] = ()) -> None:
        self.socket = socket
        self._allowed = tuple(host.lower() for host in allowed)
        self._counted: dict[tuple[str, int], _Counted] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rvp-fetch-proxy", daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None

    @property
    def transcript(self) -> Transcript:
        """What passed until now."""
        return Transcript(
            contacts=tuple(
                Contact(
                    host=host,
                    port=port,
                    connections=seen.connections,
                    refused=seen.refused,
                    received_bytes=seen.received_bytes,
                    sent_bytes=seen.sent_bytes,
                )
                for (host, port), seen in sorted(self._counted.items())
            )
        )

    def __enter__(self) -> Self:
        if len(str(self.socket).encode()) > _SOCKET_BYTES:
            raise ProxyFailed(
                f"the socket's path is too long: {self.socket}", hint="set TMPDIR to a short path"
            )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise ProxyFailed(f"cannot listen: {self._failure}", place=str(self.socket)) from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self.socket.unlink(missing_ok=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            server = self._loop.run_until_complete(
                asyncio.start_unix_server(self._serve, path=self.socket, limit=_HEAD_BYTES)
            )
            self.socket.chmod(0o777)  # the container's user is not ours; the folder above is closed to others
        except OSError as error:
            self._failure = error
            self._ready.set()
            self._loop.close()
            return
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:
            pass  # the fetch is over
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, TimeoutError):
            with contextlib.suppress(OSError):
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        finally:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = (parts.hostname or "").lower(), parts.port or (443 if method == "CONNECT" else 80)
        if not host or (method != "CONNECT" and (method not in {"GET", "HEAD"} or parts.scheme != "http")):
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        seen = self._counted.setdefault((host, port), _Counted())
        if not self.allows(host, port):
            seen.refused += 1
            writer.write(_refusal(f"rvp: {host}:{port} is not among the hosts of this fetch\n"))
            return
        try:
            far_reader, far_writer = await asyncio.wait_for(
                self._connect(host, port, tunnel=method == "CONNECT"), _CONNECT_S
            )
        except PermissionError as error:
            seen.refused += 1
            writer.write(_refusal(f"rvp: {error}\n"))
            return
        seen.connections += 1
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            request = _plain_request(method, target, version, fields, through=_proxy_for("http", host))
            seen.sent_bytes += len(request)
            far_writer.write(request)
        try:
            await asyncio.gather(
                _relay(reader, far_writer, seen, "sent_bytes"),
                _relay(far_reader, writer, seen, "received_bytes"),
            )
        finally:
            far_writer.close()

    def allows(self, host: str, port: int) -> bool:
        """Tell whether a host may be reached, as far as names go."""
        return not self._allowed or self._names(host, port)

    def _names(self, host: str, port: int) -> bool:
        for pattern in self._allowed:
            name, _, wanted = pattern.partition(":")
            fits = host.endswith(name[1:]) if name.startswith("*.") else host == name
            if fits and (not wanted or wanted == str(port)):
                return True
        return False

    async def _connect(
        self, host: str, port: int, *, tunnel: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        through = _proxy_for("https" if tunnel else "http", host)
        if not through:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            if not self._names(host, port) and any(map(_is_near, addresses)):
                raise PermissionError(f"{host} is this machine or a link-local address; name it in hosts")
            return await _first(addresses, port)
        parts = urlsplit(through)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 3128, limit=_HEAD_BYTES)
        if tunnel:
            request = (
                f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{_authorization(through)}\r\n"
            )
            writer.write(request.encode("latin-1"))
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            if status != b"200":
                writer.close()
                raise OSError(f"the machine's proxy answered {status.decode('latin-1')}")
        return reader, writer


async def _first(addresses: list[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port, limit=_HEAD_BYTES)
        except OSError as error:
            failure = error
    raise failure


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: _Counted, count: str
) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            setattr(seen, count, getattr(seen, count) + len(chunk))
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


def _refusal(words: str) -> bytes:
    body = words.encode()
    head = f"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _plain_request(method: str, target: str, version: str, fields: list[str], *, through: str) -> bytes:
    """Write a request for the far side: its path alone for a server, the whole address for a proxy."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    dropped = ("proxy-", "connection:", "host:")
    kept = [field for field in fields if field and not field.lower().startswith(dropped)]
    lines = [
        f"{method} {target if through else path} {version}",
        f"Host: {parts.netloc}",
        "Connection: close",
    ]
    return ("\r\n".join([*lines, *kept]) + "\r\n" + _authorization(through) + "\r\n").encode("latin-1")


def _proxy_for(scheme: str, host: str) -> str:
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(host):
        return ""
    found = proxies.get(scheme) or proxies.get("all") or ""
    return found if not found or "://" in found else f"http://{found}"


def _authorization(proxy: str) -> str:
    parts = urlsplit(proxy)
    if not parts.username:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def _is_near(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast
