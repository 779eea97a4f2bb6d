"""An S3 server that misbehaves on purpose: a proxy before moto's, which by a seeded chance refuses, breaks
off, answers slowly, loses the answer to a write that was done, or shows an old listing."""

import http.client
import http.server
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BROKEN = (
    b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
)
FAULTS = ("busy", "broken", "reset", "slow", "lost", "lost_reset", "stale")
SLOW_SECONDS = 0.2


@dataclass
class Mischief:
    """What goes wrong, and how often: a share of all requests, by kind."""

    shares: dict[str, float]
    chance: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, command: str, path: str) -> str | None:
        """What happens to the next request: of what can happen to it."""
        with self.lock:
            draw = self.chance.random()
            for kind, share in self.shares.items():
                draw -= share
                if draw < 0:
                    if not self._can_happen(kind, command, path):
                        return None
                    self.happened[kind] += 1
                    return kind
        return None

    def _can_happen(self, kind: str, command: str, path: str) -> bool:
        """An answer can be lost to a write; a listing can be old that there was before."""
        if kind in ("lost", "lost_reset"):
            return command in ("PUT", "POST", "DELETE")
        return kind != "stale" or (command == "GET" and path in self.listings)


@contextmanager
def misbehaving(address: str, mischief: Mischief) -> Iterator[str]:
    """A proxy before the server at an address; yields its own."""
    host = urlsplit(address).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def answer(self) -> None:
            """Pass a request on, or not."""
            body = _body_of(self)
            kind = mischief.choose(self.command, self.path)
            if kind == "reset":
                return _reset(self)
            if kind in ("busy", "broken"):
                return _send(self, *((503, [], BUSY) if kind == "busy" else (500, [], BROKEN)))
            is_listing = self.command == "GET" and "list-type=2" in self.path
            if kind == "stale":
                return _send(self, *mischief.listings[self.path])
            found = _pass_on(self, host, body)
            if is_listing:
                mischief.listings.setdefault(self.path, found)
                if mischief.chance.random() < 0.5:
                    mischief.listings[self.path] = found
            if kind == "lost":
                return _send(self, 500, [], BROKEN)
            if kind == "lost_reset":
                return _reset(self)
            if kind == "slow":
                time.sleep(SLOW_SECONDS)
            return _send(self, *found)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _body_of(handler: http.server.BaseHTTPRequestHandler) -> bytes:
    if "chunked" in (handler.headers.get("Transfer-Encoding") or ""):
        parts = []
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            parts.append(handler.rfile.read(size))
            handler.rfile.readline()
        handler.rfile.readline()
        return b"".join(parts)
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def _pass_on(
    handler: http.server.BaseHTTPRequestHandler, host: str, body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(host, timeout=60)
    hop = ("transfer-encoding", "content-length", "connection", "expect")
    headers = {name: value for name, value in handler.headers.items() if name.lower() not in hop}
    connection.request(
        handler.command, handler.path, body, {**headers, "Content-Length": str(len(body))}
    )
    answer = connection.getresponse()
    content = answer.read()
    kept = [(name, value) for name, value in answer.getheaders()
            if name.lower() not in ("transfer-encoding", "connection", "server", "date")]  # fmt: skip
    connection.close()
    return answer.status, kept, content


def _send(
    handler: http.server.BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes
) -> None:  # fmt: skip
    handler.send_response(status)
    for name, value in headers:
        if name.lower() != "content-length" or handler.command == "HEAD":
            handler.send_header(name, value)
    if handler.command != "HEAD":
        handler.send_header("Content-Length", str(len(content)))
    elif not any(name.lower() == "content-length" for name, _ in headers):
        handler.send_header("Content-Length", "0")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def _reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Break the connection off as a crashed server does."""
    handler.close_connection = True
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
