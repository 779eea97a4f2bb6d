"""The same commands on a cluster: Airflow on Postgres, Spark's master and two workers, tables on S3."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from sightline import featurization, ingestion, lineage, splitting, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import load_dataset
from sightline.settings import load_settings
from sightline.sources import Access
from sightline.spark_cluster import make_library
from tests import accuracies
from tests.cluster_parts import BUCKET, bucket_of
from tests.cluster_processes import meanwhile
from tests.clusters import TEMPORARY, Cluster, start_cluster, status
from tests.conftest import make_task, run_sightline
from tests.watched_jobs import VGG16, assert_features_are_the_networks, store_photos, submit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.cluster

RUN_SECONDS = 900
PHOTOS_PER_CLASS = 40
DIGITS = """
source: {type: digits}
backbone: {name: resnet18, weights: random, image_size: 64}
reduce: {components: 128}
split: {seed: 1}
train: {scale: each, penalties: [0.01], folds: 2}
"""
FLOWERS = """
source: {{type: folder, path: "s3://{bucket}/photos"}}
backbone: {{name: resnet50, weights: {weights}}}
reduce: {{components: 64}}
train: {{penalties: [0.01], folds: 2}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All parts; nothing of it is left at the end."""
    with start_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        (cluster.datasets / "digits.yaml").write_text(DIGITS)
        yield cluster


@pytest.fixture(autouse=True)
def on_the_cluster(cluster: Cluster, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the cluster's places rather than the test's own."""
    cluster.be_seen(monkeypatch)


@pytest.fixture(scope="module")
def ran(cluster: Cluster) -> str:
    """`sightline run digits` on the cluster, watched for secrets on command lines."""
    with meanwhile(cluster.watch):
        return run_sightline(cluster.environment, "run", "digits", seconds=RUN_SECONDS)


def test_digits_are_ingested_and_trained(cluster: Cluster, ran: str) -> None:
    told = status(cluster, "digits")
    assert (told["images"], told["features"], told["rejects"]) == (1797, 1797, 0)
    champion = told["champion"]
    accuracies.assert_at_least(champion["metrics"]["accuracy"], champion["rows"]["test"], 0.95)
    assert told["report"].startswith(f"s3://{BUCKET}/data/digits/reports/")
    assert "accuracy" in ran


def test_the_tables_are_those_of_local_mode(
    cluster: Cluster, ran: str, spark: "SparkSession", monkeypatch: pytest.MonkeyPatch
) -> None:
    there = open_catalog("digits")
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(cluster.folder / "local"))
    here, spec = open_catalog("digits"), load_dataset("digits")
    ingestion.list_images(spec, Access(here, "all"), *make_task("list_images"))
    for name, stage in (
        ("fetch_images", ingestion.fetch_images),
        ("featurize", featurization.featurize),
    ):
        stage(spark, spec, here, *make_task(name))
    splitting.split_images(spec, here, *make_task("split"))
    columns = "image_id, label, format, height, width, mode, phash, size_bytes"
    for statement in (
        f"SELECT {columns} FROM images ORDER BY image_id",
        "SELECT * FROM splits ORDER BY image_id",
        "SELECT image_id, backbone_id FROM features ORDER BY image_id",
    ):
        assert asked(there, statement).equals(asked(here, statement))
    cosines = np.sum(embeddings(there) * embeddings(here), axis=1)
    assert cosines.min() > 0.9999


def asked(catalog: Catalog, statement: str) -> pa.Table:
    """SQL over a dataset's tables."""
    with tables.query(
        images=catalog.images, splits=catalog.splits, features=catalog.features
    ) as sql:
        return sql(statement)


def embeddings(catalog: Catalog) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """All embeddings as unit vectors, in the order of their images."""
    found = asked(catalog, "SELECT embedding FROM features ORDER BY image_id")
    rows = np.stack(found["embedding"].to_numpy())
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_both_workers_took_part_with_the_library_that_came_with_the_job(
    cluster: Cluster, ran: str
) -> None:
    bare = cluster.environment["PYSPARK_PYTHON"]
    alone = subprocess.run([bare, "-c", "import sightline"], capture_output=True, check=False)
    assert b"No module named 'sightline'" in alone.stderr
    library = make_library(load_settings())
    for number in (1, 2):
        executors = list((cluster.folder / f"work-{number}").glob("app-*/*"))
        assert executors
        assert all((folder / library.name).exists() for folder in executors)


