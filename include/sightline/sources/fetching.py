"""The worker's side of the ingest: fetch bytes from wherever they lie, look at each image once.

Batches of work in, batches of image rows out, both small; what cannot be taken is told aside.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.core import url_to_fs

from sightline import images, storage
from sightline.images import Limits, Rejected
from sightline.schemas import IMAGES
from sightline.source_config import FetchSpec
from sightline.sources.web import Fetched, shared_reader

BYTES_PER_BATCH = 32 * 2**20
ROWS_PER_BATCH = 64
REMOTE_THREADS = 16
THUMBNAILS_PER_CHUNK = 8

Row = dict[str, Any]


@dataclass(frozen=True)
class Fetching:
    """How to fetch: bounds, manners on the web, and options for fsspec where it reads."""

    limits: Limits
    web: FetchSpec
    options: dict[str, Any] = field(default_factory=dict)
    # By uri: the reason and the detail of what is not to be fetched.
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)


def fetch_batches(
    fetching: Fetching, reject: Callable[[list[Row]], None]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker's function: batches of work in, image batches out, rejects told aside."""

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rejects: list[Row] = []
        rows, size_bytes = list[Row](), 0
        work = (row for batch in batches for row in batch.to_pylist())
        for row in _image_rows(work, fetching, rejects):
            rows.append(row)
            size_bytes += row["size_bytes"]
            if size_bytes > BYTES_PER_BATCH or len(rows) == ROWS_PER_BATCH:
                yield to_batch(rows, IMAGES)
                rows, size_bytes = [], 0
        yield to_batch(rows, IMAGES)
        reject(rejects)

    return fetch


def _image_rows(work: Iterable[Row], fetching: Fetching, rejects: list[Row]) -> Iterator[Row]:
    """Fetch the rows and look at each; the bad ones go to rejects."""
    for row, fetched in _fetch(work, fetching):
        try:
            if isinstance(fetched, Rejected):
                raise fetched
            yield _image_row(row, fetched, fetching.limits)
        except Rejected as rejected:
            pictures = sum(reject["thumbnail"] is not None for reject in rejects)
            seen = fetched.content if isinstance(fetched, Fetched) else b""
            picture = images.thumbnail(seen) if pictures < THUMBNAILS_PER_CHUNK else None
            rejects.append(reject_row(row, rejected, picture))


def _fetch(work: Iterable[Row], fetching: Fetching) -> Iterator[tuple[Row, Fetched | Rejected]]:
    """Each row with its bytes, by the way that its uri asks for."""
    for way, rows in groupby(work, lambda row: _way(row, fetching)):
        if way == "refused":
            yield from ((row, Rejected(*fetching.refused[row["uri"]])) for row in rows)
        elif way == "staged":
            yield from ((row, _staged(row)) for row in rows)
        elif way == "local":
            yield from ((row, _read(row["uri"], fetching)) for row in rows)
        elif way == "web":
            reader = shared_reader(fetching.web, fetching.limits.size_bytes)
            yield from reader.read(rows, lambda row: str(row["uri"]))
        else:
            yield from _read_ahead(rows, fetching)


def _way(row: Row, fetching: Fetching) -> str:
    if row["uri"] in fetching.refused:
        return "refused"
    if row["content"] is not None or row["reject_reason"] is not None:
        return "staged"
    if storage.is_local(row["uri"]):
        return "local"
    return "web" if row["uri"].startswith(("http://", "https://")) else "fsspec"


def _staged(row: Row) -> Fetched | Rejected:
    if row["reject_reason"] is not None:
        return Rejected(row["reject_reason"], row["reject_detail"])
    return Fetched(row.pop("content"))


def _read_ahead(
    rows: Iterable[Row], fetching: Fetching
) -> Iterator[tuple[Row, Fetched | Rejected]]:
    """Rows beyond a network that fsspec reads: a few are asked for ahead."""
    ahead = deque[tuple[Row, Future[Fetched | Rejected]]]()
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        for row in rows:
            ahead.append((row, pool.submit(_read, row["uri"], fetching)))
            if len(ahead) == REMOTE_THREADS:
                first, future = ahead.popleft()
                yield first, future.result()
        yield from ((row, future.result()) for row, future in ahead)


def _read(uri: str, fetching: Fetching) -> Fetched | Rejected:
    """The bytes of a uri, at most one more than the limit; Rejected where they are not to be had."""
    try:
        with _open(uri, fetching.options) as stream:
            return Fetched(bytes(stream.read(fetching.limits.size_bytes + 1)))
    except Exception as error:  # each file system raises its own; one image must not stop the rest
        is_gone = isinstance(error, FileNotFoundError) and not storage.is_local(uri)
        reason = "gone" if is_gone else "unreadable"  # a disk may be mounted again tonight
        return Rejected(reason, " ".join(f"{type(error).__name__}: {error}".split())[:200])


def _open(uri: str, options: dict[str, Any]) -> Any:
    if storage.is_local(uri):  # as it is: fsspec would take '::' in a name for its own
        return Path(uri.removeprefix("file://")).open("rb")
    fs, path = url_to_fs(uri, **options)
    return fs.open(path, "rb")


def _image_row(row: Row, fetched: Fetched, limits: Limits) -> Row:
    rotation = row["rotation"] or 0
    measured = images.measure(fetched.content, limits, rotation)
    return {
        **vars(measured),
        **{name: row[name] for name in ("uri", "label", "split_hint", "partition")},
        "rotation": rotation,
        "content": fetched.content,
        "size_bytes": len(fetched.content),
        "etag": fetched.etag or row["etag"],
        "last_modified": fetched.last_modified,
    }


def reject_row(row: Row, rejected: Rejected, picture: bytes | None) -> Row:
    """A row of the rejects table for a row of work."""
    return {
        **{name: row[name] for name in ("uri", "label", "etag")},
        "stage": "fetch_images",
        "reason": rejected.reason,
        "detail": rejected.detail,
        "attempts": (row["attempts"] or 0) + 1,
        "rejected_at": datetime.now(UTC),
        "thumbnail": picture,
    }


def to_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as a batch; columns left out are null."""
    return pa.RecordBatch.from_pylist(rows, schema=schema)
