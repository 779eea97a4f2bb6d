"""Spark jobs: a refusal is one line and exit code 2, a record names its run, the true cause is told."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sightline import ingestion
from sightline.catalog import open_catalog
from sightline.config import DatasetSpec
from sightline.errors import REFUSED
from sightline.sources import Access
from sightline.spark import run_chunks
from tests.conftest import catalog_of, make_task, write_dataset, write_photos

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEADLINE_SECONDS = 300

# Runs job after job in one JVM, as Airflow runs them one by one, and tells each one's exit code.
PROGRAM = """
import sys
from sightline import ingestion, jobs
from sightline.errors import StorageError

def well(session, spec, catalog, task, record):
    record.counts = {
        "images": session.range(3).count(),
        "told": session.conf.get("spark.sql.shuffle.partitions"),
        "ours": session.conf.get("spark.sql.session.timeZone"),
    }

def refuse(session, spec, catalog, task, record):
    raise StorageError("Table images\\n  is gone.")

def busy(session, spec, catalog, task, record):
    raise StorageError("The store does not answer.", may_pass=True)

def fail(session, spec, catalog, task, record):
    raise ZeroDivisionError("our own mistake")

STAGES = {"well": well, "refuse": refuse, "busy": busy, "fail": fail, "fetch_images": ingestion.fetch_images}

for line in sys.argv[1:]:
    stage, *arguments = line.split()
    sys.argv = ["job.py", *arguments]
    start = jobs.run if len(arguments) == 1 else jobs.run_planned
    try:
        start(stage, STAGES[stage])
        code = 0
    except SystemExit as exit:
        code = exit.code
    except (ZeroDivisionError, StorageError):
        code = 1
    print(f"exit code {code}", flush=True)
sys.exit(code)
"""


def run_jobs(folder: Path, jobs: list[str], ids: dict[str, str]) -> list[tuple[int, str]]:
    """Run jobs under one spark-submit; returns each one's exit code and its log.

    spark-submit itself must end with the exit code of the last.
    """
    program = folder / "program.py"
    program.write_text(PROGRAM)
    settings = ["--master", "local[2]", "--conf", "spark.sql.shuffle.partitions=3"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("spark-submit")), *settings, str(program), *jobs],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", **ids},
        check=False,
    )
    parts = re.split(r"^exit code (\d+)\n", done.stdout, flags=re.MULTILINE)
    assert len(parts) == 2 * len(jobs) + 1, done.stdout[-3000:] + done.stderr[-3000:]
    codes = list(map(int, parts[1::2]))
    assert done.returncode == codes[-1]
    return list(zip(codes, parts[0::2], strict=False))


@pytest.mark.slow
def test_refusals_faults_and_a_full_disk_are_told_apart(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(small_disk))
    spec = heavy_dataset(tmp_path)
    task, record = make_task("list_images")
    ingestion.list_images(spec, Access(catalog_of(spec), "all"), task, record)
    ids = {
        "SIGHTLINE_DAG_ID": "ingest_photos",
        "SIGHTLINE_RUN_ID": "scheduled__2026-11-05T00:00:00+00:00",
        "SIGHTLINE_PARTITION": "all",
    }
    jobs = [
        "well photos",
        "refuse photos",
        "refuse unknown",
        "well photos v9",
        "fail photos",
        "busy photos",
    ]
    ends = run_jobs(tmp_path, [*jobs, "fetch_images photos"], ids)
    well, refused, unknown, planless, failed, busy, full = ends

    assert [code for code, _ in ends] == [0, 2, 2, 2, 1, 1, 2]
    assert re.search(r"^well photos finished in [\d.]+ s: images 3, ", well[1], re.MULTILINE)
    assert sentences(refused) == ["Table images is gone."]
    assert sentences(unknown)[0].startswith("No dataset 'unknown' in ")
    assert sentences(planless) == ["Dataset photos has no plan 'v9'; run train_photos."]
    assert sentences(well) == sentences(failed) == sentences(busy) == []  # Airflow tries again
    assert sentences(full)[0].startswith(
        f"The disk is full at {small_disk}/photos or in Spark's temporary folder; "
    )
    assert only_record_of(ids)["counts"] == {"images": 3, "told": "3", "ours": "UTC"}


def sentences(end: tuple[int, str]) -> list[str]:
    """What a job refused, as Airflow finds it in the log."""
    return re.findall(rf"^{REFUSED}(.+)", end[1], re.MULTILINE)


def only_record_of(ids: dict[str, str]) -> dict[str, Any]:
    """The record of the one job that ended well, under the ids of the environment."""
    folder = Path(open_catalog("photos").run(ids["SIGHTLINE_DAG_ID"], ids["SIGHTLINE_RUN_ID"]))
    assert [path.name for path in folder.glob("*.json")] == ["well.json"]
    assert (folder / "failed" / "fail.json").exists()  # what a failed try had noted lies apart
    record: dict[str, Any] = json.loads((folder / "well.json").read_text())
    assert [record["dag_id"], record["run_id"], record["partition"]] == list(ids.values())
    assert record["seconds"] > 0
    return record


def test_a_chunk_that_fails_stops_the_rest_and_its_own_error_is_raised(
    spark: "SparkSession",
) -> None:
    tracker = spark.sparkContext.statusTracker()
    sleep = "java_method('java.lang.Thread', 'sleep', 60000L)"
    begun: list[int] = []
    deadline = time.monotonic() + DEADLINE_SECONDS

    def work(chunk: int) -> None:
        begun.append(chunk)
        if chunk != 1:
            spark.range(1).selectExpr(sleep).write.format("noop").mode("overwrite").save()
        while len(tracker.getActiveJobsIds()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise ZeroDivisionError("the cause")

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="the cause"):
        run_chunks(spark, range(50), work)
    assert time.monotonic() - started < 30
    assert sorted(begun) == [0, 1, 2]


def test_chunks_give_their_results_in_order(spark: "SparkSession") -> None:
    assert run_chunks(spark, range(20), lambda chunk: chunk * chunk) == [n * n for n in range(20)]


def heavy_dataset(places: Path) -> DatasetSpec:
    """A dataset of more bytes than the small disk holds."""
    photos = write_photos(places / "photos", {"cats": 10, "dogs": 10})
    for path in photos.rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + os.urandom(6 * 2**20))
    return write_dataset(places, "photos", f"source: {{type: folder, path: '{photos}'}}\n")
