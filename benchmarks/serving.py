"""Photos handed in to `sightline serve`: fifty at once, then thousands, with the memory that it holds.

    .venv/bin/python -m benchmarks.serving --at-once 50 --photos 2000

A head on features of ResNet-18 at 224 pixels, photos of 1,024 pixels, each answered with what the model
sees and with its six nearest training photos. Memory is of the server and its predictor together.
"""

import argparse
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa

from benchmarks import measuring, photos
from benchmarks.sightline_jobs import DATASET, Workplace
from sightline import backbones, images, models, tables
from sightline.backbones.inference import Network
from sightline.backbones.worker import prepare_picture
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, LogisticRegression, Scaler
from sightline.config import DatasetSpec, read_dataset
from sightline.tables import Table, Writer

KNOWN = 200  # training photos
DISTINCT = 40  # photos handed in, again and again
CLASSES = 10
COMMAND = "import sys; from sightline.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Asked:
    """What became of some photos."""

    seconds: float
    each: list[float]  # seconds of each photo, waiting included
    errors: int


def make_champion(place: Workplace) -> None:
    """A dataset whose champion is a head with random coefficients: it costs what a trained one costs."""
    place.forget("")
    place.write_dataset("source: {type: folder, path: photos}")
    spec = read_dataset(place.folder / "datasets" / f"{DATASET}.yaml")
    catalog = Catalog(DATASET, str(place.folder / "data" / DATASET))
    backbone = backbones.load_backbone(spec.backbone)
    network = Network(backbone.module, backbone.preprocessing, "fp32")
    rows = [_image_row(number) for number in range(KNOWN)]
    pictures = [
        prepare_picture(spec.backbone, backbone.preprocessing, row["content"], 0) for row in rows
    ]
    backbone_id, ids = backbone.identity("fp32"), [row["image_id"] for row in rows]
    embeddings = zip(ids, network.embed(pictures), strict=True)
    _store(catalog.images, rows, "all")
    _store(
        catalog.splits, [{"image_id": one, "group_id": one, "split": "train"} for one in ids], None
    )
    features = [
        {"image_id": one, "backbone_id": backbone_id, "embedding": x} for one, x in embeddings
    ]
    _store(catalog.features, features, backbone_id)
    _crown(catalog, spec, backbone_id, backbone.dim)


def _image_row(number: int) -> dict[str, Any]:
    content = photos.photo(0, number)
    measured = asdict(images.measure(content, images.Limits(2**26, 10**8)))
    own = {"uri": f"mem://{number}", "label": str(number % CLASSES), "split_hint": None}
    stored = {"content": content, "size_bytes": len(content), "rotation": 0, "partition": "all"}
    return {**own, **stored, **measured, "image_id": hashlib.sha256(content).hexdigest()}


def _store(table: Table, rows: list[dict[str, Any]], partition: str | None) -> None:
    urls = tables.write_batches(table, [pa.RecordBatch.from_pylist(rows, schema=table.schema)])
    tables.append_new(table, urls, partition, Writer("benchmark"))


def _crown(catalog: Catalog, spec: DatasetSpec, backbone_id: str, dim: int) -> None:
    labels = [str(number) for number in range(CLASSES)]
    drawn = np.random.default_rng(0).normal(size=(CLASSES, dim))
    head = LogisticRegression(drawn, np.zeros(CLASSES))
    models.save_classifier(
        catalog, "v1", Classifier(labels, None, Scaler(np.zeros(dim), np.ones(dim)), head)
    )
    model: dict[str, Any] = {
        "version": "v1",
        "kind": "head",
        "labels": labels,
        "backbone_id": backbone_id,
    }
    model |= {"spec": spec.model_dump(mode="json"), "head": {"kind": "logistic_regression"}}
    models.write_model(catalog, {**model, "metrics": {}, "rows": {}, "tables": {}})
    models.crown(catalog, "v1")


@contextmanager
def served(place: Workplace) -> Iterator[tuple[str, psutil.Process]]:
    """`sightline serve`, as one starts it; its address and its process."""
    command = [sys.executable, "-c", COMMAND, "serve", "--dataset", DATASET, "--show-photos"]
    process = subprocess.Popen(command, env=place.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, "it did not start"
    try:
        yield found[0], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def ask(client: httpx.Client, handed_in: list[bytes], at_once: int) -> Asked:
    """Hand photos in, so many at once."""

    def ask_one(content: bytes) -> tuple[float, int]:
        began = time.monotonic()
        fields = {"dataset": DATASET, "neighbours": "6", "pictures": "true"}
        answer = client.post("/api/predict", data=fields, files={"file": ("photo.jpg", content)})
        return time.monotonic() - began, int(answer.status_code != 200)

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(ask_one, handed_in))
    each = sorted(seconds for seconds, _ in found)
    return Asked(time.monotonic() - began, each, sum(failed for _, failed in found))


def measure(place: Workplace, at_once: int, count: int) -> list[dict[str, Any]]:
    """The rows of the result."""
    handed_in = [photos.photo(1, number) for number in range(DISTINCT)]
    with served(place) as (address, process), httpx.Client(base_url=address, timeout=600) as client:
        ask(client, handed_in[:1], 1)  # the predictor starts with the first photo
        rows = [_row(f"{at_once} at once", ask(client, (handed_in * at_once)[:at_once], at_once))]
        step, first = max(1, count // 10), 0
        for done in range(step, count + 1, step):
            asked = ask(client, (handed_in * step)[:step], 4)
            held = measuring.held_bytes(process)
            first = first or held
            memory = {"held_bytes": held, "ratio_to_first": round(held / first, 3)}
            rows.append({**_row(f"after {done:,} more", asked), **memory})
            print(rows[-1], flush=True)
    return rows


def _row(system: str, asked: Asked) -> dict[str, Any]:
    return {
        "system": system,
        "images": len(asked.each),
        "errors": asked.errors,
        "images_per_second": round(len(asked.each) / asked.seconds, 1),
        "median_seconds": round(asked.each[len(asked.each) // 2], 3),
        "slowest_seconds": round(asked.each[-1], 3),
    }


def main() -> None:
    """Make a champion, serve it, ask it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, default=50)
    asked = measuring.add_arguments(parser, photos=2_000)
    place = Workplace(Path(asked.workplace) / "serving")
    os.environ["OMP_NUM_THREADS"] = "1"
    make_champion(place)
    rows = measure(place, asked.at_once, asked.photos)
    measuring.write_results(asked.results, rows, measuring.our_versions())


if __name__ == "__main__":
    main()
