"""Planted in real photos: copies, dark and blurred ones; what is found of them, and what else."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sightline import tables
from sightline.catalog import Catalog
from sightline.inspection import inspect_images
from sightline.splitting import split_images
from tests.conftest import catalog_of, image_row, make_task, store_rows, write_dataset

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow

Change = Callable[[Image.Image], Image.Image]


def cropped(image: Image.Image) -> Image.Image:
    """Without a twentieth at each edge: a tenth of the width and of the height."""
    across, down = round(image.width * 0.05), round(image.height * 0.05)
    return image.crop((across, down, image.width - across, image.height - down))


COPIES: dict[str, tuple[Change, int]] = {  # with the JPEG's quality
    "recompressed": (lambda image: image, 50),
    "resized": (lambda image: image.resize((image.width // 2, image.height // 2)), 90),
    "cropped": (cropped, 90),
    "flipped": (ImageOps.mirror, 90),
}
FAULTS: dict[str, Change] = {
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.2),
    "blurry": lambda image: image.filter(ImageFilter.GaussianBlur(0.1 * max(image.size))),
}


def changed(content: bytes, change: Change, quality: int) -> bytes:
    buffer = io.BytesIO()
    change(Image.open(io.BytesIO(content)).convert("RGB")).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def plant(photos: list[Path]) -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, str]]]]:
    """Rows of all photos and of the planted ones; (planted, original) image ids by kind."""
    chosen = np.random.default_rng(0).permutation(len(photos))
    rows = [image_row(path.read_bytes(), path.parent.name) for path in photos]
    planted: dict[str, list[tuple[str, str]]] = {}
    taken = 0
    kinds = [(name, change, quality, 20) for name, (change, quality) in COPIES.items()]
    for name, change, quality, count in [*kinds, *((n, c, 90, 10) for n, c in FAULTS.items())]:
        for number in chosen[taken : taken + count]:
            original = rows[number]
            new = image_row(changed(original["content"], change, quality), original["label"])
            rows.append(new)
            planted.setdefault(name, []).append((new["image_id"], original["image_id"]))
        taken += count
    return list({row["image_id"]: row for row in rows}.values()), planted


def read(catalog: Catalog, statement: str) -> list[dict[str, Any]]:
    with tables.query(splits=catalog.splits, issues=catalog.issues) as sql:
        found: list[dict[str, Any]] = sql(statement).to_pylist()
    return found


def test_what_is_planted_among_real_photos_is_found(own_places: Path, shared_data: Path) -> None:
    spec = write_dataset(own_places, "flowers", "source: {type: folder, path: photos}\n")
    catalog = catalog_of(spec)
    photos = sorted((shared_data / "flowers").glob("*/*.jpg"))
    rows, planted = plant(photos)
    store_rows(catalog.images, rows)
    task, record = make_task("split")
    split_images(spec, catalog, task, record)
    inspect_images(spec, catalog, *make_task("inspect_images"))

    splits = {row["image_id"]: row for row in read(catalog, "SELECT * FROM splits")}
    grouped = {
        kind: sum(
            splits[one]["group_id"] == splits[other]["group_id"] for one, other in planted[kind]
        )
        for kind in COPIES
    }
    issues = read(catalog, "SELECT * FROM issues")
    flagged = {name: {row["image_id"] for row in issues if row["issue"] == name} for name in FAULTS}
    found = {name: sum(one in flagged[name] for one, _ in planted[name]) for name in FAULTS}
    copies = {frozenset(pair) for kind in COPIES for pair in planted[kind]}
    pairs = {
        frozenset((row["image_id"], row["other_image_id"]))
        for row in issues
        if row["issue"] == "near_duplicate"
    }
    of_planted = {name: f"{found[name]} of {len(flagged[name])} flagged" for name in FAULTS}
    log.info("grouped with their original, of 20: %s", grouped)
    log.info("planted among what is flagged: %s", of_planted)
    log.info(
        "planted among pairs: %d of %d; counts %s", len(pairs & copies), len(pairs), record.counts
    )

    assert min(grouped["recompressed"], grouped["resized"]) >= 19
    assert grouped["cropped"] >= 16
    assert record.counts["straddling"] == 0
    assert found == {"dark": 10, "blurry": 10}
    # Flowers holds some real near-duplicates of its own.
    assert len(pairs & copies) >= 0.8 * len(pairs)
    assert record.counts["largest_group"] <= 4
