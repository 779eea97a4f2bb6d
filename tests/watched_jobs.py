"""Spark jobs as Airflow submits them, with a watch on the memory of all their processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from sightline import memory, spark, tables
from sightline.backbones import load_backbone
from sightline.backbones.inference import Network
from sightline.backbones.worker import prepare_picture
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.settings import load_settings
from sightline.spark_workers import TORCH_WORKERS
from tests.conftest import image_row, jpeg, store_rows

HOME = Path(__file__).parents[1]
SECONDS = 600
FILES, PHOTOS = 4, 16  # each file is a chunk, so that two workers have something to do
VGG16 = """
source: {type: folder, path: photos}
backbone: {name: vgg16, weights: random}
"""


@dataclass
class Watched:
    """A job's log, and what all its processes held together."""

    log: str = ""
    returncode: int | None = None
    peak_bytes: int = 0
    mapped_by: set[int] = field(default_factory=set)  # ids of processes that had the weights mapped


def submit(dataset: str) -> Watched:
    """Run `spark_jobs/featurize.py` as the DAG's task does, and watch its processes."""
    told = {**spark.submit_conf(), **TORCH_WORKERS}
    settings = [f"--conf={name}={value}" for name, value in told.items()]
    program = str(HOME / "spark_jobs" / "featurize.py")
    master = load_settings().spark_master or "local[2]"
    command = [str(Path(sys.executable).with_name("spark-submit")), "--master", master]
    environment = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"} | os.environ
    watched, deadline = Watched(), time.monotonic() + SECONDS
    with subprocess.Popen(
        [*command, *settings, program, dataset],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        while watched.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                watched.log, _ = process.communicate(timeout=0.2)
                watched.returncode = process.returncode
            look_at(process.pid, watched)
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
    return watched


def look_at(pid: int, watched: Watched) -> None:
    """Note what a process and its children hold now."""
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        pids = [pid, *(child.pid for child in root.children(recursive=True))]
        watched.peak_bytes = max(watched.peak_bytes, memory.held_bytes(pids))
        watched.mapped_by |= {one for one in pids if maps_weights(one)}


def maps_weights(pid: int) -> bool:
    try:
        return "weights.safetensors" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def store_photos(catalog: Catalog) -> None:
    rng = np.random.default_rng(0)
    for _ in range(FILES):
        contents = [jpeg(rng, np.array([90, 120, 150]), 256) for _ in range(PHOTOS)]
        store_rows(catalog.images, [image_row(content, "a") for content in contents])


def assert_features_are_the_networks(spec: DatasetSpec, catalog: Catalog) -> None:
    """Every image has features, and the first ones are those of the network in this process."""
    backbone = load_backbone(spec.backbone)
    (backbone_id,) = {row["backbone_id"] for row in rows_of(catalog.features, ["backbone_id"])}
    precision = str(backbone_id).rpartition("-")[2]
    assert backbone_id == backbone.identity(precision)
    found = {
        row["image_id"]: np.array(row["embedding"], dtype=np.float32)
        for row in rows_of(catalog.features, ["image_id", "embedding"])
    }
    assert len(found) == FILES * PHOTOS
    some = list(rows_of(catalog.images, ["image_id", "content"]))[:8]
    network = Network(backbone.module, backbone.preprocessing, precision)
    pictures = [
        prepare_picture(spec.backbone, backbone.preprocessing, row["content"], 0) for row in some
    ]
    for row, expected in zip(some, network.embed(pictures), strict=True):
        cosine = found[row["image_id"]] @ expected / np.linalg.norm(expected)
        assert cosine / np.linalg.norm(found[row["image_id"]]) > 0.9999


def rows_of(table: tables.Table, columns: list[str]) -> Iterator[dict[str, object]]:
    return (row for batch in tables.read_batches(table, columns) for row in batch.to_pylist())