def test_airflow_kept_its_runs_in_postgres(cluster: Cluster, ran: str) -> None:
    with psycopg.connect(cluster.database.replace("+psycopg", "")) as connection:
        found = connection.execute("SELECT dag_id, state FROM dag_run ORDER BY dag_id").fetchall()
    assert {("ingest_digits", "success"), ("train_digits", "success")} <= set(found)
    assert not list((cluster.folder / "state").rglob("*.db"))


def test_airflow_and_spark_are_one_graph(cluster: Cluster, ran: str) -> None:
    tasks = {
        event["run"]["runId"]: event["job"]["name"]
        for event in cluster.events
        if event["job"]["name"].startswith(("ingest_digits.", "train_digits."))
    }
    of_spark = [event for event in cluster.events if "/spark" in event["producer"]]
    parents = {
        tasks[parent["run"]["runId"]]
        for event in of_spark
        if (parent := event["run"]["facets"].get("parent")) and parent["run"]["runId"] in tasks
    }
    jobs = ("ingest_digits.fetch_images", "ingest_digits.featurize", "train_digits.reduce")
    assert {*jobs, "train_digits.train"} <= parents
    written = {
        (one["namespace"], one["name"]) for event in of_spark for one in event.get("outputs", [])
    }
    catalog = open_catalog("digits")
    for table in (catalog.images, catalog.features, catalog.reduced):
        assert lineage.name_of(table.url) in written


def test_lineage_does_not_fill_the_logs(cluster: Cluster, ran: str) -> None:
    for path in (cluster.folder / "state" / "airflow" / "logs").rglob("task_id=*/*.log"):
        told = path.read_text().splitlines()
        assert len(told) < 200, path
        assert not [line for line in told if "DatasetExtractor" in line or "DatasetInfo" in line]


def test_no_secret_is_told(cluster: Cluster, ran: str) -> None:
    assert cluster.seen == set()  # on command lines
    told = [json.dumps(cluster.events), ran]
    logs = (cluster.folder / "state" / "airflow" / "logs").rglob("*.log")
    told += [path.read_text() for path in (*logs, *cluster.folder.glob("work-*/app-*/*/std*"))]
    assert len(told) > 20
    for secret in cluster.secrets:
        assert not any(secret in text for text in told)


def test_nothing_lies_in_the_bucket_that_no_table_counts(cluster: Cluster, ran: str) -> None:
    catalog = open_catalog("digits")
    counted = {url for table in catalog.tables for url in tables.file_urls(table)}
    held = [f"s3://{BUCKET}/{one.key}" for one in bucket_of(cluster.environment).objects.all()]
    assert not [key for key in held if "_temporary" in key]
    assert {key for key in held if key.endswith(".parquet")} == counted


def test_flowers_lie_on_s3_and_stay_there(cluster: Cluster, ran: str, shared_data: Path) -> None:
    bucket = bucket_of(cluster.environment)
    for folder in sorted((shared_data / "flowers").iterdir()):
        for path in sorted(folder.iterdir())[:PHOTOS_PER_CLASS]:
            bucket.upload_file(str(path), f"photos/{folder.name}/{path.name}")
    (weights,) = (shared_data / "weights").glob("*resnet50*")
    dataset = FLOWERS.format(bucket=BUCKET, weights=weights)
    (cluster.folder / "datasets" / "flowers.yaml").write_text(dataset)
    run_sightline(cluster.environment, "run", "flowers", seconds=RUN_SECONDS)
    told = status(cluster, "flowers")
    assert told["images"] == told["features"] == 5 * PHOTOS_PER_CLASS
    champion = told["champion"]
    accuracies.assert_at_least(champion["metrics"]["accuracy"], champion["rows"]["test"], 0.8)


def test_vgg16_is_featurized_and_its_weights_lie_once_on_a_machine(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", cluster.environment["PYSPARK_PYTHON"])
    monkeypatch.setenv("PYSPARK_DRIVER_PYTHON", sys.executable)
    (cluster.datasets / "large.yaml").write_text(VGG16)
    spec, catalog = load_dataset("large"), open_catalog("large")
    store_photos(catalog)
    watched = submit(spec.name)
    assert watched.returncode == 0, watched.log[-4000:]
    shipped = [
        one.key.split("/")[2]
        for one in bucket_of(cluster.environment).objects.filter(Prefix="data/_weights/")
        if one.key.endswith(".safetensors") and one.size > 200_000_000
    ]
    (folder,) = (cluster.folder / TEMPORARY).glob("sightline-files-*")
    assert {path.stem for path in folder.iterdir()} >= set(shipped)
    assert len(shipped) == 1
    assert_features_are_the_networks(spec, catalog)
