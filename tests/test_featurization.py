"""Featurization: what Spark gives is what the network gives, once for each image, whatever happens."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline import ledger, tables
from sightline.backbones import Backbone, load_backbone, worker
from sightline.backbones.inference import Network, has_bf16
from sightline.backbones.worker import prepare_picture
from sightline.catalog import Catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.featurization import choose_precision, counts_if_done, featurize
from sightline.ledger import Record
from sightline.tables import Writer
from tests.conftest import (
    catalog_of,
    image_row,
    jpeg,
    made_up_image_row,
    make_task,
    store_rows,
    write_dataset,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HOME = Path(__file__).parents[1]
DEADLINE_SECONDS = 120
DATASET = """
source: {type: folder, path: photos}
backbone: {name: resnet18, weights: random, image_size: 32, precision: fp32}
"""
SPEC = BackboneSpec(name="resnet18", weights="random", image_size=32, precision="fp32")
Array = np.ndarray[Any, Any]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture(scope="module")
def backbone(one_torch_thread: None) -> Backbone:
    return load_backbone(SPEC)


def photos(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [image_row(jpeg(rng, np.array([90, 120, 150]), 40), "a") for _ in range(count)]


def store_files(catalog: Catalog, rows: list[dict[str, Any]], rows_a_file: int) -> None:
    """Each file is a chunk of the job."""
    for start in range(0, len(rows), rows_a_file):
        store_rows(catalog.images, rows[start : start + rows_a_file])


def run(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, run_id: str = "run-1"
) -> Record:
    task, record = make_task("featurize", run_id=run_id)
    featurize(spark, spec, catalog, task, record)
    return record


def stored(catalog: Catalog, backbone_id: str) -> dict[str, Array]:
    """The features table's rows of a backbone; an image that has two is an error."""
    found: dict[str, Array] = {}
    for batch in tables.read_batches(catalog.features, ["image_id", "backbone_id", "embedding"]):
        for row in batch.to_pylist():
            if row["backbone_id"] == backbone_id:
                assert row["image_id"] not in found
                found[row["image_id"]] = np.array(row["embedding"], dtype=np.float32)
    return found


def expected(backbone: Backbone, rows: list[dict[str, Any]]) -> dict[str, Array]:
    pictures = [
        prepare_picture(SPEC, backbone.preprocessing, row["content"], row["rotation"])
        for row in rows
    ]
    embeddings = Network(backbone.module, backbone.preprocessing, "fp32").embed(pictures)
    return {row["image_id"]: one for row, one in zip(rows, embeddings, strict=True)}


def assert_same(ours: dict[str, Array], theirs: dict[str, Array]) -> None:
    assert ours.keys() == theirs.keys()
    for image_id, embedding in theirs.items():
        assert np.abs(ours[image_id] - embedding).max() < 1e-5
        assert cosine(ours[image_id], embedding) > 0.99999


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_spark_gives_what_the_network_gives_whatever_the_files_and_batches(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(44)
    for part in (rows[:1], rows[1:38], rows[38:]):  # more and less than one batch of 32
        store_rows(catalog.images, part)
    record = run(spark, spec, catalog)
    assert record.counts == {
        "images": 44,
        "known": 0,
        "featurized": 44,
        "backbone": spec.backbone.model_dump(mode="json"),
        "backbone_id": backbone.identity("fp32"),
        "dim": 512,
    }
    assert [table["name"] for table in record.inputs + record.outputs] == ["images", "features"]
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


@pytest.mark.parametrize("part_bytes", [1, 4_000, 2**30])
def test_a_file_of_many_row_groups_is_featurized_whole_and_only_what_is_missing(
    spark: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    backbone: Backbone,
    part_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "PART_BYTES", part_bytes)
    rows = photos(11)
    folder = Path(tables.new_folder(catalog.images))
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=catalog.images.schema)
    pq.write_table(table, folder / "part.parquet", row_group_size=3)
    tables.append_new(catalog.images, [str(folder / "part.parquet")], "all", Writer("tests"))
    known = expected(backbone, rows[2:5])
    held = [
        {"image_id": image_id, "backbone_id": backbone.identity("fp32"), "embedding": embedding}
        for image_id, embedding in known.items()
    ]
    store_rows(catalog.features, held, backbone.identity("fp32"))
    record = run(spark, spec, catalog)
    assert (record.counts["known"], record.counts["featurized"]) == (3, 8)
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


def test_any_batch_size_gives_the_same_embeddings(backbone: Backbone) -> None:
    rows = photos(7)
    whole = expected(backbone, rows)
    for size in (1, 2, 5):
        parts = [expected(backbone, rows[at : at + size]) for at in range(0, len(rows), size)]
        assert_same({image_id: one for part in parts for image_id, one in part.items()}, whole)
    first, second = list(whole.values())[:2]
    assert cosine(first, second) < 0.99999


