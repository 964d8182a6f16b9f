"""The recording proxy and the bridge: what passes, what is refused, what is written down."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fetch.bridge import write_bridge
from pipeline.fetch.proxy import ProxyFailed, RecordingProxy
from pipeline.fetch.transcript import Transcript


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rvp-") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"hello {self.path} {self.headers.get('Host')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hello) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


def ask(path: Path, request: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(request.encode())
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def tunnel(port: int) -> str:
    return f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\nGET /a HTTP/1.0\r\n\r\n"


def plain(port: int) -> str:
    return f"GET http://127.0.0.1:{port}/a?b=c HTTP/1.1\r\nHost: 127.0.0.1\r\nProxy-Authorization: x\r\n\r\n"


def test_a_tunnel_passes_and_is_counted(folder: Path, server: int) -> None:
    with RecordingProxy(folder / "s", allowed=("127.0.0.1",)) as proxy:
        answer = ask(folder / "s", tunnel(server))
    assert b"200 Connection established" in answer
    assert b"hello /a" in answer
    (contact,) = proxy.transcript.contacts
    assert (contact.host, contact.port, contact.connections) == ("127.0.0.1", server, 1)
    assert contact.sent_bytes == len("GET /a HTTP/1.0\r\n\r\n")
    assert contact.received_bytes > 20
    assert not (folder / "s").exists()


def test_a_plain_request_passes_with_its_path_alone(folder: Path, server: int) -> None:
    with RecordingProxy(folder / "s", allowed=("127.0.0.1",)) as proxy:
        answer = ask(folder / "s", plain(server))
    assert f"hello /a?b=c 127.0.0.1:{server}".encode() in answer
    assert proxy.transcript.contacts[0].received_bytes > 20


def test_a_host_that_is_not_allowed_is_refused_and_recorded(folder: Path, server: int) -> None:
    with RecordingProxy(folder / "s", allowed=("example.org",)) as proxy:
        answer = ask(folder / "s", tunnel(server))
    assert answer.startswith(b"HTTP/1.1 403")
    assert proxy.transcript.refused == (f"127.0.0.1:{server}",)
    assert proxy.transcript.contacts[0].connections == 0


def test_this_machine_is_refused_unless_it_is_named(folder: Path, server: int) -> None:
    with RecordingProxy(folder / "s") as proxy:
        assert ask(folder / "s", tunnel(server)).startswith(b"HTTP/1.1 403")
        assert ask(folder / "s", tunnel(server).replace("127.0.0.1", "localhost")).startswith(b"HTTP/1.1 403")
    assert len(proxy.transcript.refused) == 2


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "a.example.org", 443, False),
        ("*.example.org", "a.example.org", 443, True),
        ("*.example.org", "evilexample.org", 443, False),
        ("example.org:443", "example.org", 443, True),
        ("example.org:443", "example.org", 80, False),
        ("EXAMPLE.org", "example.org", 80, True),
    ],
)
def test_patterns_of_hosts(folder: Path, pattern: str, host: str, port: int, *, allowed: bool) -> None:
    assert RecordingProxy(folder / "s", allowed=(pattern,)).allows(host, port) is allowed


@pytest.mark.parametrize(
    "request_",
    [
        "POST http://127.0.0.1/x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET ftp://example.org/x HTTP/1.1\r\n\r\n",
        "nonsense\r\n\r\n",
        "CONNECT x:notaport HTTP/1.1\r\n\r\n",
        "A" * 100_000,
    ],
)
def test_other_requests_are_answered_with_an_error(folder: Path, request_: str) -> None:
    with RecordingProxy(folder / "s") as proxy:
        try:
            answer = ask(folder / "s", request_)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"HTTP/1.1 502"
        assert answer[:12] in {b"HTTP/1.1 405", b"HTTP/1.1 502"}
        assert proxy.transcript == Transcript()


def test_a_socket_with_a_long_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProxyFailed, match="too long"), RecordingProxy(tmp_path / ("x" * 120)):
        pass


def test_a_machine_behind_a_proxy_uses_it(folder: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    class OuterProxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.rfile.readline()
            heads.append(head)
            with socket.create_connection(("127.0.0.1", server)) as inner:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                inner.sendall(b"GET /a HTTP/1.0\r\n\r\n")
                copy(inner, self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OuterProxy) as outer:
        outer.daemon_threads = True
        threading.Thread(target=outer.serve_forever, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{outer.server_address[1]}")
        monkeypatch.setenv("no_proxy", "")
        with RecordingProxy(folder / "s", allowed=("127.0.0.1",)) as proxy:
            assert b"hello /a" in ask(folder / "s", tunnel(server))
        outer.shutdown()
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{server} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in heads[0]
    assert proxy.transcript.contacts[0].port == server


def copy(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("tool", ["perl", "python3"])
def test_the_bridge_leads_to_the_socket(folder: Path, server: int, tool: str) -> None:
    interpreter = sys.executable if tool == "python3" else shutil.which(tool)
    if interpreter is None:
        pytest.skip(f"{tool} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_bridge(folder)
    with RecordingProxy(folder / "s", allowed=("127.0.0.1",)) as proxy:
        command = [interpreter, str(folder / f"bridge.{tool}"), str(port), str(folder / "s"), "cat"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as running:
            try:
                until = time.monotonic() + 20
                while True:
                    try:
                        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                        connection.set_tunnel("127.0.0.1", server)
                        connection.request("GET", "/big")
                        assert connection.getresponse().read().startswith(b"hello /big")
                        break
                    except ConnectionRefusedError:
                        assert time.monotonic() < until
                        time.sleep(0.05)
            finally:
                os.killpg(running.pid, signal.SIGKILL)
    assert proxy.transcript.contacts[0].connections == 1
