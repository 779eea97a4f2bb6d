"""Open Images in small: its tables in their true layout and a bucket of pictures, behind one web server."""

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import QuietHandler, web_server

CLASSES = {"/m/0k4j": "Car", "/m/07j7r": "Tree", "/m/01yrx": "Cat"}
COLOURS = {"/m/0k4j": (200, 40, 40), "/m/07j7r": (40, 160, 60)}
IMAGE_HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)


class Bucket:
    """Fills a folder as the two web places of Open Images are laid out."""

    def __init__(self, folder: Path, subset: str = "validation") -> None:
        self.folder = folder
        self.subset = subset
        self.labels: list[str] = []
        self.images: list[str] = []

    def add(
        self, number: int, *labels: tuple[str, str, str], rotation: str = "0.0", **more: bool
    ) -> str:
        """An image with its (source, identifier, confidence) labels; returns its ImageID."""
        image_id = f"{number:016x}"
        self.labels += [f"{image_id},{source},{mid},{sure}" for source, mid, sure in labels]
        if more.get("listed", True):
            self.images.append(
                f"{image_id},{self.subset},https://example.org/{number}_o.jpg,"
                f"https://www.flickr.com/photos/somebody/{number},"
                "https://creativecommons.org/licenses/by/2.0/,https://www.flickr.com/people/x/,"
                f'"Doe, ""J"" Jane","Line one\nline, two",{1000 + number},KFukvivpCM5QXl5SqKe41g==,,'
                f"{rotation}"
            )
        if more.get("stored", True):
            seen = [mid for _, mid, sure in labels if float(sure) == 1]
            self._store(image_id, number, COLOURS.get(seen[0] if seen else "", (90, 90, 90)))
        return image_id

    def _store(self, image_id: str, number: int, colour: tuple[int, int, int]) -> None:
        noise = np.random.default_rng(number).integers(-40, 40, (12, 16, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((96, 72)).save(buffer, "JPEG", quality=92)
        path = self.folder / "bucket" / self.subset / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())

    def write_tables(self) -> None:
        """Write the CSV files, with the line ends and the byte order mark that some copies have."""
        tables = self.folder / "tables"
        folder = tables / "2018_04" / self.subset
        folder.mkdir(parents=True, exist_ok=True)
        (tables / "v5").mkdir(exist_ok=True)
        described = "".join(f"{mid},{name}\n" for mid, name in CLASSES.items())
        (tables / "v5" / "class-descriptions-boxable.csv").write_text(described)
        labels = ["ImageID,Source,LabelName,Confidence", *self.labels]
        name = f"{self.subset}-annotations-human-imagelabels-boxable.csv"
        (tables / "v5" / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(labels).encode() + b"\r\n")
        boxable = "-boxable" if self.subset == "train" else ""
        name = f"{self.subset}-images{boxable}-with-rotation.csv"
        (folder / name).write_text("\n".join([IMAGE_HEADER, *self.images]) + "\n")

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of both places: /tables and /bucket."""
        with web_server(functools.partial(QuietHandler, directory=self.folder)) as address:
            yield address
