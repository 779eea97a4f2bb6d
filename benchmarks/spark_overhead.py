"""What Spark itself costs a task, as it comes and with what Sightline does about it.

    .venv/bin/python -m benchmarks.spark_overhead --rounds 5

Spark as it comes; Sightline's settings with a JVM that starts quickly; the same with the class archive;
the same with torch imported once in the daemon that workers are forked from, as featurize runs.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import HOME, median
from benchmarks.sightline_jobs import SPARK_SUBMIT
from sightline import spark
from sightline.spark_workers import TORCH_WORKERS

JAVA = "spark.driver.extraJavaOptions"


def settings() -> dict[str, dict[str, str]]:
    """The ways to submit a job, each with one thing more than the one before."""
    if spark.make_class_archive() is None:
        print("This JVM makes no class archive: that row measures the one before it again.")
    quick = {**spark.submit_conf(), JAVA: " ".join(spark.QUICK_JVM)}
    return {
        "Spark as it comes": {},
        "quick JVM": quick,
        "quick JVM, class archive": spark.submit_conf(),
        "quick JVM, class archive, torch in the daemon": spark.submit_conf() | TORCH_WORKERS,
    }


def probe(conf: dict[str, str], folder: Path) -> dict[str, float]:
    """Seconds of the probe's parts, and of all from spark-submit's start to its end."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HOME / "include"),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    options = [f"--conf={name}={value}" for name, value in conf.items()]
    script = Path(__file__).with_name("spark_probe.py")
    command = [SPARK_SUBMIT, "--master", "local[*]", *options, script]
    done = measuring.run(command, environment, folder)
    parts: dict[str, float] = json.loads(
        next(line for line in reversed(done.said.splitlines()) if line.startswith('{"session'))
    )
    total = done.seconds
    return {"total_seconds": total, **parts, "peak_rss_bytes": done.peak_bytes}


def main() -> None:
    """Probe every way in turns."""
    asked = measuring.parse_arguments(__doc__, rounds=5)
    asked.workplace.mkdir(parents=True, exist_ok=True)
    ways = {name: partial(probe, conf, asked.workplace) for name, conf in settings().items()}
    found = measuring.in_turns(ways, asked.rounds)
    rows: list[dict[str, Any]] = []
    for name, probes in found.items():
        row: dict[str, Any] = {"system": name}
        for key in probes[0]:
            row[key] = round(median(one[key] for one in probes), 3)
        row["peak_rss_bytes"] = int(row["peak_rss_bytes"])
        rows.append(row)
    measuring.write_results(asked.results, rows, measuring.our_versions(), rounds=asked.rounds)


if __name__ == "__main__":
    main()
