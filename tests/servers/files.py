"""A server of files that breaks off, forgets, changes and refuses, path by path, as it is told to."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

from tests.conftest import web_server


@dataclass
class FileServer:
    """What is served: `faults[path]` holds a fault for each coming request, an empty one for none.

    Faults: reset:<percent of the body>, ignore_range, 416, change, short_length, no_length, page,
    slow, weak, status:<code>, busy:<seconds to wait>.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range

    def put(self, path: str, content: bytes, *faults: str) -> str:
        """Serve a file; its URL."""
        self.files[path] = content
        self.versions[path] = self.versions.get(path, 0) + 1
        self.faults[path] = list(faults)
        return f"{self.address}{path}"


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server on a free port."""
    served = FileServer()

    class Handler(_Handler):
        server_state = served

    with web_server(Handler) as served.address:
        yield served


class _Handler(BaseHTTPRequestHandler):
    server_state: ClassVar[FileServer]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        state, path = self.server_state, self.path.split("?")[0]
        state.requests.append((self.path, self.headers.get("Range")))
        if path not in state.files:
            self.send_error(404)
            return
        what, _, value = (state.faults[path].pop(0) if state.faults[path] else "").partition(":")
        if what == "change":
            body = state.files[path]
            state.files[path] = body[:500] + bytes([(body[500] + 1) % 256]) + body[501:]
            state.versions[path] += 1
        if what in ("status", "busy", "416"):
            self._refuse(what, value)
        else:
            self._serve(path, what, value)

    def _refuse(self, what: str, value: str) -> None:
        self.send_response({"status": int(value or 0), "busy": 429, "416": 416}[what])
        if what == "busy":
            self.send_header("Retry-After", value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, path: str, what: str, value: str) -> None:
        state = self.server_state
        body = b"<html>Sign in</html>" if what == "page" else state.files[path]
        etag = f'{"W/" if what == "weak" else ""}"v{state.versions[path]}"'
        start = self._start(etag) if what != "ignore_range" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", etag)
        if what != "no_length":
            extra = 10 if what == "short_length" else 0
            self.send_header("Content-Length", str(len(body) - start + extra))
        self.end_headers()
        self._send(body[start:], what, value)

    def _start(self, etag: str) -> int:
        """The first byte asked for, 0 where the client holds part of another object."""
        asked = self.headers.get("Range")
        is_same = self.headers.get("If-Range") in (None, etag)
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and is_same else 0

    def _send(self, body: bytes, what: str, value: str) -> None:
        if what == "reset":
            self.wfile.write(body[: len(body) * int(value) // 100])
            self.wfile.flush()
            # Half-closed first, so that the client can read what was sent before the reset.
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif what == "slow":
            for start in range(0, len(body), 64 * 1024):
                self.wfile.write(body[start : start + 64 * 1024])
                threading.Event().wait(0.01)
        else:
            self.wfile.write(body)
