"""What many tests share: places of their own, one Spark session, small generated photos."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, read_dataset
from sightline.ledger import Record, TaskRun

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Real photos, weights and broken files lie beside the checkout on some machines; tests that need them
# skip where they are absent.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own storage, state and dataset files."""
    (tmp_path / "datasets").mkdir()
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(tmp_path / "data"))
    monkeypatch.setenv("SIGHTLINE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SIGHTLINE_DATASETS", str(tmp_path / "datasets"))
    return tmp_path


@pytest.fixture(scope="session")
def spark() -> Iterator["SparkSession"]:
    """One real local Spark for the whole suite."""
    os.environ["SIGHTLINE_SPARK_MASTER"] = "local[2]"
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from sightline.spark import start_session

    session = start_session("tests")
    yield session
    session.stop()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photos and weights, or a skip."""
    if not SHARED_DATA.exists():
        pytest.skip("no shared data beside this checkout")
    return SHARED_DATA


def write_photos(folder: Path, per_class: dict[str, int], side: int = 48, seed: int = 0) -> Path:
    """Write distinct JPEG files <folder>/<class>/<number>.jpg; each class has a colour of its own."""
    rng = np.random.default_rng(seed)
    for number, (label, count) in enumerate(sorted(per_class.items())):
        base = np.array([(67 * number) % 256, (131 * number + 80) % 256, (29 * number + 160) % 256])
        for index in range(count):
            path = folder / label / f"{index:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(rng, base, side))
    return folder


def jpeg(rng: np.random.Generator, base: "np.ndarray[tuple[int], np.dtype[np.int64]]", side: int) -> bytes:
    """A noisy picture around a colour."""
    coarse = rng.normal(base, 60, (6, 6, 3)).clip(0, 255).astype("uint8")
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_dataset(places: Path, name: str, text: str) -> DatasetSpec:
    """Write a dataset file into the test's own folder and read it."""
    path = places / "datasets" / f"{name}.yaml"
    path.write_text(text)
    return read_dataset(path)


def make_task(task: str, partition: str = "all", run_id: str = "run-1") -> tuple[TaskRun, Record]:
    """A task of a run, and its empty record, as Airflow would give them to a stage."""
    run = TaskRun("ingest_test", run_id, task, partition)
    return run, Record(task, run.dag_id, run.run_id, partition, "2026-01-01T00:00:00+00:00")


def catalog_of(spec: DatasetSpec) -> Catalog:
    """The catalog of a dataset in the test's own storage."""
    return open_catalog(spec.name)
