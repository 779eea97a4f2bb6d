"""Benchmarks as `make bench` runs them, each at a tiny size: they still work with the code that they measure.

Left out are those that need the peers' environments (throughput, fetch) and the cluster's, which needs a
thousand photos to measure anything; mypy checks what all of them call.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import ORDER
from benchmarks.measuring import HOME

pytestmark = pytest.mark.nightly
SECONDS = 600
SIZES = {
    "night": ["--photos=20"],
    "pca": ["--images=400", "--dim=32", "--components=4", "--rounds=1"],
    "training": ["--epochs=1", "--size=32", "--rounds=1"],
    "spark_overhead": ["--rounds=1"],
    "gpu": ["--device=cpu", "--photos=3", "--batch=2", "--forward=1", "--rounds=1"],
    "memory": ["--photos", "10", "20"],
    "near_duplicates": ["--images=2000"],
    "gallery": ["--images=1000"],
    "serving": ["--photos=20", "--at-once=2"],
    "scale": ["--images=10000"],
}
NOT_RUN = {"throughput", "fetch", "cluster"}


def test_every_benchmark_is_run_or_left_out_for_a_reason() -> None:
    assert {*SIZES, *NOT_RUN} == set(ORDER)


@pytest.mark.parametrize("name", SIZES)
def test_a_tiny_benchmark_writes_its_results(name: str, tmp_path: Path) -> None:
    places = [f"--results={tmp_path}", f"--workplace={tmp_path / 'work'}"]
    command = [sys.executable, "-m", f"benchmarks.{name}", *SIZES[name], *places]
    done = subprocess.run(
        command, cwd=HOME, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    assert rows
    assert not any("not_measured" in row for row in rows)
