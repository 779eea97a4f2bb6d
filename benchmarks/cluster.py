"""Featurizing on a Spark cluster of this machine: two workers against one, each with a core of its own.

    .venv/bin/python -m benchmarks.cluster --photos 2000 --rounds 3

The workers are Spark's standalone ones, bound to one core each, so that one of them cannot borrow the
other's; the driver takes what they leave. Speeds are without the start of Spark; those at work, from the
first images that the job has counted to its last, are without that of executors and torch as well.
"""

import os
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import measuring, photos
from benchmarks.sightline_jobs import JobRun, Workplace
from tests.cluster_parts import spark_master, spark_workers

WORKERS = (1, 2)


def featurize(place: Workplace, workers: int) -> JobRun:
    """Featurize all photos anew on so many workers."""
    place.forget("features")
    with tempfile.TemporaryDirectory() as name, ExitStack() as parts:
        folder = Path(name)
        master = parts.enter_context(spark_master(folder))
        started = parts.enter_context(spark_workers(folder, master, workers, {}))
        for number, worker in enumerate(started):
            bind(worker.pid, measuring.core(number))
        return place.submit("featurize", master=master.address)


def bind(pid: int, core: int) -> None:
    """Keep a process, and what it will start, on one core."""
    top = psutil.Process(pid)
    for process in (top, *top.children(recursive=True)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, [core])


def describe(workers: int, count: int, jobs: list[JobRun], alone: list[JobRun]) -> dict[str, Any]:
    """A number of workers as a row, beside one alone."""
    seconds = measuring.median(job.seconds_without_start for job in jobs)
    at_work = rate_of(jobs)
    return {
        "system": f"{workers} worker{'s' if workers > 1 else ''}",
        "workers": workers,
        "images_per_second": round(count / seconds, 1),
        "images_per_second_at_work": round(at_work, 1),
        "images_per_second_with_start": round(count / measuring.median(j.seconds for j in jobs), 1),
        "times_one_worker": round(
            measuring.median(job.seconds_without_start for job in alone) / seconds, 2
        ),
        "times_one_worker_at_work": round(at_work / rate_of(alone), 2),
    }


def rate_of(jobs: list[JobRun]) -> float:
    """Images a second at work, the median of the rounds."""
    rates = [job.images_per_second_at_work for job in jobs]
    assert None not in rates, "a job was done within one line of progress: take more photos"
    return measuring.median(rate for rate in rates if rate)


def main() -> None:
    """Both in turns, on the same tables."""
    asked = measuring.parse_arguments(__doc__, photos=2_000, rounds=3)
    made, place = asked.workplace / "made", Workplace(asked.workplace / "cluster")
    photos.make(made, asked.photos)
    photos.take(made, range(asked.photos), place.write_folder_dataset())
    place.list_images()
    place.submit("fetch_images")
    ways = {str(workers): partial(featurize, place, workers) for workers in WORKERS}
    found = measuring.in_turns(ways, asked.rounds)
    place.forget("")
    rows = [describe(one, asked.photos, found[str(one)], found["1"]) for one in WORKERS]
    measuring.write_results(
        asked.results, rows, measuring.our_versions(), photos=asked.photos, rounds=asked.rounds
    )


if __name__ == "__main__":
    main()
