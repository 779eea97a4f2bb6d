"""Photos made small for the strips: the bytes of one image, and a square picture of it."""

import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from sightline import images, lookup
from sightline.catalog import Catalog

PIXEL_ART_PIXELS = 56  # what is smaller is shown as it is, and enlarged by the browser


@dataclass(frozen=True)
class Content:
    """An image's bytes as fetched, and the rotation that its source asks for in degrees."""

    content: bytes
    rotation: int


@dataclass(frozen=True)
class Small:
    """A small picture, encoded."""

    content: bytes
    media_type: str


def read_content(catalog: Catalog, version: int | None, image_id: str) -> Content | None:
    """The bytes of an image of a version, or None where it has no such image."""
    columns = ["content", "rotation"]
    rows = lookup.rows_of(catalog.images, "image_id", [image_id], columns, version).to_pylist()
    return Content(**rows[0]) if rows else None


def draw_square(image: Content, side: int) -> Small:
    """The central square of an image, `side` pixels wide; images.Rejected where it cannot be decoded."""
    decoded = images.decode(image.content, image.rotation)
    buffer = io.BytesIO()
    if max(decoded.size) <= PIXEL_ART_PIXELS:
        decoded.save(buffer, "PNG", optimize=True)
        return Small(buffer.getvalue(), "image/png")
    side = min(side, *decoded.size)
    ImageOps.fit(decoded, (side, side), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=82)
    return Small(buffer.getvalue(), "image/jpeg")
