"""Chunks of work for sources that hand out their bytes in one stream: files that hold the bytes."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline import storage
from sightline.images import Rejected
from sightline.schemas import WORK

BYTES_PER_CHUNK = 64 * 2**20
BYTES_PER_GROUP = 4 * 2**20  # what a reader holds at once


class UriSet:
    """Remembers uris in eight bytes each. It may take a stranger for a member, once in 10^13 for a million
    members; what is fetched for such a mistake is held already and dropped at the commit.
    """

    def __init__(self, uris: Iterable[str]) -> None:
        self._marks = np.sort(np.fromiter(map(_mark, uris), np.uint64))

    def __contains__(self, uri: str) -> bool:
        mark = np.uint64(_mark(uri))
        place = int(np.searchsorted(self._marks, mark))
        return place < len(self._marks) and bool(self._marks[place] == mark)


def _mark(uri: str) -> int:
    return int.from_bytes(blake2b(uri.encode(), digest_size=8).digest(), "little")


def stage_chunks(
    images: Iterable[tuple[dict[str, Any], bytes | Rejected]], folder: str, rows_per_chunk: int
) -> Iterator[str]:
    """Write the stream into files of bounded size and yield each as soon as it is whole."""
    chunk, size_bytes, number = list[dict[str, Any]](), 0, 0
    for row, content in images:
        chunk.append(_work_row(row, content))
        size_bytes += len(chunk[-1].get("content") or b"")
        if len(chunk) == rows_per_chunk or size_bytes >= BYTES_PER_CHUNK:
            yield _write(chunk, size_bytes, storage.join(folder, f"{number:06d}.parquet"))
            chunk, size_bytes, number = [], 0, number + 1
    if chunk:
        yield _write(chunk, size_bytes, storage.join(folder, f"{number:06d}.parquet"))


def _work_row(row: dict[str, Any], content: bytes | Rejected) -> dict[str, Any]:
    if isinstance(content, Rejected):
        return {**row, "reject_reason": content.reason, "reject_detail": content.detail}
    return {**row, "content": content}


def _write(rows: list[dict[str, Any]], size_bytes: int, url: str) -> str:
    rows_per_group = max(1, len(rows) * BYTES_PER_GROUP // max(size_bytes, 1))
    fs, path = storage.filesystem(url)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    whole = [{name: row.get(name) for name in WORK.names} for row in rows]
    with fs.open(path, "wb") as stream:
        pq.write_table(
            pa.Table.from_pylist(whole, schema=WORK),
            stream,
            row_group_size=rows_per_group,
        )
    return url
