"""The worker's side of the ingest: fetch bytes from wherever they lie, look at each image once.

Batches of manifest rows in, batches of image rows out, both small; what cannot be taken is told aside.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.core import url_to_fs

from sightline import images, storage
from sightline.images import Limits, Rejected
from sightline.schemas import IMAGES

BYTES_PER_BATCH = 32 * 2**20
REMOTE_THREADS = 16
THUMBNAILS_PER_CHUNK = 8


def fetch_batches(
    limits: Limits, options: dict[str, Any], reject: Callable[[list[dict[str, Any]]], None]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker's function: manifest batches in, image batches out, rejects told aside."""

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rejects: list[dict[str, Any]] = []
        for batch in batches:
            rows, size_bytes = list[dict[str, Any]](), 0
            for row in _fetch_rows(batch.to_pylist(), options, limits, rejects):
                rows.append(row)
                size_bytes += row["size_bytes"]
                if size_bytes > BYTES_PER_BATCH:
                    yield to_batch(rows, IMAGES)
                    rows, size_bytes = [], 0
            yield to_batch(rows, IMAGES)
        reject(rejects)

    return fetch


def _fetch_rows(
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    limits: Limits,
    rejects: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Fetch the rows and look at each; the bad ones go to rejects."""
    for row, content in zip(rows, _contents(rows, options, limits), strict=True):
        try:
            if isinstance(content, Rejected):
                raise content
            yield _image_row(row, content, limits)
        except Rejected as rejected:
            pictures = sum(reject["thumbnail"] is not None for reject in rejects)
            seen = content if isinstance(content, bytes) else b""
            picture = images.thumbnail(seen) if pictures < THUMBNAILS_PER_CHUNK else None
            rejects.append(reject_row(row, rejected, picture))


def _contents(
    rows: list[dict[str, Any]], options: dict[str, Any], limits: Limits
) -> Iterator[bytes | Rejected]:
    """The rows' bytes in their order; those beyond a network are asked for a few at a time, ahead."""
    if all(storage.is_local(row["uri"]) for row in rows):
        yield from (_read(row["uri"], options, limits) for row in rows)
        return
    ahead = deque[Future[bytes | Rejected]]()
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        for row in rows:
            ahead.append(pool.submit(_read, row["uri"], options, limits))
            if len(ahead) == REMOTE_THREADS:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)


def _read(uri: str, options: dict[str, Any], limits: Limits) -> bytes | Rejected:
    """The bytes of a uri, at most one more than the limit; Rejected where they are not to be had."""
    try:
        with _open(uri, options) as stream:
            return bytes(stream.read(limits.size_bytes + 1))
    except Exception as error:  # each file system raises its own; one image must not stop the rest
        return Rejected("unreadable", " ".join(f"{type(error).__name__}: {error}".split())[:200])


def _open(uri: str, options: dict[str, Any]) -> Any:
    if storage.is_local(uri):  # as it is: fsspec would take '::' in a name for its own
        return Path(uri.removeprefix("file://")).open("rb")
    fs, path = url_to_fs(uri, **options)
    return fs.open(path, "rb")


def _image_row(row: dict[str, Any], content: bytes, limits: Limits) -> dict[str, Any]:
    rotation = row["rotation"] or 0
    measured = images.measure(content, limits, rotation)
    return {
        **vars(measured),
        **{name: row[name] for name in ("uri", "label", "split_hint", "partition")},
        "rotation": rotation,
        "content": content,
        "size_bytes": len(content),
    }


def reject_row(row: dict[str, Any], rejected: Rejected, picture: bytes | None) -> dict[str, Any]:
    """A row of the rejects table for a row of the manifest."""
    return {
        **{name: row[name] for name in ("uri", "label", "etag")},
        "stage": "fetch_images",
        "reason": rejected.reason,
        "detail": rejected.detail,
        "attempts": 1,
        "thumbnail": picture,
    }


def to_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as a batch; columns left out are null."""
    return pa.RecordBatch.from_pylist(rows, schema=schema)
