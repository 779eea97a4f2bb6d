"""Small pictures of images that are held now, made when they are asked for.

Where an image lies is looked up among the files of the table's newest version. A take-down exchanges those
files in one commit, so from then on nothing of the image is found, whatever was drawn before.
"""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from sightline import images, parquet
from sightline.catalog import Catalog
from sightline.web.recent import Recent
from sightline.web.views.newest import newest_files

SIDES = {"small": 192, "large": 768}  # pixels of the longer side
AS_IT_IS = 64  # pixels; what is no larger is handed out with its pixels unchanged
DECODED_AT_ONCE = 4
INDEXED_IMAGES = 4_000_000  # in memory, of all datasets: 12 bytes each
GROUP_BYTES = (
    96 * 2**20
)  # of encoded images: those beside one that was asked for are asked for next
DRAWN_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Thumbnail:
    """An encoded picture."""

    content: bytes
    media_type: str


@dataclass(frozen=True)
class FileIndex:
    """Which images a file of the images table holds, by a part of their ids."""

    keys: Any  # (n,) uint64, sorted
    rows: Any  # (n,) uint32, in the file
    group_starts: list[int]  # the first row of each row group

    def places(self, key: int) -> Iterator[tuple[int, int]]:
        """Row group, and row in it, of the images with a key: one, unless ids are alike in that part."""
        start = int(np.searchsorted(self.keys, np.uint64(key)))
        while start < len(self.keys) and int(self.keys[start]) == key:
            row = int(self.rows[start])
            group = int(np.searchsorted(self.group_starts, row, side="right")) - 1
            yield group, row - self.group_starts[group]
            start += 1


_indexes: Recent[FileIndex] = Recent(INDEXED_IMAGES, lambda index: len(index.keys) + 1)
_groups: Recent[pa.Table] = Recent(GROUP_BYTES, lambda group: int(group.nbytes))
_drawn: Recent[Thumbnail | None] = Recent(
    DRAWN_BYTES, lambda drawn: 64 + (len(drawn.content) if drawn else 0)
)
_decoding = threading.BoundedSemaphore(DECODED_AT_ONCE)


def draw(catalog: Catalog, image_id: str, size: str) -> Thumbnail | None:
    """A picture of an image, `small` or `large`; None where it is not held, or cannot be drawn."""
    place = _find(catalog, image_id)
    if place is None:
        return None
    url, group, row = place
    return _drawn.get((url, group, row, size), lambda: _draw(_row(url, group, row), SIDES[size]))


def is_held(catalog: Catalog, image_id: str) -> bool:
    """Whether an image is held now."""
    return _find(catalog, image_id) is not None


def _find(catalog: Catalog, image_id: str) -> tuple[str, int, int] | None:
    """File, row group and row of an image; the newest partitions are looked at first."""
    if len(image_id) != 64 or set(image_id) - set("0123456789abcdef"):
        return None
    key = int(image_id[-16:], 16)
    for url in newest_files(catalog.images):
        for group, row in _index(url).places(key):
            if _group(url, group)["image_id"][row].as_py() == image_id:
                return url, group, row
    return None


def _index(url: str) -> FileIndex:
    return _indexes.get(url, lambda: _read_index(url))


def _read_index(url: str) -> FileIndex:
    with parquet.opened(url, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(one).num_rows for one in range(file.num_row_groups)]
        ids = file.read(columns=["image_id"])["image_id"]
    parts = pc.utf8_slice_codeunits(ids, 48).to_pylist()
    keys = np.frombuffer(bytes.fromhex("".join(parts)), ">u8").astype(np.uint64)
    order = np.argsort(keys)
    starts = [0, *np.cumsum(sizes).tolist()[:-1]]
    return FileIndex(keys[order], order.astype(np.uint32), starts)


def _group(url: str, group: int) -> pa.Table:
    """The images of a row group, as they were fetched."""

    def read() -> pa.Table:
        with parquet.opened(url, pre_buffer=False) as file:
            return file.read_row_group(group, columns=["image_id", "content", "rotation"])

    return _groups.get((url, group), read)


def _row(url: str, group: int, row: int) -> dict[str, Any]:
    found: dict[str, Any] = _group(url, group).slice(row, 1).to_pylist()[0]
    return found


def _draw(row: dict[str, Any], side: int) -> Thumbnail | None:
    try:
        with _decoding:
            pixels = images.decode_pixels(row["content"], row["rotation"], least_side=side)
            picture = Image.fromarray(pixels)
    except images.Rejected:  # taken under wider limits than those of decode_pixels
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(picture.size) <= AS_IT_IS:
        picture.save(buffer, "PNG")
        return Thumbnail(buffer.getvalue(), "image/png")
    picture.save(buffer, "JPEG", quality=82)
    return Thumbnail(buffer.getvalue(), "image/jpeg")
