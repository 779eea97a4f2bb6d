"""The same commands on a cluster: Airflow on Postgres, Spark's master and two workers, tables on S3."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
import pytest

from sightline import featurization, ingestion, jobs, lineage, splitting, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, load_dataset
from sightline.ledger import Record, TaskRun, read_run
from sightline.settings import load_settings
from sightline.sources import Access
from tests.cluster_parts import (
    BUCKET,
    bare_python,
    bucket_of,
    lineage_server,
    missing_part,
    postgres,
    running,
    s3,
    spark_master,
    spark_worker,
    wait_until,
)
from tests.conftest import SHARED_DATA, SIGHTLINE, run_sightline

pytestmark = pytest.mark.cluster

RUN_SECONDS = 400
JARS = load_settings().jars
PHOTOS_PER_CLASS = 40
FLOWERS = """
source: {{type: folder, path: "s3://{bucket}/photos"}}
backbone: {{name: resnet50, weights: {weights}}}
reduce: {{components: 64}}
train: {{penalties: [0.01], folds: 2}}
"""


@dataclass
class Cluster:
    """A cluster, and what Sightline on it is told."""

    folder: Path
    environment: dict[str, str]
    database: str
    events: list[dict[str, Any]]
    secrets: list[str]
    seen: set[str] = field(default_factory=set)  # secrets on command lines

    def watch(self, ended: threading.Event) -> None:
        """Look at every process's command line until the end."""
        while not ended.wait(0.5):
            for process in psutil.process_iter():
                try:
                    line = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                self.seen |= {secret for secret in self.secrets if secret in line}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All parts, and `sightline up` on them; nothing of it is left at the end."""
    missing = missing_part(JARS)
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "datasets").mkdir()
    shutil.copy(load_settings().home / "include" / "datasets" / "digits.yaml", folder / "datasets")
    with ExitStack() as parts:
        database = parts.enter_context(postgres())
        store = parts.enter_context(s3(folder))
        address, events = parts.enter_context(lineage_server())
        master = parts.enter_context(spark_master(folder))
        for number in (1, 2):
            parts.enter_context(spark_worker(folder, master, number, store))
        environment = {
            **os.environ,
            **store,
            "SIGHTLINE_STORAGE": f"s3://{BUCKET}/data",
            "SIGHTLINE_DATASETS": str(folder / "datasets"),
            "SIGHTLINE_STATE": str(folder / "state"),
            "SIGHTLINE_JARS": str(JARS),
            "SIGHTLINE_SPARK_MASTER": master[0],
            "SIGHTLINE_DATABASE": database,
            "SIGHTLINE_LINEAGE_URL": address,
            "PYSPARK_PYTHON": str(bare_python(folder)),
            "SPARK_LOCAL_IP": "127.0.0.1",  # all of the cluster is on this machine
        }
        secrets = [store["AWS_SECRET_ACCESS_KEY"], database.split(":")[2].split("@")[0]]
        yield Cluster(folder, environment, database, events, secrets)


@pytest.fixture(autouse=True)
def on_the_cluster(cluster: Cluster, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the cluster's places rather than the test's own."""
    for name, value in cluster.environment.items():
        if name.startswith(("SIGHTLINE_", "AWS_")):
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def ran(cluster: Cluster) -> str:
    """`sightline run digits` on the cluster, watched for secrets on command lines."""
    ended = threading.Event()
    watcher = threading.Thread(target=cluster.watch, args=(ended,))
    watcher.start()
    try:
        return run_sightline(cluster.environment, "run", "digits", seconds=RUN_SECONDS)
    finally:
        ended.set()
        watcher.join()


def test_digits_are_ingested_and_trained(cluster: Cluster, ran: str) -> None:
    told = status(cluster, "digits")
    assert (told["images"], told["features"], told["rejects"]) == (1797, 1797, {})
    assert told["champion"]["metrics"]["accuracy"] >= 0.96
    assert told["report"].startswith(f"s3://{BUCKET}/data/digits/reports/")
    assert "accuracy" in ran


def status(cluster: Cluster, dataset: str) -> dict[str, Any]:
    """`sightline status --json` on the cluster."""
    done = subprocess.run(
        [SIGHTLINE, "status", dataset, "--json"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))
