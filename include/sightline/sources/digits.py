"""scikit-learn's bundled handwritten digits, written out as PNG files: offline, no account.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998: 8 x 8 pixels of 17 greys.
"""

from collections.abc import Iterator
from typing import Any

from sightline import storage
from sightline.source_config import DigitsSource, FolderSource
from sightline.sources import folder
from sightline.sources.access import Access, Survey

# Counted once, so that the preflight needs no scikit-learn; a test compares.
IMAGES_BY_CLASS = dict(
    zip("0123456789", (178, 182, 177, 183, 181, 182, 181, 179, 174, 180), strict=True)
)
SIDE_PIXELS = 32


def survey(source: DigitsSource, access: Access) -> Survey:
    """The counts are known."""
    return Survey(dict(IMAGES_BY_CLASS), size_bytes=1_000 * sum(IMAGES_BY_CLASS.values()))


def list_images(source: DigitsSource, access: Access) -> Iterator[list[dict[str, Any]]]:
    """Write the PNG files where they are missing, then list them as a folder."""
    path = storage.join(access.catalog.root, "source")
    if not storage.exists(storage.join(path, ".complete")):
        storage.write_many(_files(path))
        storage.write_bytes(storage.join(path, ".complete"), b"")
    yield from folder.list_images(FolderSource(type="folder", path=path), access)


def _files(path: str) -> Iterator[tuple[str, bytes]]:
    """Where each file belongs, and its bytes."""
    import io

    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    greys = (digits.images * 15.9375).astype("uint8")  # 0..16 to 0..255
    for number, (pixels, digit) in enumerate(zip(greys, digits.target, strict=True)):
        picture = Image.fromarray(pixels).resize(
            (SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC
        )
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        yield storage.join(path, str(digit), f"{number:04d}.png"), buffer.getvalue()
