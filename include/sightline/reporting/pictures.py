"""The pictures of the page: small, inside the page, fetched in one pass over the images table."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from sightline import images, storage, tables
from sightline.tables import Table
from sightline.traces import data_uri

PIXEL_ART_SIDE = (
    56  # pixels; what is smaller is enlarged by the browser, with its pixels to be seen
)


@dataclass
class Picture:
    """A square picture; `source` stays empty where it cannot be shown."""

    side: int  # pixels
    source: str = ""
    pixelated: bool = False


class Gallery:
    """Collects which images the sections show, then reads only those."""

    def __init__(self, table: Table, version: int | None) -> None:
        self.table = table
        self.version = version
        self._wanted: dict[str, list[Picture]] = {}

    def picture(self, image_id: str, side: int) -> Picture:
        """A picture of an image, filled by `load`."""
        wanted = Picture(side)
        self._wanted.setdefault(image_id, []).append(wanted)
        return wanted

    def load(self) -> None:
        """Fill all pictures asked for; those of images that are gone stay empty."""
        for image_id, content, rotation in _contents(self.table, self.version, set(self._wanted)):
            try:
                decoded = images.decode(content, rotation)
            except images.Rejected:  # taken under wider limits than those of decode
                continue
            for wanted in self._wanted[image_id]:
                _draw(wanted, decoded, image_id)


def jpeg_source(content: bytes, uri: str) -> str:
    """A data URI of bytes that are a JPEG of what lies at a uri."""
    return data_uri("jpeg", content, uri)


def _draw(picture: Picture, decoded: Image.Image, image_id: str) -> None:
    """Small images as they are; larger ones cut to their central square, as the network sees."""
    buffer = io.BytesIO()
    if max(decoded.size) <= PIXEL_ART_SIDE:
        decoded.save(buffer, "PNG", optimize=True)
        picture.source = data_uri("png", buffer.getvalue(), image_id)
        picture.pixelated = True
        return
    side = min(picture.side, *decoded.size)
    ImageOps.fit(decoded, (side, side)).save(buffer, "JPEG", quality=82, optimize=True)
    picture.source = data_uri("jpeg", buffer.getvalue(), image_id)


def _contents(
    table: Table, version: int | None, image_ids: set[str]
) -> Iterator[tuple[str, bytes, int]]:
    """Bytes and rotation of some images; only the row groups that hold one of them are read."""
    missing = set(image_ids)
    for url in tables.file_urls(table, version):
        if not missing:
            return
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            for row in _matching_rows(pq.ParquetFile(stream, buffer_size=2**20), missing):
                missing.discard(row[0])
                yield row


def _matching_rows(file: pq.ParquetFile, wanted: set[str]) -> Iterator[tuple[str, bytes, int]]:
    columns = ["image_id", "content", "rotation"]
    values = pa.array(sorted(wanted), pa.string())
    for group in range(file.num_row_groups):
        held = file.read_row_group(group, columns=["image_id"])["image_id"]
        if not pc.any(pc.is_in(held, values)).as_py():
            continue
        for batch in file.iter_batches(batch_size=16, row_groups=[group], columns=columns):
            for row in batch.filter(pc.is_in(batch["image_id"], values)).to_pylist():
                yield row["image_id"], row["content"], row["rotation"]
