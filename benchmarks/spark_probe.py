"""A Spark program that says how long its session, its first jobs and its small jobs take.

spark_overhead.py submits it; the last line that it prints is JSON.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession  # noqa: TID253  (its import is part of the start)

SMALL_JOBS = 20


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def pass_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A Python job's least work."""
    return batches


def with_torch(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What every worker that infers has to do first."""
    import torchvision  # noqa: F401

    return batches


def main() -> None:
    """Time one thing after the other."""
    began = time.monotonic()
    session = SparkSession.builder.getOrCreate()
    started = time.monotonic() - began
    rows = session.range(0, 64, numPartitions=session.sparkContext.defaultParallelism)
    small = [rows.selectExpr("id + 1"), rows.mapInArrow(pass_on, "id long")]
    seconds = {
        "session_seconds": started,
        "first_job_seconds": timed(small[0].collect),
        "first_python_job_seconds": timed(small[1].collect),
        "first_torch_job_seconds": timed(rows.mapInArrow(with_torch, "id long").collect),
        "small_job_seconds": min(timed(small[0].collect) for _ in range(SMALL_JOBS)),
        "small_python_job_seconds": min(timed(small[1].collect) for _ in range(SMALL_JOBS)),
    }
    session.stop()
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
