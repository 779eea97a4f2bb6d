"""Many small files from the web at once: connections reused, everything bounded, nobody trusted.

One thread of its own runs the requests, so that a worker decodes images while the next ones arrive.
"""

import asyncio
import atexit
import queue
import random
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from sightline.images import Rejected
from sightline.source_config import FetchSpec
from sightline.sources.addresses import ForbiddenAddress, PublicResolver, check_url
from sightline.sources.retry_after import parse_retry_after

Row = TypeVar("Row")

REDIRECTS = 10
MOST_WAIT_SECONDS = 60  # a server that wants more is asked again by another run
BYTES_AT_ONCE = 256 * 2**20  # of bodies on their way, together
UNKNOWN_BODY_BYTES = 4 * 2**20  # what a body without a length is taken for
HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; Sightline/0.1)",
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",
}
BUSY = (408, 425, 429, 503)
GONE = (404, 410)
GONE_PICTURE = "photo_unavailable"  # Flickr sends a picture of this name in place of one removed
OPT_OUTS = ("noai", "noimageai")


@dataclass(frozen=True)
class Fetched:
    """A body, and what the server says of its version."""

    content: bytes
    etag: str | None = None
    last_modified: str | None = None


class _TryAgain(Exception):
    """A fault that may pass: its reason, in words, and how long the server asks us to wait."""

    def __init__(self, reason: str, detail: str, after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.after_seconds = after_seconds


class WebReader:
    """Asks for files; one for a worker process, so that its connections live on between batches."""

    def __init__(self, spec: FetchSpec, most_bytes: int) -> None:
        self._spec = spec
        self._most_bytes = most_bytes
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()  # by host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="web")
        self._thread.start()
        self._client, self._room = asyncio.run_coroutine_threadsafe(
            self._open(), self._loop
        ).result()

    def read(
        self, rows: Iterable[Row], url: Callable[[Row], str]
    ) -> Iterator[tuple[Row, Fetched | Rejected]]:
        """Yield each row with its file as the files arrive, a bounded number ahead of the caller."""
        done: queue.SimpleQueue[tuple[Row, Future[Fetched | Rejected]]] = queue.SimpleQueue()
        waiting = 0
        for row in rows:
            future = asyncio.run_coroutine_threadsafe(self.get(url(row)), self._loop)
            future.add_done_callback(partial(_put, done, row))
            waiting += 1
            if waiting >= self._spec.connections:
                yield _result(done.get())
                waiting -= 1
        for _ in range(waiting):
            yield _result(done.get())

    async def get(self, url: str) -> Fetched | Rejected:
        """One file, or why it is not to be had; never raises for what a server may do."""
        for attempt in range(self._spec.attempts):
            try:
                return await self._follow(URL(url))
            except Rejected as rejected:
                return rejected
            except TimeoutError as error:
                if isinstance(
                    error, aiohttp.ClientError
                ):  # silence; another try may meet a better moment
                    fault = _TryAgain("unreadable", _in_words(error))
                else:  # it did send, too slowly: another try would hold a connection as long again
                    seconds = self._spec.whole_seconds
                    return Rejected("unreadable", f"not whole after {seconds:g} s")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                final = _final(error)
                if final:
                    return final
                fault = _TryAgain("unreadable", _in_words(error))
            except _TryAgain as again:
                fault = again
            pause = _pause_seconds(attempt, fault.after_seconds)
            if pause > MOST_WAIT_SECONDS or attempt + 1 == self._spec.attempts:
                break
            await asyncio.sleep(pause)
        return Rejected(fault.reason, f"{fault}, tries: {attempt + 1}")

    def close(self) -> None:
        """Close all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> tuple[aiohttp.ClientSession, "_Room"]:
        spec = self._spec
        connector = aiohttp.TCPConnector(
            limit=0,  # `read` and `_turn` see to it
            resolver=PublicResolver(spec.allow_addresses),
        )
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=spec.connect_seconds, sock_read=spec.read_seconds
        )
        client = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers=HEADERS,
            auto_decompress=False,  # bounded below
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return client, _Room(BYTES_AT_ONCE)

    async def _follow(self, url: URL) -> Fetched:
        """The file behind a URL and at most REDIRECTS redirects, each address checked."""
        for _ in range(REDIRECTS + 1):
            check_url(url, self._spec.allow_addresses)
            async with self._turn(url), self._client.get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await self._take(response)
                target = response.headers.get("Location")
                if not target:
                    raise Rejected("refused", f"HTTP {response.status} without a Location")
                url = url.join(URL(target))
        raise Rejected("refused", f"more than {REDIRECTS} redirects")

    @asynccontextmanager
    async def _turn(self, url: URL) -> AsyncIterator[None]:
        """Wait for one of the host's few turns; only then does the clock of this try begin."""
        host = url.host_port_subcomponent or ""
        turns = self._turns.setdefault(host, asyncio.Semaphore(self._spec.connections_per_host))
        async with turns, asyncio.timeout(self._spec.whole_seconds):
            yield

    async def _take(self, response: aiohttp.ClientResponse) -> Fetched:
        """The body of an answer, or what its status and headers say against it."""
        _check_status(response)
        if response.url.name.startswith(GONE_PICTURE):
            raise Rejected("gone", f"the server sends {response.url.name} in its place")
        if self._spec.honour_opt_out and _opts_out(response.headers.getall("X-Robots-Tag", [])):
            raise Rejected("opted_out", response.headers["X-Robots-Tag"])
        expected = min(response.content_length or UNKNOWN_BODY_BYTES, self._most_bytes + 1)
        async with self._room.taken(expected):
            content = await _read_body(response, self._most_bytes)
        return Fetched(content, response.headers.get("ETag"), response.headers.get("Last-Modified"))


class _Room:
    """A bound on bytes on their way; one body alone always fits."""

    def __init__(self, size_bytes: int) -> None:
        self._free = self._size = size_bytes
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until so many bytes are free, and hold them within the block."""
        size_bytes = min(size_bytes, self._size)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= size_bytes)
            self._free -= size_bytes
        try:
            yield
        finally:
            async with self._changed:
                self._free += size_bytes
                self._changed.notify_all()


def shared_reader(spec: FetchSpec, most_bytes: int) -> WebReader:
    """The reader of this process."""
    return _shared_reader(spec.model_dump_json(), most_bytes)


@cache
def _shared_reader(spec: str, most_bytes: int) -> WebReader:
    reader = WebReader(FetchSpec.model_validate_json(spec), most_bytes)
    atexit.register(reader.close)
    return reader


def _put(
    done: "queue.SimpleQueue[tuple[Row, Future[Fetched | Rejected]]]",
    row: Row,
    future: "Future[Fetched | Rejected]",
) -> None:
    done.put((row, future))


def _result(
    done: tuple[Row, "Future[Fetched | Rejected]"],
) -> tuple[Row, Fetched | Rejected]:
    row, future = done
    return row, future.result()


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    detail = f"HTTP {status} {response.reason or ''}".strip()
    if status in GONE:
        raise Rejected("gone", detail)
    if status in BUSY:
        raise _TryAgain("busy", detail, parse_retry_after(response.headers.get("Retry-After")))
    if status >= 500:
        raise _TryAgain("unreadable", detail)
    raise Rejected("refused", detail)


def _opts_out(tags: list[str]) -> bool:
    """Whether X-Robots-Tag headers speak to everybody against machine learning."""
    directives = (part.strip().lower() for tag in tags for part in tag.split(","))
    return any(directive in OPT_OUTS for directive in directives)


async def _read_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, unpacked if it is packed, at most one byte more than the limit."""
    unpack = _unpacker(response.headers.get("Content-Encoding", "identity"))
    parts, room = list[bytes](), most_bytes + 1
    async for chunk in response.content.iter_any():
        part = unpack(chunk, room)[:room]
        parts.append(part)
        room -= len(part)
        if room <= 0:
            response.close()  # whatever follows is not for us
            break
    return b"".join(parts)


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """A function of packed bytes and the most that may come out of them."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda packed, most: packed
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Rejected("refused", f"Content-Encoding {encoding[:40]!r} was not asked for")
    packed = zlib.decompressobj(wbits=47)  # gzip or zlib, as the first bytes say

    def unpack(chunk: bytes, most: int) -> bytes:
        try:
            return packed.decompress(chunk, most)
        except zlib.error as error:
            raise _TryAgain("unreadable", f"Content-Encoding {encoding}: {error}") from error

    return unpack


def _pause_seconds(attempt: int, asked_seconds: float | None) -> float:
    """What the server asks for, else half a second doubled each time; with jitter, so that many apart."""
    if asked_seconds is not None:
        return asked_seconds + random.uniform(0.0, 0.5)
    return float(2**attempt) * random.uniform(0.25, 0.75)


def _final(error: Exception) -> Rejected | None:
    """What no other try would mend, as a reject."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ForbiddenAddress):
        return Rejected("forbidden_address", str(cause))
    if isinstance(error, ValueError):  # of the URL's parser, or aiohttp's own
        return Rejected("forbidden_address", f"no web address: {_in_words(error)}")
    return None


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
