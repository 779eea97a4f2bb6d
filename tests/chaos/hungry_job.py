"""A Spark job that dies in the way that its second argument names: `hungry_job.py DATASET WAY`."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

STEP_BYTES = 16 * 2**20


def eat() -> None:
    """Hold ever more memory, as the first that the kernel kills for it."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = []
    while True:
        held.append(b"\1" * STEP_BYTES)


def die() -> None:
    """End as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_in_worker(spark: SparkSession, function: str) -> None:
    """Let a Python worker call a function of this file."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        WAYS[function]()
        yield from batches

    spark.range(1, numPartitions=1).mapInArrow(work, "id long").collect()


def run_in_processes(function: str) -> None:
    """Let two training processes call a function of this file."""
    from pyspark.ml.torch.distributor import TorchDistributor

    from sightline.fine_tuning import distributed

    distributor = TorchDistributor(2, local_mode=True, use_gpu=False)
    distributed.start(distributor, WAYS[function])


def fill_heap(spark: SparkSession) -> None:
    """Have the JVM hold more than its heap."""
    spark._jvm.java.util.ArrayList(2**30)  # type: ignore[union-attr]


WAYS = {"eat": eat, "die": die}


def main() -> None:
    """Die, or fail."""
    spark = SparkSession.builder.getOrCreate()
    place, _, way = sys.argv[2].partition(" ")
    if place == "worker":
        run_in_worker(spark, way)
    elif place == "processes":
        run_in_processes(way)
    elif place == "driver":
        WAYS[way]()
    else:
        fill_heap(spark)


if __name__ == "__main__":
    main()