def test_a_second_run_does_nothing_and_new_images_alone_are_featurized(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(9)
    store_rows(catalog.images, rows[:6])
    run(spark, spec, catalog)
    version = tables.current_version(catalog.features)
    again = run(spark, spec, catalog, "run-2")
    assert (again.counts["known"], again.counts["featurized"]) == (6, 0)
    assert tables.current_version(catalog.features) == version
    store_rows(catalog.images, rows[6:])
    more = run(spark, spec, catalog, "run-3")
    assert (more.counts["known"], more.counts["featurized"]) == (6, 3)
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


def test_the_precision_is_chosen_by_the_first_images_and_then_kept(
    spark: "SparkSession", own_places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = write_dataset(own_places, "auto", DATASET.replace("precision: fp32", "decode: full"))
    catalog = catalog_of(spec)
    rows = photos(5)
    store_rows(catalog.images, rows[:3])
    record = run(spark, spec, catalog)
    backbone = load_backbone(spec.backbone)
    chosen = "bf16" if has_bf16() else "fp32"
    assert record.counts["backbone_id"] == backbone.identity(chosen)
    assert ("bf16 against fp32 on 3 images" in caplog.text) == has_bf16()
    for image_id, embedding in expected(backbone, rows[:3]).items():
        assert cosine(stored(catalog, backbone.identity(chosen))[image_id], embedding) > 0.999
    store_rows(catalog.images, rows[3:])
    caplog.clear()
    assert run(spark, spec, catalog, "run-2").counts["known"] == 3
    assert "bf16 against fp32" not in caplog.text


def test_features_that_are_held_decide_whatever_the_hardware(
    own_places: Path, backbone: Backbone
) -> None:
    spec = write_dataset(own_places, "auto", DATASET.replace("precision: fp32", "decode: full"))
    catalog = catalog_of(spec)
    store_rows(catalog.images, photos(1))
    for precision, count in (("fp32", 1), ("bf16", 2)):
        rows = [
            {"image_id": str(one), "backbone_id": backbone.identity(precision), "embedding": [1.0]}
            for one in range(count)
        ]
        store_rows(catalog.features, rows, backbone.identity(precision))
        version = tables.current_version(catalog.images)
        assert choose_precision(spec.backbone, backbone, catalog, version) == precision
    forced = spec.backbone.model_copy(update={"precision": "fp32"})
    assert choose_precision(forced, backbone, catalog, version) == "fp32"


def test_another_backbone_adds_its_own_rows_and_leaves_the_first(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(3)
    store_rows(catalog.images, rows)
    run(spark, spec, catalog)
    narrower = SPEC.model_copy(update={"name": "squeezenet1_1"})
    other = load_backbone(narrower)
    record = run(spark, spec.model_copy(update={"backbone": narrower}), catalog, "run-2")
    assert (record.counts["known"], record.counts["featurized"]) == (0, 3)
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))
    assert_same(stored(catalog, other.identity("fp32")), expected(other, rows))


def test_no_images_give_no_features(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    assert run(spark, spec, catalog).counts["featurized"] == 0
    assert tables.current_version(catalog.features) is None


def test_two_runs_at_once_leave_each_image_once(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(12)
    store_files(catalog, rows, 3)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, spark, spec, catalog, f"run-{number}") for number in (1, 2)]
        assert all(future.result(DEADLINE_SECONDS).counts["images"] == 12 for future in futures)
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


def odd_pictures() -> dict[str, bytes]:
    """One picture in the forms in which photos come."""
    upright = Image.open(io.BytesIO(jpeg(np.random.default_rng(1), np.array([90, 120, 150]), 40)))
    upright = upright.resize((60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its left side
    grey = np.asarray(upright.convert("L"), dtype=np.uint16)
    layered = upright.convert("RGBA")
    layered.putalpha(Image.new("L", upright.size, 255))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    return {
        "upright": encoded(upright, "PNG"),
        "exif": encoded(lying, "PNG", exif=turned),
        "cmyk": encoded(upright.convert("CMYK"), "JPEG", quality=95),
        "palette": encoded(upright.quantize(256), "PNG"),
        "alpha": encoded(layered, "PNG"),
        "grey": encoded(upright.convert("L"), "PNG"),
        "sixteen": encoded(Image.fromarray(grey * 257), "PNG"),
    }


def test_odd_pictures_are_featurized_as_what_a_person_sees(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = {name: image_row(content, name) for name, content in odd_pictures().items()}
    declared = Image.open(io.BytesIO(rows["exif"]["content"]))
    declared.getexif().clear()
    by_source = image_row(encoded(declared, "PNG", exif=Image.Exif()), "source", rotation=-90)
    store_rows(catalog.images, [*rows.values(), by_source])
    run(spark, spec, catalog)
    found = stored(catalog, backbone.identity("fp32"))
    assert {row["mode"] for row in rows.values()} == {"RGB", "CMYK", "P", "RGBA", "L", "I;16"}
    seen = {name: found[row["image_id"]] for name, row in rows.items()}
    assert np.abs(seen["exif"] - seen["upright"]).max() < 1e-5
    assert np.abs(seen["alpha"] - seen["upright"]).max() < 1e-5
    assert np.abs(found[by_source["image_id"]] - seen["upright"]).max() < 1e-5
    assert np.abs(seen["sixteen"] - seen["grey"]).max() < 1e-5
    for name in ("cmyk", "palette"):
        assert cosine(seen[name], seen["upright"]) > 0.999
    assert cosine(seen["grey"], seen["upright"]) < 0.9999


@pytest.mark.nightly  # test_end_to_end kills a driver too, once
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_run_is_finished_by_the_next_and_nothing_is_done_again(
    kills: int, spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(60)
    store_files(catalog, rows, 2)
    finished = 0
    for _ in range(kills):
        command = [sys.executable, str(HOME / "spark_jobs" / "featurize.py"), spec.name]
        environment = {**os.environ, "SIGHTLINE_SPARK_MASTER": "local[1,4]"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as driver:  # fmt: skip
            wait_for_more_rows(catalog, finished, driver)
            os.killpg(driver.pid, signal.SIGKILL)
        assert finished < tables.count_rows(catalog.features) < 60
        finished = tables.count_rows(catalog.features)
    version = tables.current_version(catalog.features)
    record = run(spark, spec, catalog, "run-2")
    assert (record.counts["known"], record.counts["featurized"]) == (finished, 60 - finished)
    chunks = (60 - finished) // 2
    assert tables.current_version(catalog.features) == (version or 0) + chunks
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


def wait_for_more_rows(catalog: Catalog, before: int, driver: "subprocess.Popen[bytes]") -> None:
    """Until the driver's first commit."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while tables.count_rows(catalog.features) <= before:
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the driver ended by itself with {driver.wait(0.1)}")


def test_killed_python_workers_cost_their_tasks_and_no_image(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, backbone: Backbone
) -> None:
    rows = photos(30)
    store_files(catalog, rows, 2)
    killed = set[int]()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, spark, spec, catalog)
        finished = 0
        for _ in range(2):
            while not running.done() and tables.count_rows(catalog.features) <= finished:
                time.sleep(0.01)
            finished = tables.count_rows(catalog.features)
            for worker in python_workers():
                worker.kill()
                killed.add(worker.pid)
        record = running.result(DEADLINE_SECONDS)
    assert len(killed) >= 2
    assert 0 < finished < 30
    assert record.counts["featurized"] == 30
    assert_same(stored(catalog, backbone.identity("fp32")), expected(backbone, rows))


def python_workers() -> list[psutil.Process]:
    """The workers of the suite's Spark: children of its Python daemon, which is a child of its JVM."""
    below = psutil.Process().children(recursive=True)
    daemons = {one.pid for one in below if is_python(one) and not is_python(one.parent())}
    return [one for one in below if is_python(one) and one.ppid() in daemons]


def is_python(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return process is not None and "pyspark.daemon" in process.cmdline()
    return False


def test_no_spark_is_needed_where_every_image_has_its_features(
    spec: DatasetSpec, catalog: Catalog, own_places: Path
) -> None:
    def ask(one: DatasetSpec = spec) -> Any:
        return counts_if_done(one, catalog, "ingest_test")

    images = [made_up_image_row(number) for number in range(3)]
    store_rows(catalog.images, images)
    features = [
        {"image_id": image["image_id"], "backbone_id": "net-1", "embedding": [1.0]}
        for image in images
    ]
    store_rows(catalog.features, features[:2], "net-1")
    assert ask() is None  # no run has told the backbone's id yet
    task, _ = make_task("featurize")
    with ledger.recording(catalog, task) as record:
        backbone = spec.backbone.model_dump(mode="json")
        record.counts = {"backbone": backbone, "backbone_id": "net-1", "dim": 1, "featurized": 2}
    assert ask() is None  # one image has none
    store_rows(catalog.features, features[2:], "net-1")
    expected = {"images": 3, "known": 3, "featurized": 0, "dim": 1}
    assert ask().items() >= expected.items()
    assert ask(write_dataset(own_places, "other", DATASET.replace("size: 32", "size: 64"))) is None
    weights = DATASET.replace("random", "models/net.pth")
    assert ask(write_dataset(own_places, "file", weights)) is None
