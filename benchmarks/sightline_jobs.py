"""Sightline's jobs as its ingest DAG runs them, but one by one, on a dataset of a benchmark."""

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measuring import HOME, Run, run
from sightline.progress import parse_line
from sightline.settings import load_settings
from sightline.spark import submit_conf
from sightline.spark_cluster import library_conf
from sightline.spark_workers import FETCH_WORKERS, TORCH_WORKERS

DATASET = "many"
WORKERS = {"fetch_images": FETCH_WORKERS, "featurize": TORCH_WORKERS}  # as dags/ingest.py has them
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


@dataclass(frozen=True)
class JobRun:
    """What a job took: from spark-submit's start to its end, and by its own last line."""

    seconds: float
    seconds_without_start: float
    peak_bytes: int
    counts: str
    images_per_second_at_work: float | None  # see `rate_at_work`


@dataclass(frozen=True)
class Workplace:
    """A folder with one dataset and its tables."""

    folder: Path

    def write_dataset(
        self,
        source: str,
        *more: str,
        backbone: str = "resnet18",
        weights: str = "random",
        image_size: int | None = None,
    ) -> None:
        """Write the dataset file; `source` and `more` are its YAML lines."""
        size = "null" if image_size is None else str(image_size)
        datasets = self.folder / "datasets"
        datasets.mkdir(parents=True, exist_ok=True)
        lines = [
            source,
            f"backbone: {{name: {backbone}, weights: {weights}, image_size: {size}}}",
            *more,
        ]
        (datasets / f"{DATASET}.yaml").write_text("\n".join(lines) + "\n")

    def write_folder_dataset(self, backbone: str = "resnet18") -> Path:
        """Begin with a dataset of the photos in the folder that is returned, which is empty."""
        self.forget("")
        photos = self.folder / "photos"
        shutil.rmtree(photos, ignore_errors=True)
        photos.mkdir(parents=True)
        self.set_backbone(backbone)
        return photos

    def set_backbone(self, backbone: str) -> None:
        """Let the dataset of the folder have another backbone."""
        path = json.dumps(str(self.folder / "photos"))
        self.write_dataset(f"source: {{type: folder, path: {path}}}", backbone=backbone)

    def checksum(self) -> float:
        """The mean magnitude of the features that are there."""
        files = (self.folder / "data" / DATASET / "features").rglob("*.parquet")
        found = [pq.read_table(path)["embedding"].combine_chunks().flatten() for path in files]
        return float(np.abs(np.concatenate(found)).mean())

    def forget(self, table: str) -> None:
        """Delete a table, or with "" the dataset's whole storage."""
        shutil.rmtree(self.folder / "data" / DATASET / table, ignore_errors=True)

    def environment(self, partition: str = "all") -> dict[str, str]:
        """What the DAG's operator tells its jobs through the environment."""
        return {
            **os.environ,
            "SIGHTLINE_STORAGE": str(self.folder / "data"),
            "SIGHTLINE_DATASETS": str(self.folder / "datasets"),
            "SIGHTLINE_DAG_ID": f"ingest_{DATASET}",
            "SIGHTLINE_RUN_ID": f"run_{partition}",
            "SIGHTLINE_PARTITION": partition,
            "PYTHONPATH": f"{HOME / 'include'}{os.pathsep}{HOME}",
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }

    def list_images(self, partition: str = "all") -> JobRun:
        """The listing, which starts no JVM."""
        return self._python("list_images", "list_images", partition)

    def look(self, task: str, partition: str) -> JobRun:
        """What the DAG does before a Spark job; the counts are `None` where there is something to do."""
        return self._python(f"nothing_to_{task}", task, partition)

    def submit(self, task: str, partition: str = "all", master: str = "local[*]") -> JobRun:
        """A Spark job: fetch_images or featurize."""
        conf = submit_conf() | WORKERS[task] | library_conf(load_settings(), master)
        command = [
            SPARK_SUBMIT,
            "--master",
            master,
            *(f"--conf={k}={v}" for k, v in conf.items()),
        ]
        command += [HOME / "spark_jobs" / f"{task}.py", DATASET]
        return _job_run(task, run(command, self.environment(partition), self.folder))

    def _python(self, stage: str, task: str, partition: str) -> JobRun:
        command = [sys.executable, "-m", "benchmarks.python_task", stage, DATASET]
        return _job_run(task, run(command, self.environment(partition), self.folder))


def _job_run(task: str, done: Run) -> JobRun:
    found = re.search(rf"{task} {DATASET} finished in ([\d.]+) s: (.*)", done.said)
    if not found:
        sys.exit(f"{task} did not say how long it took:\n{done.said[-3000:]}")
    rate = rate_at_work(done.said)
    return JobRun(done.seconds, float(found[1]), done.peak_bytes, found[2], rate)


def rate_at_work(said: str) -> float | None:
    """Images a second from the first progress line to the last: without the start of executors and their
    torch. None where all images were done within one line."""
    reports = [report for line in said.splitlines() if (report := parse_line(line))]
    if not reports or reports[0].done == reports[-1].done:
        return None
    first, last = reports[0], reports[-1]
    seconds = last.done / last.per_second - first.done / first.per_second
    return (last.done - first.done) / seconds
