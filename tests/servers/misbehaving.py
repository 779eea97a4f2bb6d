"""A web server that hands out one picture in every bad way that fetching must survive."""

import gzip
import io
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
from PIL import Image


def picture(number: int = 0, side: int = 64) -> bytes:
    """A JPEG that differs by its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


class Misbehaving(BaseHTTPRequestHandler):
    """Answers /<what>/<number>.jpg; `counts` and `connections` tell what was asked."""

    protocol_version = "HTTP/1.1"
    counts: ClassVar[Counter[str]]
    connections: ClassVar[set[tuple[str, int]]]
    patience: ClassVar[threading.Event]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        type(self).counts[self.path] += 1
        type(self).connections.add(self.client_address)
        _, what, rest = self.path.split("/", 2)
        number = rest.split(".")[0]
        content = picture(int(number) if number.isdigit() else 0)
        getattr(self, f"send_{what}")(content, type(self).counts[self.path], rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """One whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_good(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(200, content, ETag='"v1"', Last_Modified="Sat, 01 Nov 2026 10:00:00 GMT")

    def send_once_busy(self, content: bytes, tries: int, rest: str) -> None:
        if tries == 1:
            self.answer(429, Retry_After="0")
        else:
            self.answer(200, content)

    def send_busy_for_a_day(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(503, Retry_After="86400")

    def send_failing(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(500)

    def send_once_failing(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(*((500,) if tries == 1 else (200, content)))

    def send_status(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(int(rest.split("/")[1]))

    def send_reset(self, content: bytes, tries: int, rest: str) -> None:
        """/reset/0.jpg/<percent of the body>, each time."""
        self._break_off(content, int(rest.split("/")[1]))

    def send_once_reset(self, content: bytes, tries: int, rest: str) -> None:
        if tries == 1:
            self._break_off(content, 50)
        else:
            self.answer(200, content)

    def _break_off(self, content: bytes, percent: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) * percent // 100])
        self.wfile.flush()
        hard = struct.pack("ii", 1, 0)  # linger 0: the kernel sends a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
        self.connection.close()
        self.close_connection = True

    def send_drip(self, content: bytes, tries: int, rest: str) -> None:
        """A byte at a time, until the client has enough of it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with self._client_gone():
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if type(self).patience.wait(0.1):
                    return

    def send_silent(self, content: bytes, tries: int, rest: str) -> None:
        with self._client_gone():
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            type(self).patience.wait(60)

    def send_longer(self, content: bytes, tries: int, rest: str) -> None:
        """Ten times what Content-Length says."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with self._client_gone():
            self.wfile.write(content * 10)
        self.close_connection = True

    def send_shorter(self, content: bytes, tries: int, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + 1))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def send_gzip_bomb(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(200, gzip.compress(bytes(200 * 2**20), 9), Content_Encoding="gzip")

    def send_gzip(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(200, gzip.compress(content), Content_Encoding="gzip")

    def send_endless(self, content: bytes, tries: int, rest: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with self._client_gone():
            while not type(self).patience.is_set():
                self.wfile.write(bytes(65536))
        self.close_connection = True

    def send_redirects(self, content: bytes, tries: int, rest: str) -> None:
        """/redirects/0.jpg/<how many before the picture>."""
        left = int(rest.split("/")[1])
        if left:
            self.answer(302, Location=f"/redirects/0.jpg/{left - 1}")
        else:
            self.answer(200, content)

    def send_to(self, content: bytes, tries: int, rest: str) -> None:
        """/to/0.jpg/<any URL>."""
        self.answer(302, Location=rest.split("/", 1)[1])

    def send_removed(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(302, Location="/images/photo_unavailable.png")

    def send_images(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(200, content)

    def send_opted_out(self, content: bytes, tries: int, rest: str) -> None:
        self.answer(200, content, X_Robots_Tag=rest.split("/")[1].replace("_", " "))

    def send_html(self, content: bytes, tries: int, rest: str) -> None:
        page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
        self.answer(200, page, Content_Type="image/jpeg")

    @contextmanager
    def _client_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.close_connection = True


@contextmanager
def misbehaving_server(host: str = "127.0.0.1") -> Iterator[tuple[str, type[Misbehaving]]]:
    """The server's address, and its handler class, whose `counts` tell what was asked."""
    handler = type(
        "Handler",
        (Misbehaving,),
        {"counts": Counter(), "connections": set(), "patience": threading.Event()},
    )
    server = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True  # a client may keep its connection open as long as it lives
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}", handler
    finally:
        handler.patience.set()
        server.shutdown()
        thread.join()
        server.server_close()
