"""A dataset of many tiny images, as the nights of an ingest would leave it; nothing is decoded or trained.

    .venv/bin/python -m benchmarks.many_images FOLDER --images 100000

writes datasets/ and data/ below a folder: with SIGHTLINE_DATASETS and SIGHTLINE_STORAGE set to them, the
pages show it.
"""

import argparse
import hashlib
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

DATASET = "many"
CLASSES = 100
NIGHTS = 20
FILE_IMAGES = 1_000  # of a chunk that a fetch commits
GROUP_IMAGES = 64  # of a row group
DIM = 512  # of the embeddings
LICENCES = ("CC BY 4.0", "CC BY-SA 2.0", "CC0 1.0", None)
MODEL = "00001-madeup"
SPEC = "source: {type: folder, path: photos}\nbackbone: {name: resnet18}\n"


def make(root: Path, images: int) -> None:
    """Write a dataset file and tables of so many images below a folder: datasets/ and data/."""
    from sightline import models, storage
    from sightline.catalog import Catalog

    (root / "datasets").mkdir(parents=True, exist_ok=True)
    (root / "datasets" / f"{DATASET}.yaml").write_text(SPEC)
    catalog = Catalog(DATASET, str(root / "data" / DATASET))
    night_images = images // NIGHTS
    pictures = list(_pictures())
    for night in range(NIGHTS):
        day = f"{datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=night):%Y-%m-%d}"
        first = night * night_images
        rows = [_row(number, pictures, day) for number in range(first, first + night_images)]
        rows.sort(key=lambda row: str(row["uri"]))  # as a work list has them
        _write_night(catalog, rows, day, random.Random(night))
    model = {"version": MODEL, "kind": models.HEAD, "created_at": "2026-11-20T00:00:00+00:00",
             "labels": [_label(one) for one in range(CLASSES)], "backbone_id": "made-up",
             "metrics": {"accuracy": 0.9}, "rows": {}, "tables": {"images": 1, "features": 1, "splits": 1},
             "reduction": None, "head": {"kind": "logistic_regression"}}  # fmt: skip
    models.write_model(catalog, model)
    storage.write_json(catalog.champion, {"version": MODEL})


def _pictures() -> Iterator[bytes]:
    """A few hundred small JPEGs; each image is one of them with a comment of its own."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for _ in range(256):
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(
            buffer, "JPEG", quality=80
        )
        yield buffer.getvalue()


def _row(number: int, pictures: list[bytes], day: str) -> dict[str, Any]:
    plain, label = pictures[number % len(pictures)], _label(number % CLASSES)
    comment = f"image {number}".encode()
    content = plain[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + plain[2:]
    image_id = hashlib.sha256(content).hexdigest()
    return {
        "image_id": image_id, "uri": f"https://photos.example/{label}/{number:07d}.jpg",
        "label": label, "content": content, "size_bytes": len(content), "format": "JPEG",
        "height": 96, "width": 96, "n_channels": 3, "mode": "RGB", "exif_orientation": 1,
        "rotation": 0, "phash": image_id[:16], "partition": day,
    }  # fmt: skip


def _label(number: int) -> str:
    return f"class {number:03d}"


def _write_night(catalog: Any, rows: list[dict[str, Any]], day: str, draw: random.Random) -> None:
    """The tables of one night: chunks of images, then one commit each of the others."""
    for first in range(0, len(rows), FILE_IMAGES):
        _append(catalog.images, rows[first : first + FILE_IMAGES], day)
    listed = [{"uri": row["uri"], "label": row["label"], "partition": day,
               "licence": draw.choice(LICENCES), "author": f"author {draw.randrange(999)}"}
              for row in rows]  # fmt: skip
    _append(catalog.manifest, listed, day)
    splits = [{"image_id": row["image_id"], "group_id": row["phash"],
               "split": draw.choices(("train", "val", "test"), (8, 1, 1))[0]} for row in rows]  # fmt: skip
    _append(catalog.splits, splits, None)
    doubtful = [{"image_id": row["image_id"], "issue": draw.choice(("dark", "blurry")), "score": 0.1,
                 "threshold": 0.2, "partition": day} for row in rows if draw.random() < 0.05]  # fmt: skip
    _append(catalog.issues, doubtful, day)
    labels = {row["image_id"]: row["label"] for row in rows}
    answers = [_answer(one["image_id"], labels[one["image_id"]], draw) for one in splits
               if one["split"] == "test"]  # fmt: skip
    _append(catalog.predictions, answers, MODEL)
    numbers = np.random.default_rng(len(rows))
    features = [{"image_id": row["image_id"], "backbone_id": "made-up",
                 "embedding": numbers.normal(int(row["label"][-3:]) % 7, 1, DIM)}
                for row in rows]  # fmt: skip
    _append(catalog.features, features, "made-up")


def _answer(image_id: str, label: str, draw: random.Random) -> dict[str, Any]:
    predicted = label if draw.random() < 0.9 else _label(draw.randrange(CLASSES))
    return {"image_id": image_id, "model_version": MODEL, "label": label, "predicted": predicted,
            "probability": 0.8, "probabilities": [0.8]}  # fmt: skip


def _append(table: Any, rows: list[dict[str, Any]], partition: str | None) -> None:
    """One commit that adds rows, in row groups as a worker writes them."""
    from sightline import tables

    size = GROUP_IMAGES if table.name == "images" else len(rows)
    batches = (
        pa.RecordBatch.from_pylist(rows[first : first + size], schema=table.schema)
        for first in range(0, len(rows), size)
    )
    urls = tables.write_batches(table, batches)
    tables.append_new(table, urls, partition, tables.Writer("made up"), key=table.schema.names[0])


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    asked = parser.parse_args()
    make(asked.folder.absolute(), asked.images)


if __name__ == "__main__":
    main()
