"""A whole cluster on this machine: Postgres, S3, Spark's master and workers, a server of lineage."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

from sightline.settings import load_settings
from tests.cluster_parts import (
    BUCKET,
    bare_python,
    lineage_server,
    missing_part,
    postgres,
    s3,
    spark_master,
    spark_workers,
)
from tests.cluster_processes import Part
from tests.conftest import SIGHTLINE

JARS = load_settings().jars
WORKERS = 2
TEMPORARY = "tmp"  # the workers' folder for temporary files


@dataclass
class Cluster:
    """A cluster, and what Sightline on it is told."""

    folder: Path
    environment: dict[str, str]
    parts: dict[str, Part]  # by their names: postgres, s3, spark-master, spark-worker-1, ...
    events: list[dict[str, Any]]
    secrets: list[str]
    seen: set[str] = field(default_factory=set)  # secrets on command lines

    @property
    def database(self) -> str:
        """The address of Airflow's database."""
        return self.environment["SIGHTLINE_DATABASE"]

    @property
    def datasets(self) -> Path:
        """The folder of dataset files."""
        return Path(self.environment["SIGHTLINE_DATASETS"])

    def be_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the test's own process look into the cluster's places."""
        for name, value in self.environment.items():
            if name.startswith(("SIGHTLINE_", "AWS_")):
                monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()  # of another cluster's server

    def watch(self, ended: threading.Event) -> None:
        """Look at every process's command line until the end."""
        while not ended.wait(0.5):
            for process in psutil.process_iter():
                try:
                    line = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                self.seen |= {secret for secret in self.secrets if secret in line}


@contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """All parts in a folder, without datasets, until the block ends. Skips where one is missing."""
    missing = missing_part(JARS)
    if missing:
        pytest.skip(missing)
    (folder / "datasets").mkdir()
    temporary = folder / TEMPORARY
    temporary.mkdir()
    with ExitStack() as started:
        database, of_postgres = started.enter_context(postgres())
        store, of_s3 = started.enter_context(s3(folder))
        address, events = started.enter_context(lineage_server())
        master = started.enter_context(spark_master(folder))
        told = {**store, "TMPDIR": str(temporary)}  # both workers are processes of one machine
        workers = started.enter_context(spark_workers(folder, master, WORKERS, told))
        environment = {
            **os.environ,
            **store,
            "SIGHTLINE_STORAGE": f"s3://{BUCKET}/data",
            "SIGHTLINE_DATASETS": str(folder / "datasets"),
            "SIGHTLINE_STATE": str(folder / "state"),
            "SIGHTLINE_JARS": str(JARS),
            "SIGHTLINE_SPARK_MASTER": master.address,
            "SIGHTLINE_DATABASE": database,
            "SIGHTLINE_LINEAGE_URL": address,
            "PYSPARK_PYTHON": str(bare_python(folder)),
            "SPARK_LOCAL_IP": "127.0.0.1",  # all of the cluster is on this machine
        }
        parts = {part.name: part for part in (of_postgres, of_s3, master.part, *workers)}
        secrets = [store["AWS_SECRET_ACCESS_KEY"], database.split(":")[2].split("@")[0]]
        yield Cluster(folder, environment, parts, events, secrets)


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
