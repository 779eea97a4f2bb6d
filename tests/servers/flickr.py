"""A server that speaks flickr.photos.search, cap and faults included, and serves the photos that it names."""

import io
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit
from zlib import crc32

import numpy as np
from PIL import Image

CAP = 4_000
KEY = "0123456789abcdef-the/key"
SIZES = {"sq": 75, "m": 500, "l": 1024, "o": 4000}


@dataclass(frozen=True)
class Photo:
    """One made-up photo: whoever searches for its text finds it."""

    number: int
    text: str
    uploaded: int  # unix seconds
    licence: int = 4
    sizes: tuple[str, ...] = ("sq", "m", "l", "o")
    is_removed: bool = False  # its URLs lead to the picture that says so

    def entry(self, address: str) -> dict[str, Any]:
        """The photo as a search's answer names it; numbers are strings here and there, as in the wild."""
        found: dict[str, Any] = {
            "id": str(self.number),
            "owner": f"{self.number % 97}@N00",
            "secret": "5ec",
            "server": "65535",
            "title": f"{self.text} {self.number}",
            "ownername": f"owner {self.number % 97}",
            "license": str(self.licence),
            "dateupload": str(self.uploaded),
        }
        for size in self.sizes:
            found[f"url_{size}"] = f"{address}/photos/{self.number}_5ec_{size}.jpg"
            found[f"width_{size}"] = SIZES[size]
            found[f"height_{size}"] = str(SIZES[size] * 3 // 4)
        return found

    def picture(self, side: int = 64) -> bytes:
        """A JPEG of its own around the colour of its text."""
        colour = np.random.default_rng(crc32(self.text.encode())).integers(40, 216, 3)
        rng = np.random.default_rng(self.number)
        pixels = rng.normal(colour, 40, (8, 8, 3)).clip(0, 255).astype("uint8")
        return _encode(Image.fromarray(pixels).resize((side, side)), "JPEG")


def make_photos(text: str, times: Any, first: int = 1, **more: Any) -> list[Photo]:
    """Photos numbered from `first`, uploaded at these unix times."""
    return [Photo(first + index, text, int(at), **more) for index, at in enumerate(times)]


class FlickrServer:
    """Started by `with`. `queries` are those that it got, `faults` what it answers to the next ones:
    `code 105`, `http 503`, `http 429 7` (Retry-After), `html`, `list`, `reset`, `slow`, or `` for none.
    """

    def __init__(self, photos: list[Photo], key: str = KEY) -> None:
        self.photos = photos
        self.key = key
        self.queries: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.faults = deque[str]()
        self.before: Callable[[int], None] = lambda number: None  # each query, by its number
        self.total_as: Callable[[int], Any] = int
        self.leave_out: Callable[[int, Photo], bool] = lambda number, photo: False
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"flickr": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.api = f"{self.address}/services/rest/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, query: dict[str, str]) -> dict[str, Any]:
        """What Flickr says to a query."""
        self.queries.append(query)
        self.before(len(self.queries))
        if query.get("api_key") != self.key:
            return fail(100, f"Invalid API Key {query.get('api_key')} (Key not found)")
        if query.get("method") != "flickr.photos.search":
            return fail(112, f'Method "{query.get("method")}" not found')
        per_page, page = min(500, int(query["per_page"])), max(1, int(query["page"]))
        found = self._search(query)
        start = (page - 1) * per_page
        if start >= CAP:
            start %= CAP  # what lies beyond repeats
        photos = [
            photo.entry(self.address)
            for photo in found[:CAP][start : start + per_page]
            if not self.leave_out(len(self.queries), photo)
        ]
        total = self.total_as(len(found))
        about = {"page": page, "pages": 1, "perpage": per_page, "total": total}  # pages lies
        return {"photos": {**about, "photo": photos}, "stat": "ok"}

    def _search(self, query: dict[str, str]) -> list[Photo]:
        first, last = int(query["min_upload_date"]), int(query["max_upload_date"])
        licences = [int(one) for one in query["license"].split(",")]
        found = [
            photo
            for photo in self.photos
            if photo.text == query["text"]
            and first <= photo.uploaded <= last
            and photo.licence in licences
        ]
        is_descending = query.get("sort") != "date-posted-asc"
        return sorted(found, key=lambda one: (one.uploaded, one.number), reverse=is_descending)


def fail(code: int, message: str) -> dict[str, Any]:
    """Flickr's way to say no, under HTTP 200."""
    return {"stat": "fail", "code": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    flickr: FlickrServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer_query(dict(parse_qsl(body)))

    def do_GET(self) -> None:  # noqa: N802
        url = urlsplit(self.path)
        if url.path == "/services/rest/":
            self._answer_query(dict(parse_qsl(url.query)))
        else:
            self.flickr.paths.append(url.path)
            self._answer_picture(url.path)

    def _answer_query(self, query: dict[str, str]) -> None:
        answer = json.dumps(self.flickr.answer(query)).encode()
        what, *rest = (self.flickr.faults.popleft() if self.flickr.faults else "").split() or [""]
        if what == "code":
            self._send(200, json.dumps(fail(int(rest[0]), f"No, {self.flickr.key}")).encode())
        elif what == "http":
            self._send(int(rest[0]), self.flickr.key.encode(), *rest[1:])
        elif what == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
        elif what == "slow":
            self.flickr.stopping.wait(30)
            self.close_connection = True
        else:
            self._send(200, {"html": b"<html>Bad panda!</html>", "list": b"[]"}.get(what, answer))

    def _answer_picture(self, path: str) -> None:
        number = path.removeprefix("/photos/").split("_")[0]
        photo = next((one for one in self.flickr.photos if str(one.number) == number), None)
        if path == "/images/photo_unavailable.png":
            self._send(200, _encode(Image.new("RGB", (64, 64), "white"), "PNG"))
        elif photo is None:
            self._send(404, b"")
        elif photo.is_removed:
            self.send_response(302)
            self.send_header("Location", "/images/photo_unavailable.png")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(200, photo.picture())

    def _send(self, status: int, body: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)


def _encode(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()
