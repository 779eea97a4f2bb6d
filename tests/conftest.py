"""What many tests share: places of their own, one Spark session, small generated photos."""

import http.server
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from PIL import Image

from scripts import rotation
from sightline import cli, images, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, read_dataset
from sightline.ledger import Record, TaskRun
from sightline.models import Plan, make_plan, write_plan
from sightline.tables import Table, Writer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Real photos, weights and broken files lie beside the checkout on some machines; tests that need them
# skip where they are absent.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SIGHTLINE = str(Path(sys.executable).with_name("sightline"))


LONG_TESTS = pytest.StashKey[list[str]]()  # node ids of the tests that CI runs in rotation


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note them before `-m` deselects them."""
    long = [item.nodeid for item in items if any(map(item.get_closest_marker, rotation.MARKERS))]
    config.stash[LONG_TESTS] = long


settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own storage, state and dataset files."""
    (tmp_path / "datasets").mkdir()
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(tmp_path / "data"))
    monkeypatch.setenv("SIGHTLINE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SIGHTLINE_DATASETS", str(tmp_path / "datasets"))
    return tmp_path


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The command takes over the signals; give them back."""
    held = {number: signal.getsignal(number) for number in cli.STOP_SIGNALS}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def spark() -> Iterator["SparkSession"]:
    """One real local Spark for the whole suite."""
    os.environ["SIGHTLINE_SPARK_MASTER"] = "local[2,4]"  # a lost worker costs no job
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from sightline.spark import start_session

    session = start_session("tests")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """As on a worker; two threads on two busy cores would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photos and weights, or a skip."""
    if not SHARED_DATA.exists():
        pytest.skip("no shared data beside this checkout")
    return SHARED_DATA


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB, or a skip where we may not mount one."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    """The catalog of the dataset that a test module's own fixture `spec` has written."""
    return catalog_of(spec)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """The standard library's file server without its log."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def web_server(handler: Callable[..., Any]) -> Iterator[str]:
    """A web server on a free port of this machine; yields its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line into pytest's own output, also where that of the tests is captured."""
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    capturing = request.config.pluginmanager.getplugin("capturemanager")

    def write(text: str) -> None:
        with capturing.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(text)

    return write


def run_sightline(
    environment: dict[str, str],
    *arguments: str,
    seconds: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> str:
    """Run a command of ours to its end, within so many seconds; returns what it said."""
    process = subprocess.Popen(
        [SIGHTLINE, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        meanwhile()
        said, _ = process.communicate(timeout=seconds)
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        raise
    assert process.returncode == 0, said
    return said


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


def jpeg(
    rng: np.random.Generator, base: "np.ndarray[tuple[int], np.dtype[np.int64]]", side: int
) -> bytes:
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


def image_row(content: bytes, label: str | None, **more: Any) -> dict[str, Any]:
    """A row of the images table, measured from the bytes as the ingest does."""
    measured = images.measure(content, images.Limits(2**26, 10**8))
    row = {"uri": f"mem://{label}/{measured.image_id}", "label": label, "split_hint": None}
    row |= {"content": content, "size_bytes": len(content), "rotation": 0, "partition": "all"}
    return {**row, **asdict(measured), **more}


def made_up_image_row(number: int, **more: Any) -> dict[str, Any]:
    """A row of the images table, for tests to which its bytes do not matter."""
    row = {"image_id": f"{number:064x}", "uri": f"mem://{number}", "label": "a", "split_hint": None}
    row |= {"content": b"", "size_bytes": 0, "format": "PNG", "height": 1, "width": 1, "mode": "L"}
    row |= {"n_channels": 1, "exif_orientation": 1, "rotation": 0, "phash": f"{number:016x}"}
    return {**row, "partition": "all", **more}


def store_embeddings(
    catalog: Catalog,
    spec: DatasetSpec,
    embeddings: Any,
    labels: list[Any],
    splits: list[str],
    groups: list[str] | None = None,
) -> Plan:
    """Store made-up images with these embeddings, labels, splits and groups of near-copies (default: each
    image is its own), and plan to train on them."""
    rows = [made_up_image_row(number, label=label) for number, label in enumerate(labels)]
    ids = [row["image_id"] for row in rows]
    store_rows(catalog.images, rows)
    store_rows(
        catalog.splits,
        [
            {"image_id": one, "group_id": group, "split": split}
            for one, group, split in zip(ids, groups or ids, splits, strict=True)
        ],
    )
    features = [
        {"image_id": one, "backbone_id": "made-up", "embedding": embedding}
        for one, embedding in zip(ids, np.float32(embeddings), strict=True)
    ]
    store_rows(catalog.features, features, "made-up")
    plan = make_plan(spec, catalog, "made-up")
    write_plan(catalog, plan)
    return plan


def store_rows(table: Table, rows: list[dict[str, Any]], partition: str | None = "all") -> None:
    """Append rows to a table: one file, one commit."""
    batch = pa.RecordBatch.from_pylist(rows, schema=table.schema)
    urls = tables.write_batches(table, [batch])
    tables.append_new(table, urls, partition if table.partition_by else None, Writer("tests"))


def store_partition(table: Table, rows: list[dict[str, Any]], partition: str | None) -> None:
    """Exchange a partition of a table for these rows."""
    batch = pa.RecordBatch.from_pylist(rows, schema=table.schema)
    held = tables.claim(table, Writer("tests"))
    tables.replace_partition(table, tables.write_batches(table, [batch]), partition, held)


def make_task(task: str, partition: str = "all", run_id: str = "run-1") -> tuple[TaskRun, Record]:
    """A task of a run, and its empty record, as Airflow would give them to a stage."""
    run = TaskRun("ingest_test", run_id, task, partition)
    return run, Record(task, run.dag_id, run.run_id, partition, "2026-01-01T00:00:00+00:00")


def catalog_of(spec: DatasetSpec) -> Catalog:
    """The catalog of a dataset in the test's own storage."""
    return open_catalog(spec.name)
